"""R-35 and R-58. The service stops, starts again and loses a worker without its clients noticing."""

import asyncio
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from app.http.server import Deadlines
from tests.edge.service import LONGEST_S, NOTHING, Reply, Service, Wire, eventually, exchange, post, service
from tests.edge.test_load import busy
from tests.postgres import is_alive

ONE = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
SEVERAL = pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
READY = b"GET /readyz HTTP/1.1\r\nHost: service\r\n\r\n"
POLL_S = 0.25
# The signal to stop reaches a balancer after one look: several fit, also on a busy machine.
DRAIN_S = 1.5
NO_LINGER = Deadlines(linger_s=0.0)
NO_FINISH = Deadlines(finish_s=0)
SHORT = Deadlines(stop_s=1.0)


class Balancer:
    """Clients that send where the service says it is ready, asked again and again, and that never try again."""

    def __init__(self, started: Service, prefix: str = "") -> None:
        self.started = started
        self.prefix = prefix
        self.ready = True
        self.stopped = asyncio.Event()
        self.statuses: Counter[int] = Counter()

    async def watch(self) -> None:
        """Look whether it is ready, until it is not."""
        while self.ready:
            reply = await exchange(self.started, READY)
            self.ready = reply.status == 200
            await asyncio.sleep(POLL_S)

    def goes_on(self) -> bool:
        """Whether there is somebody to send to."""
        return self.ready and not self.stopped.is_set()

    async def client(self, name: str) -> None:
        """One answer after the other; a connection is kept as long as the service keeps it."""
        number = 0
        while self.goes_on():
            async with Wire(self.started) as wire:
                while self.goes_on():
                    number += 1
                    await wire.send(post(self.started, f"{self.prefix}{name}-{number}", name))
                    reply = await wire.reply()
                    self.statuses[reply.status] += 1
                    # Most of the time nothing is on its way, as with people.
                    await asyncio.sleep(0.02)
                    if not reply.status or reply.headers.get("connection") == "close":
                        break

    async def run(self, meanwhile: Callable[[], Awaitable[object]]) -> Counter[int]:
        """Send while something happens; the statuses, 0 for no reply."""
        clients = [asyncio.create_task(self.client(f"c{number}")) for number in range(8)]
        await meanwhile()
        self.stopped.set()
        await asyncio.gather(*clients)
        return self.statuses


async def stop_under_load(started: Service) -> Counter[int]:
    """What clients that honour readiness are told by a service that is stopped."""
    balancer = Balancer(started)

    async def stop() -> None:
        await asyncio.sleep(POLL_S)
        # Just after it has looked, so that it learns of it as late as can be.
        assert (await exchange(started, READY)).status == 200
        started.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(POLL_S)
        await balancer.watch()

    return await balancer.run(stop)


async def replies_while_draining(started: Service) -> tuple[Reply, Reply]:
    """After the signal: whether it is ready, and what a new client is told."""
    started.process.send_signal(signal.SIGTERM)
    while (ready := await exchange(started, READY)).status == 200:  # noqa: ASYNC110 (of another process)
        await asyncio.sleep(0.01)
    return ready, await exchange(started, post(started, "late"))


@ONE
def test_drain_is_not_noticed_by_a_balancer_that_honours_readiness(database_url: str) -> None:
    with service(database_url, drain_seconds=DRAIN_S) as started:
        told = asyncio.run(stop_under_load(started))
        assert started.process.wait(LONGEST_S) == 0
    assert set(told) == {201}


@pytest.mark.controls
@ONE
def test_stopping_without_a_drain_is_noticed(database_url: str) -> None:
    with service(database_url) as started:
        told = asyncio.run(stop_under_load(started))
        assert started.process.wait(LONGEST_S) == 0
    assert told[0]


@ONE
def test_draining_service_is_not_ready_and_still_answers(database_url: str) -> None:
    with service(database_url, drain_seconds=DRAIN_S) as started:
        ready, late = asyncio.run(replies_while_draining(started))
        assert (ready.status, ready.code) == (503, "stopping")
        assert ready.headers["retry-after"]
        assert (late.status, late.headers["connection"]) == (201, "close")
        assert started.process.wait(LONGEST_S) == 0


async def send_on_an_idle_connection(started: Service) -> tuple[Reply, bool]:
    """A request that was on its way when the service stopped listening, and whether a new connection is taken."""
    async with Wire(started) as wire:
        await wire.send(READY)
        assert (await wire.reply()).status == 200
        started.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: not is_listening(started))
        sent = await wire.send(post(started, "late"))
        return (await wire.reply()) if sent else NOTHING, await wire.end() == b""


def is_listening(started: Service) -> bool:
    """Whether anybody listens at the port: state 0A in the kernel's table."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{started.port:04X}") and line.split()[3] == "0A" for line in lines)


@ONE
@pytest.mark.parametrize(("deadlines", "status"), [(None, 201), (NO_LINGER, 0)])
def test_request_on_its_way_over_an_idle_connection_is_answered(
    database_url: str, deadlines: Deadlines | None, status: int
) -> None:
    with service(database_url, deadlines=deadlines) as started:
        told, ended = asyncio.run(send_on_an_idle_connection(started))
        assert started.process.wait(LONGEST_S) == 0
    assert (told.status, ended) == (status, True)
    assert not status or told.headers["connection"] == "close"


async def stop_in_the_middle(started: Service, path: str) -> Reply:
    """A request that has begun when the signal comes, and ends after it."""
    async with Wire(started) as wire:
        with busy(path):
            await wire.send(post(started, "begun"))
            await wait_until_in_flight(started)
            started.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: not is_listening(started))
            # Longer than the moment for which uvicorn waits in any case.
            await asyncio.sleep(1)
        return await wire.reply()


async def wait_until_in_flight(started: Service) -> None:
    """Return once the service has begun with a request besides that for the metrics."""
    while True:
        told = await exchange(started, b"GET /metrics HTTP/1.1\r\nHost: service\r\n\r\n")
        if b"proxima_http_requests_in_flight 2.0" in told.body:
            return


@ONE
@pytest.mark.parametrize("deadlines", [None, NO_FINISH])
def test_stopping_service_finishes_requests_until_the_deadline(database_url: str, deadlines: Deadlines | None) -> None:
    with service(database_url, deadlines=deadlines) as started:
        told = asyncio.run(stop_in_the_middle(started, database_url.removeprefix("sqlite:///")))
        assert started.process.wait(LONGEST_S) == 0
    assert (told.status == 201) == (deadlines is None)


class Seen(NamedTuple):
    """The workers before and after something was done to them, and what clients were told meanwhile."""

    before: list[int]
    after: list[int]
    statuses: Counter[int]


async def under_load(started: Service, prefix: str, do: Callable[[], object]) -> Seen:
    """Do something to the workers under load, and wait until there are two others."""
    balancer = Balancer(started, prefix)
    before = started.workers()

    def replaced() -> bool:
        workers = started.workers()
        return len(workers) == 2 and not set(workers) & set(before)

    async def meanwhile() -> None:
        await asyncio.sleep(0.2)
        await asyncio.to_thread(do)
        await asyncio.to_thread(eventually, replaced)
        while (await exchange(started, READY)).status != 200:  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.02)

    told = await balancer.run(meanwhile)
    return Seen(before, started.workers(), told)


@SEVERAL
def test_workers_are_replaced_without_failed_requests_and_restarted_when_killed(database_url: str) -> None:
    with service(database_url, workers=2, deadlines=SHORT) as started:
        reload = asyncio.run(under_load(started, "reload-", lambda: started.process.send_signal(signal.SIGHUP)))
        assert set(reload.statuses) == {201}

        # The control, and the other promise: one that is killed is started again.
        def kill_all() -> None:
            for pid in started.workers():
                os.kill(pid, signal.SIGKILL)

        killed = asyncio.run(under_load(started, "kill-", kill_all))
        assert set(killed.statuses) == {0, 201}
        assert killed.statuses[0] <= 8 + 8

        # A worker that hangs does not keep the service from stopping.
        os.kill(started.workers()[0], signal.SIGSTOP)
        assert started.stop() == 0
        assert started.workers() == []


@SEVERAL
def test_several_workers_drain_together(database_url: str) -> None:
    with service(database_url, workers=2, drain_seconds=DRAIN_S) as started:
        told = asyncio.run(stop_under_load(started))
        assert started.process.wait(LONGEST_S) == 0
        assert set(told) == {201}


UNWATCHED = """
import app.http.server as server
server.PARENT_LOOK_S = 1000.0
"""


def kept_folders(folder: Path) -> set[Path]:
    """The folders in which workers share their metrics."""
    return set(folder.glob("proxima-metrics-*"))


def kill_parent(started: Service) -> list[int]:
    """Kill the process that keeps the workers; what it kept."""
    # One that still starts would end with its parent in any case.
    eventually(lambda: started.log().count("Application startup complete") == 2)
    workers = started.workers()
    assert len(workers) == 2
    started.process.kill()
    started.process.wait(LONGEST_S)
    return workers


@SEVERAL
def test_workers_end_with_their_parent_and_leave_nothing(database_url: str, tmp_path: Path) -> None:
    patch = f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}"
    with service(database_url, workers=2, patch=patch, log_level="info") as started:
        [kept] = kept_folders(tmp_path)
        workers = kill_parent(started)
        eventually(lambda: not any(is_alive(worker) for worker in workers))
        assert started.log().count("the process that keeps the workers is gone; this worker stops") == 2
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", started.port))
    assert kept_folders(tmp_path) == {kept}
    (tmp_path / "proxima-metrics-of-another-version").mkdir()
    with service(database_url, workers=2, patch=patch) as again:
        assert not kept.exists(), "the next start removes it"
        with service(database_url, workers=2, patch=patch) as beside:
            assert len(kept_folders(tmp_path)) == 3, "but none of a service that runs"
            assert beside.stop() == 0
        assert again.stop() == 0
    assert kept_folders(tmp_path) == {tmp_path / "proxima-metrics-of-another-version"}


@pytest.mark.controls
@SEVERAL
def test_workers_serve_on_without_their_parent_if_they_do_not_look(database_url: str) -> None:
    with service(database_url, workers=2, patch=UNWATCHED, log_level="info") as started:
        workers = kill_parent(started)
        try:
            time.sleep(3)
            assert all(is_alive(worker) for worker in workers)
            with started.client() as client:
                assert client.get("/livez").status_code == 200
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(("engine_name", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine_name"])
def test_metrics_say_what_each_process_uses(database_url: str, workers: int) -> None:
    with service(database_url, workers=workers) as started, started.client() as client:
        pids = {str(pid) for pid in [started.process.pid, *started.workers()]} if workers > 1 else {""}
        told: set[tuple[str, str]] = set()

        def all_told() -> bool:
            samples = re.findall(
                r'^(process_\w+)(?:{pid="(\d+)"})? ([0-9.e+]+)$', client.get("/metrics").text, re.MULTILINE
            )
            told.update((name, pid) for name, pid, _ in samples)
            return {pid for _, pid in told} >= pids

        eventually(all_told)
        for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds", "start_time_seconds"):
            assert {pid for known, pid in told if known == f"process_{name}"} >= pids, name
