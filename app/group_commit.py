"""Grouped commits: the answers that arrive while a transaction is in flight share the next one.

There is no timer: a lone answer does not wait, and under load the cost of a durable commit is shared.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from app.core.database import Database
from app.core.errors import Overloaded, ProximaError, Unavailable
from app.core.telemetry import GROUP_SECONDS, GROUP_SIZE
from app.services.responses import NewResponse, Postponed, RecordResult, record

MAX_GROUP = 256

log = structlog.get_logger("proxima.group_commit")

PendingResponse = tuple[NewResponse, "asyncio.Future[RecordResult]"]


class GroupCommit:
    """Group commits of recorded answers, one in each process."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._pending: deque[PendingResponse] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, responses: Sequence[NewResponse]) -> list[RecordResult]:
        """Record answers and return one result for each, in order, once they are durable.

        Raises `Overloaded` at once if too many wait already; then none of them is recorded.
        """
        if len(self._pending) + len(responses) > self._limit:
            raise Overloaded("too many answers are waiting; send these again a little later")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[RecordResult]] = [loop.create_future() for _ in responses]
        self._pending.extend(zip(responses, futures, strict=True))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()

    async def close(self) -> None:
        """Wait until every accepted answer is recorded."""
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        try:
            while self._pending:
                group = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_GROUP))]
                # A caller who went away before the transaction began has nothing recorded.
                await self._record([pending for pending in group if not pending[1].done()])
        finally:
            self._worker = None

    async def _record(self, group: Sequence[PendingResponse]) -> None:
        if not group:
            return
        GROUP_SIZE.observe(len(group))
        try:
            with GROUP_SECONDS.time():
                results: list[RecordResult] = await self._database.write(record, [response for response, _ in group])
        except Unavailable as error:
            results = [error] * len(group)
        except Exception:
            if len(group) == 1:
                log.exception("an answer could not be recorded")
                _resolve_future(group[0][1], ProximaError("an answer could not be recorded"))
                return
            # One of them cannot be stored, for an unexpected reason: recorded singly, only that one fails.
            for pending in group:
                await self._record([pending])
            return
        postponed = []
        for pending, result in zip(group, results, strict=True):
            if isinstance(result, Postponed):
                postponed.append(pending)
            else:
                _resolve_future(pending[1], result)
        self._pending.extendleft(reversed(postponed))


def _resolve_future(future: "asyncio.Future[RecordResult]", result: RecordResult) -> None:
    """Give a result to its request, if that still waits."""
    if not future.done():
        future.set_result(result)
