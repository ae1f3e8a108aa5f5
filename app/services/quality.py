"""How good the predictions turned out to be that were stored with the answers.

An answer counts with the prediction that was made before it, and with the score that counts today: a regraded one with
its last score, a voided one not at all. Its items and skills are today's as well, its maximum is that of the time.

Only so many answers are looked at. Where there are more, whole learners are drawn by the hash of their ids: the same
ones each time, so that periods and calibrations are compared on the same people, and an interval is still true.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.quality import Quality, measure_quality, measure_quality_by_group
from app.core.errors import UnknownCalibration, UnknownSkill
from app.queries.calibrations import find_calibration
from app.queries.quality import list_predictions, page_log_sizes
from app.queries.responses import read_corrected
from app.services.course_model import CourseModel, read_course_model
from app.services.present import DIGITS, calibration_id, item_skill_pairs
from app.services.replay import as_fractions

MAX_RESPONSES = 300_000
LEARNERS_AT_ONCE = 10_000
# Building the arrays of a piece blocks the other requests of a worker for a few milliseconds.
PIECE_RESPONSES, PIECE_LEARNERS = 2_000, 500

DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1)
# The week of that Thursday is the first: it began so many days earlier.
WEEKDAY = EPOCH.weekday()


@dataclass(frozen=True)
class QualityFilter:
    """Which answers to measure; `calibration` 0 are the defaults, `since` is included and `until` is not, in µs."""

    calibration: int | None = None
    skill: str | None = None
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class LearnerSample:
    """Learners as they are drawn. `drawn` has their hashes, ids and sizes of log; `after` is the last one seen."""

    course: CourseModel
    after: str | None = None
    complete: bool = False
    seen: int = 0
    drawn: tuple[tuple[bytes, str, int], ...] = ()

    @property
    def share(self) -> float:
        """The share of the learners seen that were drawn."""
        return len(self.drawn) / self.seen if self.seen else 1.0


@dataclass(frozen=True)
class ScoredPredictions:
    """Answers as arrays (N,): `learner` and `item` are numbers, `calibration` is 0 for the defaults."""

    p: Floats
    score: Floats
    learner: Integers
    item: Integers
    calibration: Integers
    occurred_at: Integers


def start_sample(db: Connection, tenant_id: int, course_id: str, criteria: QualityFilter) -> LearnerSample:
    """Start an empty sample. Raises `UnknownCourse`, `UnknownSkill`, `UnknownCalibration`."""
    course = read_course_model(db, tenant_id, course_id)
    if criteria.skill is not None and criteria.skill not in course.skill_ids:
        raise UnknownSkill("the course has no such skill")
    if criteria.calibration and find_calibration(db, tenant_id, course_id, criteria.calibration) is None:
        raise UnknownCalibration("the course has no such calibration")
    return LearnerSample(course)


def draw_learners(db: Connection, sample: LearnerSample, criteria: QualityFilter) -> LearnerSample:
    """Extend the sample by some learners: those with the lowest hashes, up to a number of answers, one at least."""
    course = sample.course
    page = page_log_sizes(db, course.tenant_id, course.course_id, criteria.since, sample.after, LEARNERS_AT_ONCE)
    new = ((hashlib.blake2b(id_.encode(), digest_size=8, person=b"quality").digest(), id_, size) for id_, size in page)
    drawn = sorted([*sample.drawn, *new])
    fits = np.cumsum([size for _, _, size in drawn]) <= MAX_RESPONSES
    return replace(
        sample,
        after=page[-1][0] if page else sample.after,
        complete=len(page) < LEARNERS_AT_ONCE,
        seen=sample.seen + len(page),
        drawn=tuple(drawn[: max(int(fits.sum()), 1)]),
    )


def split_sample(sample: LearnerSample) -> Iterator[dict[str, int]]:
    """Split the drawn learners, numbered in the order of the index, into blocks that are read at once."""
    piece: dict[str, int] = {}
    total = 0
    for number, (id_, size) in enumerate(sorted((id_, size) for _, id_, size in sample.drawn)):
        if piece and (total + size > PIECE_RESPONSES or len(piece) == PIECE_LEARNERS):
            yield piece
            piece, total = {}, 0
        piece[id_] = number
        total += size
    if piece:
        yield piece


def read_predictions(
    db: Connection, course: CourseModel, criteria: QualityFilter, learners: dict[str, int]
) -> ScoredPredictions:
    """Read the answers of some learners that were asked for and count."""
    corrected = read_corrected(db, course.tenant_id, course.course_id, list(learners))
    rows = list_predictions(
        db,
        course.tenant_id,
        course.course_id,
        list(learners),
        calibration=criteria.calibration,
        skill=criteria.skill,
        since=criteria.since,
        until=criteria.until,
    )
    scores = [corrected.get(row.id, row.score) for row in rows]
    # An item that the course model does not have was added since the first look.
    counted = [
        (row, score)
        for row, score in zip(rows, scores, strict=True)
        if score is not None and row.item_id in course.item_numbers
    ]
    items = np.array([course.item_numbers[row.item_id] for row, _ in counted], dtype=np.int64)
    return ScoredPredictions(
        p=np.array([row.p_correct for row, _ in counted], dtype=np.float64),
        score=as_fractions(course, items, [(score, row.max_score) for row, score in counted]),
        learner=np.array([learners[row.learner_id] for row, _ in counted], dtype=np.int64),
        item=items,
        calibration=np.array([row.calibration or 0 for row, _ in counted], dtype=np.int64),
        occurred_at=np.array([row.occurred_at for row, _ in counted], dtype=np.int64),
    )


def _concatenate(parts: Sequence[ScoredPredictions]) -> ScoredPredictions:
    """Concatenate the parts."""
    names = ScoredPredictions.__dataclass_fields__
    empty = ScoredPredictions(np.empty(0), np.empty(0), *(np.empty(0, dtype=np.int64) for _ in range(4)))
    return ScoredPredictions(
        **{name: np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in names}
    )


def quality_report(
    sample: LearnerSample, parts: Sequence[ScoredPredictions], by: str | None, after: int, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """Return the rows of the reply, and the number to go on from, if the page is full.

    One row for all answers, or with `by` one for each of up to `limit` groups after the number `after`.
    """
    predictions, share = _concatenate(parts), round(sample.share, DIGITS)
    if by is None:
        return [_to_quality_reply(measure_quality(predictions.p, predictions.score, predictions.learner), share)], None
    rows, group = group_predictions(sample.course, predictions, by)
    selected = np.unique(group[group > after])[:limit]
    p, score, learner = predictions.p[rows], predictions.score[rows], predictions.learner[rows]
    qualities = measure_quality_by_group(p, score, learner, group, selected)
    reply_rows = [
        {**group_name(sample.course, by, number), **_to_quality_reply(quality, share)}
        for number, quality in zip(selected.tolist(), qualities, strict=True)
    ]
    return reply_rows, int(selected[-1]) if len(selected) == limit else None


def group_predictions(course: CourseModel, predictions: ScoredPredictions, by: str) -> tuple[Integers, Integers]:
    """Return the answers and the number of the group of each: an answer belongs to every skill of its item.

    Groups are numbered from 0 in the order of the reply. 0 are the defaults, or no skill.
    """
    all_rows = np.arange(len(predictions.p))
    days = predictions.occurred_at // DAY_US
    if by == "skill":
        rows, skills = item_skill_pairs(course, predictions.item)
        without_skill = np.setdiff1d(all_rows, rows)
        return np.concatenate([rows, without_skill]), np.concatenate(
            [skills + 1, np.zeros(len(without_skill), dtype=np.int64)]
        )
    if by == "calibration":
        return all_rows, predictions.calibration
    if by == "month":
        return all_rows, days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return all_rows, days if by == "day" else (days + WEEKDAY) // 7


def group_name(course: CourseModel, by: str, number: int) -> dict[str, Any]:
    """Return the name of a group in a reply."""
    if by == "skill":
        return {"skill": course.skill_ids[number - 1] if number else None}
    if by == "calibration":
        return {"calibration": calibration_id(number or None)}
    if by == "month":
        first = date(EPOCH.year + number // 12, number % 12 + 1, 1)
    else:
        first = EPOCH + timedelta(days=number if by == "day" else 7 * number - WEEKDAY)
    return {"period": first.isoformat()}


def _to_quality_reply(quality: Quality, share: float) -> dict[str, Any]:
    """Return a quality as a reply, with the share of the learners that were looked at."""
    names = ("log_loss", "auc", "brier")
    return {
        "responses": quality.responses,
        "learners": quality.learners,
        "sample": share,
        **{name: _round_value(getattr(quality, name)) for name in ("predicted", "observed", *names, "ece")},
        "interval": {name: _round_interval(getattr(quality, f"{name}_interval")) for name in names},
        "curve": [
            {
                "predicted": _round_value(point.predicted),
                "observed": _round_value(point.observed),
                "interval": _round_interval(point.interval),
                "responses": point.responses,
            }
            for point in quality.curve
        ],
    }


def _round_value(value: float | None) -> float | None:
    """Round a number to the digits of a reply."""
    return None if value is None else round(value, DIGITS)


def _round_interval(interval: tuple[float, float] | None) -> list[float | None] | None:
    """Round both ends of an interval to the digits of a reply."""
    return None if interval is None else [_round_value(end) for end in interval]
