"""Heads of requests without end cost no memory, whoever sends them, and nobody else notices."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice, repeat

import pytest

from app.http.server import MOST_FIELDS, MOST_HEAD_BYTES
from tests.edge.service import NOTHING, Reply, Service, Wire, memory_of, service

START = b"GET /livez HTTP/1.1\r\nHost: service\r\n"
PIECE = 1 << 16
ENDLESS = 20 << 20
LITTLE = 8 << 20
UNBOUNDED = """
import app.http.server as server, uvicorn.protocols.http.httptools_impl as impl
server._DeadlineProtocol = lambda deadlines, **given: impl.HttpToolsProtocol(**given)
"""

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)


def send_head(started: Service, parts: Iterator[bytes]) -> Reply:
    """Send a head; the reply to it."""
    return asyncio.run(sending_head(started, parts))


async def sending_head(started: Service, parts: Iterator[bytes]) -> Reply:
    """Send a head until the service takes no more; its reply."""
    async with Wire(started) as wire:
        for part in parts:
            if not await wire.send(part):
                break
        return await wire.reply()


async def several(started: Service, heads: list[Iterator[bytes]]) -> list[Reply]:
    """Send heads at once; their replies."""
    return await asyncio.gather(*(sending_head(started, parts) for parts in heads))


def field_without_end() -> Iterator[bytes]:
    yield START + b"X-Long: "
    yield from islice(repeat(b"x" * PIECE), ENDLESS // PIECE)


def fields_without_number() -> Iterator[bytes]:
    yield START
    yield from repeat(b"X: y\r\n" * (PIECE // 6), ENDLESS // PIECE)


def address_without_end() -> Iterator[bytes]:
    yield b"GET /"
    yield from repeat(b"a" * PIECE, ENDLESS // PIECE)


def trailers_without_end() -> Iterator[bytes]:
    yield b"POST /v1/oauth/token HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: "
    yield from repeat(b"x" * PIECE, ENDLESS // PIECE)


@pytest.mark.parametrize("sent", [field_without_end, fields_without_number, address_without_end, trailers_without_end])
def test_head_without_end_is_refused_and_costs_no_memory(
    database_url: str, sent: Callable[[], Iterator[bytes]]
) -> None:
    with service(database_url) as started:
        assert (send_head(started, iter([START, b"\r\n"]))).status == 200
        before = memory_of(started.process.pid)
        replies = asyncio.run(several(started, [sent() for _ in range(6)]))
        # A client that still sends may lose the reply; a request may be answered before what follows its body.
        assert {reply.status for reply in replies} <= {431, 400, NOTHING.status}
        assert memory_of(started.process.pid) - before < LITTLE
        assert (send_head(started, iter([START, b"\r\n"]))).status == 200


def test_head_without_end_takes_memory_from_a_server_without_limits(database_url: str) -> None:
    with service(database_url, patch=UNBOUNDED) as started:
        assert (send_head(started, iter([START, b"\r\n"]))).status == 200
        before = memory_of(started.process.pid)
        send_head(started, iter([*field_without_end(), b"\r\n\r\n"]))
        assert memory_of(started.process.pid) - before > LITTLE


def test_head_up_to_the_limits_is_read_and_beyond_is_refused_with_a_problem(database_url: str) -> None:
    with service(database_url) as started:
        fields = [b"X-%d: y\r\n" % number for number in range(MOST_FIELDS)]
        assert (send_head(started, iter([START, *fields[1:], b"\r\n"]))).status == 200
        long_field = b"X: " + b"y" * (MOST_HEAD_BYTES - 100) + b"\r\n"
        assert (send_head(started, iter([START + long_field + b"\r\n"]))).status == 200
        for head in (START + b"".join(fields) + b"\r\n", START + long_field * 2 + b"\r\n"):
            reply = send_head(started, iter([head]))
            assert (reply.status, reply.code) == (431, "header_too_large")
        assert (send_head(started, iter([b"GARBAGE\r\n\r\n"]))).status == 400
        upgrade = START + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert (send_head(started, iter([upgrade]))).status == 200
        with started.client() as client:
            metrics = client.get("/metrics").text
        assert (
            'proxima_http_requests_total{method="other",route="other",status="431"} 2.0' in metrics or "431" in metrics
        )
        assert "Invalid HTTP request" not in started.log()
        assert "WebSocket" not in started.log()
