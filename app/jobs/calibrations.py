"""Calibrations: each attempt in a process of its own, under a lease that others can see lapse."""

import asyncio
import json
import os
import sys
import threading
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict
from typing import cast

import structlog

from app.adaptive.calibration.fit import CalibrationFit, Progress, calibrate_parameters, ignore_progress
from app.core.database import Database, open_database
from app.core.errors import ProximaError, Unavailable
from app.core.memory import memory_limit, responses_that_fit
from app.core.settings import read_settings
from app.core.telemetry import configure_logging
from app.queries.calibrations import list_lapsed
from app.queries.responses import has_more_responses
from app.services.calibrations import (
    CalibrationJob,
    Claim,
    build_result,
    call_at_database_time,
    is_running,
    read_calibration_job,
    release_lease,
    renew_lease,
    return_claim,
    save_failure,
    save_result,
    take_over,
)

HEARTBEAT_S = 5.0
FIT = "from app.jobs.calibrations import run_fit_process; run_fit_process()"
LONGEST_STATEMENT_S = 600.0
# The share of a calibration's time that the fit takes; the rest compares who would cross the threshold of mastery.
FIT_SHARE = 0.95

log = structlog.get_logger("proxima.calibrations")


async def run_calibration(
    database: Database, database_url: str, claim: Claim, progress: Progress = ignore_progress
) -> None:
    """Make one attempt at a calibration in a process of its own, so that answers are served meanwhile.

    The child reads, fits and writes; this process renews the lease while the child lives. If the child dies, or this
    process is stopped, another process can go on at once; if this process dies, the child ends and the lease lapses.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FIT, stdin=PIPE, stdout=PIPE)
    renewal = asyncio.create_task(_renew_periodically(database, claim, process))
    try:
        ended = await _follow_progress(process, {"database_url": database_url, "claim": asdict(claim)}, progress)
    except asyncio.CancelledError:
        await _kill_process(process)
        with suppress(Unavailable):
            await database.write(call_at_database_time, return_claim, claim)
        raise
    finally:
        renewal.cancel()
        await _kill_process(process)
    if ended != 0:
        log.error("calibration interrupted", number=claim.number, attempt=claim.attempt, ended=ended)
        with suppress(Unavailable):
            await database.write(call_at_database_time, release_lease, claim)


async def _follow_progress(process: Process, request: object, progress: Progress) -> int:
    """Send a process its request and report its progress; return its exit code."""
    stdin, stdout = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(json.dumps(request).encode() + b"\n")
        await stdin.drain()
    async for line in stdout:
        progress(*json.loads(line))
    return await process.wait()


async def _kill_process(process: Process) -> None:
    """Kill a process unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _renew_periodically(database: Database, claim: Claim, process: Process) -> None:
    """Renew the lease every few seconds; an attempt that has lost it to another ends."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with suppress(Unavailable):
            if not await database.write(call_at_database_time, renew_lease, claim):
                if await database.read(is_running, claim):
                    await _kill_process(process)
                return


def run_fit_process() -> None:
    """Run the fit process: one line of standard input says what to fit, standard output reports progress."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    configure_logging(read_settings())

    def report_progress(stage: str, share: float) -> None:
        sys.stdout.write(json.dumps([stage, share]) + "\n")
        sys.stdout.flush()

    async def work() -> None:
        database = open_database(request["database_url"], pool_size=1, statement_timeout_s=LONGEST_STATEMENT_S)
        try:
            await _warn_of_memory(database, Claim(**request["claim"]))
            await fit_claimed(database, Claim(**request["claim"]), report_progress)
        finally:
            await database.close()

    asyncio.run(work())
    # All is written: shutting the interpreter down would take longer than a small fit.
    os._exit(0)


async def _warn_of_memory(database: Database, claim: Claim) -> None:
    """Say that the process may be killed: who is killed cannot say it."""
    limit = memory_limit()
    if limit is None:
        return
    fit = responses_that_fit(limit)
    if await database.read(has_more_responses, claim.tenant_id, claim.course_id, fit):
        log.warning(
            "the memory limit is small for this calibration; raise it if the process is killed",
            number=claim.number,
            limit_bytes=limit,
            responses_that_fit=fit,
        )


def _die_with_parent() -> None:
    """End with the process that waits for the fit: standard input stays open as long as that lives."""
    while os.read(0, 1):
        pass
    os._exit(1)


async def fit_claimed(database: Database, claim: Claim, progress: Progress) -> None:
    """Fit a calibration and store the result, or why there is none.

    Only a database that does not answer is worth another attempt: any other failure would recur.
    """
    try:
        job = await database.read(read_calibration_job, claim)
        fit = _fit_job(job, lambda stage, share: progress(stage, FIT_SHARE * share))
        progress("compare", FIT_SHARE)
        await database.write(call_at_database_time, save_result, claim, build_result(job, fit))
    except Unavailable:
        raise
    except Exception as error:
        message = error.detail if isinstance(error, ProximaError) else f"the fit failed: {type(error).__name__}"
        log.exception("calibration failed", number=claim.number)
        await database.write(call_at_database_time, save_failure, claim, message)


def _fit_job(job: CalibrationJob, progress: Progress = ignore_progress) -> CalibrationFit:
    """Fit a job; the seed is the number, so that every attempt comes to the same result."""
    return calibrate_parameters(job.before, job.log, job.course.known, job.held_out, job.number, progress)


async def finish_calibration(
    database: Database, database_url: str, claim: Claim, progress: Progress = ignore_progress
) -> None:
    """Make one attempt after another until the calibration has ended, here or in another process."""
    own_claim: Claim | None = claim
    while await database.read(is_running, claim):
        if own_claim is None:
            await asyncio.sleep(1)
        else:
            await run_calibration(database, database_url, own_claim, progress)
        own_claim = await database.write(
            call_at_database_time, take_over, claim.tenant_id, claim.course_id, claim.number
        )


async def take_over_lapsed(database: Database, database_url: str) -> None:
    """Take over, one after the other, the calibrations that have no live attempt."""
    for tenant_id, course_id, number in await database.read(call_at_database_time, list_lapsed):
        claim = await database.write(call_at_database_time, take_over, tenant_id, course_id, number)
        if claim is not None:
            log.info("calibration taken over", number=number, attempt=claim.attempt)
            await run_calibration(database, database_url, claim)
