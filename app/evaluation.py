"""How well the engine and the models of the field predict the answers of a file: `proxima evaluate`.

The file becomes one log, the log is cut by learner, every model is fitted to some learners and predicts each answer of
the others from what they answered before it. One prediction an answer, however many skills its item has. No database.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.adaptive import baselines
from app.adaptive.calibration import calibrate, default_rates, take
from app.adaptive.metrics import HALF, METRICS, Interval, Replicates, figures, intervals, paired, resampled, resamples
from app.adaptive.replay import Log, replay
from app.adaptive.twins import one_of_each, twins
from app.adaptive.types import Booleans, Floats, Integers, Items, Parameters, Population, Skills
from app.errors import InvalidFile
from app.files import INSTANTS, ROWS_BETWEEN_REPORTS, Answer, Rejection, read_answers
from app.services.banks import pad_numbers
from app.times import UNDATED_EPOCH_US, to_days

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


def predict_filter(parameters: Parameters, log: Log) -> Floats:
    """What ability and mastery alone make expect of each answer before it."""
    return replay(replace(parameters, head=None), log)[1].p


def predict_engine(parameters: Parameters, log: Log) -> Floats:
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
ENGINES: dict[str, Engine] = {"filter": predict_filter, "engine": predict_engine}


@dataclass(frozen=True)
class Sample:
    """The answers of a file as arrays.

    `skills` (I, K) are those of each item, padded with -1; `learners` are the ids of the L learners of `log`, and
    `splits` what the split column says of each; `items` and `skill_ids` are ids too. `rejections` are the rows that
    could not be used.
    """

    name: str
    skills: Integers
    log: Log
    learners: tuple[str, ...]
    splits: tuple[str | None, ...]
    items: tuple[str, ...]
    skill_ids: tuple[str, ...]
    torn: str | None
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class Scores:
    """The figures of one model with their intervals, and its lead over the reference on the same resamples."""

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    lead: Mapping[str, float]
    lead_intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class Twins:
    """How many predicted learners repeat the log of another, and how many were left out of training because of them."""

    learners: int
    left_out: int


@dataclass(frozen=True)
class Report:
    """The scores of every model on `responses` answers of `learners` learners whom it was not fitted to."""

    models: Mapping[str, Scores]
    responses: int
    learners: int
    folds: int
    twins: Twins
    rejections: tuple[Rejection, ...]


def evaluate(path: Path, split_column: str | None, folds: int | None, progress: Progress) -> Report:
    """Fit and compare all models. Raises `InvalidFile` where there is nothing to fit or to predict.

    With neither argument the column `split` is used if there is one, else five folds. `folds` alone asks for folds of
    learners; with both the column is used if there is one. `progress` takes a stage, how much is done, and of what.
    """
    column = SPLIT if split_column is None else split_column
    sample = read_sample(path, column, progress)
    progress("comparing learners", 0, 1)
    alike = twins(sample.log)
    if any(sample.splits) and (split_column is not None or folds is None):
        groups = split_groups(sample, column)
    elif split_column is not None and folds is None:
        raise InvalidFile(f"{path.name} says nothing in the column {column}; --folds divides the learners by chance.")
    else:
        groups = hashed_together(sample.learners, alike, FOLDS if folds is None else folds)
    if not (groups >= 0).any() or all((groups == 0).tolist()):
        raise InvalidFile(f"{path.name}: there must be learners to fit and others to predict.")
    if not all(trains(groups, alike, fold).any() for fold in range(int(groups.max()) + 1)):
        raise InvalidFile(f"{path.name}: all learners to fit have the same answers as learners to predict.")
    return measure(sample, groups, alike, predict(sample, groups, alike, progress), progress)


# The file


def read_sample(path: Path, split_column: str, progress: Progress) -> Sample:
    """Read a file once. Answers of a learner stand in the order in which `proxima import` would fold them.

    As there, the first row of an item says which skills it asks for, and a response id counts once.
    """
    learners, items, skills = dict[str, int](), dict[str, int](), dict[str, int]()
    asked: list[list[int]] = []
    splits: list[str | None] = []
    torn: str | None = None
    rejections: list[Rejection] = []
    columns = Columns([], array("q"), array("q"), array("d"), array("q"))
    for answer in usable(path, split_column, rejections, progress):
        learner = learners.setdefault(answer.learner, len(learners))
        item = items.setdefault(answer.item, len(items))
        if learner == len(splits):
            splits.append(answer.split)
        elif splits[learner] != answer.split:
            torn = answer.learner
        if item == len(asked):
            asked.append([skills.setdefault(skill, len(skills)) for skill in answer.skills])
        columns.ids.append(answer.response_id or "")
        columns.learners.append(learner)
        columns.items.append(item)
        columns.scores.append(answer.score)
        columns.moments.append(moment_of(answer))
    if not learners:
        first = f"; line {rejections[0].line}: {rejections[0].reason}" if rejections else ""
        raise InvalidFile(f"{path.name} has no answer that can be used{first}.")
    log = as_log(columns, len(learners))
    ids = tuple(learners), tuple(splits), tuple(items), tuple(skills)
    return Sample(path.name, pad_numbers(asked), log, *ids, torn, tuple(rejections))


@dataclass(frozen=True)
class Columns:
    """The answers of a file in its order: response id, number of learner and item, score, and the moment to sort by."""

    ids: list[str]
    learners: "array[int]"
    items: "array[int]"
    scores: "array[float]"
    moments: "array[int]"


def usable(path: Path, split_column: str, rejections: list[Rejection], progress: Progress) -> Iterator[Answer]:
    """The answers of a file that an import would take; the other rows are added to `rejections`."""
    known: set[str] = set()
    reading = read_answers(path, split_column)
    for number, row in enumerate(reading):
        if number % ROWS_BETWEEN_REPORTS == 0:
            progress("reading", reading.position, reading.size)
        if isinstance(row, Rejection):
            rejections.append(row)
        elif moment_of(row) not in INSTANTS:
            rejections.append(Rejection(row.line, "order is out of range", str(row.order)))
        elif row.response_id in known:
            rejections.append(Rejection(row.line, "the response_id is taken by another answer", str(row.response_id)))
        else:
            if row.response_id is not None:
                known.add(row.response_id)
            yield row


def moment_of(answer: Answer) -> int:
    """What the answers of a learner are sorted by, in microseconds: the time, else the order, else the line."""
    if answer.occurred_at is not None:
        return answer.occurred_at
    return UNDATED_EPOCH_US + (answer.line if answer.order is None else answer.order)


def as_log(columns: Columns, learners: int) -> Log:
    """The log of the answers. At the same moment response ids decide, and without them the order of the file."""
    whose, ids = np.array(columns.learners), columns.ids
    ties = np.zeros(len(ids)) if not any(ids) else np.unique(np.array(ids, dtype=object), return_inverse=True)[1]
    order = np.lexsort((ties, np.array(columns.moments), whose))
    starts = np.zeros(learners + 1, dtype=np.int64)
    np.cumsum(np.bincount(whose, minlength=learners), out=starts[1:])
    times = np.array([to_days(moment) for moment in columns.moments])
    return Log(starts, np.array(columns.items)[order], np.array(columns.scores)[order], times[order])


# Who is predicted


def split_groups(sample: Sample, column: str) -> Integers:
    """From the split column the fold in which each learner is predicted, -1 for those who only train; (L,).

    Where one value is `test`, these learners are predicted and all others train. Else every value is a fold.
    """
    if sample.torn is not None:
        raise InvalidFile(f"{sample.name}: {column} must be the same in all rows of a learner; see {sample.torn}.")
    values = sorted({value for value in sample.splits if value})
    if "test" in values:
        return np.array([0 if value == "test" else -1 for value in sample.splits], dtype=np.int64)
    if "train" in values or len(values) > MOST_FOLDS or len(values) < 2:  # noqa: PLR2004
        shown = ", ".join(values[:MOST_SHOWN]) + (", …" if len(values) > MOST_SHOWN else "")
        raise InvalidFile(f"{sample.name}: {column} must name `test` learners or 2 to {MOST_FOLDS} folds, not {shown}.")
    return np.array([values.index(value) if value else -1 for value in sample.splits], dtype=np.int64)


def hashed_groups(learners: Sequence[str], folds: int) -> Integers:
    """Folds of equal size that depend on the ids alone, not on their order; (L,)."""
    drawn = [hashlib.blake2b(learner.encode(), digest_size=8).digest() for learner in learners]
    place = np.empty(len(learners), dtype=np.int64)
    place[sorted(range(len(learners)), key=drawn.__getitem__)] = np.arange(len(learners))
    return place % min(folds, len(learners))


def hashed_together(learners: Sequence[str], alike: Integers, folds: int) -> Integers:
    """Such folds with all twins (`alike`, (L,)) in the fold of the one whose id sorts first; (L,)."""
    named: dict[int, str] = {}
    for learner, group in zip(learners, alike.tolist(), strict=True):
        named[group] = min(learner, named.get(group, learner))
    distinct = list(named.values())
    fold_of = dict(zip(named, hashed_groups(distinct, folds).tolist(), strict=True))
    return np.array([fold_of[group] for group in alike.tolist()], dtype=np.int64)


def trains(groups: Integers, alike: Integers, fold: int) -> Booleans:
    """Who is trained on where `fold` is predicted: nobody of it, no twin of anybody of it, and of twins one; (L,)."""
    return ~np.isin(alike, alike[groups == fold]) & one_of_each(alike)


def count_twins(groups: Integers, alike: Integers) -> Twins:
    """What the report says of twins."""
    left_out = np.zeros(len(groups), dtype=np.bool_)
    for fold in range(int(groups.max()) + 1):
        left_out |= (groups != fold) & ~trains(groups, alike, fold)
    return Twins(int(((np.bincount(alike)[alike] > 1) & (groups >= 0)).sum()), int(left_out.sum()))


# Predictions


def predict(sample: Sample, groups: Integers, alike: Integers, progress: Progress) -> dict[str, Floats]:
    """What every model expects of each answer of the learners with a group, in the order of the log; (N,)."""
    learner = np.repeat(np.arange(sample.log.learners), np.diff(sample.log.starts))
    predicted = {name: np.full(len(learner), HALF) for name in (*BASELINES, *ENGINES)}
    folds = int(groups.max()) + 1
    for fold in range(folds):
        training, unseen = take(sample.log, trains(groups, alike, fold)), take(sample.log, groups == fold)
        tell = Stages(progress, f"fold {fold + 1} of {folds}" if folds > 1 else "fitting", fold, folds)
        for name, p in predictions(sample.skills, training, unseen, tell):
            predicted[name][groups[learner] == fold] = p
    return predicted


@dataclass(frozen=True)
class Stages:
    """Progress within one of several folds; an engine's calibration is as long as all baselines together."""

    progress: Progress
    title: str
    fold: int
    folds: int

    def __call__(self, name: str, done: float) -> None:
        """Say that a model is at work and which share of the fold is done."""
        self.progress(f"{self.title}: {name}", self.fold + done, self.folds)


def predictions(
    skills: Integers, training: Log, unseen: Log, tell: Callable[[str, float], None]
) -> Iterator[tuple[str, Floats]]:
    """Every model by name with its predictions of the answers of `unseen`."""
    for number, (name, model) in enumerate(BASELINES.items()):
        tell(name, number / len(BASELINES) / 2)
        yield name, model(skills, training, unseen)
    parameters = calibrated(skills, training, lambda _, share: tell("engine", (1 + share) / 2))
    for name, engine in ENGINES.items():
        yield name, engine(parameters, unseen)


def calibrated(skills: Integers, training: Log, progress: Callable[[str, float], None]) -> Parameters:
    """The engine calibrated as `proxima calibrate` does it, to all learners of the log."""
    nothing_fixed = np.zeros(len(skills), dtype=np.bool_)
    nobody = np.zeros(training.learners, dtype=np.bool_)
    return calibrate(uncalibrated(skills), training, nothing_fixed, nobody, SEED, progress).parameters


def uncalibrated(skills: Integers) -> Parameters:
    """A course as it is before any calibration, without prerequisites."""
    items, count = len(skills), int(skills.max(initial=-1)) + 1
    plain = Items(
        easiness=np.zeros(items),
        discrimination=np.ones(items),
        guessing=np.zeros(items),
        upper=np.ones(items),
        thresholds=np.zeros((items, 0)),
        skills=skills,
    )
    blank = np.zeros(count)
    rates = default_rates(Skills(blank, blank, blank, np.zeros((count, 0), dtype=np.int64)))
    return Parameters(Population(), rates, plain)


# Figures


def measure(
    sample: Sample, groups: Integers, alike: Integers, predicted: Mapping[str, Floats], progress: Progress
) -> Report:
    """The figures of every model on all predicted answers together, with intervals by resampling their learners."""
    lengths = np.diff(sample.log.starts)
    used = np.repeat(groups >= 0, lengths)
    learners = int((groups >= 0).sum())
    whose = np.repeat(np.arange(learners), lengths[groups >= 0])
    score = sample.log.scores[used]
    weights = resamples(learners, RESAMPLES if learners > 1 else 0, np.random.default_rng(SEED))
    points: dict[str, dict[str, float]] = {}
    found: dict[str, Replicates] = {}
    for number, (name, p) in enumerate(predicted.items()):
        progress("resampling", number, len(predicted))
        points[name], found[name] = figures(p[used], score), resampled(p[used], score, whose, weights)
    models = {
        name: Scores(
            points[name],
            intervals(found[name]),
            {metric: points[name][metric] - points[REFERENCE][metric] for metric in COMPARED},
            paired(found[name], found[REFERENCE], COMPARED),
        )
        for name in predicted
    }
    found_twins = count_twins(groups, alike)
    return Report(models, len(score), learners, int(groups.max()) + 1, found_twins, sample.rejections)


def as_json(report: Report) -> dict[str, Any]:
    """What `proxima evaluate --json` prints; an interval that cannot be computed is null."""
    return {
        "models": {name: scores_json(name, scores) for name, scores in report.models.items()},
        "responses": report.responses,
        "learners": report.learners,
        "folds": report.folds,
        "twins": {"learners": report.twins.learners, "left_out": report.twins.left_out},
        "rejected": len(report.rejections),
    }


def scores_json(name: str, scores: Scores) -> dict[str, Any]:
    """One model; the reference is not compared with itself."""
    own = with_interval(scores.figures, scores.intervals)
    return (
        own if name == REFERENCE else own | {f"versus_{REFERENCE}": with_interval(scores.lead, scores.lead_intervals)}
    )


def with_interval(values: Mapping[str, float], bounds: Mapping[str, Interval]) -> dict[str, Any]:
    """Rounded figures, and their bounds under `interval`."""
    rounded = {name: [round(end, DIGITS) for end in ends] if ends else None for name, ends in bounds.items()}
    return {name: round(value, DIGITS) for name, value in values.items()} | {"interval": rounded}


TITLES = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy", "rmse": "RMSE", "ece": "ECE"}


def as_table(report: Report) -> str:
    """What `proxima evaluate` prints."""
    models = report.models.items()
    whole = [[name, *cells(scores.figures, scores.intervals, METRICS, "")] for name, scores in models]
    lead = [[name, *cells(scores.lead, scores.lead_intervals, COMPARED, "+")] for name, scores in models]
    folds = f" in {report.folds} folds" if report.folds > 1 else ""
    return "\n".join(
        [
            f"{report.responses:,} answers of {report.learners:,} learners predicted{folds}; 95 % intervals by learner",
            "",
            *columned([["", *(TITLES[metric] for metric in METRICS)], *whole]),
            "",
            *columned(
                [
                    ["less " + REFERENCE, *(TITLES[metric] for metric in COMPARED)],
                    *(row for row in lead if row[0] != REFERENCE),
                ]
            ),
            *told_of_twins(report.twins),
        ]
    )


def told_of_twins(found: Twins) -> Iterator[str]:
    """The lines under the table, if there are twins."""
    if found.learners:
        yield ""
        yield (
            f"Predicted learners who repeat the log of another: {found.learners:,}; "
            f"left out of training because of them: {found.left_out:,}"
        )


def cells(
    values: Mapping[str, float], bounds: Mapping[str, Interval], names: Sequence[str], sign: str
) -> Iterator[str]:
    """Each figure and its interval as text."""
    for name in names:
        ends = bounds[name]
        interval = f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else ""
        yield f"{values[name]:{sign}.3f}{interval}"


def columned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as aligned lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
