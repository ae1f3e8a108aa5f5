"""A backup is what was acknowledged at one moment, whatever is written meanwhile; only an empty database takes it."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from app.core import database
from app.core.database import PostgresDatabase, sqlite_engine
from app.core.errors import Invalid
from app.core.migrate import configuration, is_current, run_exclusively, upgrade
from app.files import backup_format
from app.files.backup_format import Table
from app.queries import transfer as queries
from app.services import transfer
from app.services.keys import create_key
from tests.client import CATALOGUE, COURSE
from tests.migrations.test_migrations import fill
from tests.processes import NO_CERTIFICATES, PROXIMA, Started, start
from tests.tenants import MakeUrl, databases, error_line, output_of, read_database, run_cli, run_with_database

ROOT = Path(__file__).parents[2]
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}
REVISIONS = [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()][::-1]
CLIENTS = 4


@pytest.fixture
def make(postgres_server: str, tmp_path: Path, templates: dict[str, str]) -> Iterator[MakeUrl]:
    """Makes databases of either kind."""
    with databases(postgres_server, tmp_path, templates) as maker:
        yield maker


class Caller:
    """Sends answers to a service and remembers which were acknowledged."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.acknowledged: list[str] = []
        self._numbers = count()

    def send(self, learner: str = "ann") -> None:
        """Send one answer and wait for its reply."""
        number = next(self._numbers)
        body = {"id": f"r-{number}", "learner": learner, "item": f"i{1 + number % 4}", "correct": number % 3 > 0}
        reply = self.client.post("responses", json=body)
        assert reply.status_code == 201, reply.text
        self.acknowledged.append(f"r-{number}")


@contextmanager
def serving(url: str) -> Iterator[Caller]:
    """A caller of a service of its own process, with the small course."""
    key = run_with_database(url, lambda opened: opened.write(create_key, "school", ["admin"], 1)).text
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(
        ["serve", "--port", str(port)],
        env={**os.environ, "PROXIMA_DATABASE_URL": url, "PROXIMA_LOG_LEVEL": "error"},
    )
    base = f"http://127.0.0.1:{port}/v1/courses/{COURSE}/"
    try:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=base, headers=headers, timeout=30, verify=NO_CERTIFICATES) as client:
            wait_for(f"http://127.0.0.1:{port}/readyz", process)
            assert client.put("catalogue", json=CATALOGUE).status_code == 200
            yield Caller(client)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: Started) -> None:
    """Return once the service answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(address, verify=NO_CERTIFICATES).is_success:
                return
        except httpx.TransportError:
            assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def faults(path: Path, url: str) -> list[str]:
    """Why a backup, restored at `url`, is not a state that the service was ever in."""
    restored = run_cli(url, "restore", path)
    if restored.exit_code != 0:
        return restored.stderr.splitlines()
    verified = run_cli(url, "replay", "--verify")
    return verified.stderr.splitlines() if verified.exit_code != 0 else []


def answers_in(url: str) -> set[str]:
    """The ids of all answers."""
    return read_database(url, lambda db: set(db.scalars(text("SELECT id FROM response"))))


def interrupted(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Let answers be given and acknowledged before each table that a backup reads; which there are before that."""
    stream, learners = queries.stream_rows, (f"new-{number}" for number in count())

    def with_answers(db: Connection, table: Table, tenant_id: int | None) -> Iterator[Any]:
        for learner in ("ann", "bob", next(learners)):
            caller.send(learner)
        yield from stream(db, table, tenant_id)

    monkeypatch.setattr(queries, "stream_rows", with_answers)
    return set(caller.acknowledged)


def without_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement sees what is committed when it starts."""

    def no_transaction(url: str, *, begin: str, read_only: bool, **options: Any) -> Engine:
        return sqlite_engine(url, begin="SELECT 1" if read_only else begin, read_only=read_only, **options)

    monkeypatch.setattr(database, "sqlite_engine", no_transaction)
    monkeypatch.setattr(PostgresDatabase, "read", PostgresDatabase.write)


def test_backup_holds_what_was_acknowledged_when_it_began(
    engine_name: str, make: MakeUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real service acknowledges answers between any two tables: none of them is in the backup, not even in part.

    The control reads the tables without one snapshot for all: then the same check finds contradictions.
    """
    url, sound, torn = make(engine_name), tmp_path / "sound.gz", tmp_path / "torn.gz"
    with serving(url) as caller:
        for number in range(30):
            caller.send(f"l{number % 7}")
        with monkeypatch.context() as patch:
            before = interrupted(caller, patch)
            output_of(run_cli(url, "backup", sound))
        with monkeypatch.context() as patch:
            interrupted(caller, patch)
            without_snapshot(patch)
            output_of(run_cli(url, "backup", torn))
    restored = make(OTHER[engine_name], migrated=False)
    assert faults(sound, restored) == []
    assert answers_in(restored) == before
    assert answers_in(url) == set(caller.acknowledged) > before
    assert faults(torn, make(OTHER[engine_name], migrated=False)) != []


def test_backups_are_consistent_while_clients_write_as_fast_as_they_can(
    engine_name: str, make: MakeUrl, tmp_path: Path
) -> None:
    url = make(engine_name)
    paths = [tmp_path / f"{number}.gz" for number in range(3)]

    async def load(caller: Caller) -> list[tuple[set[str], set[str]]]:
        """Back up while clients write; what had been acknowledged before each, and sent until it ended."""
        running, sent, done, bounds = True, count(), set[str](), []
        news: asyncio.Queue[str] = asyncio.Queue()
        async with httpx.AsyncClient(base_url=caller.client.base_url, headers=caller.client.headers) as client:

            async def write() -> None:
                while running:
                    number = next(sent)
                    body: dict[str, Any] = {
                        "id": f"w-{number}",
                        "learner": f"l{number % 40}",
                        "item": "i1",
                        "correct": True,
                    }
                    assert (await client.post("responses", json=body, timeout=60)).status_code == 201
                    done.add(body["id"])
                    news.put_nowait(body["id"])

            writers = [asyncio.create_task(write()) for _ in range(CLIENTS)]
            for path in paths:
                for _ in range(20):
                    await news.get()
                before = set(done)
                output_of(await asyncio.to_thread(run_cli, url, "backup", path))
                bounds.append((before, {f"w-{number}" for number in range(next(sent))}))
            running = False
            await asyncio.gather(*writers)
        return bounds

    with serving(url) as caller:
        bounds = asyncio.run(load(caller))
    for path, (before, after) in zip(paths, bounds, strict=True):
        restored = make(OTHER[engine_name], migrated=False)
        assert faults(path, restored) == []
        assert before <= answers_in(restored) <= after
    assert bounds[2][0] > bounds[1][0] > bounds[0][0]


# Older schemas


@pytest.mark.parametrize("revision", REVISIONS)
def test_backup_of_an_older_schema_is_restored_as_migration_would_make_it(
    revision: str, engine_name: str, make: MakeUrl, tmp_path: Path
) -> None:
    old, path = make(engine_name, migrated=False), tmp_path / "old.gz"
    run_exclusively(old, lambda db: upgrade(db, revision))
    run_with_database(old, lambda opened: opened.write(fill))
    output_of(run_cli(old, "backup", path))
    assert backup_format.check_backup(path, lambda *_: None)[0].schema == revision
    restored = make(OTHER[engine_name], migrated=False)
    output_of(run_cli(restored, "restore", path))
    output_of(run_cli(old, "migrate"))
    assert read_database(restored, is_current)
    assert read_database(restored, lines) == read_database(old, lines)


def lines(db: Connection) -> dict[str, list[bytes]]:
    """All rows of a backup."""
    return {
        table.name: [
            line for rows in queries.stream_rows(db, table, None) for line in backup_format.encode_rows(table, rows)
        ]
        for table in queries.list_tables(db)
    }


def test_backup_refuses_a_database_without_tables_or_of_a_newer_program(
    engine_name: str, make: MakeUrl, tmp_path: Path
) -> None:
    path = tmp_path / "none.gz"
    empty = run_cli(make(engine_name, migrated=False), "backup", path)
    assert (empty.exit_code, "run `proxima migrate`" in empty.stderr) == (3, True)
    url = make(engine_name)
    run_with_database(
        url, lambda opened: opened.write(lambda db: db.execute(text("UPDATE alembic_version SET version_num = '9'")))
    )
    newer = run_cli(url, "backup", path)
    assert (newer.exit_code, "version 9 of a newer program" in newer.stderr) == (3, True)
    assert [each.name for each in tmp_path.iterdir() if ".gz" in each.name] == []


# Only into an empty database


@pytest.fixture
def backup(make: MakeUrl, tmp_path: Path) -> Path:
    """A backup of one row in every table."""
    url = make("sqlite")
    run_with_database(url, lambda opened: opened.write(fill))
    output_of(run_cli(url, "backup", tmp_path / "backup.gz"))
    return tmp_path / "backup.gz"


def test_restore_needs_an_empty_database(engine_name: str, make: MakeUrl, backup: Path) -> None:
    for migrated in (False, True):
        output_of(run_cli(make(engine_name, migrated=migrated), "restore", backup))
    older = make(engine_name, migrated=False)
    run_exclusively(older, lambda db: upgrade(db, "0001"))
    output_of(run_cli(older, "restore", backup))
    before = read_database(older, lines)
    assert error_line(run_cli(older, "restore", backup)) == "the database is not empty; restore into an empty one"
    assert read_database(older, lines) == before

    keyed = make(engine_name)
    output_of(run_cli(keyed, "key", "create", "--tenant", "t", "--scope", "admin"))
    assert error_line(run_cli(keyed, "restore", backup)) == "the database is not empty; restore into an empty one"
    foreign = make(engine_name, migrated=False)
    run_exclusively(foreign, strange)
    assert "tables of something else" in error_line(run_cli(foreign, "restore", backup))


def strange(db: Connection) -> None:
    """A table of something else."""
    with db.begin_nested() if db.in_transaction() else db.begin():
        db.execute(text("CREATE TABLE tenant (name TEXT)"))


def test_tenant_numbers_continue_after_those_restored(engine_name: str, make: MakeUrl, tmp_path: Path) -> None:
    url, path = make(engine_name), tmp_path / "two.gz"
    for tenant in ("a", "b"):
        output_of(run_cli(url, "key", "create", "--tenant", tenant, "--scope", "admin"))
    output_of(run_cli(url, "backup", path))
    restored = make(engine_name)
    output_of(run_cli(restored, "restore", path))
    key = output_of(run_cli(restored, "key", "create", "--tenant", "c", "--scope", "admin"))
    assert int(key.split("_")[1]) > 2


def test_restore_that_fails_leaves_the_database_empty(
    engine_name: str, make: MakeUrl, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was loaded, and then the database does not give it back: a value changed on the way in."""
    url = make(engine_name, migrated=False)
    insert = queries.insert_table_rows

    def lossy(db: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        insert(db, table, [row | ({"theta": 0.25} if table.name == "learner" else {}) for row in rows])

    with monkeypatch.context() as patch:
        patch.setattr(queries, "insert_table_rows", lossy)
        assert "does not give back" in error_line(run_cli(url, "restore", backup))
    assert read_database(url, queries.list_table_names) == []
    output_of(run_cli(url, "restore", backup))


# The file


def test_backup_replaces_a_file_only_if_forced_and_only_when_complete(
    engine_name: str, make: MakeUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = make(engine_name), tmp_path / "backups"
    folder.mkdir()
    path = folder / "backup.gz"
    run_with_database(url, lambda opened: opened.write(fill))
    for command in ("backup", "export"):
        path.write_text("precious")
        assert error_line(run_cli(url, command, path)).endswith("say --overwrite if it is to be replaced")
        assert path.read_text() == "precious"
        with monkeypatch.context() as patch:
            patch.setattr(queries, "stream_rows", broken)
            assert error_line(run_cli(url, command, path, "--overwrite")) == "out of patience"
        assert path.read_text() == "precious"
        told = output_of(run_cli(url, command, path, "--overwrite"))
        assert "1 tenant, 1 course, 1 learner, 1 answer, " in told
        assert path.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in folder.iterdir()] == ["backup.gz"]
    error_line(run_cli(url, "backup", folder / "missing" / "x.gz"))


def broken(db: Connection, table: Table, tenant_id: int | None) -> Iterator[Any]:
    """A database that gives up half-way."""
    yield from ()
    if table.name == "response":
        raise Invalid("out of patience")


LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); {PROXIMA}"


def test_backup_on_a_full_disk_fails_in_one_line_and_leaves_no_file(
    engine_name: str, make: MakeUrl, tmp_path: Path
) -> None:
    url, folder = make(engine_name), tmp_path / "backups"
    folder.mkdir()
    run_with_database(url, lambda opened: opened.write(long_names))
    limited = start(
        ["backup", folder / "backup.gz"],
        program=LIMITED,
        env={**os.environ, "PROXIMA_DATABASE_URL": url},
        stdout=PIPE,
        stderr=PIPE,
    )
    output, errors = limited.communicate(60)
    assert (limited.returncode, output) == (1, ""), errors
    assert errors.splitlines()[-1].startswith("proxima: the file cannot be written: ")
    assert list(folder.iterdir()) == []


def long_names(db: Connection) -> None:
    """Tenants whose names do not compress."""
    [table] = [table for table in queries.list_tables(db) if table.name == "tenant"]
    names = [os.urandom(100).hex() for _ in range(2000)]
    queries.insert_table_rows(db, table, [{"id": n + 1, "name": name, "created_at": 1} for n, name in enumerate(names)])


def test_backup_reports_its_progress_to_the_end(engine_name: str, make: MakeUrl, backup: Path, tmp_path: Path) -> None:
    told: dict[str, list[float]] = {}

    def report(stage: str, done: float, whole: float) -> None:
        told.setdefault(stage, []).append(done / whole)

    url, target = make(engine_name, migrated=False), tmp_path / "again.gz"
    _, contents = backup_format.check_backup(backup, report)
    run: Callable[[Connection], None] = lambda db: transfer.restore(db, backup, contents, report)  # noqa: E731
    run_exclusively(url, run)
    with target.open("wb") as file:
        run_with_database(url, lambda opened: opened.read(transfer.dump_database, file, 1, report))
    assert list(told) == ["checking the file", "loading", "reading back", "writing"]
    assert all(shares == sorted(shares) and shares[-1] == 1 for shares in told.values())
