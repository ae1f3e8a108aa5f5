"""`python -m benchmarks.forecast [LEARNERS] [SEED]`: how often the forecast of exercises left to a goal holds.

Learners as in `benchmarks.coverage`: they live as the engine believes, with parameters that are off. They practise what
the service recommends towards a goal until the engine says that it is reached; what was forecast on the way is held
against the number of exercises that it then took (docs/models.md, "How many exercises are left").
"""

import sys
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from app.adaptive.arrays import Floats
from app.adaptive.practice.branches import CODES, SelectionCriteria
from app.adaptive.practice.choose import choose_items
from app.adaptive.practice.forecast import forecast
from app.adaptive.tracing.filter import initial_states, update_states
from benchmarks.coverage import (
    WORLDS,
    World,
    cloud,
    courses,
    draw_knowledge,
    p_right,
    pass_time,
    truth_around,
)
from benchmarks.report import table

LEARNERS = 60
# Seeds from here on were not used to choose the constant of the interval.
FIRST_SEED = 60_000
COURSE = 20
LONGEST = 400
ASKED_AT = (0, 3, 8, 15, 30, 60)
TARGET = 0.9
GOAL_REACHED = CODES.index("goal_reached")
TRIED = (
    "true parameters",
    "calibration error",
    "guess-heavy items, c = .25",
    "three items a skill",
    "items of two skills",
    "prerequisites",
    "slow learning, few know",
    "population off",
    "one skill",
    "eight skills",
)


@dataclass(frozen=True)
class Forecasts:
    """What was forecast, each (N,): when it was asked, mean and ends, and what was left; infinite if never reached."""

    asked_at: Floats
    mean: Floats
    low: Floats
    high: Floats
    left: Floats


def practise(world: World, seed: int, learners: int) -> Forecasts:
    """Learners of one course who practise until all of it is mastered; what they were told on the way."""
    rng = np.random.default_rng(seed)
    believed = courses(world, rng)
    truth = truth_around(world, believed, rng, learners)
    living = cloud(world, believed, truth, rng, 1)
    draw_knowledge(living, rng)
    states, goal = initial_states(believed, learners), np.arange(believed.skills.count)
    aims, reached = [SelectionCriteria(goal=goal, target=TARGET)] * learners, np.full(learners, np.inf)
    reported: list[tuple[int, int, Floats]] = []
    for t in range(LONGEST):
        drawn = rng.integers(0, 1 << 63, learners).astype(np.uint64)
        found = choose_items(believed, states, drawn, None, aims)
        reached[(found.code == GOAL_REACHED) & np.isinf(reached)] = t
        if np.isfinite(reached).all():
            break
        for row in np.flatnonzero(np.isinf(reached)).tolist() if t in ASKED_AT else ():
            seen = forecast(believed, states[row : row + 1], goal, TARGET)
            reported.append(
                (t, row, np.full(3, np.inf) if seen is None else np.array([seen.mean, seen.low, seen.high]))
            )
        # Whoever is done goes on with anything: it is not looked at any more.
        items = np.where(found.item >= 0, found.item, 0)
        p = p_right(believed, truth, living, items)
        right = rng.random(learners) < (p * living.known).sum(axis=(1, 2))
        states, _ = update_states(believed, states, items, right.astype(np.float64), np.zeros(learners))
        pass_time(believed, truth, living, items, right, rng)
        draw_knowledge(living, rng)
    asked = np.array([t for t, _, _ in reported], dtype=np.float64)
    values = np.array([value for _, _, value in reported]).reshape(-1, 3)
    left = np.array([reached[row] for _, row, _ in reported]) - asked
    return Forecasts(asked, values[:, 0], values[:, 1], values[:, 2], left)


def forecast_world(world: World, first: int, learners: int) -> Forecasts:
    """Some courses of a world, one after the other."""
    parts = [practise(world, first + number, COURSE) for number in range(max(1, learners // COURSE))]
    return concatenate(parts)


def concatenate(parts: list[Forecasts]) -> Forecasts:
    """All parts as one."""
    names = Forecasts.__dataclass_fields__
    return Forecasts(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def row_of(name: str, reported: Forecasts) -> list[str]:
    """How good the forecasts are: what was left and foreseen, in how many cases it lies below, in and above."""
    foreseen = np.isfinite(reported.mean)
    known = foreseen & np.isfinite(reported.left)
    below, above = reported.left < np.floor(reported.low), reported.left > np.ceil(reported.high)
    share = [100 * np.mean(values[foreseen]) for values in (~below & ~above, below, above)]
    ratio = np.median(reported.mean[known] / np.maximum(reported.left[known], 1))
    return [
        name,
        f"{len(reported.left)}",
        f"{np.median(reported.left[known]):.0f}",
        f"{np.median(reported.mean[known]):.0f}",
        f"{ratio:.2f}",
        *(f"{each:.0f}" for each in share),
    ]


def main() -> None:
    """Simulate and print the tables of docs/models.md."""
    learners = int(sys.argv[1]) if len(sys.argv) > 1 else LEARNERS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else FIRST_SEED
    columns = ["", "forecasts", "left", "forecast", "forecast / left", "held, %", "fewer, %", "more, %"]
    worlds = {world.name: world for world in WORLDS}
    found = {}
    for number, name in enumerate(TRIED):
        print(f"{number + 1} of {len(TRIED)}: {name}", file=sys.stderr)
        found[name] = forecast_world(replace(worlds[name], chosen=True), first + 1000 * number, learners)
    print(table(columns, [row_of(name, reported) for name, reported in found.items()]))
    everybody = concatenate(list(found.values()))
    edges = [*ASKED_AT, LONGEST]
    rows = []
    for low, high in pairwise(edges):
        now = (everybody.asked_at >= low) & (everybody.asked_at < high)
        part = Forecasts(**{name: getattr(everybody, name)[now] for name in Forecasts.__dataclass_fields__})
        rows.append(row_of(f"after {low}", part))
    print("\n" + table(["asked", *columns[1:]], [*rows, row_of("all", everybody)]))


if __name__ == "__main__":
    main()
