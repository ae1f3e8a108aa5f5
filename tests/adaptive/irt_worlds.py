"""Banks and answers for the tests of item response theory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt import ItemBank, ItemResponses, Model
from app.adaptive.irt.curves import log_probabilities
from app.adaptive.irt.item_models import MODELS

DATA = Path(__file__).parent / "data"
POLYTOMOUS: tuple[Model, ...] = ("graded", "gpcm", "pcm")

models = st.sampled_from(MODELS)
seeds = st.integers(0, 2**32 - 1)


def mirt() -> Any:
    """Estimates of R's mirt 1.45.1: tight convergence for LSAT and Science, its default for the simulated sets."""
    return json.loads((DATA / "mirt.json").read_text())


def random_bank(model: Model, items: int, rng: np.random.Generator, steps: int = 3) -> ItemBank:
    """A bank as the literature finds them: a lognormal, b standard normal, guessing .2, slips .05."""
    steps = steps if model in POLYTOMOUS else 1
    common = model in ("rasch", "pcm")
    spread = np.sort(rng.normal(0, 1, (items, steps)) + np.linspace(-1, 1, steps) * (steps > 1), axis=1)
    spread += np.arange(steps) * 0.2
    return ItemBank(
        model,
        np.full(items, steps),
        np.ones(items) if common else np.exp(rng.normal(0, 0.3, items)),
        spread,
        rng.beta(5, 23, items) if model in ("3pl", "4pl") else np.zeros(items),
        rng.beta(20, 2, items) if model == "4pl" else np.ones(items),
    )


def sample(bank: ItemBank, learners: int, rng: np.random.Generator, share: float = 1.0) -> ItemResponses:
    """Answers of learners from N(0, 1), each to about `share` of the items."""
    p = np.exp(log_probabilities(bank, rng.normal(0, 1, learners)))
    reached = (rng.random((bank.count, 1, learners)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1).T
    return long_form(np.where(rng.random(reached.shape) < share, reached, -1))


def long_form(matrix: Integers) -> ItemResponses:
    """A matrix (learners, items), -1 where there is no answer, in the long form."""
    rows, items = np.nonzero(matrix >= 0)
    starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return ItemResponses(starts.astype(np.int64), items.astype(np.int64), matrix[rows, items].astype(np.int64))


def lsat(name: str) -> ItemResponses:
    """LSAT sections 6 and 7 (Bock & Lieberman 1970): 1,000 people, five items, sorted by their patterns."""
    table = json.loads((DATA / f"{name}.json").read_text())
    patterns = np.array([[int(mark) for mark in pattern] for pattern in table["patterns"]])
    return long_form(np.repeat(patterns, table["counts"], axis=0))


def simulated(name: str) -> tuple[ItemResponses, dict[str, Floats]]:
    """A simulated set, with the truth."""
    held = np.load(DATA / f"{name}.npz")
    return long_form(held["responses"].astype(np.int64).T), {key: held[key] for key in held}


def rmse(found: Floats, truth: Floats) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def slow_likelihood(bank: ItemBank, responses: ItemResponses, nodes: Floats, log_weights: Floats) -> float:
    """The marginal log-likelihood, learner by learner, from the formulas of the textbooks and nothing else."""
    total = 0.0
    for first, last in zip(responses.starts[:-1], responses.starts[1:], strict=True):
        value = np.exp(log_weights)
        for item, category in zip(responses.items[first:last], responses.categories[first:last], strict=True):
            value = value * np.array([textbook(bank, item, theta)[category] for theta in nodes])
        total += float(np.log(value.sum()))
    return total


def textbook(bank: ItemBank, item: int, theta: float) -> list[float]:
    """P(category | θ) of one item."""
    a, b, max_category = bank.discrimination[item], bank.difficulty[item], int(bank.max_category[item])
    if bank.model == "graded":
        reached = [1.0, *(1 / (1 + np.exp(-a * (theta - b[k]))) for k in range(max_category)), 0.0]
        return [float(reached[k] - reached[k + 1]) for k in range(max_category + 1)]
    if bank.model in POLYTOMOUS:
        odds = [float(np.exp(sum(a * (theta - b[v]) for v in range(k)))) for k in range(max_category + 1)]
        return [one / sum(odds) for one in odds]
    p = bank.guessing[item] + (bank.upper[item] - bank.guessing[item]) / (1 + np.exp(-a * (theta - b[0])))
    return [float(1 - p), float(p)]
