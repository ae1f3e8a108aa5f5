"""Calibrations: requested, fitted in another process, stored permanently, one of them active.

A calibration that runs belongs to one attempt at a time. The attempt holds a lease that it renews; when the lease has
lapsed any process may take the calibration over under the next number. Every write names its attempt, so an attempt
that lost its lease cannot write any more (docs/decisions/0013).

`now` is a moment by the database's clock (`call_at_database_time`): many hosts judge leases, and a host whose clock is
a year ahead must neither end the lease of another nor hold one for a year.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Booleans, Integers
from app.adaptive.assess.effort import rapid_thresholds
from app.adaptive.calibration.fit import CalibrationFit
from app.adaptive.calibration.screening import screen_log
from app.adaptive.parameters import Parameters
from app.adaptive.response_log import Log
from app.adaptive.tracing.state_codec import ENGINE
from app.core.errors import (
    CalibrationNotReady,
    CalibrationRunning,
    CalibrationWorse,
    NothingToCalibrate,
    UnknownCalibration,
)
from app.core.times import to_text
from app.queries import calibrations as rows
from app.queries.catalogue import update_course
from app.queries.clock import read_clock
from app.queries.responses import Entry, count_responses, read_all_entries
from app.services.calibration_codec import encode_calibration
from app.services.calibration_impact import MIN_RESPONSES_OF_ANCHOR, item_changes, mastery_changes
from app.services.catalogue import catalogue_at, need_course, read_catalogue
from app.services.course_model import CourseModel, build_course_model, ignored_items, read_calibrated_values
from app.services.left_out import LeftOut, left_out_from_json, left_out_report
from app.services.present import calibration_id
from app.services.replay import course_log, find_rapid, known_durations
from app.services.screening import change_warnings, rate_warnings, screening_report, screening_warnings
from app.services.webhooks import CALIBRATION_FINISHED, WebhookEvent, publish_events

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
MIN_RESPONSES = 100
# How long an attempt may be silent before it counts as dead.
LEASE_US = 30_000_000
# A calibration that kills the process that fits it must not be retried for ever.
MAX_ATTEMPTS = 3
# One learner in so many is held out to measure the fit.
HELD_OUT_DIVISOR = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """The right to work on a calibration, held by its attempt of that number."""

    tenant_id: int
    course_id: str
    number: int
    attempt: int


@dataclass(frozen=True)
class CalibrationJob:
    """The input of a fit: the log, the learners to hold out, and what to compare the result with.

    Everything is as it was when the calibration was requested. `anchors` (I,) are the items that `compared_with`, the
    calibration then active, knows well too.
    """

    course: CourseModel
    before: Parameters
    number: int
    compared_with: int | None
    log: Log
    learners: tuple[str, ...]
    held_out: Booleans
    anchors: Booleans
    left_out: LeftOut
    left_out_responses: int
    rapid_below: Integers
    rapid_responses: int


@dataclass(frozen=True)
class CalibrationResult:
    """What is stored of a fit."""

    parameters: bytes
    report: dict[str, Any]


def call_at_database_time(db: Connection, work: Callable[..., T], *args: object, **options: object) -> T:
    """Call one of the functions below, whose last argument is `now`, with the present time of the database's clock."""
    return work(db, *args, read_clock(db), **options)


def _is_leased(row: rows.CalibrationRow, now: int) -> bool:
    """Return whether an attempt holds the lease. A lease until long from now was given by a clock that was wrong."""
    return now < row.leased_until <= now + rows.LONGEST_LEASE_US


def request_calibration(
    db: Connection, tenant_id: int, course_id: str, now: int, *, left_out: LeftOut | None = None
) -> Claim:
    """Create a calibration under the next number, and give the caller the first attempt.

    What is to be left out stands where the report will stand, so that every attempt leaves out the same.
    Raises `CalibrationRunning`, `NothingToCalibrate`. A run without a live attempt makes room.
    """
    course = need_course(db, tenant_id, course_id, lock=True)
    last = rows.last_calibration_number(db, tenant_id, course_id)
    previous = rows.find_calibration(db, tenant_id, course_id, last)
    if previous is not None and previous.status == RUNNING:
        if _is_leased(previous, now):
            raise CalibrationRunning(f"calibration {calibration_id(last)} is running; wait until it has ended")
        interrupted = Claim(tenant_id, course_id, last, previous.attempt)
        save_failure(db, interrupted, "the run was interrupted, and another was requested", now)
    if count_responses(db, tenant_id, course_id) < MIN_RESPONSES:
        raise NothingToCalibrate(f"a calibration needs at least {MIN_RESPONSES} responses; send or import more")
    claim = Claim(tenant_id, course_id, last + 1, attempt=1)
    row = {
        **asdict(claim),
        "status": RUNNING,
        "requested_at": now,
        "leased_until": now + LEASE_US,
        "finished_at": None,
        "activated_at": None,
        "revision": course.revision,
        "compared_with": course.calibration,
        "parameters": None,
        "report": {"left_out": left_out.to_json()} if left_out else None,
        "error": None,
    }
    rows.insert_calibration(db, row)
    return claim


def take_over(db: Connection, tenant_id: int, course_id: str, number: int, now: int) -> Claim | None:
    """Claim the next attempt at a calibration that has no live attempt; None if it has one, or has ended.

    After `MAX_ATTEMPTS` it has failed instead.
    """
    row = rows.find_calibration(db, tenant_id, course_id, number, lock=True)
    if row is None or row.status != RUNNING or _is_leased(row, now):
        return None
    claim = Claim(tenant_id, course_id, number, row.attempt)
    if row.attempt >= MAX_ATTEMPTS:
        save_failure(
            db, claim, f"the process that fitted it died {MAX_ATTEMPTS} times; see the logs of the service", now
        )
        return None
    _update_claimed(db, claim, {"attempt": row.attempt + 1, "leased_until": now + LEASE_US})
    return Claim(tenant_id, course_id, number, row.attempt + 1)


def is_running(db: Connection, claim: Claim) -> bool:
    """Return whether a calibration is running, in this process or another."""
    return _need_calibration(db, claim.tenant_id, claim.course_id, claim.number).status == RUNNING


def renew_lease(db: Connection, claim: Claim, now: int) -> bool:
    """Renew the lease of an attempt; return whether it still holds the calibration."""
    return _update_claimed(db, claim, {"leased_until": now + LEASE_US})


def release_lease(db: Connection, claim: Claim, now: int) -> None:
    """Release the lease at once, because this attempt died."""
    _update_claimed(db, claim, {"leased_until": now})


def return_claim(db: Connection, claim: Claim, now: int) -> None:
    """Undo a claim, as if this attempt had not been made; its process must be dead already."""
    _update_claimed(db, claim, {"leased_until": now, "attempt": claim.attempt - 1})


def save_result(db: Connection, claim: Claim, result: CalibrationResult, now: int) -> bool:
    """Store the result, if the attempt still holds the calibration, which is immutable from here on."""
    values = {"status": SUCCEEDED, "finished_at": now, "parameters": result.parameters, "report": result.report}
    return _end_calibration(db, claim, values)


def save_failure(db: Connection, claim: Claim, error: str, now: int) -> bool:
    """Store why there is no result, if the attempt still holds the calibration."""
    return _end_calibration(db, claim, {"status": FAILED, "finished_at": now, "error": error})


def _end_calibration(db: Connection, claim: Claim, values: dict[str, Any]) -> bool:
    """End a running calibration and publish the event; return whether the attempt still held it."""
    ended = _update_claimed(db, claim, values)
    if ended:
        data = {"calibration": calibration_id(claim.number), "status": values["status"]}
        event = WebhookEvent(CALIBRATION_FINISHED, None, values["finished_at"], data)
        publish_events(db, claim.tenant_id, claim.course_id, [event])
    return ended


def _update_claimed(db: Connection, claim: Claim, values: dict[str, Any]) -> bool:
    """Update a running calibration if `claim` is its latest attempt; return whether it was."""
    return rows.update_running(db, claim.tenant_id, claim.course_id, claim.number, claim.attempt, values)


def read_calibration_job(db: Connection, claim: Claim) -> CalibrationJob:
    """Read everything that the fit of a requested calibration needs; it is the same for every attempt."""
    tenant_id, course_id = claim.tenant_id, claim.course_id
    row = _need_calibration(db, tenant_id, course_id, claim.number)
    course, before = _read_compared_models(db, tenant_id, course_id, row)
    left_out = left_out_from_json((row.report or {}).get("left_out"))
    counted = [
        entry
        for entry in _read_entries_as_of(db, tenant_id, course_id, row.requested_at)
        # What was sent about an item newer than the request was in flight then.
        if entry.item_id in course.item_numbers and entry.score is not None
    ]
    entries = [entry for entry in counted if not left_out.has(entry)]
    if not counted:
        raise NothingToCalibrate("all responses of the course were voided; send or import others")
    if not entries:
        raise NothingToCalibrate("all responses of the course were left out; leave out fewer")
    items = np.array([course.item_numbers[entry.item_id] for entry in entries], dtype=np.int64)
    durations = known_durations([entry.duration_ms for entry in entries])
    rapid_below = rapid_thresholds(items, durations, len(course.item_ids))
    rapid = find_rapid(rapid_below, items, durations)
    thoughtful = entries if rapid is None else [entries[number] for number in np.flatnonzero(~rapid).tolist()]
    if not thoughtful:
        raise NothingToCalibrate("every response of the course came too fast to be thought about")
    log, learners = course_log(course, thoughtful)
    return CalibrationJob(
        course=course,
        before=before,
        number=claim.number,
        compared_with=row.compared_with,
        log=log,
        learners=tuple(learners),
        held_out=_hold_out(learners),
        anchors=_find_anchors(db, course, row.compared_with, log),
        left_out=left_out,
        left_out_responses=len(counted) - len(entries),
        rapid_below=rapid_below,
        rapid_responses=len(entries) - len(thoughtful),
    )


def _read_compared_models(
    db: Connection, tenant_id: int, course_id: str, row: rows.CalibrationRow
) -> tuple[CourseModel, Parameters]:
    """Return the course model active at the request, and its parameters before held-out learners were fitted too."""
    # The history of a catalogue may be long; it is only needed if the catalogue has changed meanwhile.
    unchanged = need_course(db, tenant_id, course_id).revision == row.revision
    catalogue = (
        read_catalogue(db, tenant_id, course_id) if unchanged else catalogue_at(db, tenant_id, course_id, row.revision)
    )
    version = (row.revision, row.revision, row.compared_with)
    final, trained = (
        build_course_model(
            tenant_id,
            course_id,
            catalogue,
            read_calibrated_values(db, tenant_id, course_id, row.compared_with, trained=trained),
            version,
        )
        for trained in (False, True)
    )
    # All answers take part in a fit, whatever the last one suspected.
    return final, _ignoring(trained.parameters, None)


def _ignoring(parameters: Parameters, items: Booleans | None) -> Parameters:
    """Return the parameters with other items to ignore."""
    return replace(parameters, items=replace(parameters.items, ignored=items))


def _read_entries_as_of(db: Connection, tenant_id: int, course_id: str, moment: int) -> list[Entry]:
    """Return all answers of a course as they counted at a moment, by learner and sort key."""
    received_later = rows.ids_received_after(db, tenant_id, course_id, moment)
    scores = rows.scores_as_of(db, tenant_id, course_id, moment)
    return [
        entry._replace(score=scores.get(entry.id, entry.score))
        for entry in read_all_entries(db, tenant_id, course_id)
        if entry.id not in received_later
    ]


def _find_anchors(db: Connection, course: CourseModel, compared_with: int | None, log: Log) -> Booleans:
    """Return which items were fitted, then and now, to enough answers; (I,)."""
    if compared_with is None:
        return np.zeros(len(course.item_ids), dtype=np.bool_)
    before = _need_calibration(db, course.tenant_id, course.course_id, compared_with)
    counts = rows.count_by_item(db, course.tenant_id, course.course_id, before.requested_at)
    then = np.array([counts.get(item, 0) for item in course.item_ids], dtype=np.int64)
    now = np.bincount(log.items, minlength=len(course.item_ids))
    return np.asarray((np.minimum(then, now) >= MIN_RESPONSES_OF_ANCHOR) & ~course.known)


def _hold_out(learners: Sequence[str]) -> Booleans:
    """Return which learners are held out: a fifth, the same in every calibration, so that none was fitted to them."""
    hashes = [int.from_bytes(hashlib.blake2b(learner.encode(), digest_size=8).digest()) for learner in learners]
    held_out = np.array([number % HELD_OUT_DIVISOR == 0 for number in hashes], dtype=np.bool_)
    if not held_out.any():
        held_out[int(np.argmin(hashes))] = True
    return held_out


def build_result(job: CalibrationJob, fit: CalibrationFit) -> CalibrationResult:
    """Build what is stored of a fit: its values, and what a person needs to decide whether to activate them."""
    before = job.course.parameters
    screening = screen_log(job.log, before.items.skills)
    suspect = screening.items.suspect
    after = _ignoring(fit.parameters, ignored_items(suspect, job.course.reviewed))
    response_counts = np.bincount(job.log.items, minlength=after.items.count)
    report = {
        "responses": len(job.log.items),
        "learners": job.log.learners,
        "left_out": left_out_report(job.left_out, job.left_out_responses),
        "rapid_responses": job.rapid_responses,
        "compared_with": calibration_id(job.compared_with),
        "held_out_responses": fit.held_out_responses,
        "log_loss_before": fit.log_loss_before,
        "log_loss_after": fit.log_loss_after,
        "log_loss_without_behaviour": fit.log_loss_without_behaviour,
        "auc_before": fit.auc_before,
        "auc_after": fit.auc_after,
        **item_changes(before, after, job.course.item_ids, response_counts, job.anchors),
        "mastery": mastery_changes(before, after, job.log, job.learners, job.course.skill_ids),
        "population": asdict(after.population),
        **screening_report(screening, job.course.item_ids, job.learners),
    }
    report["warnings"] = [
        *screening_warnings(report),
        *change_warnings(report, int((response_counts > 0).sum())),
        *rate_warnings(after.skills),
    ]
    return CalibrationResult(encode_calibration(fit, job.rapid_below, suspect), report)


def activate(
    db: Connection, tenant_id: int, course_id: str, number: int, now: int, *, force: bool = False
) -> dict[str, Any]:
    """Activate a calibration by moving the course's pointer; every later reply comes from it.

    Raises `CalibrationWorse` for one that predicts worse than what it was compared with, unless forced. A
    calibration that was active before may always be activated again.
    """
    need_course(db, tenant_id, course_id, lock=True)
    row = _need_calibration(db, tenant_id, course_id, number)
    if row.status != SUCCEEDED or row.report is None:
        raise CalibrationNotReady("only a calibration that succeeded can be activated")
    before, after = row.report["log_loss_before"], row.report["log_loss_after"]
    if after > before and row.activated_at is None and not force:
        raise CalibrationWorse(
            f"on the held-out learners the log loss would rise from {before:.5f} to {after:.5f}; "
            "leave it, or activate it with force"
        )
    update_course(db, tenant_id, course_id, {"calibration": number})
    rows.save_activation(db, tenant_id, course_id, number, now)
    return describe_calibration(db, tenant_id, course_id, number)


def list_stale_courses(db: Connection) -> list[tuple[int, str]]:
    """Return tenant and id of every course with learners that have to be replayed."""
    return rows.list_stale_courses(db, ENGINE)


def _need_calibration(db: Connection, tenant_id: int, course_id: str, number: int) -> rows.CalibrationRow:
    """Return the row of a calibration. Raises `UnknownCalibration`."""
    row = rows.find_calibration(db, tenant_id, course_id, number)
    if row is None:
        raise UnknownCalibration("the course has no such calibration")
    return row


def describe_calibration(db: Connection, tenant_id: int, course_id: str, number: int) -> dict[str, Any]:
    """Return one calibration as a reply."""
    course = need_course(db, tenant_id, course_id)
    return _to_calibration_reply(_need_calibration(db, tenant_id, course_id, number), course.calibration)


def page_of_calibrations(
    db: Connection, tenant_id: int, course_id: str, below: int | None, limit: int
) -> list[dict[str, Any]]:
    """Return calibrations as replies, the newest first."""
    course = need_course(db, tenant_id, course_id)
    return [
        _to_calibration_reply(row, course.calibration)
        for row in rows.page_calibrations(db, tenant_id, course_id, below, limit)
    ]


def _to_calibration_reply(row: rows.CalibrationRow, active: int | None) -> dict[str, Any]:
    """Return a row as a reply of the interface."""
    return {
        "id": calibration_id(row.number),
        "status": row.status,
        "active": row.number == active,
        "requested_at": to_text(row.requested_at),
        "finished_at": None if row.finished_at is None else to_text(row.finished_at),
        "activated_at": None if row.activated_at is None else to_text(row.activated_at),
        "revision": row.revision,
        "report": row.report if row.status == SUCCEEDED else None,
        "error": row.error,
    }
