"""`proxima serve`."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from app.cli.database import need_migrated, with_database
from app.core.database import Database
from app.core.errors import InvalidSetting
from app.core.settings import read_settings
from app.core.telemetry import configure_logging
from app.http.server import Deadlines, open_listener, run_uvicorn
from app.main import create_app
from app.queries.durability import connections_allowed

if sys.platform != "win32":
    import fcntl

DEFAULT_DEADLINES = Deadlines()
METRICS_PREFIX, LOCK = "proxima-metrics-", "lock"


def serve(host: str, port: int, workers: int, deadlines: Deadlines = DEFAULT_DEADLINES) -> None:
    """Serve the HTTP interface."""
    settings = read_settings()
    with_database(lambda database: _need_connections(database, workers))
    configure_logging(settings)
    if workers == 1:
        run_server(create_app, host, port, 1, deadlines)
        return
    with _metrics_folder() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            run_server("app.main:create_app", host, port, workers, deadlines)
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


@contextmanager
def _metrics_folder() -> Iterator[str]:
    """A new folder in which workers share their metrics; those that were left by a kill are removed.

    A folder is locked as long as the process lives that made it.
    """
    if sys.platform != "win32":
        for left in Path(tempfile.gettempdir()).glob(f"{METRICS_PREFIX}*"):
            with suppress(OSError), (left / LOCK).open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=METRICS_PREFIX) as folder, (Path(folder) / LOCK).open("wb") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


async def _need_connections(database: Database, workers: int) -> None:
    """The database must be migrated. If it has too few connections for all workers, say so."""
    await need_migrated(database)
    needed, allowed = workers * read_settings().pool_size, await database.read(connections_allowed)
    if allowed is not None and needed > allowed:
        click.echo(
            f"proxima: {workers} workers may ask for {needed} connections, and the database has {allowed}; "
            "lower PROXIMA_POOL_SIZE or --workers",
            err=True,
        )


def run_server(application: Any, host: str, port: int, workers: int, deadlines: Deadlines = DEFAULT_DEADLINES) -> None:
    """Serve until told to stop; what was begun is finished first."""
    try:
        listener = open_listener(host, port)
    except OSError as error:
        raise InvalidSetting(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    if not run_uvicorn(application, listener, workers, read_settings().drain_seconds, deadlines):
        raise InvalidSetting("the service cannot start; the lines above say why")
