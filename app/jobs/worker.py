"""Work that takes longer than a request: calibrations, imports, verification, folding again after a switch."""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any, cast

import structlog

from app.adaptive.calibration.fit import CalibrationFit, Progress, calibrate_parameters, ignore_progress
from app.core.database import Database, open_database
from app.core.errors import ProximaError, Unavailable
from app.core.settings import read_settings
from app.core.telemetry import configure_logging
from app.core.times import now
from app.files.responses import Rejection, ResponseRecord, read_new_items, read_responses
from app.files.responses import hash_file as file_digest
from app.queries.calibrations import list_lapsed
from app.queries.responses import save_import
from app.queries.statistics import refresh_statistics
from app.services.calibrations import (
    CalibrationJob,
    Claim,
    build_result,
    call_at_database_time,
    is_running,
    list_stale_courses,
    read_calibration_job,
    release_lease,
    renew_lease,
    return_claim,
    save_failure,
    save_result,
    take_over,
)
from app.services.catalogue import read_catalogue, upsert
from app.services.course_model import CourseModel, LruCache
from app.services.imports import ImportedChunk, import_chunk, last_imported_line, missing_catalogue
from app.services.replay import rebuild_stale
from app.services.verification import VerificationResult, verify_learners, verify_offers, verify_sessions

HEARTBEAT_S = 5.0
# How often to look for calibrations that nobody works at any more, and for learners left to be folded again.
POLL_S = 5.0
SWEEP_S = 600.0
MAX_REBUILT_AT_ONCE = 200
# Longer than this nobody should wait for a transaction that folds learners again.
MAX_REBUILD_S = 0.05
# Rows of one transaction of an import, and rows that are put in the order of their learners before: the fewer learners
# a transaction has, the fewer snapshots it reads and writes.
CHUNK_ROWS, WINDOW_ROWS = 10_000, 100_000
# While PostgreSQL stores a chunk, the next one is folded. SQLite has one writer.
CHUNKS_AT_ONCE = {"postgresql": 2, "sqlite": 1}
GC_THRESHOLD = (200_000, 50, 50)
FIT = "from app.jobs.worker import run_fit_process; run_fit_process()"
LONGEST_STATEMENT_S = 600.0
# The share of a calibration's time that is left when the fit is done: who would cross the line of mastery.
FIT_SHARE = 0.95

log = structlog.get_logger("proxima.worker")


async def run_calibration(
    database: Database, database_url: str, claim: Claim, progress: Progress = ignore_progress
) -> None:
    """Make one attempt at a calibration in a process of its own, so that answers are served meanwhile.

    That process reads, fits and writes; this one renews the lease while it lives. If it dies, or this one is stopped,
    somebody else can go on at once; if this one dies it ends itself, and the lease lapses.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FIT, stdin=PIPE, stdout=PIPE)
    renewal = asyncio.create_task(renew_periodically(database, claim, process))
    try:
        ended = await follow_progress(process, {"database_url": database_url, "claim": asdict(claim)}, progress)
    except asyncio.CancelledError:
        await kill_process(process)
        with suppress(Unavailable):
            await database.write(call_at_database_time, return_claim, claim)
        raise
    finally:
        renewal.cancel()
        await kill_process(process)
    if ended != 0:
        log.error("calibration interrupted", number=claim.number, attempt=claim.attempt, ended=ended)
        with suppress(Unavailable):
            await database.write(call_at_database_time, release_lease, claim)


async def follow_progress(process: Process, request: object, progress: Progress) -> int:
    """Tell a process what to do and pass on how far it is; how it ended."""
    stdin, stdout = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(json.dumps(request).encode() + b"\n")
        await stdin.drain()
    async for line in stdout:
        progress(*json.loads(line))
    return await process.wait()


async def kill_process(process: Process) -> None:
    """Kill a process unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def renew_periodically(database: Database, claim: Claim, process: Process) -> None:
    """Renew the lease every few seconds; an attempt that has lost it to another ends."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with suppress(Unavailable):
            if not await database.write(call_at_database_time, renew_lease, claim):
                if await database.read(is_running, claim):
                    await kill_process(process)
                return


def run_fit_process() -> None:
    """What the process of its own does: one line of standard input says what to fit, standard output how far it is."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=die_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    configure_logging(read_settings())

    def report_progress(stage: str, share: float) -> None:
        sys.stdout.write(json.dumps([stage, share]) + "\n")
        sys.stdout.flush()

    async def work() -> None:
        database = open_database(request["database_url"], pool_size=1, statement_timeout_s=LONGEST_STATEMENT_S)
        try:
            await fit_claimed(database, Claim(**request["claim"]), report_progress)
        finally:
            await database.close()

    asyncio.run(work())
    # All is written: taking the interpreter apart would take longer than a small fit.
    os._exit(0)


def die_with_parent() -> None:
    """End with whoever waits for the fit: standard input stays open as long as there is somebody."""
    while os.read(0, 1):
        pass
    os._exit(1)


async def fit_claimed(database: Database, claim: Claim, progress: Progress) -> None:
    """Fit a calibration and keep the result, or why there is none.

    Only a database that does not answer is worth another attempt: everything else would go wrong again.
    """
    try:
        job = await database.read(read_calibration_job, claim)
        fit = fit_job(job, lambda stage, share: progress(stage, FIT_SHARE * share))
        progress("compare", FIT_SHARE)
        await database.write(call_at_database_time, save_result, claim, build_result(job, fit))
    except Unavailable:
        raise
    except Exception as error:
        message = error.detail if isinstance(error, ProximaError) else f"the fit failed: {type(error).__name__}"
        log.exception("calibration failed", number=claim.number)
        await database.write(call_at_database_time, save_failure, claim, message)


def fit_job(job: CalibrationJob, progress: Progress = ignore_progress) -> CalibrationFit:
    """The fit itself; the seed is the number, so that every attempt comes to the same result."""
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


async def run_background_work(database: Database, database_url: str) -> None:
    """What a process that serves does on the side, until it is cancelled."""
    await asyncio.gather(
        repeat_forever(lambda: take_over_lapsed(database, database_url), POLL_S),
        repeat_forever(lambda: rebuild_courses(database), SWEEP_S),
    )


async def repeat_forever(work: Callable[[], Awaitable[object]], pause_s: float) -> None:
    """Do something for ever, with pauses; one failure does not end it."""
    while True:
        try:
            await work()
        except Unavailable:
            log.warning("the database does not answer; background work waits")
        except Exception:
            log.exception("background work failed")
        await asyncio.sleep(pause_s)


async def take_over_lapsed(database: Database, database_url: str) -> None:
    """Go on, one after the other, with the calibrations that nobody works at any more."""
    for tenant_id, course_id, number in await database.read(call_at_database_time, list_lapsed):
        claim = await database.write(call_at_database_time, take_over, tenant_id, course_id, number)
        if claim is not None:
            log.info("calibration taken over", number=number, attempt=claim.attempt)
            await run_calibration(database, database_url, claim)


async def rebuild_courses(database: Database) -> None:
    """Go on with what a switch, or an upgrade of the engine, left to be folded again."""
    for tenant_id, course_id in await database.read(list_stale_courses):
        await rebuild_course(database, tenant_id, course_id)


async def rebuild_course(database: Database, tenant_id: int, course_id: str) -> int:
    """Fold all learners of a course again whose snapshot is not of the bank in force; how many there were.

    Nobody waits for it: a stale snapshot is folded again whenever it is read. So it takes few learners at a time, fewer
    where their logs are long, and rests as long as it works.
    """
    total, at_once = 0, 8
    while True:
        started = time.monotonic()
        rebuilt = await database.write(rebuild_stale, tenant_id, course_id, at_once)
        took = time.monotonic() - started
        total += rebuilt
        if not rebuilt:
            return total
        at_once = max(1, at_once // 2) if took > MAX_REBUILD_S else min(2 * at_once, MAX_REBUILT_AT_ONCE)
        await asyncio.sleep(min(took, 1.0))


@dataclass
class ImportTotals:
    """How an import stands."""

    created: int = 0
    repeated: int = 0
    rejected: int = 0


async def import_responses(
    database: Database,
    tenant_id: int,
    course_id: str,
    path: Path,
    rejected: Callable[[Sequence[Rejection]], None],
    progress: Callable[[str, int, int], None],
) -> ImportTotals:
    """Load a file of answers in chunks, each one transaction.

    After a kill the next run begins with the window where that one was, and finds what is stored of it. Skills and
    items that the course lacks are added first. `rejected` takes rows that cannot be loaded, `progress` the name of
    the phase, the bytes read and the size of the file.
    """
    hash_file = await asyncio.to_thread(file_digest, path)
    done = await database.read(last_imported_line, tenant_id, course_id, hash_file)
    totals, numbers, reading = ImportTotals(), count(1), read_responses(path)

    async def load(rows: Sequence[ResponseRecord | Rejection], begun: int, ended: int) -> None:
        at_once = CHUNKS_AT_ONCE[database.dialect]
        chunks = split_into_chunks([row for row in rows if isinstance(row, ResponseRecord)], apart=at_once > 1)
        pending_chunks, loaded = iter(chunks), list[ImportedChunk]()

        async def work() -> None:
            for answers in pending_chunks:
                loaded.append(await database.write(import_chunk, tenant_id, course_id, hash_file, answers, now()))
                if next(numbers).bit_count() == 1:  # the 1st, 2nd, 4th … chunk: whenever the tables have doubled
                    await database.write(refresh_statistics)
                progress("loading", begun + (ended - begun) * len(loaded) // len(chunks), reading.size)

        await run_together([work() for _ in range(at_once)])
        rejections = [row for row in rows if isinstance(row, Rejection)]
        rejections += [rejection for chunk in loaded for rejection in chunk.rejections]
        totals.created += sum(chunk.created for chunk in loaded)
        totals.repeated += sum(chunk.repeated for chunk in loaded)
        totals.rejected += len(rejections)
        rejected(sorted(rejections, key=lambda rejection: rejection.line))
        await database.write(save_import, tenant_id, course_id, hash_file, rows[-1].line)

    def read_on() -> tuple[list[ResponseRecord | Rejection], int]:
        return list(islice(reading, WINDOW_ROWS)), reading.position

    with rare_garbage_collection():
        await add_missing_items(database, tenant_id, course_id, path, progress)
        # The next rows are read while the last ones are folded and written.
        begun, reader = 0, asyncio.create_task(asyncio.to_thread(read_on))
        while (window := await reader)[0]:
            reader = asyncio.create_task(asyncio.to_thread(read_on))
            rows, ended = window
            if rows[-1].line > done:
                await load(rows, begun, ended)
            begun = ended
    return totals


async def run_together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do some works at once; if one of them fails, the others are called off before it is told."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def split_into_chunks(answers: Sequence[ResponseRecord], *, apart: bool) -> list[list[ResponseRecord]]:
    """Answers in the order of their learners, in parts of a transaction each; `apart`: nobody's are in two of them.

    Of those with one `response_id` the first of the file stays the first.
    """
    owners: dict[str, str] = {}

    def owner(answer: ResponseRecord) -> str:
        return owners.setdefault(answer.response_id, answer.learner) if answer.response_id else answer.learner

    ordered, chunks = sorted(answers, key=owner), list[list[ResponseRecord]]()
    if not apart:
        return [ordered[first : first + CHUNK_ROWS] for first in range(0, len(ordered), CHUNK_ROWS)]
    for _, own_claim in groupby(ordered, owner):
        if not chunks or len(chunks[-1]) >= CHUNK_ROWS:
            chunks.append([])
        chunks[-1].extend(own_claim)
    return chunks


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Rows come and go by the thousand and make no cycles: looking through them for cycles took a quarter of a load."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def add_missing_items(
    database: Database, tenant_id: int, course_id: str, path: Path, progress: Callable[[str, int, int], None]
) -> None:
    """Add the skills and items that a file names and the course lacks."""
    # The file is read outside of any transaction: it may take longer than one may last.
    catalogue = await database.read(read_catalogue, tenant_id, course_id)
    new = read_new_items(path, catalogue.items, partial(progress, "looking for new items"))
    missing = await asyncio.to_thread(missing_catalogue, catalogue, new)
    if missing["items"] or missing["skills"]:
        await database.write(upsert, tenant_id, course_id, missing, now())


def check_file(path: Path) -> tuple[int, list[Rejection]]:
    """How many rows of a file could be loaded, and those that could not: a dry run."""
    good, rejections = 0, []
    for row in read_responses(path):
        if isinstance(row, Rejection):
            rejections.append(row)
        else:
            good += 1
    return good, rejections


async def verify_course(
    database: Database, tenant_id: int, course_id: str, progress: Callable[[VerificationResult], None]
) -> VerificationResult:
    """Recompute every snapshot, outcome and recommendation of a course; stops at the first page with a difference."""
    total, course_models = VerificationResult(), LruCache[CourseModel]()
    for verify in (verify_learners, verify_offers, verify_sessions):
        after: str | None = ""
        while after is not None and not total.differences:
            part, after = await database.read(verify, tenant_id, course_id, after, course_models)
            total.add(part)
            progress(total)
    return total
