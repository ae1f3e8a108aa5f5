"""R-30. A body is refused while it is read, however long it is and whatever it says of its length."""

import asyncio
import gzip

import pytest

from app.http.server import Deadlines
from tests.edge.service import Reply, Service, Wire, head_of, memory_of, service

MIB = 1 << 20
HUGE = 200 * MIB
PIECE = b" " * (MIB // 4)
MOST_GROWTH = 64 * MIB
HURRY = Deadlines(head_s=1.0)

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)


async def pour(started: Service, head: bytes, piece: bytes, most: int) -> tuple[Reply, int]:
    """Send pieces until the other side closes or so many bytes have gone; the reply, and how much was taken."""
    async with Wire(started) as wire:
        reply = asyncio.create_task(wire.reply())
        await wire.send(head)
        sent = 0
        while sent < most and await wire.send(piece):
            sent += len(piece)
        return await reply, sent


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked"


def test_bodies_that_are_huge_endless_lying_or_packed_are_refused_as_they_come(database_url: str) -> None:
    with service(database_url, deadlines=HURRY) as started:
        before = memory_of(started.process.pid)

        told, _ = asyncio.run(pour(started, head_of(started, f"Content-Length: {HUGE}"), PIECE, HUGE))
        assert (told.status, told.code) == (413, "too_large")

        # It has no end, so it ends when the service closes; but for that it would be sent for ever.
        told, sent = asyncio.run(pour(started, head_of(started, CHUNKED), chunk(PIECE), 1 << 50))
        assert (told.status, told.code) == (413, "too_large")
        assert sent < 1 << 50

        # What follows a body that is longer than it says is a request that cannot be read.
        told, _ = asyncio.run(pour(started, head_of(started, "Content-Length: 3"), PIECE, 4 * MIB))
        assert told.status == 400

        packed = gzip.compress(b" " * (100 * MIB))
        length = f"Content-Length: {len(packed)}"
        told, _ = asyncio.run(pour(started, head_of(started, length, "Content-Encoding: gzip"), packed, len(packed)))
        assert (told.status, told.code) == (415, "unsupported_media_type")

        assert memory_of(started.process.pid) - before <= MOST_GROWTH
        with started.client() as client:
            assert client.get("/livez").status_code == 200


@pytest.mark.controls
def test_body_without_the_limit_is_read_into_memory(database_url: str) -> None:
    with service(database_url, max_body_bytes=HUGE) as started:
        before = memory_of(started.process.pid)
        told, _ = asyncio.run(pour(started, head_of(started, f"Content-Length: {HUGE}"), PIECE, HUGE))
        assert (told.status, told.code) == (400, "malformed_json")
        assert memory_of(started.process.pid) - before > MOST_GROWTH
