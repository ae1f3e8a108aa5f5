"""Grouped commits: the answers that arrive while a transaction is in flight share the next one.

There is no timer: a lone answer does not wait, and under load the cost of a durable commit is shared. A learner whom
another transaction holds delays nobody for longer than once: a group that met the lock is recorded by course, then by
learner, and for a while the answers of that learner are recorded apart.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from app.core.database import Database, is_locked
from app.core.errors import Overloaded, ProximaError, Unavailable
from app.core.telemetry import GROUP_SECONDS, GROUP_SIZE
from app.services.responses import NewResponse, Postponed, RecordResult, record

MAX_GROUP = 256
# Parts that are recorded apart at once, each of which may wait for a lock, and how long a learner stays apart.
MOST_APART, APART_S = 2, 10.0

log = structlog.get_logger("proxima.group_commit")

PendingResponse = tuple[NewResponse, "asyncio.Future[RecordResult]"]
# Tenant, course, and the learner of one course.
PartKey = tuple[int, str] | tuple[int, str, str]


class GroupCommit:
    """Group commits of recorded answers, one in each process."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._pending: deque[PendingResponse] = deque()
        self._worker: asyncio.Task[None] | None = None
        # Learners who were found locked, until when; what is recorded apart, and how many answers that is.
        self._locked: dict[PartKey, float] = {}
        self._apart: set[asyncio.Task[None]] = set()
        self._apart_count = 0
        self._apart_room = asyncio.Semaphore(MOST_APART)

    async def submit(self, responses: Sequence[NewResponse]) -> list[RecordResult]:
        """Record answers and return one result for each, in order, once they are durable.

        Raises `Overloaded` at once if too many wait already; then none of them is recorded.
        """
        if len(self._pending) + self._apart_count + len(responses) > self._limit:
            raise Overloaded("too many answers are waiting; send these again a little later")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[RecordResult]] = [loop.create_future() for _ in responses]
        self._pending.extend(zip(responses, futures, strict=True))
        self._wake()
        try:
            return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _wake(self) -> None:
        """Have what is pending recorded."""
        if self._worker is None and self._pending:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Wait until every accepted answer is recorded."""
        while self._worker is not None or self._apart:
            await asyncio.wait({*self._apart, *filter(None, [self._worker])})

    async def _work(self) -> None:
        try:
            while self._pending:
                group = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_GROUP))]
                await self._record(self._set_apart(group) if self._locked else group)
        finally:
            self._worker = None

    def _set_apart(self, group: Sequence[PendingResponse]) -> list[PendingResponse]:
        """Record the answers of learners who were found locked apart, and return the others."""
        now = asyncio.get_running_loop().time()
        self._locked = {key: until for key, until in self._locked.items() if until > now}
        held = [pending for pending in group if _learner_of(pending[0]) in self._locked]
        self._record_apart(_by_key(held, _learner_of))
        return [pending for pending in group if _learner_of(pending[0]) not in self._locked]

    def _record_apart(self, parts: Sequence[Sequence[PendingResponse]]) -> None:
        """Record parts of a group beside the next groups, as one of them may wait for a lock."""
        locked: list[PartKey] = []
        for part in parts:
            self._apart_count += len(part)
            task = asyncio.create_task(self._record_when_free(part, locked))
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)

    async def _record_when_free(self, part: Sequence[PendingResponse], locked: list[PartKey]) -> None:
        """Record a part when there is room; `locked` are the learners of the same group who were found locked.

        If all that could be tried at once were, so is more than a learner: the others are not kept waiting for it.
        """
        try:
            async with self._apart_room:
                if len(locked) >= MOST_APART:
                    for _, future in part:
                        _resolve_future(future, Unavailable("the database is locked; send this again"))
                    return
                await self._record(part)
                locked += {_learner_of(response) for response, _ in part} & self._locked.keys()
        finally:
            self._apart_count -= len(part)

    async def _record(self, group: Sequence[PendingResponse]) -> None:
        # A caller who went away before the transaction began has nothing recorded.
        group = [pending for pending in group if not pending[1].done()]
        if not group:
            return
        GROUP_SIZE.observe(len(group))
        try:
            with GROUP_SECONDS.time():
                results: list[RecordResult] = await self._database.write(record, [response for response, _ in group])
        except Unavailable as error:
            if is_locked(error):
                parts = _by_key(group, _course_of)
                parts = parts if len(parts) > 1 else _by_key(group, _learner_of)
                if len(parts) > 1:
                    self._record_apart(parts)
                    return
                self._locked[_learner_of(group[0][0])] = asyncio.get_running_loop().time() + APART_S
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
        # What was recorded apart may have outlived the groups.
        self._wake()


def _course_of(response: NewResponse) -> PartKey:
    """Return the course of an answer."""
    return response.tenant_id, response.course_id


def _learner_of(response: NewResponse) -> PartKey:
    """Return the learner of an answer."""
    return response.tenant_id, response.course_id, response.learner


def _by_key(group: Sequence[PendingResponse], key_of: Callable[[NewResponse], PartKey]) -> list[list[PendingResponse]]:
    """Return the parts of a group that have the same key, in order."""
    parts: dict[PartKey, list[PendingResponse]] = {}
    for pending in group:
        parts.setdefault(key_of(pending[0]), []).append(pending)
    return list(parts.values())


def _resolve_future(future: "asyncio.Future[RecordResult]", result: RecordResult) -> None:
    """Give a result to its request, if that still waits."""
    if not future.done():
        future.set_result(result)
