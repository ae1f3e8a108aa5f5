"""R-31. Whoever is slow, with a head, a body or in reading, is let go, and nobody else notices."""

import asyncio
import select
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from app.http.server import Deadlines
from tests.edge.service import NOTHING, Reply, Service, Wire, head_of, post, service

EACH = 10
DRIP_S = 0.1
PROBE = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"
HURRY = Deadlines(head_s=1.0, idle_s=1, unread_s=1.0)
HURRIED_BODIES = """
import app.http.admission as guard
guard.BODY_FIRST_S, guard.BODY_S, guard.BODY_BYTES_A_SECOND = 0.5, 1.0, 10_000
"""
NO_HEADS = """
import app.http.server as server, uvicorn.protocols.http.httptools_impl as impl
server._DeadlineProtocol = lambda deadlines, **given: impl.HttpToolsProtocol(**given)
"""
NO_BODIES = "guard._with_deadline = lambda receive: receive\n"

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)


async def slowly(started: Service, request: bytes, *, step: int = 1, first: bytes = b"") -> Reply:
    """Send `first`, then a little of the request again and again; the reply, or nothing, once the service lets go."""
    async with Wire(started) as wire:
        reply = asyncio.create_task(wire.reply())
        try:
            await wire.send(first)
            await drip(wire, request, step, reply)
            told = await reply
            assert await wire.end() == b""
            return told
        finally:
            reply.cancel()


async def drip(wire: Wire, request: bytes, step: int, ended: "asyncio.Task[Any]") -> None:
    """Send a little again and again until something has ended."""
    for place in range(0, len(request), step):
        await wire.send(request[place : place + step])
        if (await asyncio.wait([ended], timeout=DRIP_S))[0]:
            return


async def after_a_reply(started: Service, rest: bytes) -> Reply:
    """A good request, then only a drip."""
    async with Wire(started) as wire:
        await wire.send(PROBE)
        assert (await wire.reply()).status == 200
        end = asyncio.create_task(wire.end())
        try:
            await drip(wire, rest, 1, end)
            assert await end == b""
        finally:
            end.cancel()
    return NOTHING


async def unread(started: Service) -> Reply:
    """Ask for much and take nothing, until the connection is reset."""
    async with Wire(started) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await wire.send(b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n" * 100)
        watch = select.poll()
        watch.register(wire.socket, select.POLLERR)
        while not watch.poll(0):  # noqa: ASYNC110 (no event tells of a reset to who does not read)
            await asyncio.sleep(DRIP_S)
    return NOTHING


Attack = Callable[[Service], Coroutine[Any, Any, Reply]]
LENGTH = "Content-Length: 100000"
# Each with the status that it gets before the connection ends; 0: none.
HEADS: Mapping[str, tuple[Attack, int]] = {
    "silent": (lambda s: slowly(s, b""), 0),
    "half a head": (lambda s: slowly(s, b"", first=b"GET /livez HTTP/1.1\r\nHo"), 0),
    "drips a head": (lambda s: slowly(s, b"GET /" + b"x" * 1000), 0),
    "drips empty lines": (lambda s: slowly(s, b"\r\n" * 500), 0),
    "drips a second head": (lambda s: after_a_reply(s, b"GET /" + b"x" * 1000), 0),
    "drips empty lines after a reply": (lambda s: after_a_reply(s, b"\r\n" * 500), 0),
    "takes no reply": (unread, 0),
}
BODIES: Mapping[str, tuple[Attack, int]] = {
    "no body": (lambda s: slowly(s, b"", first=head_of(s, LENGTH)), 408),
    "half a body": (lambda s: slowly(s, b"", first=head_of(s, LENGTH) + b" " * 9), 408),
    "drips a body": (lambda s: slowly(s, b" " * 1000, first=head_of(s, LENGTH)), 408),
    "drips chunks": (
        lambda s: slowly(s, b"1\r\n \r\n" * 500, step=6, first=head_of(s, "Transfer-Encoding: chunked")),
        408,
    ),
    "never done": (lambda s: slowly(s, b" " * 99_000, step=900, first=head_of(s, LENGTH)), 408),
}
IDLE: Mapping[str, tuple[Attack, int]] = {"idle after a reply": (lambda s: after_a_reply(s, b""), 0)}
ALL = {**HEADS, **BODIES, **IDLE}


async def let_go(started: Service, attacks: Mapping[str, tuple[Attack, int]], seconds: float) -> dict[str, set[str]]:
    """How each kind of slow client ended: `closed`, a status, or `open` if it still hung on after so many seconds."""
    tasks = {asyncio.create_task(attack(started)): name for name, (attack, _) in attacks.items() for _ in range(EACH)}
    done, left = await asyncio.wait(tasks, timeout=seconds)
    ends: dict[str, set[str]] = {name: set() for name in attacks}
    for task in tasks:
        if task in left:
            ends[tasks[task]].add("open")
            task.cancel()
        else:
            told = task.result()
            ends[tasks[task]].add(f"{told.status} {told.code}" if told.status else "closed")
    await asyncio.gather(*left, return_exceptions=True)
    assert len(done) + len(left) == len(tasks)
    return ends


async def keep_answering(started: Service, name: str, stop: asyncio.Event) -> list[int]:
    """What a good client is told meanwhile."""
    told: list[int] = []
    async with Wire(started) as wire:
        while not stop.is_set():
            await wire.send(post(started, f"{name}-{len(told)}", learner=name))
            told.append((await wire.reply()).status)
    return told


async def attack_while_good_ones_go_on(started: Service) -> tuple[dict[str, set[str]], list[list[int]]]:
    stop = asyncio.Event()
    good = [asyncio.create_task(keep_answering(started, f"good{number}", stop)) for number in range(5)]
    ends = await let_go(started, ALL, 60)
    stop.set()
    return ends, await asyncio.gather(*good)


def test_slow_clients_are_disconnected_while_others_are_served(database_url: str) -> None:
    with service(database_url, deadlines=HURRY, patch=HURRIED_BODIES) as started:
        ends, told = asyncio.run(attack_while_good_ones_go_on(started))
        problem = asyncio.run(slowly(started, b"", first=head_of(started, LENGTH)))
    assert ends == {name: {f"{status} too_slow" if status else "closed"} for name, (_, status) in ALL.items()}
    assert {status for each in told for status in each} == {201}
    assert (problem.status, problem.code) == (408, "too_slow")
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.headers["connection"] == "close"
    assert problem.headers["x-request-id"]


@pytest.mark.controls
@pytest.mark.parametrize(("mutant", "hang"), [(NO_HEADS, HEADS), (NO_BODIES, BODIES)])
def test_slow_clients_stay_connected_without_the_deadlines(
    database_url: str, mutant: str, hang: Mapping[str, tuple[Attack, int]]
) -> None:
    with service(database_url, deadlines=HURRY, patch=HURRIED_BODIES + mutant) as started:
        ends = asyncio.run(let_go(started, hang, 4))
    assert ends == {name: {"open"} for name in hang}
