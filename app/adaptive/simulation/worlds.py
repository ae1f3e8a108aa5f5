"""Simulated learners: what they truly know, how they answer, what an exercise teaches and what they forget.

The engine sees none of it. Every number of a learner follows from the learner's own seed, so it does not depend on the
rest of the batch nor on the policy.
"""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from scipy.special import exp2, expit, expm1, ndtri

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.hashing import GOLDEN, finalise
from app.adaptive.numerics import clip
from app.adaptive.parameters import Items, Parameters, Population, Skills, to_intercept

LAYERS, OF_LAYER, ITEMS_OF_SKILL = 4, 4, 20
SKILLS = LAYERS * OF_LAYER
ABILITY_SD, SLOPE_SD, DIFFICULTY_SD = 0.8, 0.25, 0.8
KNOWN_AT_FIRST = 0.3
WITHOUT_PREREQUISITE = 0.2
PACE, PACE_SD, PACE_LIMITS = 0.17, 0.35, (0.06, 0.5)
# Those of a calibration.
LEARN_LIMITS = (0.05, 0.6)
PACE_ERROR, DIFFICULTY_ERROR = 0.3, 0.24
# What is known at first, and what is not, where knowledge is a matter of degree.
KNOWN_RANGE, UNKNOWN_RANGE = (0.85, 1.0), (0.0, 0.3)
# Learners whose knowledge at first gives the engine its P(L0), as a calibration would.
CENSUS = 4000
LEAST_PRIOR = 0.02
LEAST_PEAK = 1e-12
# What a wrong and a right answer teach where it depends on that, for each unit of pace.
BY_FAILURE, BY_SUCCESS = 0.3, 0.9

ABILITY, FIRST, DEGREE, PACES, DIFFICULTIES, ANSWER, LEARNT, EDGE, REDIRECTED, CHOICE = range(10)

Growth = Literal["jump", "growth", "factors"]


@dataclass(frozen=True)
class World:
    """How learners live, and what the engine takes for true of them.

    `growth` is how an exercise raises the strength of a skill, 0 to 1: "jump" from 0 to 1 by chance; "growth" by a
    share of what is missing, most where the chance of success is .5; "factors" by a fixed amount, more for a right
    answer than for a wrong one (Pavlik, Cen & Koedinger 2009). A skill is mastered from the strength `line`, and is
    missing as a prerequisite below `needed`. Strength halves within `half_life` exercises on anything else; each time a
    skill is practised, its half-life grows by `spacing` times the share that was forgotten. `guessing` are the values
    of c of the items, in turns. In a share `rewired` of the edges, what the engine believes to be a prerequisite is
    not: another skill is.

    `low` and `high` are the shifts of the logit at strength 0 and 1, and those that the engine takes for not knowing
    and knowing. Its P(T) is `taken` times the true pace of a skill, its P(F) is `p_forget`.
    """

    name: str
    growth: Growth = "jump"
    line: float = 0.5
    needed: float = 0.5
    half_life: float = np.inf
    spacing: float = 0.0
    guessing: tuple[float, ...] = (0.12,)
    rewired: float = 0.0
    low: float = -0.93
    high: float = 1.17
    taken: float = 1 / 0.62
    p_forget: float = 0.01


WORLDS = (
    World("binary"),
    World("growth", growth="growth", line=0.8),
    World("growth_forgetting", growth="growth", line=0.8, half_life=2000.0),
    World("factors", growth="factors", line=0.8),
    World("spacing", growth="growth", line=0.7, half_life=800.0, spacing=2.0, p_forget=0.02),
    World("guessing", guessing=(0.12, 0.25, 0.5)),
    World("wrong_graph", rewired=1 / 3),
)


@dataclass(frozen=True)
class SimulatedCourse:
    """One course of a world: what the engine believes of it, and the true pace of its skills (S,) on average."""

    parameters: Parameters
    pace: Floats


@dataclass(frozen=True)
class Truth:
    """What is true of B learners.

    `ability` (B,); `strength`, `peak` (what it was after the last exercise on it), `half_life`, `pace` are (B, S);
    `intercept` (B, I) of the items, which the engine knows only about; `prerequisites` (B, S, P), -1 for none.
    """

    ability: Floats
    strength: Floats
    peak: Floats
    half_life: Floats
    pace: Floats
    intercept: Floats
    prerequisites: Integers

    @property
    def count(self) -> int:
        """B."""
        return len(self.ability)

    def __getitem__(self, rows: slice | Integers | Booleans) -> "Truth":
        """The chosen learners."""
        return Truth(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_uniform(seeds: Seeds, stream: int, counters: "Integers | int") -> Floats:
    """U(0, 1) for each seed and counter, which broadcast; each stream is another sequence (SplitMix64)."""
    with np.errstate(over="ignore"):
        own = finalise(seeds + np.uint64(stream + 1) * GOLDEN)
        z = finalise(own + (np.asarray(counters).astype(np.uint64) + np.uint64(1)) * GOLDEN)
    return np.asarray((z >> np.uint64(11)) * 2.0**-53)


def draw_normal(seeds: Seeds, stream: int, counters: "Integers | int") -> Floats:
    """Draw numbers from N(0, 1), as `draw_uniform` does from (0, 1)."""
    return np.asarray(ndtri(clip(draw_uniform(seeds, stream, counters), 2.0**-54, 1 - 2.0**-53)))


def learner_seeds(seed: int, course: int, learners: int) -> Seeds:
    """The seeds of the learners of one course; the first ones are the same however many there are."""
    return np.asarray(np.random.SeedSequence((seed, course)).generate_state(learners, np.uint64))


def create_course(world: World, seed: int, number: int) -> SimulatedCourse:
    """A course: 16 skills in 4 layers with one or two prerequisites in the layer before, 20 items a skill."""
    rng = np.random.default_rng((seed, number))
    prerequisites = np.full((SKILLS, 2), -1, dtype=np.int64)
    for skill in range(OF_LAYER, SKILLS):
        many = int(rng.integers(1, 3))
        before = (skill // OF_LAYER - 1) * OF_LAYER
        prerequisites[skill, :many] = before + rng.permutation(OF_LAYER)[:many]
    pace = np.clip(PACE * np.exp(rng.normal(0, PACE_SD, SKILLS)), *PACE_LIMITS)
    count = SKILLS * ITEMS_OF_SKILL
    slope = np.exp(rng.normal(0, SLOPE_SD, count))
    items = Items(
        intercept=to_intercept(rng.normal(0, DIFFICULTY_SD, count), slope),
        discrimination=slope,
        guessing=np.resize(np.array(world.guessing), count),
        upper=np.ones(count),
        thresholds=np.empty((count, 0)),
        skills=np.repeat(np.arange(SKILLS), ITEMS_OF_SKILL)[:, None],
    )
    population = Population(ability_variance=ABILITY_SD**2, unknown_shift=world.low, known_shift=world.high)
    census = learner_seeds(0, 0, CENSUS)
    prior = _known_at_first(_rewire(world, prerequisites, census), census).mean(axis=0)
    skills = Skills(
        prior=np.maximum(prior, LEAST_PRIOR),
        p_learn=np.clip(pace * world.taken, *LEARN_LIMITS),
        p_forget=np.full(SKILLS, world.p_forget),
        prerequisites=prerequisites,
    )
    return SimulatedCourse(Parameters(population, skills, items), pace)


def start_learners(world: World, course: SimulatedCourse, seeds: Seeds) -> Truth:
    """Learners before their first exercise.

    The true difficulties and paces of each are off from the engine's by `DIFFICULTY_ERROR` and `PACE_ERROR`.
    """
    items, skills = course.parameters.items, np.arange(SKILLS)
    own = seeds[:, None]
    edges = _rewire(world, course.parameters.skills.prerequisites, seeds)
    known = _known_at_first(edges, seeds)
    strength = known.astype(np.float64)
    if world.growth != "jump":
        low, high = np.where(known[..., None], KNOWN_RANGE, UNKNOWN_RANGE).transpose(2, 0, 1)
        strength = low + (high - low) * draw_uniform(own, DEGREE, skills)
    error = DIFFICULTY_ERROR * draw_normal(own, DIFFICULTIES, np.arange(items.count))
    return Truth(
        ability=ABILITY_SD * draw_normal(seeds, ABILITY, 0),
        strength=strength,
        peak=strength.copy(),
        half_life=np.full(strength.shape, world.half_life),
        pace=np.clip(course.pace * (expm1(PACE_ERROR * draw_normal(own, PACES, skills)) + 1), 0.0, 1.0),
        intercept=items.intercept - items.discrimination * error,
        prerequisites=edges,
    )


def _known_at_first(prerequisites: Integers, seeds: Seeds) -> Booleans:
    """Which skills each learner knows before the first exercise: by chance, of those whose prerequisites are known."""
    luck = draw_uniform(seeds[:, None], FIRST, np.arange(SKILLS))
    known = np.zeros(luck.shape, dtype=np.bool_)
    for skill in range(SKILLS):
        known[:, skill] = (luck[:, skill] < KNOWN_AT_FIRST) & _has_all_prerequisites(known, prerequisites[:, skill])
    return known


def _rewire(world: World, believed: Integers, seeds: Seeds) -> Integers:
    """The true prerequisites of each learner's course; (B, S, P). The others of the layer before take over."""
    edges = np.broadcast_to(believed, (len(seeds), *believed.shape)).copy()
    if not world.rewired:
        return edges
    edge = np.arange(believed.size).reshape(believed.shape)
    changed = (draw_uniform(seeds[:, None, None], EDGE, edge) < world.rewired) & (believed >= 0)
    shift = 1 + np.floor(draw_uniform(seeds[:, None, None], REDIRECTED, edge) * (OF_LAYER - 1)).astype(np.int64)
    moved = believed - believed % OF_LAYER + (believed + shift) % OF_LAYER
    return np.where(changed, moved, edges)


def is_truly_mastered(world: World, truth: Truth) -> Booleans:
    """Which skills are mastered in truth; (B, S)."""
    return np.asarray(truth.strength >= world.line)


def _has_all_prerequisites(is_there: Booleans, prerequisites: Integers) -> Booleans:
    """Whether all prerequisites (N, P; -1 for none) are there (N, S)."""
    rows = np.arange(len(is_there))[:, None]
    return np.asarray((is_there[rows, prerequisites] | (prerequisites < 0)).all(axis=1))


def is_ready(world: World, truth: Truth, learners: Integers, skill: Integers) -> Booleans:
    """Whether each learner (a row of `truth`) has what a skill builds on; all (N,)."""
    return _has_all_prerequisites(truth.strength[learners] >= world.needed, truth.prerequisites[learners, skill])


def true_chance(world: World, course: SimulatedCourse, truth: Truth, learners: Integers, items: Integers) -> Floats:
    """The true chance of a right answer of each learner (a row of `truth`) to each item; all (N,)."""
    item_bank = course.parameters.items
    strength = truth.strength[learners, item_bank.skills[items, 0]]
    shift = world.low + (world.high - world.low) * strength
    x = truth.intercept[learners, items] + item_bank.discrimination[items] * truth.ability[learners] + shift
    return np.asarray(item_bank.guessing[items] + (1 - item_bank.guessing[items]) * expit(x))


def strength_gain(
    world: World, course: SimulatedCourse, truth: Truth, learners: Integers, items: Integers, right: Floats
) -> Floats:
    """What each exercise adds to the strength of its skill, if it can; for "jump" the chance of it. All (N,).

    `right` is 1 or 0, or the chance of a right answer for what is to be expected.
    """
    skill = course.parameters.items.skills[items, 0]
    rate = truth.pace[learners, skill]
    rate = np.where(is_ready(world, truth, learners, skill), rate, WITHOUT_PREREQUISITE * rate)
    room = 1 - truth.strength[learners, skill]
    if world.growth == "factors":
        return np.asarray(np.minimum(rate * (BY_FAILURE + (BY_SUCCESS - BY_FAILURE) * right), room))
    if world.growth == "growth":
        p = true_chance(world, course, truth, learners, items)
        rate = rate * 4 * p * (1 - p)
    return np.asarray(rate * room)


def undergo_exercise(
    world: World, course: SimulatedCourse, truth: Truth, items: Integers, right: Booleans, luck: Floats
) -> None:
    """One exercise each, in place; `luck` (B,) decides whether a skill that is known or not is learnt."""
    learners, skill = np.arange(truth.count), course.parameters.items.skills[items, 0]
    added = strength_gain(world, course, truth, learners, items, right.astype(np.float64))
    if world.growth == "jump":
        added = np.where(luck < added, 1.0, 0.0)
    before, peak = truth.strength[learners, skill], truth.peak[learners, skill]
    if np.isfinite(world.half_life):
        truth.strength[:] *= exp2(-1 / truth.half_life)
        truth.half_life[learners, skill] *= 1 + world.spacing * (1 - before / np.maximum(peak, LEAST_PEAK))
    truth.strength[learners, skill] = truth.peak[learners, skill] = before + added
