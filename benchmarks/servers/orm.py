"""An ordinary service: FastAPI, pydantic models in and out, one SQLAlchemy session and one transaction a request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from app.core.database import sqlite_engine
from app.models import Learner, Recommendation, Response
from app.schemas.responses import ResponseIn, ResponseOutcome
from benchmarks.servers.rows import (
    TENANT,
    Answer,
    advanced,
    need_durable,
    outcome,
    received,
    recommendation_row,
    response_row,
    settle,
)

POOL = 16


def create(url: str, course: str) -> FastAPI:
    """The service on this database, for one course."""
    return on_sqlite(url, course) if url.startswith("sqlite") else on_postgres(url, course)


def on_postgres(url: str, course: str) -> FastAPI:
    """`async` endpoint, a session as its dependency, `SELECT … FOR UPDATE` of the learner."""
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), pool_size=POOL, max_overflow=0, pool_use_lifo=True
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with engine.connect() as connection:
                await connection.run_sync(need_durable)
            settle()
            yield
        finally:
            await engine.dispose()

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as db:
            yield db

    app = FastAPI(lifespan=lifespan)

    @app.post(f"/v1/courses/{course}/responses", status_code=201, response_model_exclude_unset=True)
    async def post_response(body: ResponseIn, db: Annotated[AsyncSession, Depends(session)]) -> ResponseOutcome:
        answer = received(body)
        learner = await db.get_one(Learner, (TENANT, course, body.learner), with_for_update=True)
        told = change(learner, answer)
        db.add_all(entries(learner, course, answer, told))
        await db.commit()
        return told

    return app


def on_sqlite(url: str, course: str) -> FastAPI:
    """A plain endpoint in the thread pool, and one connection that writes."""
    engine = sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", read_only=False)
    sessions = sessionmaker(engine, expire_on_commit=False, class_=Session)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            with engine.connect() as connection:
                need_durable(connection)
            settle()
            yield
        finally:
            engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post(f"/v1/courses/{course}/responses", status_code=201, response_model_exclude_unset=True)
    def post_response(body: ResponseIn) -> ResponseOutcome:
        answer = received(body)
        with sessions.begin() as db:
            learner = db.get_one(Learner, (TENANT, course, body.learner))
            told = change(learner, answer)
            db.add_all(entries(learner, course, answer, told))
        return told

    return app


def change(learner: Learner, answer: Answer) -> ResponseOutcome:
    """Write the new snapshot into the learner; what is told of it."""
    for name, value in advanced(vars(learner), answer).items():
        setattr(learner, name, value)
    return ResponseOutcome.model_validate(outcome(answer, learner.position))


def entries(learner: Learner, course: str, answer: Answer, told: ResponseOutcome) -> list[Response | Recommendation]:
    """The answer, and what is offered next."""
    return [
        Response(**response_row(course, answer, vars(learner), told.model_dump_json(exclude_unset=True))),
        Recommendation(**recommendation_row(course, answer, vars(learner))),
    ]
