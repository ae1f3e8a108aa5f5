"""How good the predictions turned out to be that were stored with the answers.

An answer counts with the prediction that was made before it, and with the score that counts today: a regraded one with
its last score, a voided one not at all. Its items, skills and maximum are today's as well.

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

from app.adaptive.quality import Quality, measure, measure_groups
from app.adaptive.types import Floats, Integers
from app.errors import UnknownCalibration, UnknownSkill
from app.queries.calibrations import find_calibration
from app.queries.quality import list_outcomes, page_log_sizes
from app.queries.responses import read_corrected
from app.services.banks import Bank, read_bank
from app.services.folding import as_fractions
from app.services.reports import DIGITS, calibration_id, skills_of

MOST_RESPONSES = 300_000
LEARNERS_AT_ONCE = 10_000
# A piece blocks the other requests of a worker while it becomes arrays: a few milliseconds.
PIECE_RESPONSES, PIECE_LEARNERS = 2_000, 500

DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1)
# The week of that Thursday is the first: it began so many days earlier.
WEEKDAY = EPOCH.weekday()


@dataclass(frozen=True)
class Asked:
    """Which answers; `calibration` 0 are the defaults, `since` is included and `until` is not, in µs."""

    calibration: int | None = None
    skill: str | None = None
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class Sample:
    """Learners as they are drawn. `drawn` has their hashes, ids and sizes of log; `after` is the last one seen."""

    bank: Bank
    after: str | None = None
    complete: bool = False
    seen: int = 0
    drawn: tuple[tuple[bytes, str, int], ...] = ()

    @property
    def share(self) -> float:
        """How many of the learners seen were drawn."""
        return len(self.drawn) / self.seen if self.seen else 1.0


@dataclass(frozen=True)
class Outcomes:
    """Answers as arrays (N,): `learner` and `item` are numbers, `calibration` is 0 for the defaults."""

    p: Floats
    score: Floats
    learner: Integers
    item: Integers
    calibration: Integers
    occurred_at: Integers


def prepare(db: Connection, tenant_id: int, course_id: str, asked: Asked) -> Sample:
    """An empty sample. Raises `UnknownCourse`, `UnknownSkill`, `UnknownCalibration`."""
    bank = read_bank(db, tenant_id, course_id)
    if asked.skill is not None and asked.skill not in bank.skill_ids:
        raise UnknownSkill("the course has no such skill")
    if asked.calibration and find_calibration(db, tenant_id, course_id, asked.calibration) is None:
        raise UnknownCalibration("the course has no such calibration")
    return Sample(bank)


def draw(db: Connection, sample: Sample, asked: Asked) -> Sample:
    """The sample after some more learners: those with the lowest hashes, up to a number of answers, one at least."""
    bank = sample.bank
    page = page_log_sizes(db, bank.tenant_id, bank.course_id, asked.since, sample.after, LEARNERS_AT_ONCE)
    new = ((hashlib.blake2b(id_.encode(), digest_size=8, person=b"quality").digest(), id_, size) for id_, size in page)
    drawn = sorted([*sample.drawn, *new])
    room = np.cumsum([size for _, _, size in drawn]) <= MOST_RESPONSES
    return replace(
        sample,
        after=page[-1][0] if page else sample.after,
        complete=len(page) < LEARNERS_AT_ONCE,
        seen=sample.seen + len(page),
        drawn=tuple(drawn[: max(int(room.sum()), 1)]),
    )


def pieces(sample: Sample) -> Iterator[dict[str, int]]:
    """The drawn learners with a number each, in the order of the index, so many as are read at once."""
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


def read_outcomes(db: Connection, bank: Bank, asked: Asked, learners: dict[str, int]) -> Outcomes:
    """The answers of some learners that were asked for and count."""
    corrected = read_corrected(db, bank.tenant_id, bank.course_id, list(learners))
    rows = list_outcomes(
        db,
        bank.tenant_id,
        bank.course_id,
        list(learners),
        calibration=asked.calibration,
        skill=asked.skill,
        since=asked.since,
        until=asked.until,
    )
    scores = [corrected.get(row.id, row.score) for row in rows]
    # An item that the bank does not have was added since the first look.
    counted = [
        (row, score)
        for row, score in zip(rows, scores, strict=True)
        if score is not None and row.item_id in bank.item_numbers
    ]
    items = np.array([bank.item_numbers[row.item_id] for row, _ in counted], dtype=np.int64)
    return Outcomes(
        p=np.array([row.p_correct for row, _ in counted], dtype=np.float64),
        score=as_fractions(bank, items, [score for _, score in counted]),
        learner=np.array([learners[row.learner_id] for row, _ in counted], dtype=np.int64),
        item=items,
        calibration=np.array([row.calibration or 0 for row, _ in counted], dtype=np.int64),
        occurred_at=np.array([row.occurred_at for row, _ in counted], dtype=np.int64),
    )


def join(parts: Sequence[Outcomes]) -> Outcomes:
    """All parts as one."""
    names = Outcomes.__dataclass_fields__
    empty = Outcomes(np.empty(0), np.empty(0), *(np.empty(0, dtype=np.int64) for _ in range(4)))
    return Outcomes(**{name: np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in names})


def report(
    sample: Sample, parts: Sequence[Outcomes], by: str | None, after: int, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """The rows that are told, and the number to go on from, if the page is full.

    One row for all answers, or with `by` one for each of up to `limit` groups after the number `after`.
    """
    outcomes, share = join(parts), round(sample.share, DIGITS)
    if by is None:
        return [tell(measure(outcomes.p, outcomes.score, outcomes.learner), share)], None
    rows, group = groups_of(sample.bank, outcomes, by)
    wanted = np.unique(group[group > after])[:limit]
    p, score, learner = outcomes.p[rows], outcomes.score[rows], outcomes.learner[rows]
    found = measure_groups(p, score, learner, group, wanted)
    told = [
        {**name_of(sample.bank, by, number), **tell(quality, share)}
        for number, quality in zip(wanted.tolist(), found, strict=True)
    ]
    return told, int(wanted[-1]) if len(wanted) == limit else None


def groups_of(bank: Bank, outcomes: Outcomes, by: str) -> tuple[Integers, Integers]:
    """The answers and the number of the group of each: an answer belongs to every skill of its item.

    Groups are numbered from 0 in the order they are told. 0 are the defaults, or no skill.
    """
    everything = np.arange(len(outcomes.p))
    days = outcomes.occurred_at // DAY_US
    if by == "skill":
        rows, skills = skills_of(bank, outcomes.item)
        without = np.setdiff1d(everything, rows)
        return np.concatenate([rows, without]), np.concatenate([skills + 1, np.zeros(len(without), dtype=np.int64)])
    if by == "calibration":
        return everything, outcomes.calibration
    if by == "month":
        return everything, days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return everything, days if by == "day" else (days + WEEKDAY) // 7


def name_of(bank: Bank, by: str, number: int) -> dict[str, Any]:
    """The name of a group as it is told."""
    if by == "skill":
        return {"skill": bank.skill_ids[number - 1] if number else None}
    if by == "calibration":
        return {"calibration": calibration_id(number or None)}
    if by == "month":
        first = date(EPOCH.year + number // 12, number % 12 + 1, 1)
    else:
        first = EPOCH + timedelta(days=number if by == "day" else 7 * number - WEEKDAY)
    return {"period": first.isoformat()}


def tell(quality: Quality, share: float) -> dict[str, Any]:
    """A quality as it is told, with the share of the learners that were looked at."""
    names = ("log_loss", "auc", "brier")
    return {
        "responses": quality.responses,
        "learners": quality.learners,
        "sample": share,
        **{name: shorten(getattr(quality, name)) for name in ("predicted", "observed", *names, "ece")},
        "interval": {name: shorten_all(getattr(quality, f"{name}_interval")) for name in names},
        "curve": [
            {
                "predicted": shorten(point.predicted),
                "observed": shorten(point.observed),
                "interval": shorten_all(point.interval),
                "responses": point.responses,
            }
            for point in quality.curve
        ],
    }


def shorten(value: float | None) -> float | None:
    """A number with the digits that are told."""
    return None if value is None else round(value, DIGITS)


def shorten_all(interval: tuple[float, float] | None) -> list[float | None] | None:
    """The same for both ends."""
    return None if interval is None else [shorten(end) for end in interval]
