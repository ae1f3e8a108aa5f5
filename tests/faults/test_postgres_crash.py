"""kill -9 of PostgreSQL, all its processes at once, and its recovery: nothing that was acknowledged is gone."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from app.core.migrate import migrate
from tests import postgres
from tests.client import opened
from tests.faults.harness import (
    Ledger,
    Service,
    assert_nothing_lost,
    clients_of,
    create_courses,
    fault_counts,
    find_losses,
    response_of,
    serving,
    under_load,
)

pytestmark = pytest.mark.anyio

BETWEEN = 40
# Durable, but whoever turns `synchronous_commit` off has to wait long until somebody writes.
SETTINGS = {**postgres.DURABLE, "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


@dataclass
class Server:
    """A PostgreSQL of one's own that can be killed."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return postgres.server_url(self.folder)

    def crash(self) -> None:
        """Kill it."""
        postgres.crash(self.process, self.folder)

    def recover(self) -> None:
        """Start it again, without waiting for its recovery."""
        self.process = postgres.start_again(self.folder, SETTINGS)


@pytest.fixture
def server() -> Iterator[Server]:
    """A durable server without a table."""
    # The name of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="proxima-pg-"))
    own = Server(folder, postgres.start(folder, SETTINGS))
    try:
        postgres.wait_until_ready(own.url)
        yield own
    finally:
        own.crash()
        postgres.stop(own.process, folder)


async def assert_out_of_order(service: Service) -> None:
    """Whoever comes while there is no database is told so, and when to come back; the process itself is well."""
    address = f"http://127.0.0.1:{service.port}"
    async with clients_of(service) as client:
        for method, path, body in (
            ("POST", "responses", response_of("unheard")),
            ("POST", "/responses:batch", {"responses": [response_of("unheard")]}),
            ("GET", "learners/l1/mastery", None),
            ("GET", f"{address}/readyz", None),
        ):
            reply = await client.request(method, path, json=body)
            assert (reply.status_code, reply.json()["code"]) == (503, "database_unavailable")
            assert int(reply.headers["Retry-After"]) > 0
        assert (await client.get(f"{address}/livez")).status_code == 200


@pytest.mark.parametrize("kills", fault_counts(1, 20))
async def test_acknowledged_answers_survive_the_kill_of_postgresql(
    kills: int, server: Server, ledger: Ledger, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate, server.url)
    key = await create_courses(server.url)
    with serving(server.url, key, tmp_path / "service", workers=2) as service:
        await service.ready(2)
        first, other = service.pids
        async with under_load(service, ledger) as load:
            for _ in range(kills):
                await load.more(BETWEEN)
                server.crash()
                await assert_out_of_order(service)
                server.recover()
                await load.more(BETWEEN)
        assert load.tally["503"] > 0
        # Nobody was cut off, and nobody had to start anything again.
        assert load.tally["broken"] == 0
        assert service.pids == [first, other]

        # A process that dies while there is no database comes back all the same.
        server.crash()
        service.kill([other])
        await service.ready(3)
        await assert_out_of_order(service)
        server.recover()
        await asyncio.to_thread(postgres.wait_until_ready, server.url)
        await assert_nothing_lost(service, ledger)
        assert first in service.pids

        # The control: where commits do not wait for the disk, the same kill loses what was told.
        async with opened(server.url) as database:
            await database.write(commit_at_leisure)
        server.crash()
        server.recover()
        async with under_load(service, ledger, prefix="control-") as load:
            await load.more(BETWEEN)
            server.crash()
        server.recover()
        await asyncio.to_thread(postgres.wait_until_ready, server.url)
        async with opened(server.url) as database:
            lost = await find_losses(database, ledger)
        assert lost
        assert all(id_.startswith("control-") for id_ in lost)


def commit_at_leisure(db: Connection) -> None:
    db.execute(text("ALTER DATABASE postgres SET synchronous_commit = off"))
