"""The values the engine works on.

Sizes used in every docstring: B learners in a batch, S skills, I items, K the most skills one item has, P the most
prerequisites one skill has, M the most thresholds one item has. Skills and items are named by their numbers, dense
from 0; -1 pads. Ability, offsets and easiness are in logits.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.adaptive.keys import Keys, mixed

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Seeds = NDArray[np.uint64]


@dataclass(frozen=True)
class Population:
    """What all learners of a course share; the defaults were fitted on public data (docs/models.md).

    Variances are in squared logits. `form_retention` is the AR(1) coefficient ρ of the form of the day;
    `unknown_shift` and `known_shift` are δ_l and δ_h, what not knowing and knowing a skill adds to the logit. With time
    a mastery fades by the exponent `fading`, and the variance of an ability grows by `daily_drift` a day.
    """

    ability_variance: float = 0.76
    ability_drift: float = 0.0
    skill_variance: float = 0.0
    skill_drift: float = 0.007
    form_variance: float = 0.15
    form_retention: float = 0.98
    unknown_shift: float = -0.32
    known_shift: float = 1.37
    fading: float = 0.15
    daily_drift: float = 0.0005

    @cached_property
    def shifts(self) -> Floats:
        """(2, 1): δ_h and δ_l, for those who know and those who do not."""
        return np.array([[self.known_shift], [self.unknown_shift]])


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
    def built_on(self) -> Floats:
        """(S,): 1 where a skill has prerequisites, else 0."""
        return np.asarray((self.prerequisites >= 0).any(axis=1), dtype=np.float64)

    @cached_property
    def levels(self) -> Integers:
        """(S,): how many skills have to come before each, one after the other; 0 without prerequisites."""
        levels = np.zeros(self.count, dtype=np.int64)
        for _ in range(self.count):
            before = np.where(self.prerequisites >= 0, levels[self.prerequisites] + 1, 0).max(axis=1, initial=0)
            if (before == levels).all():
                break
            levels = before
        return levels

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
    def share(self) -> Floats:
        """(I,): the weight of each of an item's skills; 1 for an item that asks for none."""
        return np.asarray(1 / np.maximum((self.skills >= 0).sum(axis=1), 1))

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
    def combinations(self) -> Integers:
        """(I,): a number for all the skills of an item, the same wherever the same skills are asked for."""
        total = np.zeros(self.count, dtype=np.int64)
        for place in range(self.skills.shape[1]):
            named = self.skills[:, place]
            total = np.where(named >= 0, mixed(place, total, named).view(np.int64), total)
        return total

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
class Head:
    """The calibrated part of `p_correct`.

    Factors: `places` (V,), sorted keys of (item, kind of context), with `loadings` (V, 1 + R), intercept first; `kin`
    and `kin_loadings` the means of items with the same skills, for items never seen; `context_loadings` (8, 1 + R) and
    `context_slope` (8,). Head: `weights` (D,), `context_weights` (14, 3), and `cues` (K,), sorted, with `cue_weights`.
    """

    places: Keys
    loadings: Floats
    kin: Keys
    kin_loadings: Floats
    context_loadings: Floats
    context_slope: Floats
    weights: Floats
    context_weights: Floats
    cues: Keys
    cue_weights: Floats

    @cached_property
    def factors(self) -> int:
        """R."""
        return int(self.loadings.shape[1]) - 1


@dataclass(frozen=True)
class Habits:
    """What is remembered of B learners beside what they can do.

    `trait` and `trait_variance` (B, R) are the factors; `surprises` (B, 3) faded means of score minus prediction;
    `tokens` (B,) the last four results as one number; `run` (B,) how often the last item was answered in a row and
    `right` (B,) whether it was right at last. The last 64 different items, first come first forgotten: `items` (B, M),
    -1 where there is none, `tries`, `scores` (sums) and `solved` (the last time), and `met` (B,), how many there were.
    """

    trait: Floats
    trait_variance: Floats
    surprises: Floats
    tokens: Integers
    episodes: Integers
    run: Integers
    right: Booleans
    last_item: Integers
    items: Integers
    tries: Integers
    scores: Floats
    solved: Booleans
    met: Integers

    def copy(self) -> "Habits":
        """The same values in arrays of their own."""
        return Habits(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def __getitem__(self, rows: slice | Integers | Booleans) -> "Habits":
        """The chosen learners: views for a slice, copies otherwise."""
        return Habits(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: slice | Integers, values: "Habits") -> None:
        """Write the habits of some learners."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(values, field.name)


@dataclass(frozen=True)
class Parameters:
    """Everything an answer is judged by: one calibration over one revision of a catalogue.

    Without a `head` the prediction is the filter's own.
    """

    population: Population
    skills: Skills
    items: Items
    head: Head | None = None

    @cached_property
    def item_counts(self) -> Integers:
        """(S,): the number of items of each skill."""
        counts = np.zeros(self.skills.count, dtype=np.int64)
        sizes = np.diff(self.items.by_skill[0])
        counts[: len(sizes)] = sizes
        return counts

    @cached_property
    def informs(self) -> Integers:
        """(I, K, P): the direct prerequisites of each of an item's skills that it does not ask for itself, else -1."""
        asked, prerequisites = self.items.skills, self.skills.prerequisites
        result = np.where((asked >= 0)[:, :, None], prerequisites[asked], -1)
        for place in range(asked.shape[1]):
            result[result == asked[:, place, None, None]] = -1
        return result

    @cached_property
    def shared(self) -> Floats:
        """(S,): how far the items of each skill lean on other skills; 0 where they ask for it alone, or there are none.

        The mean of 1 - weight over the skill's items.
        """
        asked = self.items.skills >= 0
        skills, count = self.items.skills[asked], self.skills.count
        leaning = np.bincount(skills, 1 - self.items.weights[asked], count)
        return np.asarray(leaning / np.maximum(np.bincount(skills, minlength=count), 1))


@dataclass(frozen=True)
class States:
    """What is known of B learners: ability, form of the day, and per skill the offset and the mastery.

    `ability`, `form` and their variances, `answers` (how many were folded) and `last_item` are (B,). Per skill,
    (B, S): `offset` and `offset_variance`, `mastery` q = P(known), `bump` (what the last answer taught), `evidence`
    (answers on it), `successes` (the sum of their scores), `practised` (the value of `answers` after the last of
    them), `attained` (mastered once). `habits` are for predictions only.

    Moments in days since 1970, 0 where unknown: `seen_at` (B,) of the last answer, `practised_at` (B, S) of the last
    that spoke of a skill; ability and mastery are as they were then.
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
    successes: Floats
    practised: Integers
    attained: Booleans
    seen_at: Floats
    practised_at: Floats
    habits: Habits

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

    def put(self, rows: slice | Integers, values: "States") -> None:
        """Write the states of some learners."""
        for field in fields(self):
            if field.name == "habits":
                self.habits.put(rows, values.habits)
            else:
                getattr(self, field.name)[rows] = getattr(values, field.name)


@dataclass(frozen=True)
class Prediction:
    """What was expected before the answer, each (B,): the expected score `p`, and how it came about.

    `unaided` is the expected score without the head, by ability and mastery alone. `successes` and `failures`, means
    over the item's skills of the logarithms of 1 + the sums of scores and of lost scores, are counted for a head only.
    `logit` and `variance` are mean and variance of the latent logit before knowing or not knowing is added; `known`
    and `unknown` are the likelihoods of the answer that was then given, `mastery` the mean mastery of its skills.
    """

    p: Floats
    unaided: Floats
    logit: Floats
    variance: Floats
    known: Floats
    unknown: Floats
    mastery: Floats
    successes: Floats
    failures: Floats
