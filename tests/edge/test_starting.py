"""R-44. What is wrong is told in one readable line, and the service does not start."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.cli import main
from tests.client import opened
from tests.edge.service import LONGEST_S, eventually, service

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
NOT_GIVING_UP = "import uvicorn.supervisors.multiprocess as multiprocess\nmultiprocess.STARTUP_FAILURE = None\n"


def refusal(*arguments: str, **settings: str) -> str:
    """The one line in which a start is refused."""
    result = CliRunner().invoke(main, arguments, env=settings)
    assert (result.exit_code, result.stdout) == (3, ""), result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("proxima: ")
    assert "Traceback" not in line
    return line


@WORKERS
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"PROXIMA_DRAIN_SECONDS": "soon"}, "PROXIMA_DRAIN_SECONDS"),
        ({"PROXIMA_DRAIN_SECOND": "5"}, "PROXIMA_DRAIN_SECOND"),
        ({"PROXIMA_POOL_SIZE": "0"}, "PROXIMA_POOL_SIZE"),
        ({"PROXIMA_DATABASE_URL": "oracle://x"}, "PROXIMA_DATABASE_URL"),
        ({"PROXIMA_DATABASE_URL": "sqlite:////no/such/folder/x.db"}, "/no/such/folder"),
        ({"PROXIMA_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}, "the database does not answer"),
        ({"PROXIMA_DATABASE_URL": "postgresql://nobody@/x?host=/no/such/folder"}, "the database does not answer"),
    ],
)
def test_service_refuses_wrong_settings_and_a_database_out_of_reach(
    workers: str, settings: dict[str, str], named: str
) -> None:
    assert named in refusal("serve", "--workers", workers, **settings)


@WORKERS
def test_service_refuses_a_database_that_does_not_exist(workers: str, postgres_server: str) -> None:
    url = make_url(postgres_server).set(database="none").render_as_string()
    assert "the database does not answer" in refusal("serve", "--workers", workers, PROXIMA_DATABASE_URL=url)


@WORKERS
def test_service_refuses_a_database_that_is_not_migrated(workers: str, empty_database_url: str) -> None:
    told = refusal("serve", "--workers", workers, PROXIMA_DATABASE_URL=empty_database_url)
    assert "proxima migrate" in told


@WORKERS
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_service_refuses_an_address_that_is_taken_or_foreign(workers: str, database_url: str) -> None:
    serve = ("serve", "--workers", workers)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        told = refusal(*serve, "--port", port, PROXIMA_DATABASE_URL=database_url)
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in told
    assert "192.0.2.1" in refusal(*serve, "--host", "192.0.2.1", PROXIMA_DATABASE_URL=database_url)


def test_demonstration_listens_on_this_machine_only() -> None:
    result = CliRunner().invoke(main, ["demo", "--host", "0.0.0.0"])  # noqa: S104 (that it is refused is the point)
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def make_older(url: str) -> None:
    async def change() -> None:
        async with opened(url) as database:
            await database.write(lambda db: db.execute(text("UPDATE alembic_version SET version_num = '0000'")))

    asyncio.run(change())


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
def test_worker_that_cannot_start_ends_the_service(database_url: str) -> None:
    with service(database_url, workers=2) as started:
        [one, _] = started.workers()
        make_older(database_url)
        os.kill(one, signal.SIGKILL)
        assert started.process.wait(LONGEST_S) == 3
        assert started.log().splitlines()[-1] == "proxima: the service cannot start; the lines above say why"
        assert started.workers() == []
        assert not Path(f"/proc/{one}").exists()


@pytest.mark.controls
@pytest.mark.soak
@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
def test_worker_that_cannot_start_is_restarted_forever_without_the_guard(database_url: str) -> None:
    with service(database_url, workers=2, patch=NOT_GIVING_UP, log_level="info") as started:
        make_older(database_url)
        os.kill(started.workers()[0], signal.SIGKILL)
        eventually(lambda: started.log().count("died") >= 2)
        assert started.process.poll() is None
