"""Practice policies on simulated learners: `proxima simulate practice`. No database, no files but the plots.

The same worlds, courses, learners and random numbers for every policy, so that differences are of the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.adaptive.arrays import Integers
from app.adaptive.simulation.policies import POLICIES
from app.adaptive.simulation.practice import MOST_EXERCISES, PracticeOutcome, practise
from app.adaptive.simulation.worlds import WORLDS, create_course, learner_seeds
from app.analysis import plots
from app.analysis.evaluate import Progress
from app.analysis.tables import Figure, format_row, round_figures

# A course has its own graph, items and pace of skills, and errors of the engine's about each of its learners.
LEARNERS_PER_COURSE = 100
REFERENCE = "service"
CELL_WIDTH = 11

WORLD_NAMES = tuple(world.name for world in WORLDS)
POLICY_NAMES = tuple(POLICIES)
COLUMNS = (
    "exercises",
    "±",
    "median",
    "less, %",
    "±",
    "streaks",
    "±",
    "wasted",
    "early",
    "never, %",
    "misled, %",
    "true then",
)


@dataclass(frozen=True)
class _PracticeStudyResult:
    """How one policy did in one world.

    Per learner: `exercises` until 90 % of the skills are truly mastered (at most 700) and their `median`, `streaks` of
    five or more wrong answers, exercises `wasted` on mastered skills, exercises too `early`. `less` is how many
    exercises less the service takes, as a share of those of this policy; none where the service was not simulated.
    Shares of learners: `never` within 700; `misled`, who were told that all was mastered when less than 90 % was: and
    then `true` skills were.
    """

    exercises: Figure
    median: float
    streaks: Figure
    wasted: Figure
    early: Figure
    never: Figure
    misled: Figure
    true: float | None
    less: Figure | None


Table = Mapping[str, Mapping[str, _PracticeStudyResult]]


@dataclass(frozen=True)
class _PracticeStudyReport:
    """Results by world and policy, and the exercises of every learner in the same order for all policies of a world."""

    results: Table
    exercises: Mapping[str, Mapping[str, Integers]]
    learners: int
    seed: int


def run_practice_study(
    worlds: Sequence[str], policies: Sequence[str], learners: int, seed: int, progress: Progress
) -> _PracticeStudyReport:
    """Let `learners` learners practise in every world under every policy. `progress`: a stage, how far, and of what."""
    sizes = [LEARNERS_PER_COURSE] * (learners // LEARNERS_PER_COURSE)
    sizes += [learners % LEARNERS_PER_COURSE] if learners % LEARNERS_PER_COURSE else []
    course_of = np.repeat(np.arange(len(sizes)), sizes)
    results: dict[str, dict[str, _PracticeStudyResult]] = {}
    exercises: dict[str, dict[str, Integers]] = {}
    done, total = 0, len(worlds) * len(policies) * len(sizes)
    for world in (each for each in WORLDS if each.name in worlds):
        courses = [create_course(world, seed, number) for number in range(len(sizes))]
        outcomes: dict[str, list[PracticeOutcome]] = {name: [] for name in policies}
        for name in policies:
            for number, (course, size) in enumerate(zip(courses, sizes, strict=True)):
                progress(f"{world.name}, {name}", done, total)
                outcomes[name].append(practise(world, course, POLICIES[name], learner_seeds(seed, number, size)))
                done += 1
        exercises[world.name] = {name: _concatenate_outcomes(outcomes[name], "exercises") for name in policies}
        reference = exercises[world.name].get(REFERENCE)
        results[world.name] = {name: _summarise_outcomes(outcomes[name], course_of, reference) for name in policies}
    return _PracticeStudyReport(results, exercises, learners, seed)


def _concatenate_outcomes(outcomes: Sequence[PracticeOutcome], name: str) -> Any:
    """One column of the outcomes of all courses."""
    return np.concatenate([getattr(outcome, name) for outcome in outcomes])


def _summarise_outcomes(
    outcomes: Sequence[PracticeOutcome], course_of: Integers, reference: Integers | None
) -> _PracticeStudyResult:
    """The figures of one policy in one world."""

    def figure(name: str) -> Figure:
        return mean_over_courses(_concatenate_outcomes(outcomes, name), course_of)

    exercises, misled = _concatenate_outcomes(outcomes, "exercises"), _concatenate_outcomes(outcomes, "misled")
    less = None
    if reference is not None:
        # The error of a ratio of means, by its linearisation.
        taken, share = exercises.mean(), reference.mean() / exercises.mean()
        less = Figure(float(1 - share), mean_over_courses((reference - share * exercises) / taken, course_of).error)
    return _PracticeStudyResult(
        exercises=figure("exercises"),
        median=float(np.median(exercises)),
        streaks=figure("streaks"),
        wasted=figure("wasted"),
        early=figure("early"),
        never=mean_over_courses(~_concatenate_outcomes(outcomes, "reached"), course_of),
        misled=figure("misled"),
        true=float(_concatenate_outcomes(outcomes, "true")[misled].mean()) if misled.any() else None,
        less=less,
    )


def mean_over_courses(values: Any, course_of: Integers) -> Figure:
    """The mean over learners; its error from the sums of courses, as learners of one course share much of their luck.

    With one course from learners.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean = numbers.mean()
    sums = np.asarray(np.bincount(course_of, numbers - mean), dtype=np.float64)
    groups = sums if len(sums) > 1 else numbers - mean
    spread = len(groups) / max(len(groups) - 1, 1) * (groups**2).sum()
    return Figure(float(mean), float(np.sqrt(spread)) / len(numbers))


def as_json(report: _PracticeStudyReport) -> dict[str, Any]:
    """The figures by world and policy."""
    return {
        "seed": report.seed,
        "learners": report.learners,
        "most_exercises": MOST_EXERCISES,
        "reference": REFERENCE,
        "worlds": {
            world: {policy: round_figures(result) for policy, result in row.items()}
            for world, row in report.results.items()
        },
    }


def as_table(report: _PracticeStudyReport) -> str:
    """A table for each world, the quickest policy first."""
    widest = max(len(name) for row in report.results.values() for name in row)
    lines = [f"{report.learners:,} learners, seed {report.seed}; less: by {REFERENCE}; at most {MOST_EXERCISES}"]
    for world, row in report.results.items():
        lines += ["", format_row(world, COLUMNS, widest, CELL_WIDTH)]
        for policy, result in sorted(row.items(), key=lambda pair: pair[1].exercises.mean):
            lines.append(format_row(policy, _format_result(result), widest, CELL_WIDTH))
    return "\n".join(lines)


def _format_result(result: _PracticeStudyResult) -> list[str]:
    """One row of the table."""
    less = ["", ""] if result.less is None else [f"{100 * result.less.mean:.1f}", f"{100 * result.less.error:.1f}"]
    counts = [f"{each.mean:.1f}" for each in (result.wasted, result.early)]
    shares = [f"{100 * each.mean:.0f}" for each in (result.never, result.misled)]
    exercises = [f"{result.exercises.mean:.0f}", f"{result.exercises.error:.1f}", f"{result.median:.0f}"]
    streaks = [f"{result.streaks.mean:.2f}", f"{result.streaks.error:.2f}"]
    return [*exercises, *less, *streaks, *counts, *shares, "" if result.true is None else f"{result.true:.1f}"]


def save_plots(report: _PracticeStudyReport, folder: Path) -> list[Path]:
    """Two panels for each world: mean exercises with standard errors, and the share of learners who have reached 90 %.

    Raises `InvalidSetting` without matplotlib.
    """
    drawings = {world: partial(_draw_world, report, world) for world in report.results}
    return plots.save_plots(folder, drawings, panels=2, size=(11, 4.5))


def _draw_world(report: _PracticeStudyReport, world: str, bars: Any, curves: Any) -> None:
    """Draw what the policies did in one world, the slowest first."""
    row = report.results[world]
    names = sorted(row, key=lambda name: -row[name].exercises.mean)
    means, errors = ([getattr(row[name].exercises, part) for name in names] for part in ("mean", "error"))
    bars.barh(names, means, xerr=errors, color="tab:blue", alpha=0.7)
    bars.set(title=f"{world}: exercises until 90 % of the skills are mastered", xlabel="exercises")
    for name in reversed(names):
        taken = np.sort(report.exercises[world][name])
        curves.step(taken, np.arange(1, len(taken) + 1) / len(taken), where="post", label=name)
    curves.set(title="learners who have come so far", xlabel="exercises", xlim=(0, MOST_EXERCISES - 1), ylim=(0, 1))
    curves.legend(fontsize="small")
