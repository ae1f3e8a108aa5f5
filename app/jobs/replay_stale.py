"""Stale snapshots, of an older calibration, catalogue or engine, rebuilt from the log."""

import asyncio
import time

from app.core.database import Database
from app.services.calibrations import list_stale_courses
from app.services.replay import rebuild_stale

MAX_REBUILT_AT_ONCE = 200
# The longest that a request should wait for a transaction that rebuilds snapshots.
MAX_REBUILD_S = 0.05


async def rebuild_courses(database: Database) -> None:
    """Rebuild the snapshots that an activation, or an upgrade of the engine, left stale."""
    for tenant_id, course_id in await database.read(list_stale_courses):
        await rebuild_course(database, tenant_id, course_id)


async def rebuild_course(database: Database, tenant_id: int, course_id: str) -> int:
    """Rebuild the stale snapshots of a course; return how many there were.

    No request waits for it: a stale snapshot is rebuilt whenever it is read. So it takes few learners at a time, fewer
    if their logs are long, and pauses as long as it works.
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
