"""`python -m benchmarks.coverage [LEARNERS]`: how often the reported 90 % intervals of ability and mastery hold.

Learners live as the engine believes, but with parameters that are off: each has a calibration error of its own around
the engine's parameters. Their answers go through the engine's own `update_states` (and, in one world, its
`choose_items`). Beside it an exact posterior with the *true* parameters is computed: a bootstrap particle filter
(Gordon, Salmond & Smith 1993) over ability, form and offsets, with the states of knowledge summed out exactly
(Rao-Blackwell; Doucet et al. 2000).

Ability is held against the true one, mastery against P(known | answers) of that exact posterior (docs/models.md).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from scipy.special import betaincinv, expit, logit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.parameters import Items, Parameters, Population, Skills
from app.adaptive.practice.choose import choose_items
from app.adaptive.state import States
from app.adaptive.tracing.filter import WITHOUT_PREREQUISITE, initial_states, update_states
from app.adaptive.tracing.mastery import mastery_interval
from app.adaptive.tracing.uncertainty import standard_error

CHECKPOINTS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 100)
PARTICLES = 400
LEARNERS = 540
# Learners who share the engine's parameters; the truth is each learner's own.
COURSE = 90
# Seeds from here on were not used to choose any constant.
FIRST_SEED = 50_000
# Of learning without a prerequisite and with it, where 7 in 10 have it: a calibration finds P(T) as it is on average.
ON_AVERAGE = 0.7 + 0.3 * WITHOUT_PREREQUISITE
NORMAL_90 = 1.6448536269514722
DEFAULTS = Population()
Generator = np.random.Generator
Reported = TypeVar("Reported", "Abilities", "Masteries")


@dataclass(frozen=True)
class World:
    """A family of courses, and how wrong the engine's parameters are in it.

    `rates`, `difficulty`, `prior` are the standard deviations of the error of log P(T) and log P(F), of easiness, and
    of logit P(L0); `spread` that of the logarithms of the two variances, `shifts` of both δ, `level` of the easiness of
    a whole skill.
    """

    name: str
    rates: float = 0.3
    difficulty: float = 0.24
    prior: float = 0.5
    spread: float = 0.0
    shifts: float = 0.0
    level: float = 0.0
    skills: int = 4
    items: int = 10
    width: int = 1
    guessing: float = 0.0
    slopes: float = 0.0
    typical_prior: float = 0.36
    typical_learn: float = 0.40
    prerequisites: Sequence[int] = ()
    blocked: bool = False
    chosen: bool = False
    population: Population = DEFAULTS


WORLDS = (
    World("true parameters", rates=0.0, difficulty=0.0, prior=0.0),
    World("calibration error"),
    World("one skill after the other", blocked=True),
    World("exercises chosen by the policy", chosen=True),
    World("guess-heavy items, c = .25", guessing=0.25),
    World("three items a skill", items=3),
    World("forty items a skill", items=40),
    World("items of different slopes", slopes=0.3),
    World("items of two skills", width=2),
    World("prerequisites", prerequisites=(-1, 0, 1, 0)),
    World("slow learning, few know", typical_prior=0.2, typical_learn=0.15),
    World("population off", spread=0.3, shifts=0.2),
    World("level of the skills off", level=0.3),
    World("no form, wide abilities", population=Population(ability_variance=1.5, daily_effect_variance=0.0)),
    World("strong, short form", population=Population(daily_effect_variance=0.5, daily_effect_retention=0.9)),
    World("one skill", skills=1),
    World("two skills", skills=2),
    World("eight skills", skills=8),
    World("skills set apart", population=Population(skill_variance=0.3)),
)


@dataclass(frozen=True)
class Truth:
    """What is true of each of B learners: their own courses.

    `intercept` (B, I); `prior`, `p_learn`, `p_forget` (B, S); variances and shifts (B, 1).
    """

    intercept: Floats
    prior: Floats
    p_learn: Floats
    p_forget: Floats
    ability_variance: Floats
    daily_effect_variance: Floats
    unknown_shift: Floats
    known_shift: Floats


@dataclass
class Cloud:
    """N particles for each of B learners, every one with P(each state of knowledge), (B, N, 2^S).

    `ability`, `daily_effect` and `weight` are (B, N), `skill_effect` (B, N, S). One particle that knows its own state
    of knowledge is a learner.
    """

    ability: Floats
    daily_effect: Floats
    skill_effect: Floats
    known: Floats
    weight: Floats


@dataclass(frozen=True)
class Abilities:
    """What was told of abilities, each (N,): θ, the filter's √v and the standard error; and what is true."""

    total_responses: Integers
    theta: Floats
    filtered: Floats
    error: Floats
    true: Floats
    exact: Floats
    exact_error: Floats


@dataclass(frozen=True)
class Masteries:
    """What was told of masteries, each (N,): P(known) and its interval; what it should have been, and whether known."""

    responses: Integers
    mastery: Floats
    low: Floats
    high: Floats
    exact: Floats
    known: Floats


def courses(world: World, rng: Generator) -> Parameters:
    """What the engine believes."""
    count = world.items * world.skills
    skills = np.stack([(np.arange(count) + place) % world.skills for place in range(world.width)], axis=1)
    above = np.array(world.prerequisites or [-1] * world.skills, dtype=np.int64)
    items = Items(
        intercept=rng.normal(0, 0.8, count),
        discrimination=np.exp(rng.normal(0, world.slopes, count)),
        guessing=np.full(count, world.guessing),
        upper=np.ones(count),
        thresholds=np.full((count, 1), np.inf),
        skills=skills.astype(np.int64),
    )
    return Parameters(
        world.population,
        Skills(
            prior=expit(logit(world.typical_prior) + rng.normal(0, 0.7, world.skills)),
            p_learn=np.clip(world.typical_learn * np.exp(rng.normal(0, 0.3, world.skills)), 0.05, 0.6),
            p_forget=np.clip(0.02 * np.exp(rng.normal(0, 0.3, world.skills)), 0.001, 0.05),
            prerequisites=above[:, None],
        ),
        items,
    )


def truth_around(world: World, believed: Parameters, rng: Generator, learners: int) -> Truth:
    """The truth around what the engine believes, a fresh one for each learner."""
    population, skills, shape = believed.population, believed.skills, (learners, believed.skills.count)
    items = believed.items
    level = rng.normal(0, world.level, shape)[:, items.skills].mean(axis=2)
    return Truth(
        intercept=items.intercept + level + rng.normal(0, world.difficulty, (learners, items.count)),
        prior=expit(logit(skills.prior) + rng.normal(0, world.prior, shape)),
        p_learn=np.clip(skills.p_learn * np.exp(rng.normal(0, world.rates, shape)), 0.0, 0.95),
        p_forget=skills.p_forget * np.exp(rng.normal(0, world.rates, shape)),
        ability_variance=population.ability_variance * np.exp(rng.normal(0, world.spread, (learners, 1))),
        daily_effect_variance=population.daily_effect_variance * np.exp(rng.normal(0, world.spread, (learners, 1))),
        unknown_shift=population.unknown_shift + rng.normal(0, world.shifts, (learners, 1)),
        known_shift=population.known_shift + rng.normal(0, world.shifts, (learners, 1)),
    )


def patterns(skills: int) -> Booleans:
    """(2^S, S): which skills each state of knowledge holds."""
    return np.asarray((np.arange(1 << skills)[:, None] >> np.arange(skills)) % 2 == 1)


def cloud(world: World, believed: Parameters, truth: Truth, rng: Generator, particles: int) -> Cloud:
    """Particles before the first answer."""
    learners = len(truth.prior)
    shape, known, holds = (learners, particles), np.ones((learners, 1 << world.skills)), patterns(world.skills)
    for skill, prerequisite in enumerate(believed.skills.prerequisites[:, 0]):
        held, prior = holds[:, skill], truth.prior[:, skill, None]
        if prerequisite >= 0:
            above = truth.prior[:, prerequisite, None]
            with_it = np.minimum(prior / (above + WITHOUT_PREREQUISITE * (1 - above)), 1.0)
            prior = with_it * np.where(holds[:, prerequisite], 1.0, WITHOUT_PREREQUISITE)
        known *= np.where(held, prior, 1 - prior)
    return Cloud(
        ability=rng.normal(0, 1, shape) * np.sqrt(truth.ability_variance),
        daily_effect=rng.normal(0, 1, shape) * np.sqrt(truth.daily_effect_variance),
        skill_effect=rng.normal(0, np.sqrt(world.population.skill_variance), (*shape, world.skills)),
        known=np.repeat(known[:, None], particles, axis=1),
        weight=np.full(shape, 1 / particles),
    )


def draw_knowledge(learner: Cloud, rng: Generator) -> None:
    """Make the one particle of each learner know its state of knowledge."""
    count = len(learner.known)
    drawn = (learner.known[:, 0].cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    learner.known[:] = 0.0
    learner.known[np.arange(count), 0, np.minimum(drawn, learner.known.shape[2] - 1)] = 1.0


def p_right(believed: Parameters, truth: Truth, state: Cloud, items: Integers) -> Floats:
    """P(right | particle, state of knowledge); (B, N, 2^S)."""
    bank, rows = believed.items, np.arange(len(items))
    skills = bank.skills[items]
    skill_effect = (
        sum(state.skill_effect[rows, :, skills[:, place]] for place in range(skills.shape[1])) / skills.shape[1]
    )
    x = truth.intercept[rows, items, None] + bank.discrimination[items, None] * (
        state.ability + state.daily_effect + skill_effect
    )
    guess, top = bank.guessing[items, None], bank.upper[items, None]
    if_known = guess + (top - guess) * expit(x + truth.known_shift)
    if_unknown = guess + (top - guess) * expit(x + truth.unknown_shift)
    share = patterns(believed.skills.count)[:, skills].mean(axis=2).T[:, None]
    return np.asarray(share * if_known[..., None] + (1 - share) * if_unknown[..., None])


def observe(state: Cloud, p: Floats, right: Booleans) -> None:
    """Bayes."""
    state.known *= np.where(right[:, None, None], p, 1 - p)
    total = state.known.sum(axis=2)
    state.known /= total[..., None]
    state.weight *= total
    state.weight /= state.weight.sum(axis=1, keepdims=True)


def pass_time(
    believed: Parameters, truth: Truth, state: Cloud, items: Integers, right: Booleans, rng: Generator
) -> None:
    """Learn by answering right, forget, drift."""
    population, asked, holds = believed.population, believed.items.skills[items], patterns(believed.skills.count)
    for skill, prerequisite in enumerate(believed.skills.prerequisites[:, 0]):
        rows = np.flatnonzero((asked == skill).any(axis=1))
        off = np.flatnonzero(~holds[:, skill])
        on = off | 1 << skill
        speed = np.ones(len(off))
        if prerequisite >= 0:
            speed = np.where(holds[off, prerequisite], 1.0, WITHOUT_PREREQUISITE) / ON_AVERAGE
        p_learn = np.minimum(truth.p_learn[rows, skill, None, None] * speed, 0.95) * right[rows, None, None]
        p_forget = truth.p_forget[rows, skill, None, None]
        before = state.known[rows]
        after = before.copy()
        after[:, :, on] = before[:, :, on] * (1 - p_forget) + before[:, :, off] * p_learn
        after[:, :, off] = before[:, :, off] * (1 - p_learn) + before[:, :, on] * p_forget
        state.known[rows] = after
        noise = rng.normal(0, np.sqrt(population.skill_drift), (len(rows), state.ability.shape[1]))
        state.skill_effect[rows, :, skill] += noise
    keep = population.daily_effect_retention
    fresh = rng.normal(0, 1, state.daily_effect.shape) * np.sqrt(truth.daily_effect_variance * (1 - keep * keep))
    state.daily_effect[:] = keep * state.daily_effect + fresh


def resample(state: Cloud, rng: Generator) -> None:
    """Systematic resampling where the effective number of particles has fallen below a half (Kitagawa 1996)."""
    particles = state.weight.shape[1]
    starts = rng.random(len(state.weight))
    for row in np.flatnonzero(1 / (state.weight**2).sum(axis=1) < particles / 2):
        marks = (np.arange(particles) + starts[row]) / particles
        kept = np.minimum(np.searchsorted(state.weight[row].cumsum(), marks), particles - 1)
        for values in (state.ability, state.daily_effect, state.skill_effect, state.known):
            values[row] = values[row, kept]
        state.weight[row] = 1 / particles


def schedule(world: World, believed: Parameters, states: States, t: int, rng: Generator) -> Integers:
    """What each learner is asked next."""
    count, learners = believed.items.count, states.count
    if world.chosen:
        found = choose_items(believed, states, rng.integers(0, 1 << 63, learners).astype(np.uint64)).item
        return np.where(found >= 0, found, rng.integers(0, count, learners))
    drawn = rng.integers(0, count, learners)
    if world.blocked:
        drawn += t * world.skills // CHECKPOINTS[-1] - drawn % world.skills
    return drawn


def simulate(
    world: World, seed: int, learners: int, particles: int = PARTICLES, total_responses: int = CHECKPOINTS[-1]
) -> Iterator[tuple[Parameters, States, Cloud, Cloud]]:
    """One course and its learners: at each checkpoint what the engine knows, the learners, and the exact posterior."""
    rng = np.random.default_rng(seed)
    believed = courses(world, rng)
    truth = truth_around(world, believed, rng, learners)
    living, exact = cloud(world, believed, truth, rng, 1), cloud(world, believed, truth, rng, particles)
    draw_knowledge(living, rng)
    states = initial_states(believed, learners)
    for t in range(1, total_responses + 1):
        items = schedule(world, believed, states, t - 1, rng)
        p = p_right(believed, truth, living, items)
        right = rng.random(learners) < (p * living.known).sum(axis=(1, 2))
        states, _ = update_states(believed, states, items, right.astype(np.float64), np.zeros(learners))
        observe(exact, p_right(believed, truth, exact, items), right)
        resample(exact, rng)
        pass_time(believed, truth, living, items, right, rng)
        draw_knowledge(living, rng)
        pass_time(believed, truth, exact, items, right, rng)
        if t in CHECKPOINTS:
            yield believed, states, living, exact


def report(
    world: World,
    seeds: Sequence[int],
    learners: int,
    particles: int = PARTICLES,
    total_responses: int = CHECKPOINTS[-1],
) -> tuple[Abilities, Masteries]:
    """Everything told at the checkpoints of some courses, each of `learners`."""
    abilities: list[Abilities] = []
    masteries: list[Masteries] = []
    holds = patterns(world.skills).astype(np.float64)
    for seed in seeds:
        for believed, states, living, exact in simulate(world, seed, learners, particles, total_responses):
            mean = (exact.weight * exact.ability).sum(axis=1)
            spread = (exact.weight * (exact.ability - mean[:, None]) ** 2).sum(axis=1)
            abilities.append(
                Abilities(
                    total_responses=states.total_responses.copy(),
                    theta=states.ability,
                    filtered=np.sqrt(states.ability_variance),
                    error=standard_error(believed, states),
                    true=living.ability[:, 0].copy(),
                    exact=mean,
                    exact_error=np.sqrt(spread),
                )
            )
            low, high = mastery_interval(
                states.mastery, states.responses, believed.skills.has_prerequisites, believed.overlap
            )
            target = (exact.weight[..., None] * (exact.known @ holds)).sum(axis=1)
            masteries.append(
                Masteries(
                    responses=states.responses.ravel(),
                    mastery=states.mastery.ravel(),
                    low=low.ravel(),
                    high=high.ravel(),
                    exact=target.ravel(),
                    known=(living.known[:, 0] @ holds).ravel(),
                )
            )
    return concatenate(Abilities, abilities), concatenate(Masteries, masteries)


def concatenate(kind: type[Reported], parts: Sequence[Reported]) -> Reported:
    """All parts as one."""
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in kind.__dataclass_fields__})


def held(reported: Abilities, error: Floats) -> Booleans:
    """Whether θ ± 1.645 of that error holds the ability."""
    return np.asarray(np.abs(reported.theta - reported.true) <= NORMAL_90 * error)


def inside(reported: Masteries, low: Floats, high: Floats) -> Booleans:
    """Whether the interval holds what P(known) should have been."""
    return np.asarray((low <= reported.exact) & (reported.exact <= high))


def share_rule(mastery: Floats, responses: Integers) -> tuple[Floats, Floats]:
    """The interval until now: as if P(known) were a share seen in 2 + evidence answers (Jeffreys)."""
    known, unknown = 0.5 + mastery * (2 + responses), 0.5 + (1 - mastery) * (2 + responses)
    return np.minimum(betaincinv(known, unknown, 0.05), mastery), np.maximum(betaincinv(known, unknown, 0.95), mastery)


def main() -> None:
    """Simulate every world and print the tables of docs/models.md."""
    learners = int(sys.argv[1]) if len(sys.argv) > 1 else LEARNERS
    abilities, masteries = {}, {}
    for number, world in enumerate(WORLDS):
        print(f"{number + 1} of {len(WORLDS)}: {world.name}", file=sys.stderr)
        # A joint distribution over 2^S states of knowledge is dear where S is large.
        share = 1 if world.skills <= 4 else 4
        seeds = range(FIRST_SEED + 1000 * number, FIRST_SEED + 1000 * number + max(1, learners // COURSE // share))
        abilities[world.name], masteries[world.name] = report(world, seeds, COURSE, PARTICLES // share)
    off = [world.name for world in WORLDS[1:]]
    everybody = concatenate(Abilities, [abilities[name] for name in off])
    every_skill = concatenate(Masteries, [masteries[name] for name in off])
    print(by_answers(everybody), by_level(everybody), by_evidence(every_skill), by_mastery(every_skill), sep="\n\n")
    print("\n" + by_world(abilities, masteries))


def by_answers(reported: Abilities) -> str:
    """Coverage of ability by the number of answers."""
    rows = [
        (
            str(count),
            *percentages(now, held(reported, reported.filtered), held(reported, reported.error)),
            *(f"{np.mean(values[now]):.2f}" for values in (reported.filtered, reported.error, reported.exact_error)),
        )
        for count in CHECKPOINTS
        for now in [reported.total_responses == count]
        if now.any()
    ]
    return table(("answers", "√v, %", "SE, %", "√v", "SE", "exact SE"), rows)


def by_level(reported: Abilities) -> str:
    """Coverage of ability after 5 answers and more, by the estimate and by the truth."""
    edges = (0, 0.5, 1, 1.5, 2, np.inf)
    rows = []
    for low, high in pairwise(edges):
        near = [
            (reported.total_responses >= 5) & (low <= np.abs(x)) & (np.abs(x) < high)
            for x in (reported.theta, reported.true)
        ]
        rows.append((f"{low:g} to {high:g}", *(percentages(now, held(reported, reported.error))[0] for now in near)))
    return table(("θ, either sign", "by the estimate, %", "by the truth, %"), rows)


def by_evidence(reported: Masteries) -> str:
    """Coverage of mastery by the number of answers on the skill."""
    edges = (0, 1, 2, 3, 4, 6, 11, 21, 41, np.inf)
    return table(
        ("answers on the skill", "as a share, %", "interval, %", "width before", "width"),
        [mastery_row(reported, reported.responses, span) for span in pairwise(edges)],
    )


def by_mastery(reported: Masteries) -> str:
    """Coverage of mastery by its level, where there are answers."""
    edges = (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 1.01)
    answered = np.where(reported.responses > 0, reported.mastery, -1.0)
    return table(
        ("P(known)", "as a share, %", "interval, %", "width before", "width"),
        [mastery_row(reported, answered, span) for span in pairwise(edges)],
    )


def mastery_row(reported: Masteries, by: "Floats | Integers", span: tuple[float, float]) -> tuple[str, ...]:
    """Coverage and width of both rules where `by` is in a span."""
    now = (span[0] <= by) & (by < span[1])
    low, high = share_rule(reported.mastery, reported.responses)
    return (
        f"{span[0]:g} to under {span[1]:g}",
        *percentages(now, inside(reported, low, high), inside(reported, reported.low, reported.high)),
        *(f"{np.mean(width[now]):.2f}" for width in (high - low, reported.high - reported.low)),
    )


def by_world(abilities: dict[str, Abilities], masteries: dict[str, Masteries]) -> str:
    """Coverage in each world; of mastery where there are answers, and how often it is told too high."""
    rows = []
    for name, reported in abilities.items():
        early, late = (reported.total_responses >= 5) & (reported.total_responses <= 20), reported.total_responses > 20
        skills = masteries[name]
        now = skills.responses > 0
        rows.append(
            (
                name,
                *(percentages(some, held(reported, reported.error))[0] for some in (early, late)),
                *percentages(now, inside(skills, skills.low, skills.high), skills.exact < skills.low),
            )
        )
    return table(("world", "θ, 5 to 20 answers, %", "θ, 30 to 100, %", "mastery, %", "too high, %"), rows)


def percentages(now: Booleans, *cases: Booleans) -> tuple[str, ...]:
    """How often each case holds, in per cent, where `now`."""
    return tuple(f"{100 * case[now].mean():.1f}" if now.any() else "–" for case in cases)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    main()
