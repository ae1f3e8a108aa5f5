"""A whole service in the process of a test, with keys and a small course."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Connection

from app.core.database import Database, open_database
from app.core.settings import Settings
from app.core.times import now, to_text
from app.ims_cat import sections
from app.jobs.verify import verify_course
from app.main import create_app
from app.services import course_model
from app.services.catalogue import upsert
from app.services.keys import create_key
from app.services.responses import NewResponse
from app.services.verification import VerificationResult

RunAndUndo = Callable[[Callable[[Connection], Any]], Any]

COURSE = "arithmetic"
MINUTE_US = 60_000_000
# 2025-01-01T00:00:00Z
NEW_YEAR_US = 1_735_689_600_000_000

CATALOGUE: dict[str, Any] = {
    "title": "Arithmetic",
    "skills": [
        {"id": "add", "title": "Add"},
        {"id": "subtract", "prerequisites": ["add"]},
        {"id": "multiply", "prerequisites": ["add"]},
        {"id": "divide", "prerequisites": ["multiply", "subtract"]},
    ],
    "items": [
        {"id": "i1", "skills": ["add"]},
        {"id": "i2", "skills": ["add"]},
        {"id": "i3", "skills": ["subtract"]},
        {"id": "i4", "skills": ["subtract", "multiply"]},
        {"id": "i5", "skills": ["divide"], "max_score": 2},
        {"id": "i6", "skills": []},
        {"id": "i7", "skills": ["multiply"], "parameters": {"model": "3PL", "a": 1.2, "b": 0.4, "c": 0.2}},
        {"id": "i8", "skills": ["divide"], "parameters": {"model": "graded", "a": 0.9, "thresholds": [-1, 0, 1.5]}},
    ],
}


# Right answers to i1 and i2 in turns: with the last of them "add" is mastered.
UNTIL_MASTERED = 11


def minute_text(minute: int) -> str:
    """A moment on the first day of 2025 and later, as it is sent."""
    return to_text(NEW_YEAR_US + minute * MINUTE_US)


async def make_key(database: Database, tenant: str = "school", scopes: Sequence[str] = ("admin",)) -> str:
    """A key as a caller has it."""
    return (await database.write(create_key, tenant, scopes, now())).text


@asynccontextmanager
async def served(database_url: str, **settings: Any) -> AsyncIterator[FastAPI]:
    """A started service, as a process that has just begun."""
    course_model.COURSE_MODELS = course_model.LruCache()
    app = create_app(Settings(database_url=database_url, log_level="error", **settings))
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    """A caller of the service with a key, or without."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service/v1/", headers=headers)


@asynccontextmanager
async def school(database_url: str, course: str = COURSE, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A caller who may do everything in a service with the small course; addresses are below the course."""
    async with served(database_url, **settings) as app:
        key = await make_key(app.state.database)
        async with client_of(app, key) as client:
            client.base_url = client.base_url.join(f"courses/{course}/")
            assert (await client.put("catalogue", json=CATALOGUE)).status_code == 200
            yield client


def encoded(configuration: object) -> str:
    """A configuration of a section of 1EdTech CAT as a platform posts it."""
    return base64.b64encode(json.dumps(configuration).encode()).decode()


@contextmanager
def fixed_cat_ids(number: int) -> Iterator[None]:
    """What 1EdTech CAT makes meanwhile has an id that is known beforehand: `s-` or `t-` and 32 digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "uuid", SimpleNamespace(uuid4=lambda: UUID(int=number)))
        yield


def app_of(client: httpx.AsyncClient) -> FastAPI:
    """The service behind a client."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    app = transport.app
    assert isinstance(app, FastAPI)
    return app


async def find_differences(database: Database, course: str = COURSE, tenant_id: int = 1) -> list[str]:
    """What `replay --verify` finds in a course."""
    return (await verify(database, course, tenant_id)).differences


async def verify(database: Database, course: str = COURSE, tenant_id: int = 1) -> VerificationResult:
    """What `replay --verify` counts and finds."""
    return await verify_course(database, tenant_id, course, lambda _: None)


@asynccontextmanager
async def opened(database_url: str, longest_s: float = 10.0) -> AsyncIterator[Database]:
    """One more process at the same database."""
    database = open_database(database_url, statement_timeout_s=longest_s)
    try:
        yield database
    finally:
        await database.close()


def make_response(id_: str, learner: str, item: str, minute: int, *, correct: bool) -> NewResponse:
    """An answer to the small course, so many minutes into the year."""
    return NewResponse(
        tenant_id=1,
        course_id=COURSE,
        id=id_,
        learner=learner,
        item=item,
        score=None,
        correct=correct,
        occurred_at=NEW_YEAR_US + minute * MINUTE_US,
        has_timestamp=True,
        received_at=NEW_YEAR_US,
        duration_ms=None,
        recommendation=None,
    )


class RollbackWithResult(Exception):
    """Carries the result out of a transaction that leaves nothing behind."""


def small_course(db: Connection) -> None:
    """Tenant 1 with the small course."""
    create_key(db, "school", ["admin"], 1)
    upsert(db, 1, COURSE, CATALOGUE, 1)


@contextmanager
def rolled_back_runs(database_url: str, prepare: Callable[[Connection], None] = small_course) -> Iterator[RunAndUndo]:
    """A way to do something with a prepared database and to undo it."""
    with asyncio.Runner() as runner:
        database = open_database(database_url)
        runner.run(database.write(prepare))

        def run_and_undo(work: Callable[[Connection], Any]) -> Any:
            def work_and_raise(db: Connection) -> None:
                raise RollbackWithResult(work(db))

            # A revision that was undone comes again with other content.
            course_model.COURSE_MODELS = course_model.LruCache()
            with pytest.raises(RollbackWithResult) as caught:
                runner.run(database.write(work_and_raise))
            return caught.value.args[0]

        yield run_and_undo
        runner.run(database.close())
