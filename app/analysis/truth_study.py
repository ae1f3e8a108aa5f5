"""What the engine tells, held to a known truth: `proxima simulate truth`. No database, no files.

Learners whose knowledge is known answer in worlds that the engine believes in and in others, over the code of the
service; what they are told is compared with what is true. The tables stand first in docs/models.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import NORMAL_90
from app.adaptive.simulation.truth_worlds import (
    TRUTH_WORLDS,
    LearnerHistory,
    answer_items,
    calibrate_on_others,
    create_truth_course,
)
from app.adaptive.simulation.worlds import learner_seeds
from app.analysis.evaluate import Progress
from app.analysis.tables import DIGITS, align_columns

WORLD_NAMES = tuple(world.name for world in TRUTH_WORLDS)
ANSWERS = 60
EARLY = 20
BLAME_FROM = 20
BLAMED = 0.5
ENOUGH = 3
BINS = 10


@dataclass(frozen=True)
class TruthFigures:
    """How what was told compares with the truth; shares within 0..1, None where nothing of the kind happened.

    `first_false`: of the skills told mastered, not known when they were first; `false` of those told at the end. After
    how many answers on the skill it was `first` told (median). `missed`: of the known skills with three answers or
    more, not told mastered at the end. `early`: of the learners, told mastered anything within 20 answers. `error`:
    expected calibration error of mastery over all answers, and `held`: the share of tellings whose interval holds the
    share of knowers among those told the same tenth. `flips`: changes of the word mastered for a learner and skill;
    `most_flips` for the worst learner. θ within ± 1.645 standard errors at the end: `ability`, and of the thirds by
    true ability the `worst_third`. `separable`: mean mastery of known skills that some item tells from the missing one,
    `blamed`: of these, below .5 after answer 20; `missing`: mean mastery of what is not known; all three at the answers
    after 20. `run`: longest run of exercises on one skill set without it being learnt (mean), `repeats`: of the
    answers, to an item met before while others of its skills were unseen; `exercises` until the engine stopped.
    """

    first_false: float | None
    false: float | None
    first: float | None
    missed: float | None
    early: float
    error: float
    held: float
    flips: float
    most_flips: float
    ability: float | None
    worst_third: float | None
    separable: float | None
    blamed: float | None
    missing: float | None
    run: float
    repeats: float
    exercises: float


@dataclass(frozen=True)
class _TruthReport:
    """The figures of every world, without and with calibration."""

    results: Mapping[str, Mapping[str, TruthFigures]]
    learners: int
    seed: int


def run_truth_study(names: Sequence[str], learners: int, seed: int, progress: Progress) -> _TruthReport:
    """Let learners answer in each world, before and after a calibration on others. `progress`: a stage, done, of."""
    results: dict[str, dict[str, TruthFigures]] = {}
    worlds = [world for world in TRUTH_WORLDS if world.name in names]
    for number, world in enumerate(worlds):
        course = create_truth_course(world, seed)
        results[world.name] = {}
        for done, calibrated in enumerate((False, True)):
            progress(world.name, 2 * number + done, 2 * len(worlds))
            parameters = calibrate_on_others(world, course, seed, ANSWERS) if calibrated else course.given
            history = answer_items(world, course, parameters, learner_seeds(seed, number, learners), ANSWERS)
            results[world.name]["calibrated" if calibrated else "defaults"] = measure_history(
                history, course.items.skills, known_ability=world.chances is None and world.learners == "mixed"
            )
    return _TruthReport(results, learners, seed)


def measure_history(history: LearnerHistory, asked: Integers, *, known_ability: bool) -> TruthFigures:
    """Compare what was mastered with what is true; `asked` (I, K) are the true skills of the items."""
    met = _count_met(history, asked)
    mastered, known = history.mastered, history.known
    ever = mastered.any(axis=0)
    when = np.argmax(mastered, axis=0)
    first_known = _values_at(known, when)[ever]
    counted = known[-1] & (met[-1] >= ENOUGH)
    early = mastered[:EARLY].any(axis=(0, 2))
    separable = _separable_skills(known[-1], asked)
    late = history.mastery[BLAME_FROM:]
    error, held = _calibration_of_mastery(history, met)
    changes = (mastered[1:] != mastered[:-1]).sum(axis=0)
    inside = np.abs(history.ability_error[-1]) <= NORMAL_90
    third = np.argsort(np.argsort(history.ability)) * 3 // max(len(history.ability), 1)
    answered = history.items >= 0
    return TruthFigures(
        first_false=_mean_or_none(~first_known),
        false=_mean_or_none(~known[-1][mastered[-1]]),
        first=float(np.median(_values_at(met, when)[ever])) if ever.any() else None,
        missed=_mean_or_none(~mastered[-1][counted]),
        early=float(early.mean()),
        error=error,
        held=held,
        flips=float(changes.mean()),
        most_flips=float(changes.sum(axis=1).max()),
        ability=_mean_or_none(inside) if known_ability else None,
        worst_third=min(float(inside[third == each].mean()) for each in set(third.tolist())) if known_ability else None,
        separable=_mean_or_none(late[:, separable]),
        blamed=_mean_or_none(late[:, separable] < BLAMED),
        missing=_mean_or_none(late[~known[BLAME_FROM:]]),
        run=float(np.mean([_longest_run(history, asked, row) for row in range(known.shape[1])])),
        repeats=_share_of_repeats(history, asked),
        exercises=float(answered.sum(axis=0).mean()),
    )


def _values_at(values: Any, when: Integers) -> Any:
    """The values (T, B, S) of each learner and skill at its own moment (B, S)."""
    return np.take_along_axis(values, when[None], axis=0)[0]


def _mean_or_none(values: "Floats | Booleans") -> float | None:
    """The mean, or None of nothing."""
    return float(values.mean()) if values.size else None


def _count_met(history: LearnerHistory, asked: Integers) -> Integers:
    """How many answers on each skill each learner had given after each answer; (T, B, S)."""
    skills = history.known.shape[2]
    names = (asked[:, :, None] == np.arange(skills)).any(axis=1)
    return np.cumsum(names[history.items] & (history.items >= 0)[:, :, None], axis=0)


def _separable_skills(known: Any, asked: Integers) -> Booleans:
    """Which known skills (B, S) an item asks for without any that the learner lacks; nothing where nothing lacks."""
    names = (asked[:, :, None] == np.arange(known.shape[1])).any(axis=1)
    clean = ~(names[None] & ~known[:, None]).any(axis=2)
    found = (clean[:, :, None] & names[None]).any(axis=1)
    return np.asarray(known & found & ~known.all(axis=1)[:, None])


def _calibration_of_mastery(history: LearnerHistory, met: Any) -> tuple[float, float]:
    """Expected calibration error of mastery over ten bins, and the share whose bin's truth their interval holds."""
    use = met > 0
    mastery, known = history.mastery[use], history.known[use]
    if not mastery.size:
        return 0.0, 1.0
    bin_number = np.minimum((mastery * BINS).astype(np.int64), BINS - 1)
    size = np.maximum(np.bincount(bin_number, minlength=BINS), 1)
    truth = np.bincount(bin_number, known, BINS) / size
    reported = np.bincount(bin_number, mastery, BINS) / size
    held = (history.low[use] <= truth[bin_number]) & (truth[bin_number] <= history.high[use])
    return float((np.abs(truth - reported) * size).sum() / len(mastery)), float(held.mean())


def _longest_run(history: LearnerHistory, asked: Integers, learner: int) -> int:
    """The longest run of exercises for one skill that one learner did not learn in it."""
    items, practised = history.items[:, learner], history.practised[:, learner]
    best = 0
    for skill in range(history.known.shape[2]):
        run = 0
        for number, item in enumerate(items.tolist()):
            if item < 0:
                break
            same = skill == practised[number] if practised[number] >= 0 else skill in asked[item]
            run = run + 1 if same and not history.known[number, learner, skill] else 0
            best = max(best, run)
    return best


def _share_of_repeats(history: LearnerHistory, asked: Integers) -> float:
    """The share of answers to an item met before, while an unseen one asks for the same skills."""
    repeats = total = 0
    same = (asked[:, None, :] == asked[None, :, :]).all(axis=2)
    for learner in range(history.items.shape[1]):
        seen = np.zeros(len(asked), dtype=np.bool_)
        for item in history.items[:, learner].tolist():
            if item < 0:
                break
            total += 1
            repeats += bool(seen[item] and (same[item] & ~seen).any())
            seen[item] = True
    return repeats / max(total, 1)


def as_json(report: _TruthReport) -> dict[str, Any]:
    """The figures by world, without and with calibration."""
    return {
        "seed": report.seed,
        "learners": report.learners,
        "worlds": {
            world: {
                how: {name: None if value is None else round(value, DIGITS) for name, value in vars(figures).items()}
                for how, figures in row.items()
            }
            for world, row in report.results.items()
        },
    }


def as_table(report: _TruthReport) -> str:
    """One line for each world and way, shares in per cent."""
    names = tuple(TruthFigures.__dataclass_fields__)
    rows = [["world", "", *names]]
    for world, row in report.results.items():
        for how, figures in row.items():
            rows.append([world, how, *(_format_figure(name, getattr(figures, name)) for name in names)])
    return "\n".join(align_columns(rows))


def _format_figure(name: str, value: float | None) -> str:
    """One cell of the table."""
    if value is None:
        return "–"
    if name in COUNTS:
        return f"{value:.1f}"
    return f"{value:.3f}"[1:] if value < 1 else "1.0"


COUNTS = ("first", "flips", "most_flips", "run", "exercises")
