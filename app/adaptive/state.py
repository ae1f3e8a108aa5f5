"""What is known of learners, and what was predicted of their responses.

Sizes as in `parameters`: B learners in a batch, S skills, I items, K the most skills one item has.
"""

from dataclasses import dataclass, fields
from typing import Self

from app.adaptive.arrays import Booleans, Floats, Integers


@dataclass(frozen=True)
class _Rows:
    """Arrays, or rows themselves, of B learners each."""

    def copy(self) -> Self:
        """Return the same values in arrays of their own."""
        return type(self)(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def __getitem__(self, rows: slice | Integers | Booleans) -> Self:
        """Return the chosen learners: views for a slice, copies otherwise."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: slice | Integers, values: Self) -> None:
        """Write the values of some learners."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(values, field.name)
            if isinstance(mine, _Rows):
                mine.put(rows, theirs)
            else:
                mine[rows] = theirs


@dataclass(frozen=True)
class RecentItems(_Rows):
    """The last 64 different items of B learners, first come first forgotten.

    Each (B, M): `items`, -1 where there is none, `tries` (how often it was answered), `scores` (their sum), `solved`
    (the last time) and `answered_at` (how many responses the learner had given after the last answer to it). `met`
    (B,): how many different items there were.
    """

    items: Integers
    tries: Integers
    scores: Floats
    solved: Booleans
    answered_at: Integers
    met: Integers


@dataclass(frozen=True)
class BehaviourState(_Rows):
    """What is remembered of B learners beside what they can do, for predictions.

    `trait` and `trait_variance` (B, R) are the factors; `surprises` (B, 3) faded means of score minus prediction;
    `tokens` (B,) the last four results as one number; `run` (B,) how often the last item was answered in a row and
    `right` (B,) whether it was right at last.
    """

    trait: Floats
    trait_variance: Floats
    surprises: Floats
    tokens: Integers
    episodes: Integers
    run: Integers
    right: Booleans
    last_item: Integers


@dataclass(frozen=True)
class States(_Rows):
    """What is known of B learners: ability, daily effect, and per skill the skill effect and the mastery.

    `ability`, `daily_effect` and their variances, `total_responses` (how many were processed) and `last_item` are (B,).
    Per skill, (B, S): `skill_effect` and `skill_effect_variance`, `mastery` q = P(known), `learning_gain` (what the
    last answer taught), `cusum` (what the answers alone say for knowing it, in nats), `mastered` (after the last
    answer), `attained` (mastered once), `stalled` (how many answers on it in a row have left it more likely unknown),
    `responses` (answers on it), `successes` (the sum of their scores), `practised` (the value of `total_responses`
    after the last of them). `recent` are the items of late; `behaviour` is for predictions only.

    Moments in days since 1970, 0 where unknown: `seen_at` (B,) of the last answer, `practised_at` (B, S) of the last
    that spoke of a skill; ability and mastery are as they were then.
    """

    ability: Floats
    ability_variance: Floats
    daily_effect: Floats
    daily_effect_variance: Floats
    total_responses: Integers
    last_item: Integers
    skill_effect: Floats
    skill_effect_variance: Floats
    mastery: Floats
    learning_gain: Floats
    cusum: Floats
    mastered: Booleans
    stalled: Integers
    responses: Integers
    successes: Floats
    practised: Integers
    attained: Booleans
    seen_at: Floats
    practised_at: Floats
    recent: RecentItems
    behaviour: BehaviourState

    @property
    def count(self) -> int:
        """B."""
        return len(self.ability)


@dataclass(frozen=True)
class Prediction:
    """What was expected before the answer, each (B,): the expected score `p`, and how it came about.

    `without_behaviour` is the expected score without the head, by ability and mastery alone. `successes` and
    `failures`, means over the item's skills of the logarithms of 1 + the sums of scores and of lost scores, are counted
    for a head only. `logit` and `variance` are mean and variance of the latent logit before knowing or not knowing is
    added; `known` and `unknown` are the likelihoods of the answer that was then given, `mastery` the chance that all of
    its skills are known, and `others` (B, K), for each of them, that all the others are.
    """

    p: Floats
    without_behaviour: Floats
    logit: Floats
    variance: Floats
    known: Floats
    unknown: Floats
    mastery: Floats
    others: Floats
    successes: Floats
    failures: Floats
