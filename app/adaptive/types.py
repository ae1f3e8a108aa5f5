"""The values the engine works on.

Sizes used in every docstring: B learners in a batch, S skills, I items, K the most skills one item has, P the most
prerequisites one skill has, M the most thresholds one item has. Skills and items are named by their numbers, dense
from 0; -1 pads. Ability, offsets and easiness are in logits.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Seeds = NDArray[np.uint64]


@dataclass(frozen=True)
class Population:
    """What all learners of a course share; the defaults were fitted on public data (docs/models.md).

    Variances are in squared logits. `form_retention` is the AR(1) coefficient ρ of the form of the day;
    `unknown_shift` and `known_shift` are δ_l and δ_h, what not knowing and knowing a skill adds to the logit.
    """

    ability_variance: float = 0.76
    ability_drift: float = 0.0
    skill_variance: float = 0.0
    skill_drift: float = 0.007
    form_variance: float = 0.15
    form_retention: float = 0.98
    unknown_shift: float = -0.32
    known_shift: float = 1.37


@dataclass(frozen=True)
class Skills:
    """Per skill: P(L0), P(T), P(F), each (S,), and the direct prerequisites (S, P), acyclic."""

    prior: Floats
    learn: Floats
    forget: Floats
    prerequisites: Integers

    @property
    def count(self) -> int:
        """S."""
        return len(self.prior)

    @cached_property
    def descendants(self) -> tuple[Integers, Integers]:
        """The skills each skill opens up, directly or not: `(starts (S + 1,), skills)`."""
        opened: list[set[int]] = [set() for _ in range(self.count)]
        parents = [[int(p) for p in row if p >= 0] for row in self.prerequisites]
        for skill in range(self.count):
            seen: set[int] = set()
            ahead = list(parents[skill])
            while ahead:
                parent = ahead.pop()
                if parent not in seen:
                    seen.add(parent)
                    opened[parent].add(skill)
                    ahead.extend(parents[parent])
        return ragged([sorted(found) for found in opened])


@dataclass(frozen=True)
class Items:
    """Per item, in the slope-intercept form: the logit is easiness + discrimination × (ability …), each (I,).

    `guessing` and `upper` are the asymptotes c and d. `thresholds` (I, M), padded with infinity, makes an item
    graded (Samejima 1969): category k or above is reached past the k-th. `skills` is (I, K).
    """

    easiness: Floats
    discrimination: Floats
    guessing: Floats
    upper: Floats
    thresholds: Floats
    skills: Integers

    @property
    def count(self) -> int:
        """I."""
        return len(self.easiness)

    @cached_property
    def weights(self) -> Floats:
        """(I, K): each of an item's skills weighs the same, padding nothing."""
        held = self.skills >= 0
        return np.asarray(held / np.maximum(held.sum(axis=1, keepdims=True), 1))

    @cached_property
    def tagged(self) -> Floats:
        """(I,): 1 where the item asks for any skill, else 0: then it is a plain IRT item."""
        return np.asarray((self.skills >= 0).any(axis=1), dtype=np.float64)

    @cached_property
    def grades(self) -> Integers:
        """(I,): the number of thresholds; 0 for an item scored as a fraction."""
        return np.asarray(np.isfinite(self.thresholds).sum(axis=1), dtype=np.int64)

    @cached_property
    def plain(self) -> bool:
        """Whether no item has guessing, an upper asymptote or thresholds: the common and quicker case."""
        return not (self.guessing.any() or (self.upper != 1).any() or self.grades.any())

    @cached_property
    def by_skill(self) -> tuple[Integers, Integers]:
        """The items of each skill: `(starts (S' + 1,), items)` for all skills up to the last one in use."""
        lists: list[list[int]] = [[] for _ in range(int(self.skills.max(initial=-1)) + 1)]
        for item, row in enumerate(self.skills.tolist()):
            for skill in row:
                if skill >= 0:
                    lists[skill].append(item)
        return ragged(lists)


def ragged(lists: list[list[int]]) -> tuple[Integers, Integers]:
    """Rows of different length as `(starts, values)`: row i is `values[starts[i]:starts[i + 1]]`."""
    starts = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in lists], out=starts[1:])
    return starts, np.array([value for row in lists for value in row], dtype=np.int64)


@dataclass(frozen=True)
class Parameters:
    """Everything an answer is judged by: one calibration over one revision of a catalogue."""

    population: Population
    skills: Skills
    items: Items


@dataclass(frozen=True)
class States:
    """What is known of B learners: ability, form of the day, and per skill the offset and the mastery.

    `ability`, `form` and their variances, `answers` (how many were folded) and `last_item` are (B,). Per skill,
    (B, S): `offset` and `offset_variance`, `mastery` q = P(known), `bump` (what the last answer taught), `evidence`
    (answers on it), `practised` (the value of `answers` after the last of them), `attained` (mastered once).
    """

    ability: Floats
    ability_variance: Floats
    form: Floats
    form_variance: Floats
    answers: Integers
    last_item: Integers
    offset: Floats
    offset_variance: Floats
    mastery: Floats
    bump: Floats
    evidence: Integers
    practised: Integers
    attained: Booleans

    @property
    def count(self) -> int:
        """B."""
        return len(self.ability)

    def copy(self) -> "States":
        """The same values in arrays of their own."""
        return States(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def __getitem__(self, rows: slice | Integers | Booleans) -> "States":
        """The chosen learners: views for a slice, copies otherwise."""
        return States(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Prediction:
    """What was expected before the answer, each (B,): the expected score `p`, and how it came about.

    `logit` and `variance` are mean and variance of the latent logit before knowing or not knowing is added; `known`
    and `unknown` are the likelihoods of the answer that was then given, `mastery` the mean mastery of its skills.
    """

    p: Floats
    logit: Floats
    variance: Floats
    known: Floats
    unknown: Floats
    mastery: Floats
