"""The service with faults that no setting of the product can bring about, chosen by the ids of the answers.

    python -m tests.faults.hooked --port PORT --workers N

    dies-before-…    killed once when the answer is written, before the commit
    dies-after-…     killed once after the commit, before the reply
    told-early-…     told before the commit, which follows a little later

With `UNSYNCED` in the environment SQLite does not wait for the disk; with `FORGIVING` a commit that failed is taken for
one that did not. The parent holds the port and replaces a process
that dies at once, without importing anything again.
"""

import argparse
import asyncio
import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from sqlalchemy import Connection, Engine, event, text

from app import main
from app.core import database
from app.core.database import Database
from app.core.errors import Unavailable
from app.group_commit import GroupCommit
from app.services.responses import NewResponse, record

LATE_S = 0.3


class Hooked:
    """A database, with faults where answers are recorded."""

    def __init__(self, real: Database) -> None:
        self.real = real
        self.late: set[asyncio.Task[Any]] = set()

    @property
    def dialect(self) -> str:
        return self.real.dialect

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.real.read(work, *args, **kwargs)

    async def close(self) -> None:
        await self.real.close()

    async def write(self, work: Any, responses: Sequence[NewResponse]) -> Any:
        """What the group commit calls."""
        assert work is record
        if any(response.id.startswith("told-early-") for response in responses):
            return await self.reply_early(responses)
        if "FORGIVING" in os.environ:
            return await self.forgive(responses)
        results = await self.real.write(record_or_die, responses)
        if is_time_to_die(responses, "dies-after-"):
            die()
        return results

    async def forgive(self, responses: Sequence[NewResponse]) -> Any:
        """Return what may not have been committed."""
        returned: list[Any] = []

        def remember(db: Connection) -> None:
            returned[:] = record(db, responses)

        with suppress(Unavailable):
            await self.real.write(remember)
        return returned

    async def reply_early(self, responses: Sequence[NewResponse]) -> Any:
        """Return what is not committed yet."""
        loop = asyncio.get_running_loop()
        returned = loop.create_future()

        def dawdle(db: Connection) -> None:
            results = record(db, responses)
            loop.call_soon_threadsafe(returned.set_result, results)
            if db.dialect.name == "postgresql":
                db.execute(text(f"SELECT pg_sleep({LATE_S})"))
            else:
                time.sleep(LATE_S)

        task = loop.create_task(self.real.write(dawdle))
        self.late.add(task)
        task.add_done_callback(self.late.discard)
        return await returned


def record_or_die(db: Connection, responses: Sequence[NewResponse]) -> Any:
    """`record`, with a death at its end."""
    results = record(db, responses)
    if is_time_to_die(responses, "dies-before-"):
        die()
    return results


def is_time_to_die(responses: Sequence[NewResponse], mark: str) -> bool:
    """Whether an answer with this mark is here for the first time."""
    for response in responses:
        if response.id.startswith(mark):
            try:
                Path(tempfile.gettempdir(), response.id).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
    return False


def die() -> NoReturn:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def unsynced(*args: Any, **kwargs: Any) -> Engine:
    """An engine whose commits do not wait for the disk."""
    engine = sqlite_engine(*args, **kwargs)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return engine


sqlite_engine = database.sqlite_engine


def hooked_group_commit(real: Database, limit: int) -> GroupCommit:
    """A group commit over a database with faults."""
    hooked: Any = Hooked(real)
    return GroupCommit(hooked, limit)


def supervise(port: int, workers: int) -> NoReturn:
    """Keep so many processes answering at a port."""
    vars(main)["GroupCommit"] = hooked_group_commit
    if "UNSYNCED" in os.environ:
        database.sqlite_engine = unsynced
    app = main.create_app()
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            for _ in range(workers):
                if os.fork() == 0:
                    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listener])
                    os._exit(0)
            os.wait()
            workers = 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    supervise(arguments.port, arguments.workers)
