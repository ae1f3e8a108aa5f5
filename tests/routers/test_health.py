"""Alive is not ready: the process answers whatever the database does."""

from pathlib import Path

import pytest

from app.core.database import Database, open_database
from app.routers import health
from app.schemas.problems import Problem
from tests.http.edge import edge_client, make_edge

pytestmark = pytest.mark.anyio


async def check(database: Database, status: int, code: str | None) -> None:
    async with edge_client(make_edge(database)) as client:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        reply = await client.get("/readyz")
        assert reply.status_code == status
        if code is None:
            assert reply.json() == {"status": "ok"}
        else:
            assert Problem.model_validate_json(reply.content).code == code
            assert reply.headers["retry-after"]
            assert "Traceback" not in reply.text


async def test_health_is_ready_with_a_migrated_database(database: Database) -> None:
    await check(database, 200, None)


async def test_health_is_not_ready_with_an_empty_database(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    await check(database, 503, "not_migrated")
    await database.close()


async def test_health_is_not_ready_without_postgresql(tmp_path: Path) -> None:
    database = open_database(f"postgresql://nobody@/none?host={tmp_path}")
    await check(database, 503, "database_unavailable")
    await database.close()


async def test_health_is_not_ready_with_a_database_that_hangs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_TIMEOUT_S", 0.0)
    await check(database, 503, "database_unavailable")


async def test_health_of_a_stopping_process_is_alive_and_not_ready(database: Database) -> None:
    app = make_edge(database)
    async with edge_client(app) as client:
        app.state.stopping = True
        assert (await client.get("/livez")).status_code == 200
        reply = await client.get("/readyz")
        assert (reply.status_code, reply.json()["code"]) == (503, "stopping")
        app.state.stopping = False
        assert (await client.get("/readyz")).status_code == 200


async def test_health_is_not_in_the_openapi_document() -> None:
    assert not {"/livez", "/readyz", "/metrics"} & make_edge().openapi()["paths"].keys()
