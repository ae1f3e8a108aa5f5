"""The background work of a serving process."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app.core.database import Database
from app.core.errors import Unavailable
from app.jobs.calibrations import take_over_lapsed
from app.jobs.replay_stale import rebuild_courses

# How often to look for calibrations without a live attempt, and for snapshots that were left stale.
POLL_S = 5.0
SWEEP_S = 600.0

log = structlog.get_logger("proxima.jobs")


async def run_background_work(database: Database, database_url: str) -> None:
    """Take over lapsed calibrations and rebuild stale snapshots, until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(repeat_forever(lambda: take_over_lapsed(database, database_url), POLL_S))
        group.create_task(repeat_forever(lambda: rebuild_courses(database), SWEEP_S))


async def repeat_forever(work: Callable[[], Awaitable[object]], pause_s: float) -> None:
    """Repeat some work for ever, with pauses; one failure does not end it."""
    while True:
        try:
            await work()
        except Unavailable:
            log.warning("the database does not answer; background work waits")
        except Exception:
            log.exception("background work failed")
        await asyncio.sleep(pause_s)
