"""Calibrations: requested, fitted elsewhere, kept for ever, and one of them in force."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row

from app.adaptive.calibration import Fit
from app.adaptive.replay import Log
from app.adaptive.types import Booleans, Parameters
from app.errors import CalibrationNotReady, CalibrationRunning, NothingToCalibrate, UnknownCalibration
from app.queries import calibrations as rows
from app.queries.catalogue import update_course
from app.queries.responses import count_responses, read_all_entries
from app.services.banks import Bank, read_bank, trained_parameters
from app.services.catalogue import need_course
from app.services.folding import log_of
from app.services.packing import pack_fit
from app.services.reports import calibration_id
from app.times import to_text

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
LEAST_RESPONSES = 100
# A run that has not told that it is alive for so long was interrupted.
SILENCE_US = 60_000_000
ITEM_CHANGED = 0.25
# One learner in so many measures the fit.
HELD_OUT = 5


@dataclass(frozen=True)
class Job:
    """What a fit needs: the log, which learners to hold out, and what to compare the result with."""

    bank: Bank
    before: Parameters
    number: int
    log: Log
    held_out: Booleans


def request(db: Connection, tenant_id: int, course_id: str, now: int) -> int:
    """Give a new calibration its number. Raises `CalibrationRunning`, `NothingToCalibrate`."""
    course = need_course(db, tenant_id, course_id, lock=True)
    last = rows.last_number(db, tenant_id, course_id)
    previous = rows.find_calibration(db, tenant_id, course_id, last)
    if previous is not None and status_of(previous, now) == RUNNING:
        raise CalibrationRunning(f"calibration {calibration_id(last)} is running; wait until it has ended")
    if count_responses(db, tenant_id, course_id) < LEAST_RESPONSES:
        raise NothingToCalibrate(f"a calibration needs at least {LEAST_RESPONSES} responses; send or import more")
    row = {
        "tenant_id": tenant_id,
        "course_id": course_id,
        "number": last + 1,
        "status": RUNNING,
        "requested_at": now,
        "alive_at": now,
        "finished_at": None,
        "revision": course.revision,
        "parameters": None,
        "report": None,
        "error": None,
    }
    rows.insert_calibration(db, row)
    return last + 1


def read_job(db: Connection, tenant_id: int, course_id: str, number: int) -> Job:
    """Everything the fit of a requested calibration needs."""
    bank = read_bank(db, tenant_id, course_id)
    log, learners = log_of(bank, read_all_entries(db, tenant_id, course_id))
    if not len(log.items):
        raise NothingToCalibrate("all responses of the course were voided; send or import others")
    return Job(bank, trained_parameters(db, bank), number, log, hold_out(learners))


def hold_out(learners: Sequence[str]) -> Booleans:
    """A fifth of the learners, the same in every calibration of every course: no calibration may have seen them."""
    drawn = [int.from_bytes(hashlib.blake2b(learner.encode(), digest_size=8).digest()) for learner in learners]
    held_out = np.array([number % HELD_OUT == 0 for number in drawn], dtype=np.bool_)
    if not held_out.any():
        held_out[int(np.argmin(drawn))] = True
    return held_out


def stay_alive(db: Connection, tenant_id: int, course_id: str, number: int, now: int) -> None:
    """Tell that the run goes on."""
    rows.update_calibration(db, tenant_id, course_id, number, {"alive_at": now})


def succeed(db: Connection, job: Job, fit: Fit, now: int) -> None:
    """Keep the result: from here on the calibration is immutable."""
    values = {
        "status": SUCCEEDED,
        "finished_at": now,
        "parameters": pack_fit(fit),
        "report": report(job, fit),
    }
    rows.update_calibration(db, job.bank.tenant_id, job.bank.course_id, job.number, values)


def fail(db: Connection, tenant_id: int, course_id: str, number: int, error: str, now: int) -> None:
    """Keep why there is no result."""
    values = {"status": FAILED, "finished_at": now, "error": error}
    rows.update_calibration(db, tenant_id, course_id, number, values)


def report(job: Job, fit: Fit) -> dict[str, Any]:
    """What a person needs to decide whether to activate a calibration."""
    items = fit.parameters.items
    counts = np.bincount(job.log.items, minlength=items.count)
    moved = np.abs(items.easiness - job.bank.parameters.items.easiness) > ITEM_CHANGED
    return {
        "responses": len(job.log.items),
        "learners": job.log.learners,
        "held_out_responses": fit.held_out_responses,
        "log_loss_before": fit.log_loss_before,
        "log_loss_after": fit.log_loss_after,
        "auc_before": fit.auc_before,
        "auc_after": fit.auc_after,
        "items_changed": int((moved & (counts > 0)).sum()),
        "items_without_responses": int((counts == 0).sum()),
        "population": asdict(fit.parameters.population),
    }


def activate(db: Connection, tenant_id: int, course_id: str, number: int, now: int) -> dict[str, Any]:
    """Put a calibration in force by moving the course's pointer; every reply is folded under it from then on."""
    need_course(db, tenant_id, course_id, lock=True)
    row = find(db, tenant_id, course_id, number)
    if row.status != SUCCEEDED:
        raise CalibrationNotReady("only a calibration that succeeded can be activated")
    update_course(db, tenant_id, course_id, {"calibration": number})
    return tell(row, number, now)


def find(db: Connection, tenant_id: int, course_id: str, number: int) -> Row[Any]:
    """The row of a calibration. Raises `UnknownCalibration`."""
    row = rows.find_calibration(db, tenant_id, course_id, number)
    if row is None:
        raise UnknownCalibration("the course has no such calibration")
    return row


def describe(db: Connection, tenant_id: int, course_id: str, number: int, now: int) -> dict[str, Any]:
    """One calibration as it is told."""
    course = need_course(db, tenant_id, course_id)
    return tell(find(db, tenant_id, course_id, number), course.calibration, now)


def page(
    db: Connection, tenant_id: int, course_id: str, below: int | None, limit: int, now: int
) -> list[dict[str, Any]]:
    """Calibrations as they are told, the newest first."""
    course = need_course(db, tenant_id, course_id)
    return [
        tell(row, course.calibration, now) for row in rows.page_calibrations(db, tenant_id, course_id, below, limit)
    ]


def tell(row: Row[Any], active: int | None, now: int) -> dict[str, Any]:
    """A row in the words of the contract; a run that fell silent has failed."""
    status = status_of(row, now)
    interrupted = status == FAILED and row.status == RUNNING
    return {
        "id": calibration_id(row.number),
        "status": status,
        "active": row.number == active,
        "requested_at": to_text(row.requested_at),
        "finished_at": None if row.finished_at is None else to_text(row.finished_at),
        "revision": row.revision,
        "report": row.report,
        "error": "the run was interrupted; request another" if interrupted else row.error,
    }


def status_of(row: Row[Any], now: int) -> str:
    """The status of a calibration, by the clock too."""
    silent = row.status == RUNNING and row.alive_at < now - SILENCE_US
    return FAILED if silent else str(row.status)
