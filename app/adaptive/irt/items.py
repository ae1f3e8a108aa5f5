"""Calibrated items, and the answers they are calibrated on.

Sizes: L learners, N answers, I items, M the most steps (thresholds) of one item, K = M + 1 categories, P free
parameters of one item, Q quadrature nodes. Public parameters are a(θ - b) in the logistic metric (D = 1).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt.item_models import BINARY, MODELS, Model
from app.adaptive.parameters import to_intercept


@dataclass(frozen=True)
class ItemResponses:
    """The answers of L learners, one learner after the other.

    `starts` (L + 1,) says where each learner begins; `items` and `categories` are (N,): which item, and the category
    reached, from 0 to the item's highest. An item that a learner did not meet is simply not there.
    """

    starts: Integers
    items: Integers
    categories: Integers

    @property
    def learners(self) -> int:
        """L."""
        return len(self.starts) - 1

    @cached_property
    def rows(self) -> Integers:
        """(N,): the learner of each answer."""
        return np.repeat(np.arange(self.learners), np.diff(self.starts))


@dataclass(frozen=True)
class ItemBank:
    """The parameters of I items under one model; also the shape in which their standard errors are given.

    `max_category` (I,) is the highest category of each item, 1 for right or wrong. `discrimination`, `guessing` and
    `upper` are (I,). `difficulty` (I, M) holds b in column 0 for items scored right or wrong, the thresholds b_k of the
    graded response model, or the step difficulties of (generalised) partial credit; past an item's highest category it
    is 0.
    """

    model: Model
    max_category: Integers
    discrimination: Floats
    difficulty: Floats
    guessing: Floats
    upper: Floats

    @property
    def count(self) -> int:
        """I."""
        return len(self.max_category)

    @property
    def steps(self) -> int:
        """M."""
        return int(self.difficulty.shape[1])

    @property
    def intercept(self) -> Floats:
        """(I, M): -a·b."""
        return to_intercept(self.difficulty, self.discrimination[:, None])

    def __getitem__(self, items: Integers) -> "ItemBank":
        """The chosen items, in the order they are named."""
        return ItemBank(
            self.model,
            self.max_category[items],
            self.discrimination[items],
            self.difficulty[items],
            self.guessing[items],
            self.upper[items],
        )


def check_responses(responses: ItemResponses, max_category: Integers, model: Model) -> None:
    """Raise ValueError for a model that is not known, or answers that do not fit the items."""
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}")
    if max_category.size and (max_category.min() < 1 or (model in BINARY and max_category.max() > 1)):
        raise ValueError("an item has at least two categories, and exactly two unless its model is polytomous")
    starts, items, categories = responses.starts, responses.items, responses.categories
    if starts[0] != 0 or starts[-1] != len(items) or (np.diff(starts) < 0).any() or len(items) != len(categories):
        raise ValueError("the answers of the learners do not follow one another")
    if items.size and (items.min() < 0 or items.max() >= len(max_category)):
        raise ValueError("an answer to an item that does not exist")
    if items.size and (categories.min() < 0 or (categories > max_category[items]).any()):
        raise ValueError("an answer in a category that the item does not have")
