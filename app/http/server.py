"""The HTTP server: uvicorn, with deadlines for slow clients, limits of heads, and a graceful stop.

uvicorn by itself waits for ever for the head of a request and for a client to receive its reply, and keeps a head of
any length. A proxy in front can protect it; this module protects a server without one. The time a body may take is
bounded in `app.http.admission`.
"""

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import parent_process
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from app.core.errors import HeaderTooLarge
from app.core.telemetry import REQUESTS, UNMATCHED
from app.http.problems import MEDIA_TYPE, problem_body

if sys.platform != "win32":
    import resource

MOST_CONNECTIONS = 8192
BACKLOG = 2048
PARENT_LOOK_S = 1.0
# The head of a request: its bytes, its fields, and the bytes of all heads of a process that are not complete, from
# which on only those go on that are no longer than heads usually are.
MOST_HEAD_BYTES, MOST_FIELDS = 1 << 15, 100
MOST_UNFINISHED_BYTES, USUAL_HEAD_BYTES = 1 << 23, 1 << 12
UNREADABLE, TOO_LARGE = (REQUESTS.labels("other", UNMATCHED, status) for status in (400, 431))
# What a client sends is no event of ours: it is counted, and our own errors are logged.
CLIENTS_LOG = logging.getLogger("uvicorn.error.clients")
CLIENTS_LOG.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Deadlines:
    """How long the server waits, in seconds.

    For the head of a request; on an idle connection; for a client to receive its reply; on a connection that may bring
    one more request when the server stops; for requests begun by then; and for a worker to stop, and to start.
    """

    head_s: float = 10.0
    idle_s: int = 15
    unread_s: float = 30.0
    linger_s: float = 1.0
    finish_s: int = 15
    # A worker that has not stopped by then is not going to.
    stop_s: float = 30.0
    # Importing the program takes a worker seconds on a busy machine; until then it looks dead.
    start_s: int = 60


class _DeadlineProtocol(HttpToolsProtocol):
    """A connection that ends when its client is too slow, with the head of a request or in taking a reply.

    Or when it sends a head that is too large: complete or not, and fields after a body alike.
    """

    # Of all connections of this process: bytes that led to nothing complete yet.
    unfinished_bytes: ClassVar[int] = 0

    def __init__(self, deadlines: Deadlines, **given: Any) -> None:
        super().__init__(**given)
        self.logger = CLIENTS_LOG
        self.deadlines = deadlines
        # Bytes since something was complete; size and fields of the head; whether it was refused.
        self._unfinished = self._counted = 0
        self._head_bytes = self._fields = 0
        self._refused = False
        # The timers that run: no whole head yet, and a reply that is not received.
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _max_connections():
            transport.abort()
        else:
            self._head = self.loop.call_later(self.deadlines.head_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unfinished += len(data)
        super().data_received(data)
        self._count_unfinished(self._unfinished)
        crowded = _DeadlineProtocol.unfinished_bytes > MOST_UNFINISHED_BYTES
        self._refused |= self._unfinished > (USUAL_HEAD_BYTES if crowded else MOST_HEAD_BYTES)
        if self._refused:
            self._refuse_head()
            return
        # This was not a whole head. uvicorn has just stopped the timer of an idle connection, so another one must run.
        if self._head is None and self._is_between_requests():
            self._head = self.loop.call_later(self.deadlines.head_s, self._give_up)

    def on_message_begin(self) -> None:
        self._head_bytes = self._fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._has_room(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._has_room(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unfinished = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        UNREADABLE.inc()
        super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had asked for no upgrade."""

    def _has_room(self, size: int) -> bool:
        """Count a part of a head; return whether it may be kept."""
        self._head_bytes += size
        self._refused |= self._head_bytes > MOST_HEAD_BYTES or self._fields > MOST_FIELDS
        return not self._refused

    def _count_unfinished(self, size: int) -> None:
        """Count what this connection has sent without completing anything."""
        _DeadlineProtocol.unfinished_bytes += size - self._counted
        self._counted = size

    def _refuse_head(self) -> None:
        """Reply that the head is too large, unless a reply is under way, and close."""
        if self.transport.is_closing():
            return
        TOO_LARGE.inc()
        if self._is_between_requests():
            self.transport.write(_head_refusal(*self.transport.get_extra_info("sockname")[:2]))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.deadlines.unread_s, self._give_up)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in (self._head, self._unread):
            if clock is not None:
                clock.cancel()
        self._count_unfinished(0)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        self._give_up()

    def shutdown(self) -> None:
        """Stop. A request may be on its way over an idle connection, so that one is not closed at once."""
        if self._is_between_requests():
            self.loop.call_later(self.deadlines.linger_s, super().shutdown)
        else:
            super().shutdown()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def _give_up(self) -> None:
        # Closing waits until everything is sent, by us and then by the kernel: for ever, if nobody reads.
        if self.transport.get_write_buffer_size():
            peer: socket.socket = self.transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


def _head_refusal(host: str, port: int) -> bytes:
    """Return the reply to a head that is too large; what it says of our address is not read."""
    address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    request_id = secrets.token_hex(16)
    limits = f"the address and the header fields may have {MOST_HEAD_BYTES} bytes and {MOST_FIELDS} fields; send less"
    body = json.dumps(problem_body(HeaderTooLarge(limits), request_id, address)).encode()
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        "connection: close",
        "x-content-type-options: nosniff",
        f"x-request-id: {request_id}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


@cache
def _max_connections() -> int:
    """Return how many connections a worker holds; the other half of its files is for the database and the rest."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class _Supervisor(Multiprocess):
    """The process that keeps the workers running.

    SIGHUP replaces them one after the other. Nothing is drained then, as the socket stays open; at the end it is.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, drain_s: float, stop_s: float) -> None:
        super().__init__(config, [listener])
        self.drain_s = drain_s
        self.stop_s = stop_s

    def keep_subprocess_alive(self) -> None:
        # uvicorn asks each worker whether it is well, and hears no signal while it waits for one that hangs.
        if not all(process.process.is_alive() for process in self.processes):
            super().keep_subprocess_alive()

    def terminate_all(self) -> None:
        if self.drain_s:
            for process in self.processes:
                if process.pid is not None and process.process.is_alive():
                    os.kill(process.pid, signal.SIGUSR1)
            time.sleep(self.drain_s)
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for all workers, and kill those that do not stop: uvicorn would wait for ever."""
        deadline = time.monotonic() + self.stop_s
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                process.process.kill()
        super().join_all()

    def has_failed(self) -> bool:
        """Return whether it stopped because a worker could not start."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)


def open_listener(host: str, port: int) -> socket.socket:
    """Open a socket at the address. Raises `OSError` if it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def run_uvicorn(
    application: Callable[[], Any] | str, listener: socket.socket, workers: int, drain_s: float, deadlines: Deadlines
) -> bool:
    """Serve until a signal to stop; finish what was begun first. Returns False if it could not start."""
    _raise_file_limit()
    # Once everything is finished the server raises the signal that stopped it once more: then all is well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.getLogger("uvicorn.error").info("listening on http://%s:%d", *listener.getsockname()[:2])
    config = uvicorn.Config(
        application,
        factory=True,
        # uvicorn asks for a class, and only calls it
        http=partial(_DeadlineProtocol, deadlines),  # type: ignore[arg-type]
        ws="none",
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=deadlines.idle_s,
        timeout_graceful_shutdown=deadlines.finish_s,
        timeout_worker_healthcheck=deadlines.start_s,
    )
    if workers > 1:
        supervisor = _Supervisor(config, listener, drain_s, deadlines.stop_s)
        supervisor.run()
        return not supervisor.has_failed()
    server = uvicorn.Server(config)
    try:
        server.run([listener])
    except (KeyboardInterrupt, SystemExit):
        # It stopped because it was told to, or before it began.
        return server.started
    return server.started


def _raise_file_limit() -> None:
    """Raise the limit of open files to what the system allows: each connection is one, the usual limit a thousand."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = 2 * MOST_CONNECTIONS
        if soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard) if hard >= 0 else needed, hard))


async def _stop_without_parent() -> None:
    """Stop this worker, as a signal would, once the process that keeps the workers is gone.

    Else they would keep the port, and nobody would replace them or tell them to stop.
    """
    parent = parent_process()
    while parent is not None and os.getppid() == parent.pid:  # noqa: ASYNC110 (no event says so everywhere)
        await asyncio.sleep(PARENT_LOOK_S)
    logging.getLogger("uvicorn.error").warning("the process that keeps the workers is gone; this worker stops")
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def drain_on_signal(on_stop: Callable[[], None], drain_s: float) -> Iterator[None]:
    """Call `on_stop` on the signal to stop while this lasts, and stop the server `drain_s` seconds later.

    So the sender of requests has time to see that this process is not ready any more. With several workers, their
    supervisor waits instead, and signals them with SIGUSR1.
    """
    previous_handler = signal.getsignal(signal.SIGTERM)
    if not callable(previous_handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    is_worker = parent_process() is not None

    def handle_signal(number: int, frame: FrameType | None) -> None:
        on_stop()
        if is_worker or not drain_s:
            previous_handler(number, frame)
        else:
            loop.call_soon_threadsafe(loop.call_later, drain_s, previous_handler, number, None)

    signal.signal(signal.SIGTERM, handle_signal)
    watch = None
    if is_worker:
        signal.signal(signal.SIGUSR1, lambda *_: on_stop())
        watch = loop.create_task(_stop_without_parent())
    try:
        yield
    finally:
        if watch is not None:
            watch.cancel()
        signal.signal(signal.SIGTERM, previous_handler)
