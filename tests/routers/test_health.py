"""Alive is not ready: the process answers whatever the database does."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.core.database import Database, open_database, sqlite_engine
from app.core.errors import Unavailable
from app.core.migrate import migrate
from app.routers import health
from app.schemas.problems import Problem
from app.services.keys import create_key
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


def take_away(path: Path, moved: Path, put_there: str) -> None:
    """Move a file away and put something in its place."""
    path.rename(moved)
    if put_there == "a copy":
        shutil.copy(moved, path)
    elif put_there == "an empty database":
        path.touch()


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("put_there", ["nothing", "an empty database", "a copy"])
async def test_health_is_not_ready_while_its_file_is_elsewhere(
    database: Database, database_url: str, put_there: str
) -> None:
    """And nothing is written to a file that would not be found again."""
    path = Path(str(make_url(database_url).database))
    moved = path.with_name("moved.db")
    await check(database, 200, None)
    take_away(path, moved, put_there)
    await check(database, 503, "database_unavailable")
    with pytest.raises(Unavailable, match="was moved or replaced while the service ran"):
        await database.write(create_key, "school", ["admin"], 1)
    moved.rename(path)
    await check(database, 200, None)
    await database.write(create_key, "school", ["admin"], 1)


def test_file_of_a_new_database_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    migrate(url)
    engine = sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", read_only=False)
    with engine.begin() as connection:
        create_key(connection, "school", ["admin"], 1)
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    engine.dispose()
    assert modes == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}


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
