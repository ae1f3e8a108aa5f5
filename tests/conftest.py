"""Every test that asks for `database` or `database_url` runs twice: on SQLite and on PostgreSQL, each time empty."""

import os
import runpy
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.core.database import Database, open_database
from app.core.migrate import migrate
from tests import postgres

pytest_plugins = ["tests.gate.plugin"]

SERVER = "TEST_POSTGRES_SERVER"

CLOCK = Path(__file__).parent / "clock"
DAY_S = 86_400

names = (f"test_{os.getpid()}_{number}" for number in count())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Another day to run the tests on."""
    parser.addoption("--days-ahead", type=int, default=0, help="run as if it were so many days later")


def pytest_configure(config: pytest.Config) -> None:
    """Start PostgreSQL, without waiting for it, in the process that starts the workers and is the last to end."""
    move_clock(config.getoption("--days-ahead"))
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Else every process that a test starts would compile the whole program first.
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode = tempfile.mkdtemp(prefix="proxima-bytecode-")
        config.add_cleanup(lambda: shutil.rmtree(bytecode, ignore_errors=True))
    folder = Path(tempfile.mkdtemp(prefix="proxima-pg-"))
    process = postgres.start(folder)
    os.environ[SERVER] = postgres.server_url(folder)
    config.add_cleanup(lambda: postgres.stop(process, folder))


def move_clock(days: int) -> None:
    """Run this process, and all that it will start, so many days later."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CLOCK), os.environ.get("PYTHONPATH")]))
    if days:
        os.environ["TEST_CLOCK_AHEAD_S"] = str(days * DAY_S)
        runpy.run_path(str(CLOCK / "sitecustomize.py"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The URL of the server, once it answers."""
    postgres.wait_until_ready(os.environ[SERVER])
    return os.environ[SERVER]


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    with postgres.fresh_database(postgres_server, next(names), template="template0") as url:
        migrate(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str, postgres_template: str) -> postgres.Databases:
    """Migrated databases without a row; they go with the server."""
    return postgres.Databases(postgres_server, postgres_template, names)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that nobody has open."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def templates(sqlite_template: Path, postgres_server: str, postgres_template: str) -> dict[str, str]:
    """The URLs of migrated databases, to be copied."""
    of_postgres = make_url(postgres_server).set(database=postgres_template).render_as_string(hide_password=False)
    return {"sqlite": f"sqlite:///{sqlite_template}", "postgresql": of_postgres}


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """What makes a test run on both databases."""
    return str(request.param)


@pytest.fixture
def database_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database without a row."""
    if engine_name == "sqlite":
        path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "proxima.db")
        yield f"sqlite:///{path}"
    else:
        databases: postgres.Databases = request.getfixturevalue("postgres_databases")
        with databases.empty() as url:
            yield url


@pytest.fixture
def empty_database_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a table."""
    if engine_name == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        server = request.getfixturevalue("postgres_server")
        with postgres.fresh_database(server, next(names), template="template0") as url:
            yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database, migrated and without a row."""
    opened = open_database(database_url)
    yield opened
    await opened.close()
