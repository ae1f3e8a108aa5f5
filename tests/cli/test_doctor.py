"""`proxima doctor` names each fault in one line, and writes nothing."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from app.cli import doctor, main
from app.core.database import server_settings
from app.core.times import now
from app.services.calibrations import call_at_database_time, request_calibration
from app.services.keys import create_key
from app.services.responses import record
from tests import postgres
from tests.client import COURSE, make_response, opened, small_course

ONLY_POSTGRES = pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
ONLY_SQLITE = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
# The PostgreSQL of the tests does not sync its commits, and the doctor says so.
USUAL = {"durability"}


def failures(url: str, *options: str, **settings: str) -> dict[str, str]:
    """The lines that say what is wrong, by their names; the exit code says whether there are any."""
    result = CliRunner().invoke(main, ["doctor", *options], env={"PROXIMA_DATABASE_URL": url, **settings})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert all(line.startswith(("ok    ", "FAIL  ")) for line in lines)
    failed = dict(line[6:].split(": ", 1) for line in lines if line.startswith("FAIL"))
    assert result.exit_code == (1 if failed else 0)
    return {name: said for name, said in failed.items() if name not in USUAL or url.startswith("sqlite")}


def run(url: str, *works: Callable[[Connection], object]) -> None:
    """Do something to a database, each in a transaction."""

    async def change() -> None:
        async with opened(url) as database:
            for work in works:
                await database.write(work)

    asyncio.run(change())


def statement(said: str) -> Callable[[Connection], object]:
    return lambda db: db.execute(text(said))


@pytest.fixture
def healthy_url(database_url: str) -> str:
    """A database with a course and a key, in which nothing is wrong."""
    run(database_url, small_course)
    assert failures(database_url) == {}
    return database_url


def test_missing_index_is_named(healthy_url: str) -> None:
    run(healthy_url, statement("DROP INDEX ix_response_tenant_id_course_id_learner_id_occurred_at_id"))
    assert list(failures(healthy_url)) == ["database"]
    assert "ix_response_tenant_id_course_id_learner_id_occurred_at_id" in failures(healthy_url)["database"]


@ONLY_POSTGRES
def test_index_that_was_built_in_part_is_named(healthy_url: str) -> None:
    run(healthy_url, statement("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pk_learner'::regclass"))
    assert "not built to its end: pk_learner;" in failures(healthy_url)["database"]


def test_calibration_that_nobody_works_at_is_named(healthy_url: str) -> None:
    async def abandon() -> None:
        async with opened(healthy_url) as database:
            await database.write(call_at_database_time, request_calibration, 1, COURSE)

    def answer(db: Connection) -> None:
        record(db, [make_response(f"r{n}", f"l{n % 9}", "i1", n, correct=n % 2 == 0) for n in range(120)])

    run(healthy_url, answer)
    asyncio.run(abandon())
    assert failures(healthy_url) == {}
    run(healthy_url, statement(f"UPDATE calibration SET leased_until = {now() - 7_200_000_000}"))
    told = failures(healthy_url)
    assert list(told) == ["calibrations"]
    assert told["calibrations"].startswith("nobody works any more at what is running: c-1 of school/arithmetic; ")


def test_memory_that_is_too_small_for_a_course_is_named(healthy_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(db: Connection) -> None:
        record(db, [make_response(f"r{n}", "l", "i1", n, correct=True) for n in range(3)])

    run(healthy_url, answer)
    monkeypatch.setattr(doctor, "memory_limit", lambda: 345_006_900)
    assert failures(healthy_url) == {}
    monkeypatch.setattr(doctor, "memory_limit", lambda: 345_004_600)
    assert failures(healthy_url) == {
        "memory": "the limit of 329 MiB is enough to calibrate a course of 2 responses, and school/arithmetic has "
        "more; raise it (docs/container.md)"
    }


def test_clock_that_is_behind_what_is_stored_is_named(healthy_url: str) -> None:
    run(healthy_url, lambda db: create_key(db, "school", ["admin"], now() + 3_600_000_000))
    told = failures(healthy_url)
    assert list(told) == ["clock"]
    assert told["clock"].endswith("s after now; the clock is behind: set it by NTP")


@ONLY_POSTGRES
@pytest.mark.parametrize(("ahead_s", "way"), [(37, "ahead of"), (-37, "behind")])
def test_clock_that_differs_from_that_of_the_database_is_named(
    healthy_url: str, monkeypatch: pytest.MonkeyPatch, ahead_s: int, way: str
) -> None:
    monkeypatch.setattr(doctor, "now", lambda: now() + ahead_s * 1_000_000)
    told = failures(healthy_url)
    assert list(told) == ["clock"]
    assert f" s {way} that of the database; set both by NTP" in told["clock"]


@ONLY_POSTGRES
def test_connections_of_the_role_and_of_the_database_are_counted(healthy_url: str) -> None:
    name = f"limited_{os.getpid()}"
    database = make_url(healthy_url).database
    postgres.administer(healthy_url, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 3 IN ROLE pg_read_all_data")
    try:
        url = make_url(healthy_url).set(username=name).render_as_string(hide_password=False)
        told = failures(url)
        assert list(told) == ["connections"]
        assert told["connections"].startswith("a worker may ask for 8, and the database has 3;")
        assert failures(url, PROXIMA_POOL_SIZE="3") == {}
        postgres.administer(healthy_url, f"ALTER ROLE {name} CONNECTION LIMIT -1")
        postgres.administer(healthy_url, f'ALTER DATABASE "{database}" CONNECTION LIMIT 5')
        assert "the database has 5;" in failures(url)["connections"]
    finally:
        postgres.administer(healthy_url, f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        postgres.administer(healthy_url, f"DROP ROLE {name}")


@contextmanager
def pooler(url: str) -> Iterator[str]:
    """The URL of a way to the server that leaves out what a session asks for at its start, as poolers are told to."""
    given = make_url(url)
    socket_path = f"{given.query['host']}/.s.PGSQL.5432"

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_unix_connection(socket_path)
        length = int.from_bytes(await reader.readexactly(4), "big")
        words = (await reader.readexactly(length - 4))[4:].split(b"\0")
        kept = [
            (key, value) for key, value in zip(words[::2], words[1::2], strict=False) if key.decode() not in LEFT_OUT
        ]
        body = (3 << 16).to_bytes(4, "big") + b"".join(b"%b\0%b\0" % pair for pair in kept if pair[0]) + b"\0"
        there.write((len(body) + 4).to_bytes(4, "big") + body)
        await asyncio.gather(carry(reader, there), carry(back, writer), return_exceptions=True)

    async def close() -> None:
        server.close()
        await asyncio.sleep(0.05)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(connect, "127.0.0.1", 0), loop).result(10)
    port = server.sockets[0].getsockname()[1]
    try:
        yield given.set(host="127.0.0.1", port=port, query={"sslmode": "disable"}).render_as_string(hide_password=False)
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


LEFT_OUT = {name for name in server_settings() if name != "TimeZone"}


@ONLY_POSTGRES
def test_limits_that_a_pooler_leaves_out_are_named_until_the_role_has_them(healthy_url: str) -> None:
    database = make_url(healthy_url).database
    with pooler(healthy_url) as url:
        told = failures(url)
        assert list(told) == ["limits"]
        for name in LEFT_OUT:
            assert f"{name} is " in told["limits"]
        for name in LEFT_OUT:
            postgres.administer(healthy_url, f"ALTER DATABASE \"{database}\" SET {name} = '{server_settings()[name]}'")
        assert failures(url) == {}


def test_missing_folder_and_file_are_named_and_not_created(tmp_path: Path) -> None:
    assert failures(f"sqlite:///{tmp_path}/none/p.db") == {
        "database": f"the folder of the SQLite file does not exist: {tmp_path}/none"
    }
    assert failures(f"sqlite:///{tmp_path}/p.db") == {
        "database": "the file of the database does not exist; run `proxima migrate`"
    }
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_database_of_ours_are_named_and_left_alone(tmp_path: Path) -> None:
    other, junk, empty = tmp_path / "other.db", tmp_path / "junk.db", tmp_path / "empty.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    junk.write_bytes(b"no database at all, " * 500)
    empty.touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "proxima migrate" in failures(f"sqlite:///{other}")["database"]
    assert "the file is no SQLite database" in failures(f"sqlite:///{junk}")["database"]
    assert "proxima migrate" in failures(f"sqlite:///{empty}")["database"]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@ONLY_SQLITE
def test_nothing_is_written(healthy_url: str) -> None:
    path = Path(str(make_url(healthy_url).database))
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert failures(healthy_url) == {}
    assert "say --tenant" in failures(healthy_url, "--course", COURSE, "--tenant", "other")["course"]
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@ONLY_SQLITE
def test_doctor_makes_no_tenant(database_url: str) -> None:
    assert "none yet" in failures(database_url, "--course", COURSE)["course"]
    assert list(failures(database_url)) == ["keys"]


def test_each_way_not_to_reach_a_server_has_a_sentence(postgres_server: str, tmp_path: Path) -> None:
    given = make_url(postgres_server)
    causes = {
        "postgresql://nobody@127.0.0.1:1/x": "nothing listens at the address",
        f"postgresql://nobody@/x?host={tmp_path}": "there is no server at the folder",
        given.set(database="none").render_as_string(): "there is no database of the name",
        given.set(username="nobody_at_all").render_as_string(): "does not let the role",
        "postgresql://nobody@no-such-host.invalid/x": "the host in PROXIMA_DATABASE_URL is not known",
    }
    for url, cause in causes.items():
        told = failures(url)
        assert list(told) == ["database"], url
        assert told["database"].startswith("the database does not answer: "), told
        assert cause in told["database"], told


def test_wrong_setting_is_said_once(tmp_path: Path) -> None:
    assert list(failures(f"sqlite:///{tmp_path}/p.db", PROXIMA_POOL_SIZE="200")) == ["settings"]


@ONLY_POSTGRES
@pytest.mark.parametrize("command", ["serve", "doctor", "migrate", "replay"])
def test_error_of_the_database_is_one_line(healthy_url: str, command: str) -> None:
    """The role may connect, and nothing else."""
    name = f"powerless_{os.getpid()}"
    postgres.administer(healthy_url, f"CREATE ROLE {name} LOGIN")
    try:
        url = make_url(healthy_url).set(username=name).render_as_string(hide_password=False)
        arguments = [command, "--verify"] if command == "replay" else [command]
        result = CliRunner().invoke(main, arguments, env={"PROXIMA_DATABASE_URL": url})
        assert result.exit_code == (3 if command == "serve" else 1)
        last = result.output.splitlines()[-1]
        assert "the database does not answer: the role lacks a privilege" in last
    finally:
        postgres.administer(healthy_url, f"DROP ROLE {name}")
