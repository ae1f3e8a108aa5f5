"""How well the engine and the models of the field predict the answers of a file: `proxima evaluate`.

The file becomes one log, the log is cut by learner, every model is fitted to some learners and predicts each answer of
the others from what they answered before it. One prediction an answer, however many skills its item has. No database.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.adaptive import baselines
from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.assess.metrics import (
    METRICS,
    Interval,
    Replicates,
    compute_metrics,
    difference_intervals,
    draw_resamples,
    replicate_intervals,
    resample_metrics,
)
from app.adaptive.calibration.duplicates import find_duplicates, first_of_each_group
from app.adaptive.calibration.fit import calibrate_parameters, default_rates, select_learners
from app.adaptive.numerics import HALF, pad_numbers
from app.adaptive.parameters import Items, Parameters, Population, Skills
from app.adaptive.response_log import Log
from app.adaptive.tracing.replay import replay
from app.analysis.tables import align_columns
from app.core.errors import InvalidFile
from app.core.times import to_days
from app.files.duplicate_rows import DuplicateRows, ResponseColumns, find_duplicate_rows, sort_key_of
from app.files.responses import (
    INSTANTS,
    ROWS_BETWEEN_REPORTS,
    Rejection,
    ResponseRecord,
    Scales,
    read_responses,
    read_scales,
)

SPLIT = "split"
FOLDS = 5
MOST_FOLDS = 50
MOST_SHOWN = 5
RESAMPLES = 400
SEED = 1
DIGITS = 6

REFERENCE = "best_lr"
COMPARED = ("auc", "log_loss")

Progress = Callable[[str, float, float], None]
Baseline = Callable[[Integers, Log, Log], Floats]
Engine = Callable[[Parameters, Log], Floats]


def _predict_filter(parameters: Parameters, log: Log) -> Floats:
    """What ability and mastery alone make expect of each answer before it."""
    return replay(replace(parameters, behaviour=None), log)[1].p


def _predict_engine(parameters: Parameters, log: Log) -> Floats:
    """What is told as `p_correct` before each answer: the filter with its head."""
    return replay(parameters, log)[1].p


BASELINES: dict[str, Baseline] = {
    "item": baselines.item_only,
    "irt": baselines.irt,
    "bkt": baselines.bkt,
    "pfa": baselines.pfa,
    REFERENCE: baselines.best_lr,
}
# All of these share one calibration.
ENGINES: dict[str, Engine] = {"filter": _predict_filter, "engine": _predict_engine}


@dataclass(frozen=True)
class ResponseSample:
    """The answers of a file as arrays.

    `skills` (I, K) are those of each item, padded with -1; `learners` are the ids of the L learners of `log`, and
    `splits` what the split column says of each; `items` and `skill_ids` are ids too. `duplicates` are rows that repeat
    a response and are not in the log, `rejections` the rows that could not be used.
    """

    name: str
    skills: Integers
    log: Log
    learners: tuple[str, ...]
    splits: tuple[str | None, ...]
    items: tuple[str, ...]
    skill_ids: tuple[str, ...]
    inconsistent_learner: str | None
    duplicates: DuplicateRows
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class _ModelScores:
    """The figures of one model with their intervals, and its lead over the reference on the same resamples."""

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    lead: Mapping[str, float]
    lead_intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class DuplicateCounts:
    """How many predicted learners repeat the log of another, and how many were left out of training because of them."""

    learners: int
    left_out: int


@dataclass(frozen=True)
class _EvaluationReport:
    """The scores of every model on `responses` answers of `learners` learners whom it was not fitted to."""

    models: Mapping[str, _ModelScores]
    responses: int
    learners: int
    folds: int
    duplicates: DuplicateCounts
    duplicate_rows: DuplicateRows
    rejections: tuple[Rejection, ...]


def evaluate(
    path: Path, split_column: str | None, folds: int | None, progress: Progress, max_score: float | None = None
) -> _EvaluationReport:
    """Fit and compare all models. Raises `InvalidFile` where there is nothing to fit or to predict.

    With neither argument the column `split` is used if there is one, else five folds. `folds` alone asks for folds of
    learners; with both the column is used if there is one. `progress` takes a stage, how much is done, and of what.
    """
    column = SPLIT if split_column is None else split_column
    sample = read_sample(path, column, progress, max_score)
    progress("comparing learners", 0, 1)
    duplicate_groups = find_duplicates(sample.log)
    if any(sample.splits) and (split_column is not None or folds is None):
        groups = split_groups(sample, column)
    elif split_column is not None and folds is None:
        raise InvalidFile(f"{path.name} says nothing in the column {column}; --folds divides the learners by chance.")
    else:
        groups = hashed_together(sample.learners, duplicate_groups, FOLDS if folds is None else folds)
    if not (groups >= 0).any() or all((groups == 0).tolist()):
        raise InvalidFile(f"{path.name}: there must be learners to fit and others to predict.")
    if not all(_select_training(groups, duplicate_groups, fold).any() for fold in range(int(groups.max()) + 1)):
        raise InvalidFile(f"{path.name}: all learners to fit have the same answers as learners to predict.")
    return _score_models(
        sample, groups, duplicate_groups, _predict_all(sample, groups, duplicate_groups, progress), progress
    )


# The file


def read_sample(path: Path, split_column: str, progress: Progress, max_score: float | None = None) -> ResponseSample:
    """Read a file. Answers of a learner stand in the order in which `proxima import` would fold them.

    As there, the first row of an item says which skills it asks for, and a response counts once, also if it has one row
    for each skill (`app/files/duplicate_rows.py`): then its skills are those of all of them.
    """
    splits: list[str | None] = []
    inconsistent_learner: str | None = None
    rejections: list[Rejection] = []
    columns = ResponseColumns()
    scales = read_scales(path, max_score, partial(progress, "looking at scores"))
    for answer in _usable_responses(path, scales, split_column, rejections, progress):
        columns.append(answer)
        learner = columns.learners[-1]
        if learner == len(splits):
            splits.append(answer.split)
        elif splits[learner] != answer.split:
            inconsistent_learner = answer.learner
    if not splits:
        first = f"; line {rejections[0].line}: {rejections[0].reason}" if rejections else ""
        raise InvalidFile(f"{path.name} has no answer that can be used{first}.")
    duplicates = find_duplicate_rows(columns)
    item_skills, skills = _number_skills(columns, duplicates)
    return ResponseSample(
        name=path.name,
        skills=pad_numbers(item_skills),
        log=_build_log(columns, ~duplicates.repeats),
        learners=tuple(columns.learner_numbers),
        splits=tuple(splits),
        items=tuple(columns.item_numbers),
        skill_ids=skills,
        inconsistent_learner=inconsistent_learner,
        duplicates=duplicates,
        rejections=tuple(rejections),
    )


def _usable_responses(
    path: Path, scales: Scales, split_column: str, rejections: list[Rejection], progress: Progress
) -> Iterator[ResponseRecord]:
    """The answers of a file that an import would take; the other rows are added to `rejections`."""
    known: dict[str, int] = {}
    reading = read_responses(path, scales, split_column)
    for number, row in enumerate(reading):
        if number % ROWS_BETWEEN_REPORTS == 0:
            progress("reading", reading.position, reading.size)
        if isinstance(row, Rejection):
            rejections.append(row)
        elif sort_key_of(row) not in INSTANTS:
            rejections.append(Rejection(row.line, "order is out of range", str(row.order)))
        elif row.response_id is not None and known.setdefault(row.response_id, _content_hash(row)) != _content_hash(
            row
        ):
            rejections.append(Rejection(row.line, "the response_id is taken by another answer", row.response_id))
        else:
            yield row


def _content_hash(answer: ResponseRecord) -> int:
    """A hash of what rows with one response id must agree in to report one response."""
    moment = None if answer.order is None and answer.occurred_at is None else sort_key_of(answer)
    return hash((answer.learner, answer.item, answer.score, moment, answer.duration_ms))


def _number_skills(columns: ResponseColumns, duplicates: DuplicateRows) -> tuple[list[list[int]], tuple[str, ...]]:
    """The numbers of the skills of every item, and the ids of the skills as they are numbered."""
    sets, skills = list(columns.skill_set_numbers), dict[str, int]()
    first_rows = np.unique(np.array(columns.items), return_index=True)[1]
    item_skills = [
        [skills.setdefault(skill, len(skills)) for skill in duplicates.skills.get(item, sets[columns.skill_sets[row]])]
        for item, row in zip(columns.item_numbers, first_rows.tolist(), strict=True)
    ]
    return item_skills, tuple(skills)


def _build_log(columns: ResponseColumns, rows: Booleans) -> Log:
    """The log of these rows. At the same moment response ids decide, and without them the order of the file."""
    learners = len(columns.learner_numbers)
    learner_of, moments = np.array(columns.learners)[rows], np.array(columns.moments)[rows]
    order = np.lexsort((columns.number_ids()[rows], moments, learner_of))
    starts = np.zeros(learners + 1, dtype=np.int64)
    np.cumsum(np.bincount(learner_of, minlength=learners), out=starts[1:])
    times = np.array([to_days(moment) for moment in moments.tolist()])
    return Log(starts, np.array(columns.items)[rows][order], np.array(columns.scores)[rows][order], times[order])


# Who is predicted


def split_groups(sample: ResponseSample, column: str) -> Integers:
    """From the split column the fold in which each learner is predicted, -1 for those who only train; (L,).

    Where one value is `test`, these learners are predicted and all others train. Else every value is a fold.
    """
    if sample.inconsistent_learner is not None:
        raise InvalidFile(
            f"{sample.name}: {column} must be the same in all rows of a learner; see {sample.inconsistent_learner}."
        )
    values = sorted({value for value in sample.splits if value})
    if "test" in values:
        return np.array([0 if value == "test" else -1 for value in sample.splits], dtype=np.int64)
    if "train" in values or len(values) > MOST_FOLDS or len(values) < 2:  # noqa: PLR2004
        shown = ", ".join(values[:MOST_SHOWN]) + (", …" if len(values) > MOST_SHOWN else "")
        raise InvalidFile(f"{sample.name}: {column} must name `test` learners or 2 to {MOST_FOLDS} folds, not {shown}.")
    return np.array([values.index(value) if value else -1 for value in sample.splits], dtype=np.int64)


def hashed_groups(learners: Sequence[str], folds: int) -> Integers:
    """Folds of equal size that depend on the ids alone, not on their order; (L,)."""
    digests = [hashlib.blake2b(learner.encode(), digest_size=8).digest() for learner in learners]
    rank = np.empty(len(learners), dtype=np.int64)
    rank[sorted(range(len(learners)), key=digests.__getitem__)] = np.arange(len(learners))
    return rank % min(folds, len(learners))


def hashed_together(learners: Sequence[str], duplicate_groups: Integers, folds: int) -> Integers:
    """Such folds with all duplicates (`duplicate_groups`, (L,)) in the fold of the one whose id sorts first; (L,)."""
    first_ids: dict[int, str] = {}
    for learner, group in zip(learners, duplicate_groups.tolist(), strict=True):
        first_ids[group] = min(learner, first_ids.get(group, learner))
    distinct = list(first_ids.values())
    fold_of = dict(zip(first_ids, hashed_groups(distinct, folds).tolist(), strict=True))
    return np.array([fold_of[group] for group in duplicate_groups.tolist()], dtype=np.int64)


def _select_training(groups: Integers, duplicate_groups: Integers, fold: int) -> Booleans:
    """Whom to train on where `fold` is predicted: none of it, none of their duplicates, and one of each group; (L,)."""
    return ~np.isin(duplicate_groups, duplicate_groups[groups == fold]) & first_of_each_group(duplicate_groups)


def _count_duplicates(groups: Integers, duplicate_groups: Integers) -> DuplicateCounts:
    """What the report says of duplicates."""
    left_out = np.zeros(len(groups), dtype=np.bool_)
    for fold in range(int(groups.max()) + 1):
        left_out |= (groups != fold) & ~_select_training(groups, duplicate_groups, fold)
    return DuplicateCounts(
        int(((np.bincount(duplicate_groups)[duplicate_groups] > 1) & (groups >= 0)).sum()), int(left_out.sum())
    )


# Predictions


def _predict_all(
    sample: ResponseSample, groups: Integers, duplicate_groups: Integers, progress: Progress
) -> dict[str, Floats]:
    """What every model expects of each answer of the learners with a group, in the order of the log; (N,)."""
    learner = np.repeat(np.arange(sample.log.learners), np.diff(sample.log.starts))
    predicted = {name: np.full(len(learner), HALF) for name in (*BASELINES, *ENGINES)}
    folds = int(groups.max()) + 1
    for fold in range(folds):
        training, unseen = (
            select_learners(sample.log, _select_training(groups, duplicate_groups, fold)),
            select_learners(sample.log, groups == fold),
        )
        report_progress = _Stages(progress, f"fold {fold + 1} of {folds}" if folds > 1 else "fitting", fold, folds)
        for name, p in _fit_and_predict(sample.skills, training, unseen, report_progress):
            predicted[name][groups[learner] == fold] = p
    return predicted


@dataclass(frozen=True)
class _Stages:
    """Progress within one of several folds; an engine's calibration is as long as all baselines together."""

    progress: Progress
    title: str
    fold: int
    folds: int

    def __call__(self, name: str, done: float) -> None:
        """Say that a model is at work and which share of the fold is done."""
        self.progress(f"{self.title}: {name}", self.fold + done, self.folds)


def _fit_and_predict(
    skills: Integers, training: Log, unseen: Log, report_progress: Callable[[str, float], None]
) -> Iterator[tuple[str, Floats]]:
    """Every model by name with its predictions of the answers of `unseen`."""
    for number, (name, model) in enumerate(BASELINES.items()):
        report_progress(name, number / len(BASELINES) / 2)
        yield name, model(skills, training, unseen)
    parameters = _calibrate_engine(skills, training, lambda _, share: report_progress("engine", (1 + share) / 2))
    for name, engine in ENGINES.items():
        yield name, engine(parameters, unseen)


def _calibrate_engine(skills: Integers, training: Log, progress: Callable[[str, float], None]) -> Parameters:
    """The engine calibrated as `proxima calibrate` does it, to all learners of the log."""
    nothing_fixed = np.zeros(len(skills), dtype=np.bool_)
    nobody = np.zeros(training.learners, dtype=np.bool_)
    return calibrate_parameters(
        uncalibrated_parameters(skills), training, nothing_fixed, nobody, SEED, progress
    ).parameters


def uncalibrated_parameters(skills: Integers) -> Parameters:
    """A course as it is before any calibration, without prerequisites."""
    items, count = len(skills), int(skills.max(initial=-1)) + 1
    plain = Items(
        intercept=np.zeros(items),
        discrimination=np.ones(items),
        guessing=np.zeros(items),
        upper=np.ones(items),
        thresholds=np.zeros((items, 0)),
        skills=skills,
        undeclared=np.ones(items, dtype=np.bool_),
    )
    blank = np.zeros(count)
    rates = default_rates(Skills(blank, blank, blank, np.zeros((count, 0), dtype=np.int64)))
    return Parameters(Population(), rates, plain)


# Figures


def _score_models(
    sample: ResponseSample,
    groups: Integers,
    duplicate_groups: Integers,
    predicted: Mapping[str, Floats],
    progress: Progress,
) -> _EvaluationReport:
    """The figures of every model on all predicted answers together, with intervals by resampling their learners."""
    lengths = np.diff(sample.log.starts)
    used = np.repeat(groups >= 0, lengths)
    learners = int((groups >= 0).sum())
    learner_of = np.repeat(np.arange(learners), lengths[groups >= 0])
    score = sample.log.scores[used]
    weights = draw_resamples(learners, RESAMPLES if learners > 1 else 0, np.random.default_rng(SEED))
    points: dict[str, dict[str, float]] = {}
    found: dict[str, Replicates] = {}
    for number, (name, p) in enumerate(predicted.items()):
        progress("resampling", number, len(predicted))
        points[name], found[name] = (
            compute_metrics(p[used], score),
            resample_metrics(p[used], score, learner_of, weights),
        )
    models = {
        name: _ModelScores(
            points[name],
            replicate_intervals(found[name]),
            {metric: points[name][metric] - points[REFERENCE][metric] for metric in COMPARED},
            difference_intervals(found[name], found[REFERENCE], COMPARED),
        )
        for name in predicted
    }
    duplicate_counts = _count_duplicates(groups, duplicate_groups)
    folds = int(groups.max()) + 1
    return _EvaluationReport(
        models, len(score), learners, folds, duplicate_counts, sample.duplicates, sample.rejections
    )


def as_json(report: _EvaluationReport) -> dict[str, Any]:
    """What `proxima evaluate --json` prints; an interval that cannot be computed is null."""
    return {
        "models": {name: _scores_json(name, scores) for name, scores in report.models.items()},
        "responses": report.responses,
        "learners": report.learners,
        "folds": report.folds,
        "duplicates": {"learners": report.duplicates.learners, "left_out": report.duplicates.left_out},
        "duplicate_rows": duplicate_rows_json(report.duplicate_rows),
        "rejected": len(report.rejections),
    }


def duplicate_rows_json(found: DuplicateRows) -> dict[str, int]:
    """How many rows were left out because they repeat a response, by kind, and how many are suspected."""
    return {"per_skill": found.per_skill, "exact": found.exact, "suspected": found.suspected}


def _scores_json(name: str, scores: _ModelScores) -> dict[str, Any]:
    """One model; the reference is not compared with itself."""
    own = _with_interval(scores.figures, scores.intervals)
    return (
        own if name == REFERENCE else own | {f"versus_{REFERENCE}": _with_interval(scores.lead, scores.lead_intervals)}
    )


def _with_interval(values: Mapping[str, float], bounds: Mapping[str, Interval]) -> dict[str, Any]:
    """Rounded figures, and their bounds under `interval`."""
    rounded = {name: [round(end, DIGITS) for end in ends] if ends else None for name, ends in bounds.items()}
    return {name: round(value, DIGITS) for name, value in values.items()} | {"interval": rounded}


TITLES = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy", "rmse": "RMSE", "ece": "ECE"}


def as_table(report: _EvaluationReport) -> str:
    """What `proxima evaluate` prints."""
    models = report.models.items()
    whole = [[name, *_format_metrics(scores.figures, scores.intervals, METRICS, "")] for name, scores in models]
    lead = [[name, *_format_metrics(scores.lead, scores.lead_intervals, COMPARED, "+")] for name, scores in models]
    folds = f" in {report.folds} folds" if report.folds > 1 else ""
    return "\n".join(
        [
            f"{report.responses:,} answers of {report.learners:,} learners predicted{folds}; 95 % intervals by learner",
            "",
            *align_columns([["", *(TITLES[metric] for metric in METRICS)], *whole]),
            "",
            *align_columns(
                [
                    ["less " + REFERENCE, *(TITLES[metric] for metric in COMPARED)],
                    *(row for row in lead if row[0] != REFERENCE),
                ]
            ),
            *_describe_duplicates(report.duplicates),
        ]
    )


def _describe_duplicates(found: DuplicateCounts) -> Iterator[str]:
    """The lines under the table, if there are duplicates."""
    if found.learners:
        yield ""
        yield (
            f"Predicted learners who repeat the log of another: {found.learners:,}; "
            f"left out of training because of them: {found.left_out:,}"
        )


def _format_metrics(
    values: Mapping[str, float], bounds: Mapping[str, Interval], names: Sequence[str], sign: str
) -> Iterator[str]:
    """Each figure and its interval as text."""
    for name in names:
        ends = bounds[name]
        interval = f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else ""
        yield f"{values[name]:{sign}.3f}{interval}"
