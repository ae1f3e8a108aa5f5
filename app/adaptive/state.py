"""What is known of learners, and what was predicted of their responses.

Sizes as in `parameters`: B learners in a batch, S skills, I items, K the most skills one item has.
"""

from dataclasses import dataclass, fields

from app.adaptive.arrays import Booleans, Floats, Integers


@dataclass(frozen=True)
class BehaviourState:
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

    def copy(self) -> "BehaviourState":
        """The same values in arrays of their own."""
        return BehaviourState(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def __getitem__(self, rows: slice | Integers | Booleans) -> "BehaviourState":
        """The chosen learners: views for a slice, copies otherwise."""
        return BehaviourState(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: slice | Integers, values: "BehaviourState") -> None:
        """Write the behaviour of some learners."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(values, field.name)


@dataclass(frozen=True)
class States:
    """What is known of B learners: ability, daily effect, and per skill the skill effect and the mastery.

    `ability`, `daily_effect` and their variances, `total_responses` (how many were processed) and `last_item` are (B,).
    Per skill, (B, S): `skill_effect` and `skill_effect_variance`, `mastery` q = P(known), `learning_gain` (what the
    last answer taught), `responses` (answers on it), `successes` (the sum of their scores), `practised` (the value of
    `total_responses` after the last of them), `attained` (mastered once). `behaviour` are for predictions only.

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
    responses: Integers
    successes: Floats
    practised: Integers
    attained: Booleans
    seen_at: Floats
    practised_at: Floats
    behaviour: BehaviourState

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
            if field.name == "behaviour":
                self.behaviour.put(rows, values.behaviour)
            else:
                getattr(self, field.name)[rows] = getattr(values, field.name)


@dataclass(frozen=True)
class Prediction:
    """What was expected before the answer, each (B,): the expected score `p`, and how it came about.

    `without_behaviour` is the expected score without the head, by ability and mastery alone. `successes` and
    `failures`, means over the item's skills of the logarithms of 1 + the sums of scores and of lost scores, are counted
    for a head only. `logit` and `variance` are mean and variance of the latent logit before knowing or not knowing is
    added; `known` and `unknown` are the likelihoods of the answer that was then given, `mastery` the mean mastery of
    its skills.
    """

    p: Floats
    without_behaviour: Floats
    logit: Floats
    variance: Floats
    known: Floats
    unknown: Floats
    mastery: Floats
    successes: Floats
    failures: Floats
