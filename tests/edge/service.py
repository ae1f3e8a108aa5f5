"""The service as a process of its own, and raw connections to it: what no test within one process can show."""

import asyncio
import json
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from app.core.times import now
from app.http.server import Deadlines
from app.services.catalogue import upsert
from tests.client import CATALOGUE, COURSE, make_key, opened
from tests.processes import NO_CERTIFICATES, Started, start

ROOT = Path(__file__).parents[2]
ANSWERS = f"/v1/courses/{COURSE}/responses"
LONGEST_S = 120.0


@dataclass(frozen=True)
class Service:
    """A running service."""

    process: Started
    port: int
    key: str
    log_path: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self.log_path.read_text()

    def client(self, **options: Any) -> httpx.Client:
        """A caller with a key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(
            base_url=self.address, headers=headers, timeout=LONGEST_S, verify=NO_CERTIFICATES, **options
        )

    def workers(self) -> list[int]:
        """The processes of its workers, oldest first."""
        pid = self.process.pid
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [int(child) for child in children if is_worker(pid, int(child))]
        return []

    def stop(self) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONGEST_S)


def is_worker(supervisor: int, pid: int) -> bool:
    """Whether a child of a supervisor serves: it is forked from it, and has not become another program."""
    return command_of(pid) == command_of(supervisor) != b""


def command_of(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def memory_of(pid: int, what: str = "VmHWM") -> int:
    """Bytes of memory of a process: the most it ever had, or (`VmRSS`) now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def prepare(url: str) -> str:
    """Store the small course; a key for it."""

    async def run() -> str:
        async with opened(url) as database:
            key = await make_key(database)
            await database.write(upsert, 1, COURSE, CATALOGUE, now())
            return key

    return asyncio.run(run())


def serve_program(port: int, workers: int, deadlines: Deadlines | None) -> str:
    """What `proxima serve` does, as a program; deadlines are no option of the command."""
    if deadlines is None:
        return f"from app.cli import main\nmain(['serve', '--port={port}', '--workers={workers}'])"
    imports = "from app.cli.service import serve\nfrom app.http.server import Deadlines"
    return f"{imports}\nserve('127.0.0.1', {port}, {workers}, {deadlines})"


@contextmanager
def service(
    url: str,
    *,
    workers: int = 1,
    deadlines: Deadlines | None = None,
    patch: str = "",
    ready: bool = True,
    **settings: Any,
) -> Iterator[Service]:
    """The service of `proxima serve`, once it is ready, under other `deadlines` if they are given.

    `patch` is run before, to break a rule; it reaches the process that is started, and the workers it may fork.
    """
    key = prepare(url) if ready else ""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {f"PROXIMA_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="proxima-edge-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as target:
            process = start(
                [],
                program=f"{patch}\n{serve_program(port, workers, deadlines)}",
                env={**os.environ, "PROXIMA_LOG_LEVEL": "warning", **environment, "PROXIMA_DATABASE_URL": url},
                cwd=ROOT,
                stdout=target,
                stderr=target,
            )
        started = Service(process, port, key, log)
        try:
            if ready:
                wait_until_ready(started)
            yield started
        finally:
            for pid in [process.pid, *started.workers()]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(started: Service) -> None:
    """Return once it answers."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{started.address}/readyz", verify=NO_CERTIFICATES).status_code == 200:
                return
        assert started.process.poll() is None, started.log()
        assert time.monotonic() < deadline, started.log()
        time.sleep(0.05)


def eventually(what: Any, seconds: float = LONGEST_S) -> Any:
    """The first true value of a function."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)
    return value


class Reply(NamedTuple):
    """A reply as it came over the wire; status 0: none came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem."""
        return str(json.loads(self.body)["code"])


NOTHING = Reply(0, {}, b"")


class Wire:
    """A raw connection; closed by the other side is an end, however it came."""

    def __init__(self, started: Service) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)  # noqa: FBT003 (its only argument)
        self.port = started.port
        self.loop = asyncio.get_running_loop()
        self.received = b""

    async def __aenter__(self) -> Self:
        with suppress(OSError):
            await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> bool:
        """Send, or say that the other side takes no more."""
        try:
            await self.loop.sock_sendall(self.socket, data)
        except OSError:
            return False
        return True

    async def receive(self) -> bytes:
        """What comes next; nothing at the end."""
        try:
            return await self.loop.sock_recv(self.socket, 1 << 16)
        except OSError:
            return b""

    async def reply(self) -> Reply:
        """The next reply, or `NOTHING` at the end."""
        while b"\r\n\r\n" not in self.received:
            if not (data := await self.receive()):
                return NOTHING
            self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            if not (data := await self.receive()):
                return NOTHING
            body += data
        self.received = body[length:]
        return Reply(int(status.split()[1]), headers, body[:length])

    async def end(self) -> bytes:
        """Whatever comes until the other side closes."""
        rest, self.received = self.received, b""
        while data := await self.receive():
            rest += data
        return rest

    def hang_up(self) -> None:
        """Break off without a word: the other side meets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def post(started: Service, id_: str, learner: str = "ann", **more: Any) -> bytes:
    """One answer as a request."""
    body = json.dumps({"id": id_, "learner": learner, "item": "i1", "correct": True, **more}).encode()
    return head_of(started, f"Content-Length: {len(body)}") + body


def head_of(started: Service, *fields: str, address: str = ANSWERS) -> bytes:
    """The head of a request that has a body."""
    lines = [f"POST {address} HTTP/1.1", "Host: service", f"Authorization: Bearer {started.key}"]
    return "\r\n".join([*lines, "Content-Type: application/json", *fields, "", ""]).encode()


async def exchange(started: Service, request: bytes) -> Reply:
    """One request over a connection of its own."""
    async with Wire(started) as wire:
        await wire.send(request)
        return await wire.reply()
