"""Grouped commits: the answers that arrive while a transaction is in flight share the next one.

There is no timer: a lone answer waits for nobody, and under load the price of a durable commit is shared.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from app.database import Database
from app.errors import Overloaded, ProximaError, Unavailable
from app.services.responses import NewAnswer, Recorded, record
from app.telemetry import FOLD_SECONDS, GROUP_SIZE

LARGEST_GROUP = 256

log = structlog.get_logger("proxima.intake")

Result = Recorded | ProximaError
Waiting = tuple[NewAnswer, "asyncio.Future[Result]"]


class Intake:
    """The door to the log, one in each process."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, answers: Sequence[NewAnswer]) -> list[Result]:
        """Record answers: one result for each, in order, once they are durable.

        Raises `Overloaded` at once if too many wait already; then none of them was taken.
        """
        if len(self._waiting) + len(answers) > self._limit:
            raise Overloaded("too many answers are waiting; send these again a little later")
        loop = asyncio.get_running_loop()
        places: list[asyncio.Future[Result]] = [loop.create_future() for _ in answers]
        self._waiting.extend(zip(answers, places, strict=True))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return [await place for place in places]
        finally:
            for place in places:
                place.cancel()

    async def close(self) -> None:
        """Wait until everything that was taken is recorded."""
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_GROUP))]
                # Whoever went away before the transaction began has nothing recorded.
                await self._record([waiting for waiting in group if not waiting[1].done()])
        finally:
            self._worker = None

    async def _record(self, group: Sequence[Waiting]) -> None:
        if not group:
            return
        GROUP_SIZE.observe(len(group))
        try:
            with FOLD_SECONDS.time():
                results: list[Result] = await self._database.write(record, [answer for answer, _ in group])
        except Unavailable as error:
            results = [error] * len(group)
        except Exception:
            if len(group) == 1:
                log.exception("an answer could not be recorded")
                settle(group[0][1], ProximaError("an answer could not be recorded"))
                return
            # One of them cannot be stored for a reason nobody foresaw: alone, it fails alone.
            for waiting in group:
                await self._record([waiting])
            return
        for (_, place), result in zip(group, results, strict=True):
            settle(place, result)


def settle(place: "asyncio.Future[Result]", result: Result) -> None:
    """Hand a result to the one who waits for it, if anybody still does."""
    if not place.done():
        place.set_result(result)
