"""Imports of answers from files, in chunks."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

from app.core.database import Database
from app.core.times import now
from app.files.duplicate_rows import DuplicateRows, read_duplicate_rows
from app.files.responses import Rejection, ResponseRecord, Scales, read_new_items, read_responses, read_scales
from app.files.responses import hash_file as file_digest
from app.queries.responses import save_import
from app.queries.statistics import refresh_statistics
from app.services.catalogue import read_catalogue, upsert
from app.services.imports import ImportedChunk, import_chunk, last_imported_line, missing_catalogue

# Rows of one transaction of an import, and rows that are put in the order of their learners before: the fewer learners
# a transaction has, the fewer snapshots it reads and writes.
CHUNK_ROWS, WINDOW_ROWS = 10_000, 100_000
# While PostgreSQL stores a chunk, the next one is computed. SQLite has one writer.
CHUNKS_AT_ONCE = {"postgresql": 2, "sqlite": 1}
GC_THRESHOLD = (200_000, 50, 50)


@dataclass
class ImportTotals:
    """The progress of an import; `duplicates` are the rows of the file that repeat a response of an earlier row."""

    created: int = 0
    repeated: int = 0
    rejected: int = 0
    duplicates: DuplicateRows | None = None


async def import_responses(
    database: Database,
    tenant_id: int,
    course_id: str,
    path: Path,
    rejected: Callable[[Sequence[Rejection]], None],
    progress: Callable[[str, int, int], None],
    max_score: float | None = None,
) -> ImportTotals:
    """Import a file of answers in chunks, each in one transaction.

    After a kill the next run begins with the window where that one was, and skips what is stored of it. Skills and
    items that the course lacks are added first. Rows that repeat a response of the file are left out, and an item with
    one row for each skill gets all of them (`app/files/duplicate_rows.py`). `rejected` takes rows that cannot be
    loaded, `progress` the name of the phase, the bytes read and the size of the file. Scores are out of `max_score`, 1
    if it is not given. Raises `InvalidFile` before anything is stored.
    """
    scales = await asyncio.to_thread(read_scales, path, max_score, partial(progress, "looking at scores"))
    hash_file = await asyncio.to_thread(file_digest, path)
    done = await database.read(last_imported_line, tenant_id, course_id, hash_file)
    totals, numbers, reading = ImportTotals(), count(1), read_responses(path, scales)

    async def load(rows: Sequence[ResponseRecord | Rejection], begun: int, ended: int) -> None:
        at_once = CHUNKS_AT_ONCE[database.dialect]
        responses = [row for row in rows if isinstance(row, ResponseRecord) and row.line not in duplicate_lines]
        chunks = _split_into_chunks(responses, apart=at_once > 1)
        pending_chunks, loaded = iter(chunks), list[ImportedChunk]()

        async def work() -> None:
            for answers in pending_chunks:
                loaded.append(await database.write(import_chunk, tenant_id, course_id, hash_file, answers, now()))
                if next(numbers).bit_count() == 1:  # the 1st, 2nd, 4th … chunk: whenever the tables have doubled
                    await database.write(refresh_statistics)
                progress("loading", begun + (ended - begun) * len(loaded) // len(chunks), reading.size)

        await _run_together([work() for _ in range(at_once)])
        rejections = [row for row in rows if isinstance(row, Rejection)]
        rejections += [rejection for chunk in loaded for rejection in chunk.rejections]
        totals.created += sum(chunk.created for chunk in loaded)
        totals.repeated += sum(chunk.repeated for chunk in loaded)
        totals.rejected += len(rejections)
        rejected(sorted(rejections, key=lambda rejection: rejection.line))
        # A file without one usable row has made no course, and is read again from its beginning.
        if done or totals.created or totals.repeated:
            await database.write(save_import, tenant_id, course_id, hash_file, rows[-1].line)

    def read_on() -> tuple[list[ResponseRecord | Rejection], int]:
        return list(islice(reading, WINDOW_ROWS)), reading.position

    with _rare_garbage_collection():
        duplicates, duplicate_lines = await asyncio.to_thread(
            read_duplicate_rows, path, scales, partial(progress, "looking for duplicate rows")
        )
        totals.duplicates = duplicates
        await _add_missing_items(database, tenant_id, course_id, path, scales, duplicates.skills, progress)
        # The next rows are read while the last ones are processed and written.
        begun, reader = 0, asyncio.create_task(asyncio.to_thread(read_on))
        while (window := await reader)[0]:
            reader = asyncio.create_task(asyncio.to_thread(read_on))
            rows, ended = window
            if rows[-1].line > done:
                await load(rows, begun, ended)
            begun = ended
    return totals


async def _run_together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at once; if one of them fails, cancel the others before raising."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _split_into_chunks(answers: Sequence[ResponseRecord], *, apart: bool) -> list[list[ResponseRecord]]:
    """Sort answers by learner and split them into transactions; `apart`: each learner's are in one of them.

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
def _rare_garbage_collection() -> Iterator[None]:
    """Collect garbage rarely: rows make no cycles, and looking for these took a quarter of an import."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _add_missing_items(
    database: Database,
    tenant_id: int,
    course_id: str,
    path: Path,
    scales: Scales,
    skills: Mapping[str, tuple[str, ...]],
    progress: Callable[[str, int, int], None],
) -> None:
    """Add the skills and items that a file names and the course lacks; `skills` overrule the first row of an item."""
    # The file is read outside of any transaction: it may take longer than one may last.
    catalogue = await database.read(read_catalogue, tenant_id, course_id)
    first_rows = read_new_items(path, scales, catalogue.items, partial(progress, "looking for new items"))
    new = (replace(row, skills=skills.get(row.item, row.skills)) for row in first_rows)
    missing = await asyncio.to_thread(missing_catalogue, catalogue, new)
    if missing["items"] or missing["skills"]:
        await database.write(upsert, tenant_id, course_id, missing, now())


def check_file(path: Path, max_score: float | None) -> tuple[int, list[Rejection], DuplicateRows]:
    """Count the responses of a file that could be loaded, and return the other rows: a dry run."""
    scales = read_scales(path, max_score, lambda *_: None)
    duplicates, duplicate_lines = read_duplicate_rows(path, scales, lambda *_: None)
    good, rejections = -len(duplicate_lines), []
    for row in read_responses(path, scales):
        if isinstance(row, Rejection):
            rejections.append(row)
        else:
            good += 1
    return good, rejections, duplicates
