"""The way to PostgreSQL is slow, cut or silent, also in the middle of a commit: nothing is lost, nothing doubled."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.client import opened
from tests.faults.harness import (
    Ledger,
    assert_nothing_lost,
    create_courses,
    fault_counts,
    find_losses,
    serving,
    under_load,
    wait_until,
)

pytestmark = pytest.mark.anyio

BETWEEN = 40
# A transaction has about ten messages, each of which waits: of these 40 took 45 s, and 20 rounds a quarter of an hour.
BETWEEN_SLOW = 10
# Readings end with one too.
CUT_COMMITS = 16
DELAY_S = 0.2
# Longer than a statement may take and its connection be given up.
SILENCE_S = 15.0
RESET = struct.pack("ii", 1, 0)


@dataclass
class Wire:
    """A way to a server's socket that can be disturbed: `delay` holds back what is sent, `silent` swallows it.

    At a `COMMIT` the way is cut, as long as `cut_commits` is not 0: before it has passed, or before its reply, in turn.
    """

    path: Path
    delay: float = 0.0
    silent: bool = False
    cut_commits: int = 0
    cuts: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    mute: set[asyncio.StreamWriter] = field(default_factory=set)
    ways: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        onward, back = await asyncio.open_unix_connection(self.path)
        ends = {writer, back}
        self.open |= ends
        self.ways.add(asyncio.current_task())
        both = self.carry(reader, back, ends, sent=True), self.carry(onward, writer, ends, sent=False)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*both, return_exceptions=True)
        self.cut(ends)
        self.open -= ends

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: set[asyncio.StreamWriter], *, sent: bool
    ) -> None:
        """Pass on what comes from one side until it ends."""
        while data := await reader.read(1 << 16):
            await asyncio.sleep(self.delay)
            cut = sent and self.cut_commits > 0 and b"COMMIT" in data
            self.cut_commits -= cut
            if cut:
                self.mute |= ends
            if self.silent or (cut and self.cut_commits % 2) or (writer in self.mute and not sent):
                data = b""
            writer.write(data)
            await writer.drain()
            if cut:
                self.cuts += 1
                # So that it has arrived.
                await asyncio.sleep(0.02)
                self.cut(ends)
        self.cut(ends)

    def cut(self, ends: set[asyncio.StreamWriter] | None = None) -> None:
        """Reset connections, all unless some are named."""
        for writer in list(ends or self.open):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server of `url`, and the URL that goes over it."""
    given = make_url(url)
    wire = Wire(Path(str(given.query["host"])) / ".s.PGSQL.5432")
    server = await asyncio.start_server(wire.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    over = given.set(host="127.0.0.1", port=port, query={"sslmode": "disable"})
    try:
        yield wire, over.render_as_string(hide_password=False)
    finally:
        server.close()
        wire.cut()
        await asyncio.gather(*filter(None, wire.ways), return_exceptions=True)


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize("rounds", fault_counts(1, 20))
async def test_acknowledged_answers_survive_a_disturbed_network_to_the_database(
    rounds: int, database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    key = await create_courses(database_url)
    async with wired(database_url) as (wire, url):
        with serving(url, key, tmp_path / "service") as service:
            await service.ready(1)
            async with under_load(service, ledger) as load:
                for number in range(rounds):
                    await load.more(BETWEEN)
                    wire.delay = DELAY_S
                    await load.more(BETWEEN_SLOW)
                    wire.delay = 0.0
                    wire.cut()
                    await load.more(BETWEEN)
                    wire.cut_commits = CUT_COMMITS
                    await wait_until(lambda: not wire.cut_commits)
                    await load.more(BETWEEN)
                    if number % 4 == 1:
                        wire.silent = True
                        await asyncio.sleep(SILENCE_S)
                        wire.silent = False
                        await load.more(BETWEEN)
            print(f"{load.acknowledged} answers, {wire.cuts} cut commits")  # noqa: T201 (how much there was to check)
            assert wire.cuts > 0
            assert load.tally["503"] > 0
            assert load.tally["broken"] == 0
            # Found again although its first commit was told to nobody.
            assert load.tally["200"] > 0
            service.url = database_url
            await assert_nothing_lost(service, ledger)

            # The control: whoever takes a cut commit for a success loses those that had not passed.
            async with opened(database_url) as database:
                ledger.note("never-sent", b"an outcome")
                assert await find_losses(database, ledger) == {"never-sent"}
