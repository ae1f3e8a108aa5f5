"""The comparison servers are honest: they store the rows that Proxima stores, durably or not at all."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select
from starlette.types import ASGIApp, Message

from app.core.database import Database
from app.core.settings import Settings
from app.core.times import now
from app.main import create_app
from app.models import Learner, Recommendation, Response
from app.services.catalogue import upsert
from benchmarks.__main__ import CLIENTS, check_rows
from benchmarks.harness import TENANT, make_catalogue
from benchmarks.load import Load
from benchmarks.report import publish
from benchmarks.servers import SERVERS, orm, rows
from tests.client import make_key

pytestmark = pytest.mark.anyio

LEARNERS, ITEMS, ANSWERS = 5, 20, 20
TABLES = (Response, Recommendation, Learner)
# An outcome of ours may tell of one skill or of two.
LEAST, MOST = 0.8, 1.2


def proxima(url: str, _: str) -> ASGIApp:
    return create_app(Settings(database_url=url, log_level="error"))


@asynccontextmanager
async def alive(app: ASGIApp) -> AsyncIterator[str]:
    """An application between its start and its end, and how it started."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()

    async def whole() -> None:
        await app({"type": "lifespan", "state": {}}, inbox.get, outbox.put)

    life = asyncio.create_task(whole())
    await inbox.put({"type": "lifespan.startup"})
    yield (await outbox.get())["type"]
    await inbox.put({"type": "lifespan.shutdown"})
    with suppress(RuntimeError):  # that it did not start was said already
        await life


async def send(app: ASGIApp, course: str, key: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
    """Send answers side by side; the replies."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s", headers=headers) as client:
        replies = await asyncio.gather(*(post(client, f"/v1/courses/{course}/responses", body) for body in bodies))
    assert {reply.status_code for reply in replies} == {201}
    return [reply.json() for reply in replies]


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send one, again if the server is too busy, as it asks for: a machine may have others to serve."""
    reply = await client.post(path, json=body)
    for _ in range(20):
        if reply.status_code != 503:
            break
        await asyncio.sleep(0.2)
        reply = await client.post(path, json=body)
    return reply


def shape(value: Any) -> Any:
    """The structure of a reply; a list is as its first element."""
    if isinstance(value, dict):
        return {name: shape(child) for name, child in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value).__name__


def stored(db: Connection, course: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a course."""
    found = {}
    for kind in TABLES:
        mine = (kind.tenant_id == TENANT, kind.course_id == course)
        found[kind.__tablename__] = [dict(row) for row in db.execute(select(kind.__table__).where(*mine)).mappings()]
    return found


def written(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What must be alike: how many rows of which columns, and whose they are."""
    told: dict[str, Any] = {
        name: Counter(frozenset(column for column, value in row.items() if value is not None) for row in kept)
        for name, kept in found.items()
    }
    told["learners"] = sorted((row["id"], row["position"], len(row["state"])) for row in found["learner"])
    told["positions"] = sorted((row["learner_id"], row["position"]) for row in found["response"])
    told["types"] = {name: {c: type(v) for c, v in sorted(kept[-1].items())} for name, kept in found.items()}
    return told


async def after_answers(
    name: str, create: Callable[[str, str], ASGIApp], url: str, database: Database
) -> tuple[dict[str, Any], Any, float]:
    """What a server leaves behind after the same answers as every other, what it told, and the mean length of that."""
    course = f"course-{name}"
    key = await make_key(database)
    await database.write(upsert, TENANT, course, make_catalogue(ITEMS, 5), now())
    # All items, so that the state of everybody is as long as it gets and no server can make it longer.
    known = [answer(f"k{n}-{item}", n, item) for n in range(LEARNERS) for item in range(ITEMS)]
    ours = proxima(url, course)
    async with alive(ours):
        await send(ours, course, key, known)
    app = create(url, course)
    async with alive(app) as started:
        assert started == "lifespan.startup.complete"
        told = await send(app, course, key, [answer(f"a{n}", n % LEARNERS, n) for n in range(ANSWERS)])
    found = await database.read(stored, course)
    outcomes = [row["outcome"] for row in found["response"] if row["id"].startswith("a")]
    assert sorted(map(json.loads, outcomes), key=str) == sorted(told, key=str)
    return written(found), shape(told[0]), sum(map(len, outcomes)) / ANSWERS


def answer(id_: str, learner: int, item: int) -> dict[str, Any]:
    return {"id": id_, "learner": f"learner-{learner}", "item": f"item-{item}", "correct": False}


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test run's own PostgreSQL is quick and forgetful."""
    monkeypatch.setattr(rows, "durability_faults", lambda _: [])


@pytest.mark.usefixtures("trusting")
async def test_servers_store_the_same_rows(database_url: str, database: Database) -> None:
    expected, form, length = await after_answers("proxima", proxima, database_url, database)
    assert sum(expected["recommendation"].values()) == sum(expected["response"].values()) == LEARNERS * ITEMS + ANSWERS
    for name, create in SERVERS.items():
        left, told, size = await after_answers(name, create, database_url, database)
        assert left == expected, name
        assert told == form, name
        assert LEAST < size / length < MOST, name


@pytest.mark.controls
@pytest.mark.usefixtures("trusting")
async def test_law_of_servers_notices_one_that_stores_less(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = orm.entries
    monkeypatch.setattr(orm, "entries", lambda *given: complete(*given)[:1])
    expected, _, _ = await after_answers("proxima", proxima, database_url, database)
    left, _, _ = await after_answers("orm", orm.create, database_url, database)
    assert {name for name in expected if left[name] != expected[name]} == {"recommendation"}


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", SERVERS)
async def test_servers_refuse_a_database_that_does_not_sync(name: str, database_url: str) -> None:
    async with alive(SERVERS[name](database_url, "course")) as started:
        assert started == "lifespan.startup.failed"


@pytest.mark.parametrize("lost", [0, 1])
def test_benchmark_ends_if_acknowledged_answers_are_missing(lost: int) -> None:
    loads = (Load(100, 1.0, 1.0, 1.0), Load(50, 1.0, 1.0, 1.0))
    check_rows("sound", (7, 7), (157 + CLIENTS, 157), loads)
    there = [(157, 156), (156, 157)][lost]
    with pytest.raises(RuntimeError, match="150 answers acknowledged, 149"):
        check_rows("rotten", (7, 7), there, loads)


def test_publish_replaces_only_the_section_of_a_measurement(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    publish("x", "new", document)
    publish("x", "newer", document)
    assert document.read_text() == "before\n<!-- x: begin -->\n\nnewer\n\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="lacks"):
        publish("y", "new", document)
