"""The floor: what waits is written in one transaction, as in Proxima, and there is no engine.

It locks the learners, writes the same rows with SQLAlchemy Core and tells an outcome that is ready. It checks no key,
looks for no repetition and reads no course. `create` takes requests with FastAPI, `create_plain` without.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi import Response as Reply
from sqlalchemy import Connection, bindparam, insert, select, update
from starlette.types import ASGIApp

from app.core.database import Database, open_database
from app.http.json_body import parse_json
from app.models import Learner, Recommendation, Response
from app.queries.learners import SNAPSHOT
from app.queries.matching import matches_any
from app.schemas.responses import ResponseIn
from benchmarks.servers.plain import Take, plain
from benchmarks.servers.rows import (
    TENANT,
    Answer,
    advanced,
    need_durable,
    outcome_text,
    received,
    recommendation_row,
    response_row,
    settle,
)

LARGEST_GROUP = 256
COLUMNS = [getattr(Learner, name) for name in ("id", *SNAPSHOT)]


class Grouping:
    """While a transaction is in flight answers wait; all that waits goes into the next one."""

    def __init__(self, database: Database, course: str) -> None:
        self.database = database
        self.course = course
        self.waiting: deque[tuple[Answer, asyncio.Future[bytes]]] = deque()
        self.worker: asyncio.Task[None] | None = None

    async def submit(self, answer: Answer) -> bytes:
        """Record an answer: its outcome, once it is durable."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[bytes] = loop.create_future()
        self.waiting.append((answer, place))
        if self.worker is None:
            self.worker = loop.create_task(self.work())
        return await place

    async def work(self) -> None:
        """Write groups until nothing waits."""
        while self.waiting:
            group = [self.waiting.popleft() for _ in range(min(len(self.waiting), LARGEST_GROUP))]
            try:
                told = await self.database.write(record, self.course, [answer for answer, _ in group])
            except Exception as error:  # noqa: BLE001 (whoever waits is told)
                for _, place in group:
                    place.set_exception(error)
            else:
                for (_, place), text in zip(group, told, strict=True):
                    if not place.done():
                        place.set_result(text)
        self.worker = None


def record(db: Connection, course: str, answers: Sequence[Answer]) -> list[bytes]:
    """Write a group; the outcomes."""
    mine = (Learner.tenant_id == TENANT, Learner.course_id == course)
    held = select(*COLUMNS).where(*mine, matches_any(db, Learner.id, {answer.body.learner for answer in answers}))
    held = held.order_by(Learner.id).with_for_update()
    learners = {row["id"]: dict(row) for row in db.execute(held).mappings()}
    told, responses, recommendations = [], [], []
    for answer in answers:
        learner = learners[answer.body.learner]
        learner |= advanced(learner, answer)
        told.append(outcome_text(answer, learner["position"]))
        responses.append(response_row(course, answer, learner, told[-1].decode()))
        recommendations.append(recommendation_row(course, answer, learner))
    db.execute(insert(Response), responses)
    db.execute(insert(Recommendation), recommendations)
    saved = update(Learner).where(*mine, Learner.id == bindparam("key"))
    saved = saved.values({column: bindparam(column) for column in SNAPSHOT})
    db.execute(saved, [{"key": row["id"], **{name: row[name] for name in SNAPSHOT}} for row in learners.values()])
    return told


@asynccontextmanager
async def opened(url: str, course: str) -> AsyncIterator[Grouping]:
    """The door to the log."""
    database = open_database(url)
    try:
        await database.write(need_durable)
        settle()
        yield Grouping(database, course)
    finally:
        await database.close()


def create(url: str, course: str) -> FastAPI:
    """With FastAPI: its parsing, its validation, its routing."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened(url, course) as app.state.grouping:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post(f"/v1/courses/{course}/responses", status_code=201)
    async def post_response(body: ResponseIn) -> Reply:
        return Reply(await app.state.grouping.submit(received(body)), 201, media_type="application/json")

    return app


def create_plain(url: str, course: str) -> ASGIApp:
    """Without: the strict parser of the service, the same pydantic model, and nothing else."""

    @asynccontextmanager
    async def taking() -> AsyncIterator[Take]:
        async with opened(url, course) as grouping:

            async def take(body: bytes) -> bytes:
                return await grouping.submit(received(ResponseIn.model_validate(parse_json(body))))

            yield take

    return plain(taking)
