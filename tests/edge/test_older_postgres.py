"""The program works on the PostgreSQL of a distribution, which is older than that of the other tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from app.core import migrate
from app.core.migrate import OLDEST_POSTGRES
from tests import postgres
from tests.edge.service import ANSWERS, service

DEBIAN = Path("/usr/lib/postgresql")
OLDER = [
    folder / "bin"
    for folder in sorted(DEBIAN.glob("[0-9]*"))
    if OLDEST_POSTGRES <= int(folder.name) < 18 and (folder / "bin/initdb").exists()
]


@pytest.fixture(scope="module", params=OLDER, ids=lambda programs: programs.parent.name)
def older_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server of that version, which syncs its commits."""
    folder = Path(tempfile.mkdtemp(prefix="proxima-pg-older-"))
    process = postgres.start(folder, postgres.DURABLE, request.param)
    try:
        postgres.wait_until_ready(postgres.server_url(folder))
        yield postgres.server_url(folder)
    finally:
        postgres.stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def command(url: str, *arguments: str) -> str:
    """What a command says; it must succeed."""
    result = CliRunner().invoke(main, arguments, env={"PROXIMA_DATABASE_URL": url})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.skipif(not OLDER, reason=f"no PostgreSQL from {OLDEST_POSTGRES} to 17 below {DEBIAN}: install postgresql")
@pytest.mark.parametrize("workers", [1, 2])
def test_program_works_on_an_older_postgresql(older_server: str, workers: int, tmp_path: Path) -> None:
    with postgres.fresh_database(older_server, f"smoke_{workers}", template="template0") as url:
        command(url, "migrate")
        with service(url, workers=workers) as started, started.client() as client:
            answer = {"learner": "ann", "item": "i1", "correct": True}
            assert client.post(ANSWERS, json={"id": "r-1", **answer}).status_code == 201
            assert client.post(ANSWERS, json={"id": "r-1", **answer}).status_code == 200
            assert client.post(f"{ANSWERS}:batch", json={"responses": [answer] * 100}).status_code == 200
            told = command(url, "doctor")
            assert "FAIL" not in told
            assert "ok    durability: every commit is synced to the disk" in told
        command(url, "calibrate", "--course", "arithmetic", "--activate", "--force")
        assert ", 0 differences" in command(url, "replay", "--verify")
        command(url, "backup", str(tmp_path / "backup.gz"))


def test_server_that_is_too_old_is_named_in_one_line(
    postgres_server: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "OLDEST_POSTGRES", 99)
    for name in ("migrate", "serve", "doctor") if empty_database_url.startswith("postgresql") else ():
        result = CliRunner().invoke(main, [name], env={"PROXIMA_DATABASE_URL": empty_database_url})
        assert result.exit_code == (1 if name == "doctor" else 3), result.output
        last = result.output.splitlines()[-1]
        assert "the database is PostgreSQL 18" in last
        assert "this program needs 99 or later" in last
