"""Learners whose knowledge is known, in worlds the engine believes in and in others, to hold its words to the truth.

A skill is known or not. An item is answered by who knows all its skills, or does not, with the logit of its difficulty,
the ability, the daily effect and a shift. Each world changes what it names: what learners do, what items do, or what
the engine knows of them. Every number of a learner follows from the learner's own seed.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.special import expit

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.calibration.fit import calibrate_filter, default_rates
from app.adaptive.numerics import pad_numbers
from app.adaptive.parameters import Items, Parameters, Population, Skills
from app.adaptive.practice.choose import choose_items
from app.adaptive.response_log import Log
from app.adaptive.simulation.worlds import draw_normal, draw_uniform, learner_seeds
from app.adaptive.state import States
from app.adaptive.tracing.filter import advance_states, initial_states
from app.adaptive.tracing.mastery import is_mastered, mastery_interval
from app.adaptive.tracing.uncertainty import standard_error

ABILITY_VARIANCE, DAILY_VARIANCE, DAILY_RETENTION = 0.76, 0.15, 0.98
KNOWN_SHIFT, UNKNOWN_SHIFT = 1.37, -0.32
DIFFICULTY_SD = 0.8
# The answer before which a world turns: half of the learners learn or forget all, or everybody has paused.
EVENT_AFTER = 30
HALF = 0.5
SLIPPING, SLIP = 0.2, 0.25
BY_HEART, KNOWN_BY_HEART = 2, 0.98
FIRST_DAY, MINUTE, PAUSE, LOST = 20000.0, 1 / 1440, 60.0, 0.6
CALIBRATED_LEARNERS = 300
# No world has this number: the others are not those who are told.
OTHERS = 2**31 - 1

ABILITY, DAILY, KNOWN, ANSWER, CHANGE, ORDER, EVENT, SLIPPER, CHOICE, WAVE = range(10)

SkillSets = tuple[tuple[int, ...], ...]

# Tatsuoka's (1990) test of fraction subtraction and the grammar section of the ECPE (Templin & Hoffman 2013): which of
# the skills each item asks for.
FRACTIONS: SkillSets = (
    (3, 5, 6), (3, 6), (3, 6), (1, 2, 4, 6), (1, 3, 6, 7), (6,), (0, 1, 6), (6,), (1,), (1, 4, 6, 7),
    (1, 4, 6), (6, 7), (1, 3, 4, 6), (1, 6), (0, 6), (1, 6), (1, 4, 6), (1, 4, 5, 6), (0, 1, 2, 4, 6), (1, 2, 4, 6),
)  # fmt: skip
GRAMMAR: SkillSets = (
    (0, 1), (1,), (0, 2), (2,), (2,), (2,), (0, 2), (1,), (2,), (0,), (0, 2), (0, 2), (0,), (0,),
    (2,), (0, 2), (1, 2), (2,), (2,), (0, 2), (0, 2), (2,), (1,), (1,), (0,), (2,), (0,), (2,),
)  # fmt: skip
FRACTIONS_PREREQUISITES: SkillSets = ((), (), (1,), (6,), (1, 6), (6,), (), (6,))


def _single_skill_items(skills: int, items: int) -> SkillSets:
    """`items` items for each of `skills` skills, each of one skill."""
    return tuple((skill,) for skill in range(skills) for _ in range(items))


def _compound_items(skills: int, single: int, pairs: int) -> SkillSets:
    """For each skill `single` items of its own, and `pairs` items that ask for it and the next one."""
    alone = _single_skill_items(skills, single)
    return alone + tuple(tuple(sorted((s, (s + 1) % skills))) for s in range(skills) for _ in range(pairs))


TEN, TWO, ONE = _single_skill_items(4, 10), _single_skill_items(4, 2), _single_skill_items(4, 1)


@dataclass(frozen=True)
class _TruthWorld:
    """What learners and items truly do, and what of it the engine is not given.

    `asked` are the skills of each item. A skill is known at first with `known`; after a right answer it is learnt with
    `p_learn`, after any answer forgotten with `p_forget`. `guessing` are the values of c of the items, in turns, and
    `slope_sd` the spread of log a; the engine knows of c where it is `declared`, never of a. Half of the learners know
    all (`event` "learn") or nothing ("forget") after answer 30; or all pause for 60 days, and lose 60 % ("pause").
    `slipping`: a fifth of the learners slip on a quarter of what they know. `by_heart`: an item is known after two
    answers to it. Shares: `wrong_tags` of the items carry another skill than they ask for, `miskeyed` ones are scored
    the wrong way round. `learners` are "mixed", lack exactly one skill ("lacking"), "coins" who toss with the chance
    c of the item or ½, know "nothing" or "everything"; `chances` are those of who knows the item and of who does not,
    where they do not follow from difficulty and ability. `practise`: the engine chooses the items, else they come in
    random order without immediate repeats.
    """

    name: str
    asked: SkillSets = TEN
    prerequisites: SkillSets = ()
    known: float = 0.36
    p_learn: float = 0.2
    p_forget: float = 0.01
    guessing: tuple[float, ...] = (0.0,)
    declared: bool = False
    slope_sd: float = 0.0
    event: str = ""
    slipping: bool = False
    by_heart: bool = False
    wrong_tags: float = 0.0
    miskeyed: float = 0.0
    learners: str = "mixed"
    chances: tuple[float, float] | None = None
    practise: bool = False

    @property
    def skills(self) -> int:
        """S."""
        return max(map(max, self.asked)) + 1


FLAT = (0.94, 0.08)

TRUTH_WORLDS = (
    _TruthWorld("believed"),
    _TruthWorld("believed, next", practise=True),
    _TruthWorld("compound items", asked=_compound_items(4, 5, 5)),
    _TruthWorld("compound items, next", asked=_compound_items(4, 5, 5), practise=True),
    _TruthWorld("two items a skill", asked=TWO),
    _TruthWorld("two items a skill, next", asked=TWO, practise=True),
    _TruthWorld("guessing .5, declared", guessing=(0.5,), declared=True),
    _TruthWorld("guessing .5, undeclared", guessing=(0.5,)),
    _TruthWorld("half learn all", event="learn"),
    _TruthWorld("half forget all", event="forget"),
    _TruthWorld("pause of 60 days", event="pause"),
    _TruthWorld("forgetting .08", p_forget=0.08),
    _TruthWorld("a fifth slip", slipping=True),
    _TruthWorld("a quarter of tags wrong", wrong_tags=0.25),
    _TruthWorld("a tenth of keys wrong", miskeyed=0.1),
    _TruthWorld("slopes and guessing", slope_sd=0.5, guessing=(0.0, 0.25)),
    _TruthWorld("one item a skill, by heart", asked=ONE, by_heart=True),
    _TruthWorld("nobody learns", p_learn=0.0),
    _TruthWorld("nobody learns, next", p_learn=0.0, practise=True),
    _TruthWorld("coins, c .5 declared", guessing=(0.5,), declared=True, learners="coins"),
    _TruthWorld("coins, c .25 declared", guessing=(0.25,), declared=True, learners="coins", chances=(0.5, 0.5)),
    _TruthWorld("coins, undeclared", learners="coins", chances=(0.5, 0.5)),
    _TruthWorld("coins, next", learners="coins", chances=(0.5, 0.5), practise=True),
    _TruthWorld("knows nothing, next", learners="nothing", chances=FLAT, p_learn=0.0, practise=True),
    _TruthWorld("knows everything, next", learners="everything", chances=FLAT, p_learn=0.0, practise=True),
    _TruthWorld(
        "lacks one of fractions",
        FRACTIONS, FRACTIONS_PREREQUISITES, p_learn=0.0, p_forget=0.0, learners="lacking", chances=FLAT,
    ),
    _TruthWorld(
        "lacks one of fractions, next",
        FRACTIONS, FRACTIONS_PREREQUISITES, p_learn=0.0, p_forget=0.0, learners="lacking", chances=FLAT, practise=True,
    ),
    _TruthWorld("lacks one of grammar", GRAMMAR, p_learn=0.0, p_forget=0.0, learners="lacking", chances=FLAT),
    _TruthWorld(
        "lacks one of grammar, next",
        GRAMMAR, p_learn=0.0, p_forget=0.0, learners="lacking", chances=FLAT, practise=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _TruthCourse:
    """A course of a world: the true items and skills, and what the engine believes at first."""

    items: Items
    miskeyed: Booleans
    given: Parameters


@dataclass(frozen=True)
class _Learners:
    """What is true of B learners now: ability and daily effect (B,), known skills (B, S), answers to items (B, I)."""

    ability: Floats
    daily_effect: Floats
    known: Booleans
    tries: Integers
    slips: Booleans


@dataclass(frozen=True)
class LearnerHistory:
    """What B learners did in T answers, and what the engine reported after each.

    `items` (T, B), -1 where none was offered, the skill `practised` with each, -1 where the engine did not choose, and
    `scores`; per skill, (T, B, S), `known` in truth, and as reported
    `mastery`, its interval `low` and `high`, `mastered`; (T, B) `ability_error`, in reported standard errors.
    `ability` (B,) is the true one.
    """

    items: Integers
    practised: Integers
    scores: Floats
    known: Booleans
    mastery: Floats
    low: Floats
    high: Floats
    mastered: Booleans
    ability_error: Floats
    ability: Floats


def create_truth_course(world: _TruthWorld, seed: int) -> _TruthCourse:
    """Draw the items of a course, and tell the engine what it may know: skills, and c where it is declared."""
    rng = np.random.default_rng((seed, len(world.asked)))
    count = len(world.asked)
    slope = np.exp(world.slope_sd * rng.normal(size=count))
    guessing = np.resize(np.array(world.guessing), count)
    skills = pad_numbers(world.asked)
    items = Items(
        intercept=DIFFICULTY_SD * rng.normal(size=count),
        discrimination=slope,
        guessing=guessing,
        upper=np.ones(count),
        thresholds=np.empty((count, 0)),
        skills=skills,
    )
    wrong = rng.permutation(count) < world.wrong_tags * count
    shifted = (skills + 1 + rng.integers(0, max(world.skills - 1, 1), count)[:, None]) % world.skills
    given = Items(
        intercept=np.zeros(count),
        discrimination=np.ones(count),
        guessing=guessing * world.declared,
        upper=np.ones(count),
        thresholds=np.empty((count, 0)),
        skills=np.where(wrong[:, None] & (skills >= 0), shifted, skills),
        measured=np.zeros(count, dtype=np.bool_),
        undeclared=np.full(count, not world.declared),
    )
    empty = np.empty(world.skills)
    edges = pad_numbers(world.prerequisites or ((),) * world.skills)
    parameters = Parameters(Population(), default_rates(Skills(empty, empty, empty, edges)), given)
    return _TruthCourse(items, rng.permutation(count) < world.miskeyed * count, parameters)


def _start_learners(world: _TruthWorld, seeds: Seeds) -> _Learners:
    """Learners before their first answer."""
    skills = np.arange(world.skills)
    known = draw_uniform(seeds[:, None], KNOWN, skills) < world.known
    if world.learners == "lacking":
        known = np.arange(len(seeds))[:, None] % world.skills != skills
    elif world.learners != "mixed":
        known = np.full(known.shape, world.learners == "everything")
    return _Learners(
        ability=np.sqrt(ABILITY_VARIANCE) * draw_normal(seeds, ABILITY, 0),
        daily_effect=np.sqrt(DAILY_VARIANCE) * draw_normal(seeds, DAILY, 0),
        known=known,
        tries=np.zeros((len(seeds), len(world.asked)), dtype=np.int64),
        slips=draw_uniform(seeds, SLIPPER, 0) < SLIPPING * world.slipping,
    )


def _true_chance(world: _TruthWorld, course: _TruthCourse, learners: _Learners, items: Integers) -> Floats:
    """The true chance of each learner to be scored right on an item; (B,)."""
    rows, true_items = np.arange(len(items)), course.items
    skills = true_items.skills[items]
    knows = (learners.known[rows[:, None], skills] | (skills < 0)).all(axis=1)
    logit = true_items.intercept[items] + true_items.discrimination[items] * (
        learners.ability + learners.daily_effect + np.where(knows, KNOWN_SHIFT, UNKNOWN_SHIFT)
    )
    p = true_items.guessing[items] + (1 - true_items.guessing[items]) * expit(logit)
    if world.chances is not None:
        p = np.where(knows, *world.chances)
    elif world.learners == "coins":
        p = true_items.guessing[items]
    p = np.where(learners.slips & knows, (1 - SLIP) * p, p)
    if world.by_heart:
        p = np.where(learners.tries[rows, items] >= BY_HEART, KNOWN_BY_HEART, p)
    return np.asarray(np.where(course.miskeyed[items], 1 - p, p))


def _undergo_answer(
    world: _TruthWorld,
    course: _TruthCourse,
    seeds: Seeds,
    learners: _Learners,
    items: Integers,
    right: Booleans,
    number: int,
) -> None:
    """Change learners, in place, by one answer: the skills of its item, the daily effect, and what the world does."""
    rows = np.arange(len(items))
    luck = draw_uniform(seeds[:, None], CHANGE, number * world.skills + np.arange(world.skills))
    asked = np.zeros(learners.known.shape, dtype=np.bool_)
    skills = course.items.skills[items]
    for column in skills.T:
        asked[rows[column >= 0], column[column >= 0]] = True
    learnt = asked & right[:, None] & (luck < world.p_learn)
    forgot = asked & (luck < world.p_forget)
    learners.known[:] = np.where(learners.known, ~forgot, learnt)
    learners.tries[rows, items] += 1
    retention = DAILY_RETENTION
    learners.daily_effect[:] = retention * learners.daily_effect + np.sqrt(
        (1 - retention**2) * DAILY_VARIANCE
    ) * draw_normal(seeds, WAVE, number)
    if world.event and number == EVENT_AFTER - 1:
        happened = draw_uniform(seeds[:, None], EVENT, np.arange(world.skills))
        if world.event == "pause":
            learners.known[happened < LOST] = False
        else:
            learners.known[happened[:, 0] < HALF] = world.event == "learn"


def _random_order(seeds: Seeds, items: int, answers: int) -> Integers:
    """Items by chance, never the same twice running; (T, B)."""
    order = np.floor(draw_uniform(seeds, ORDER, np.arange(answers)[:, None]) * items).astype(np.int64)
    if items > 1:
        for number in range(1, answers):
            again = order[number] == order[number - 1]
            order[number, again] = (order[number, again] + 1) % items
    return order


def answer_items(
    world: _TruthWorld, course: _TruthCourse, parameters: Parameters, seeds: Seeds, answers: int
) -> LearnerHistory:
    """Let each learner (a seed) answer, and note what the engine with these parameters tells after every answer.

    Where the engine chooses and has nothing to offer, the learner does nothing more.
    """
    count, shape = len(seeds), (answers, len(seeds), world.skills)
    learners, states = _start_learners(world, seeds), initial_states(parameters, count)
    order = _random_order(seeds, len(world.asked), answers)
    history = LearnerHistory(
        items=np.full((answers, count), -1),
        practised=np.full((answers, count), -1),
        scores=np.zeros((answers, count)),
        known=np.zeros(shape, dtype=np.bool_),
        mastery=np.zeros(shape),
        low=np.zeros(shape),
        high=np.zeros(shape),
        mastered=np.zeros(shape, dtype=np.bool_),
        ability_error=np.zeros((answers, count)),
        ability=learners.ability,
    )
    for number in range(answers):
        items = order[number]
        if world.practise:
            chance = np.floor(draw_uniform(seeds, CHOICE, number) * 2.0**53).astype(np.uint64)
            choices = choose_items(parameters, states, chance)
            items, history.practised[number] = choices.item, choices.skill
        at = np.flatnonzero(items >= 0)
        if at.size:
            _answer_once(world, course, parameters, seeds, learners, states, at, items[at], number, history.scores)
        history.items[number] = items
        _note_reports(parameters, states, learners, history, number)
    return history


def _answer_once(
    world: _TruthWorld,
    course: _TruthCourse,
    parameters: Parameters,
    seeds: Seeds,
    learners: _Learners,
    states: States,
    at: Integers,
    items: Integers,
    number: int,
    scores: Floats,
) -> None:
    """One answer of some learners (their places `at`), and what it changes."""
    some = _Learners(**{field.name: getattr(learners, field.name)[at] for field in fields(_Learners)})
    right = draw_uniform(seeds[at], ANSWER, number) < _true_chance(world, course, some, items)
    _undergo_answer(world, course, seeds[at], some, items, right, number)
    for field in fields(_Learners):
        getattr(learners, field.name)[at] = getattr(some, field.name)
    scores[number, at] = right
    time = _moments(world, np.full(len(at), number))
    part = states[at]
    advance_states(parameters, part, items, right.astype(np.float64), time)
    states.put(at, part)


def _moments(world: _TruthWorld, numbers: Integers) -> Floats:
    """When answers are given, in days: a minute apart, but for the pause of a world."""
    return FIRST_DAY + numbers * MINUTE + PAUSE * ((numbers >= EVENT_AFTER) & (world.event == "pause"))


def _note_reports(
    parameters: Parameters, states: States, learners: _Learners, history: LearnerHistory, number: int
) -> None:
    """Note what is true and what is reported of everybody after an answer."""
    history.known[number] = learners.known
    history.mastery[number] = states.mastery
    history.low[number], history.high[number] = mastery_interval(
        states.mastery, states.responses, parameters.skills.has_prerequisites, parameters.overlap
    )
    history.mastered[number] = is_mastered(states)
    history.ability_error[number] = (states.ability - learners.ability) / standard_error(parameters, states)


def calibrate_on_others(world: _TruthWorld, course: _TruthCourse, seed: int, answers: int) -> Parameters:
    """Calibrate a course on 300 other learners of its world, who answer in random order."""
    seeds = learner_seeds(seed, OTHERS, CALIBRATED_LEARNERS)
    plain = replace(world, practise=False, learners="coins" if world.learners == "coins" else "mixed")
    history = answer_items(plain, course, course.given, seeds, answers)
    starts = np.arange(CALIBRATED_LEARNERS + 1) * answers
    moments = _moments(world, np.arange(answers))
    log = Log(starts, history.items.T.reshape(-1), history.scores.T.reshape(-1), np.tile(moments, CALIBRATED_LEARNERS))
    return calibrate_filter(course.given, log, np.zeros(len(world.asked), dtype=np.bool_), seed)
