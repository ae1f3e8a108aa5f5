"""A receiver of webhooks: a real server that keeps what it got and answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

LONGEST_S = 60.0


@dataclass(frozen=True)
class ReceivedCall:
    """A call as it came in; the names of the headers are in lower case."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """What to tell a repetition by."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        """The event."""
        return json.loads(self.body)


Replier = Callable[[ReceivedCall], Awaitable[bytes]]


def status_reply(code: int, *headers: str) -> bytes:
    """An answer without a body."""
    return "\r\n".join([f"HTTP/1.1 {code} Told", "Content-Length: 0", *headers, "", ""]).encode()


async def accept_call(_: ReceivedCall) -> bytes:
    return status_reply(204)


async def refuse_call(_: ReceivedCall) -> bytes:
    return status_reply(500)


async def never_reply(_: ReceivedCall) -> bytes:
    await asyncio.sleep(LONGEST_S)
    return status_reply(204)


@dataclass
class Receiver:
    """What came in: the calls that were understood, and every connection by its first bytes."""

    answer: Replier
    port: int = 0
    calls: list[ReceivedCall] = field(default_factory=list)
    connections: list[bytes] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=school"

    @property
    def ids(self) -> set[str]:
        return {call.id for call in self.calls}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what came in is as wanted."""
        async with asyncio.timeout(LONGEST_S), self.changed:
            await self.changed.wait_for(condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                first = await reader.read(1)
                if first:
                    await self.note(self.connections, first)
                # Of TLS, where plain HTTP is spoken, no more is understood.
                if first == b"P":
                    await self.converse(first, reader, writer)
            finally:
                writer.close()

    async def converse(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, *rest = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            assert line == "POST /hook?of=school HTTP/1.1", line
            headers = {name.lower(): value for name, _, value in (header.partition(": ") for header in rest)}
            call = ReceivedCall(headers, await reader.readexactly(int(headers["content-length"])))
            await self.note(self.calls, call)
            writer.write(await self.answer(call))
            await writer.drain()
            first = b""

    async def note(self, where: list[Any], what: object) -> None:
        async with self.changed:
            where.append(what)
            self.changed.notify_all()


@asynccontextmanager
async def running_receiver(
    answer: Replier = accept_call, host: str = "127.0.0.1", tls: SSLContext | None = None, port: int = 0
) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(answer)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
