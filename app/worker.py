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

from app.adaptive.calibration import Fit, Progress, calibrate, silent
from app.database import Database, open_database
from app.errors import ProximaError, Unavailable
from app.files import Answer, Rejection, read_answers, read_new_items
from app.files import digest as file_digest
from app.queries.calibrations import list_lapsed
from app.queries.responses import save_import
from app.queries.statistics import refresh_statistics
from app.services.banks import Bank, Shelf
from app.services.calibrations import (
    Claim,
    Job,
    by_database_clock,
    fail,
    hand_back,
    is_running,
    read_job,
    release,
    renew,
    result_of,
    stale_courses,
    succeed,
    take_over,
)
from app.services.catalogue import read_catalogue, upsert
from app.services.folding import refold_stale
from app.services.imports import Imported, import_chunk, imported_until, missing_catalogue
from app.services.verification import Verified, verify_offers, verify_page, verify_sessions
from app.settings import read_settings
from app.telemetry import configure_logging
from app.times import now

HEARTBEAT_S = 5.0
# How often to look for calibrations that nobody works at any more, and for learners left to be folded again.
LOOK_S = 5.0
SWEEP_S = 600.0
MOST_REFOLDED_AT_ONCE = 200
# Longer than this nobody should wait for a transaction that folds learners again.
REFOLDING_S = 0.05
# Rows of one transaction of an import, and rows that are put in the order of their learners before: the fewer learners
# a transaction has, the fewer snapshots it reads and writes.
CHUNK, WINDOW = 10_000, 100_000
# While PostgreSQL stores a chunk, the next one is folded. SQLite has one writer.
CHUNKS_AT_ONCE = {"postgresql": 2, "sqlite": 1}
GC_THRESHOLD = (200_000, 50, 50)
FIT = "from app.worker import fit_piped; fit_piped()"
LONGEST_STATEMENT_S = 600.0
# The share of a calibration's time that is left when the fit is done: who would cross the line of mastery.
FIT_SHARE = 0.95

log = structlog.get_logger("proxima.worker")


async def run_calibration(database: Database, database_url: str, claim: Claim, progress: Progress = silent) -> None:
    """Make one attempt at a calibration in a process of its own, so that answers are served meanwhile.

    That process reads, fits and writes; this one renews the lease while it lives. If it dies, or this one is stopped,
    somebody else can go on at once; if this one dies it ends itself, and the lease lapses.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FIT, stdin=PIPE, stdout=PIPE)
    heart = asyncio.create_task(beat(database, claim, process))
    try:
        ended = await follow(process, {"database_url": database_url, "claim": asdict(claim)}, progress)
    except asyncio.CancelledError:
        await end(process)
        with suppress(Unavailable):
            await database.write(by_database_clock, hand_back, claim)
        raise
    finally:
        heart.cancel()
        await end(process)
    if ended != 0:
        log.error("calibration interrupted", number=claim.number, attempt=claim.attempt, ended=ended)
        with suppress(Unavailable):
            await database.write(by_database_clock, release, claim)


async def follow(process: Process, order: object, progress: Progress) -> int:
    """Tell a process what to do and pass on how far it is; how it ended."""
    stdin, stdout = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(json.dumps(order).encode() + b"\n")
        await stdin.drain()
    async for line in stdout:
        progress(*json.loads(line))
    return await process.wait()


async def end(process: Process) -> None:
    """Kill a process unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def beat(database: Database, claim: Claim, process: Process) -> None:
    """Renew the lease every few seconds; an attempt that has lost it to another ends."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with suppress(Unavailable):
            if not await database.write(by_database_clock, renew, claim):
                if await database.read(is_running, claim):
                    await end(process)
                return


def fit_piped() -> None:
    """What the process of its own does: one line of standard input says what to fit, standard output how far it is."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=die_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    configure_logging(read_settings())

    def tell(stage: str, share: float) -> None:
        sys.stdout.write(json.dumps([stage, share]) + "\n")
        sys.stdout.flush()

    async def work() -> None:
        database = open_database(order["database_url"], pool_size=1, statement_timeout_s=LONGEST_STATEMENT_S)
        try:
            await fit_claimed(database, Claim(**order["claim"]), tell)
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
        job = await database.read(read_job, claim)
        fit = fit_job(job, lambda stage, share: progress(stage, FIT_SHARE * share))
        progress("compare", FIT_SHARE)
        await database.write(by_database_clock, succeed, claim, result_of(job, fit))
    except Unavailable:
        raise
    except Exception as error:
        told = error.detail if isinstance(error, ProximaError) else f"the fit failed: {type(error).__name__}"
        log.exception("calibration failed", number=claim.number)
        await database.write(by_database_clock, fail, claim, told)


def fit_job(job: Job, progress: Progress = silent) -> Fit:
    """The fit itself; the seed is the number, so that every attempt comes to the same result."""
    return calibrate(job.before, job.log, job.bank.known, job.held_out, job.number, progress)


async def finish_calibration(database: Database, database_url: str, claim: Claim, progress: Progress = silent) -> None:
    """Make one attempt after another until the calibration has ended, here or in another process."""
    mine: Claim | None = claim
    while await database.read(is_running, claim):
        if mine is None:
            await asyncio.sleep(1)
        else:
            await run_calibration(database, database_url, mine, progress)
        mine = await database.write(by_database_clock, take_over, claim.tenant_id, claim.course_id, claim.number)


async def stand_by(database: Database, database_url: str) -> None:
    """What a process that serves does on the side, until it is cancelled."""
    await asyncio.gather(
        again_and_again(lambda: take_over_lapsed(database, database_url), LOOK_S),
        again_and_again(lambda: refold_courses(database), SWEEP_S),
    )


async def again_and_again(work: Callable[[], Awaitable[object]], pause_s: float) -> None:
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
    for tenant_id, course_id, number in await database.read(by_database_clock, list_lapsed):
        claim = await database.write(by_database_clock, take_over, tenant_id, course_id, number)
        if claim is not None:
            log.info("calibration taken over", number=number, attempt=claim.attempt)
            await run_calibration(database, database_url, claim)


async def refold_courses(database: Database) -> None:
    """Go on with what a switch, or an upgrade of the engine, left to be folded again."""
    for tenant_id, course_id in await database.read(stale_courses):
        await refold_course(database, tenant_id, course_id)


async def refold_course(database: Database, tenant_id: int, course_id: str) -> int:
    """Fold all learners of a course again whose snapshot is not of the bank in force; how many there were.

    Nobody waits for it: a stale snapshot is folded again whenever it is read. So it takes few learners at a time, fewer
    where their logs are long, and rests as long as it works.
    """
    total, at_once = 0, 8
    while True:
        started = time.monotonic()
        folded = await database.write(refold_stale, tenant_id, course_id, at_once)
        took = time.monotonic() - started
        total += folded
        if not folded:
            return total
        at_once = max(1, at_once // 2) if took > REFOLDING_S else min(2 * at_once, MOST_REFOLDED_AT_ONCE)
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
    digest = await asyncio.to_thread(file_digest, path)
    done = await database.read(imported_until, tenant_id, course_id, digest)
    totals, numbers, reading = ImportTotals(), count(1), read_answers(path)

    async def load(rows: Sequence[Answer | Rejection], begun: int, ended: int) -> None:
        at_once = CHUNKS_AT_ONCE[database.dialect]
        chunks = chunks_of([row for row in rows if isinstance(row, Answer)], apart=at_once > 1)
        waiting, loaded = iter(chunks), list[Imported]()

        async def work() -> None:
            for answers in waiting:
                loaded.append(await database.write(import_chunk, tenant_id, course_id, digest, answers, now()))
                if next(numbers).bit_count() == 1:  # the 1st, 2nd, 4th … chunk: whenever the tables have doubled
                    await database.write(refresh_statistics)
                progress("loading", begun + (ended - begun) * len(loaded) // len(chunks), reading.size)

        await together([work() for _ in range(at_once)])
        bad = [row for row in rows if isinstance(row, Rejection)]
        bad += [rejection for chunk in loaded for rejection in chunk.rejections]
        totals.created += sum(chunk.created for chunk in loaded)
        totals.repeated += sum(chunk.repeated for chunk in loaded)
        totals.rejected += len(bad)
        rejected(sorted(bad, key=lambda rejection: rejection.line))
        await database.write(save_import, tenant_id, course_id, digest, rows[-1].line)

    def read_on() -> tuple[list[Answer | Rejection], int]:
        return list(islice(reading, WINDOW)), reading.position

    with rare_collections():
        await add_missing(database, tenant_id, course_id, path, progress)
        # The next rows are read while the last ones are folded and written.
        begun, reader = 0, asyncio.create_task(asyncio.to_thread(read_on))
        while (window := await reader)[0]:
            reader = asyncio.create_task(asyncio.to_thread(read_on))
            rows, ended = window
            if rows[-1].line > done:
                await load(rows, begun, ended)
            begun = ended
    return totals


async def together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do some works at once; if one of them fails, the others are called off before it is told."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def chunks_of(answers: Sequence[Answer], *, apart: bool) -> list[list[Answer]]:
    """Answers in the order of their learners, in parts of a transaction each; `apart`: nobody's are in two of them.

    Of those with one `response_id` the first of the file stays the first.
    """
    owners: dict[str, str] = {}

    def owner(answer: Answer) -> str:
        return owners.setdefault(answer.response_id, answer.learner) if answer.response_id else answer.learner

    ordered, chunks = sorted(answers, key=owner), list[list[Answer]]()
    if not apart:
        return [ordered[first : first + CHUNK] for first in range(0, len(ordered), CHUNK)]
    for _, mine in groupby(ordered, owner):
        if not chunks or len(chunks[-1]) >= CHUNK:
            chunks.append([])
        chunks[-1].extend(mine)
    return chunks


@contextmanager
def rare_collections() -> Iterator[None]:
    """Rows come and go by the thousand and make no cycles: looking through them for cycles took a quarter of a load."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def add_missing(
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
    good, bad = 0, []
    for row in read_answers(path):
        if isinstance(row, Rejection):
            bad.append(row)
        else:
            good += 1
    return good, bad


async def verify_course(
    database: Database, tenant_id: int, course_id: str, progress: Callable[[Verified], None]
) -> Verified:
    """Recompute every snapshot, outcome and recommendation of a course; stops at the first page with a difference."""
    total, past = Verified(), Shelf[Bank]()
    for verify in (verify_page, verify_offers, verify_sessions):
        after: str | None = ""
        while after is not None and not total.differences:
            part, after = await database.read(verify, tenant_id, course_id, after, past)
            total.add(part)
            progress(total)
    return total
