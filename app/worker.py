"""Work that takes longer than a request: calibrations, imports, verification, folding again after a switch."""

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import structlog

from app.adaptive.calibration import Fit, Progress, calibrate, silent
from app.database import Database
from app.errors import ProximaError, Unavailable
from app.files import Answer, Rejection, read_answers
from app.files import digest as file_digest
from app.queries.statistics import refresh_statistics
from app.services.calibrations import Job, fail, read_job, stay_alive, succeed
from app.services.catalogue import read_catalogue, upsert
from app.services.folding import refold_stale
from app.services.imports import import_chunk, imported_until, missing_catalogue
from app.services.verification import Verified, verify_offers, verify_page
from app.times import now

HEARTBEAT_S = 10
REFOLDED_AT_ONCE = 200
CHUNK = 10_000
FIT = "from app.worker import fit_piped; fit_piped()"

log = structlog.get_logger("proxima.worker")

Fitter = Callable[[Job], Awaitable[Fit]]


async def run_calibration(database: Database, tenant_id: int, course_id: str, number: int, fit: Fitter) -> None:
    """Fit a requested calibration with `fit` and keep the result, or why there is none."""
    heart = asyncio.create_task(beat(database, tenant_id, course_id, number))
    try:
        job = await database.read(read_job, tenant_id, course_id, number)
        fitted = await fit(job)
        await database.write(succeed, job, fitted, now())
    except Exception as error:
        told = error.detail if isinstance(error, ProximaError) else f"the fit failed: {type(error).__name__}"
        log.exception("calibration failed", number=number)
        await database.write(fail, tenant_id, course_id, number, told, now())
    finally:
        heart.cancel()


async def beat(database: Database, tenant_id: int, course_id: str, number: int) -> None:
    """Tell every few seconds that a calibration is being fitted."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with suppress(Unavailable):
            await database.write(stay_alive, tenant_id, course_id, number, now())


async def fit_in_process(job: Job) -> Fit:
    """Fit in a process of its own, so that answers are served meanwhile; it dies with whoever waits for it."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FIT, stdin=PIPE, stdout=PIPE)
    try:
        fitted, _ = await process.communicate(pickle.dumps(job))
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise RuntimeError(f"the process that fitted ended with {process.returncode}")
    result: Fit = pickle.loads(fitted)  # noqa: S301 (from our own child)
    return result


def fit_piped() -> None:
    """What the process of its own does: a job from standard input, the fit to standard output."""
    job = pickle.load(sys.stdin.buffer)  # noqa: S301 (from our own parent)
    sys.stdout.buffer.write(pickle.dumps(fit_job(job)))


def fit_job(job: Job, progress: Progress = silent) -> Fit:
    """The fit itself; the seed is the number, so that a calibration can be made again."""
    return calibrate(job.before, job.log, job.bank.known, job.held_out, job.number, progress)


async def refold_course(database: Database, tenant_id: int, course_id: str) -> int:
    """Fold all learners of a course again whose snapshot is not of the bank in force; how many there were.

    Nobody waits for it: a stale snapshot is folded again whenever it is read.
    """
    total = 0
    while folded := await database.write(refold_stale, tenant_id, course_id, REFOLDED_AT_ONCE):
        total += folded
    return total


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
    """Load a file of answers in chunks, each one transaction; after a kill the next run goes on behind the last.

    Skills and items that the course lacks are added first. `rejected` takes rows that cannot be loaded, `progress`
    the name of the phase, the bytes read and the size of the file.
    """
    digest = await asyncio.to_thread(file_digest, path)
    done = await database.read(imported_until, tenant_id, course_id, digest)
    await add_missing(database, tenant_id, course_id, path, progress)
    totals = ImportTotals()
    reading = read_answers(path)
    for number in count(1):
        rows = list(islice(reading, CHUNK))
        if not rows:
            break
        fresh = [row for row in rows if row.line > done]
        bad = [row for row in fresh if isinstance(row, Rejection)]
        answers = [row for row in fresh if isinstance(row, Answer)]
        if answers:
            chunk = await database.write(import_chunk, tenant_id, course_id, digest, answers, now())
            if number.bit_count() == 1:  # the 1st, 2nd, 4th, 8th … chunk: whenever the tables have doubled
                await database.write(refresh_statistics)
            totals.created += chunk.created
            totals.repeated += chunk.repeated
            bad += chunk.rejections
        totals.rejected += len(bad)
        rejected(sorted(bad, key=lambda rejection: rejection.line))
        progress("loading", reading.position, reading.size)
    return totals


async def add_missing(
    database: Database, tenant_id: int, course_id: str, path: Path, progress: Callable[[str, int, int], None]
) -> None:
    """Add the skills and items that a file names and the course lacks."""
    reading = read_answers(path)

    def answers() -> Iterator[Answer]:
        for number, row in enumerate(reading):
            if isinstance(row, Answer):
                yield row
            if number % CHUNK == 0:
                progress("looking for new items", reading.position, reading.size)

    # The file is read outside of any transaction: it may take longer than one may last.
    catalogue = await database.read(read_catalogue, tenant_id, course_id)
    missing = await asyncio.to_thread(missing_catalogue, catalogue, answers())
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
    total = Verified()
    for verify in (verify_page, verify_offers):
        after: str | None = ""
        while after is not None and not total.differences:
            part, after = await database.read(verify, tenant_id, course_id, after)
            total.add(part)
            progress(total)
    return total
