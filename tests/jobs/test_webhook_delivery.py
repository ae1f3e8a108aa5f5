"""Every change that was committed is told, whoever dies when; nothing else is; and nobody is called who must not be."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import structlog
from sqlalchemy import Connection, func, select
from structlog.testing import capture_logs

from app.adaptive.tracing.mastery import STUCK_AFTER
from app.core.database import Database
from app.core.errors import Invalid
from app.core.times import now
from app.jobs import webhook_delivery
from app.jobs.webhook_delivery import deliver, make_call, read_target, sign
from app.models import Outbox
from app.queries import webhooks as rows_of
from app.routers import webhooks as routers_webhooks
from app.services import calibrations, webhooks
from app.services.catalogue import upsert
from app.services.keys import create_key
from app.services.responses import record
from app.services.webhooks import EVENTS, WebhookCall, create_webhook
from tests import processes
from tests.client import CATALOGUE, COURSE, UNTIL_MASTERED, app_of, make_key, make_response, school, served
from tests.contract.document import current_document
from tests.processes import Started
from tests.receiver import ReceivedCall, Replier, accept_call, never_reply, refuse_call, running_receiver, status_reply

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
CERTIFICATE = Path(__file__).parents[1] / "data" / "receiver.pem"
HOSTS = "127.0.0.1"
LEARNERS = 24
LONGEST_S = 60.0
CANARY = "canary-ann"

# A process that delivers until it is killed; `harm` may spoil how.
DELIVERER = """
import asyncio, sys
from app.jobs import webhook_delivery as delivery
from app.core.database import open_database
from app.services import webhooks
from sqlalchemy import delete
from app.models import Outbox

delivery.POLL_S = delivery.IDLE_S = 0.05
webhooks.LEASE_US = 2_000_000
webhooks.CLAIMED_AT_ONCE = 4
{harm}

async def main():
    await delivery.deliver(open_database(sys.argv[1]), "127.0.0.1", dict())

asyncio.run(main())
"""
# At most once: what is claimed is forgotten.
FORGETS = """
claim = delivery.claim_calls
def claim_and_forget(db, *rest):
    calls = claim(db, *rest)
    for call in calls:
        db.execute(delete(Outbox).where(Outbox.id == call.id))
    return calls
delivery.claim_calls = claim_and_forget
"""
# A service that dies when an answer is committed, before anybody can have been called.
RECORDER = """
import asyncio, os, signal, sys
from app.core.database import open_database
from app.services import responses
from app.services.responses import write
from tests.jobs.test_webhook_delivery import mastering

later = []

async def main():
    database = open_database(sys.argv[1])
    {harm}
    await database.write(responses.record, mastering("ann"))
    os.kill(os.getpid(), signal.SIGKILL)
    for arguments in later:
        await database.write(publish, *arguments)

asyncio.run(main())
"""
PUBLISHES_LATER = "publish = write.publish_events; write.publish_events = lambda db, *rest: later.append(rest)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "IDLE_S"):
        monkeypatch.setattr(webhook_delivery, name, 0.02)
    monkeypatch.setattr(webhooks, "FIRST_PAUSE_US", 20_000)
    monkeypatch.setattr(webhooks, "PAUSE_GROWTH", 1)
    structlog.reset_defaults()


def mastering(*learners: str) -> list[Any]:
    """Right answers of each: with the last of them the skill is mastered."""
    return [
        make_response(f"{who}-{n}", who, ("i1", "i2")[n % 2], n, correct=True)
        for who in learners
        for n in range(UNTIL_MASTERED)
    ]


async def prepare(database: Database, url: str) -> str:
    """The small course, and a webhook; its secret."""
    await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, COURSE, CATALOGUE, 1)
    return str((await database.write(create_webhook, 1, url, EVENTS, None, now()))["secret"])


@asynccontextmanager
async def delivering(database: Database, hosts: str = HOSTS) -> AsyncIterator[None]:
    """While somebody delivers."""
    task = asyncio.create_task(deliver(database, hosts, {}))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def count_calls(db: Connection) -> int:
    return int(db.scalar(select(func.count()).select_from(Outbox)) or 0)


def rows(db: Connection) -> list[Any]:
    return list(db.execute(select(Outbox)))


async def until(database: Database, condition: Callable[[list[Any]], bool]) -> None:
    """Wait until the outbox is as wanted."""
    async with asyncio.timeout(LONGEST_S):
        while True:
            if condition(await database.read(rows)):
                return
            await asyncio.sleep(0.02)


async def emptied(database: Database) -> None:
    await until(database, lambda left: not left)


def verified(secret: str, call: ReceivedCall) -> bool:
    """What the documents tell receivers to do."""
    example = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs/webhooks.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 (our own document)
    return bool(names["verified"](secret, call.headers, call.body))


def start(script: str, url: str) -> Started:
    return processes.start([url], program=script)


def kill(*started: Started) -> None:
    for process in started:
        process.kill()
        process.wait()


# Iff and at least once


async def test_committed_event_is_delivered_though_the_service_died(database: Database, database_url: str) -> None:
    async with running_receiver() as receiver:
        secret = await prepare(database, receiver.url)
        assert await asyncio.to_thread(start(RECORDER.format(harm=""), database_url).wait) == -signal.SIGKILL
        assert receiver.calls == []
        async with served(database_url, webhook_hosts=HOSTS):
            await emptied(database)
    [call] = receiver.calls
    assert call.event["data"]["learner"] == "ann"
    assert verified(secret, call)


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_event_is_lost_without_the_outbox_if_the_service_dies(database: Database, database_url: str) -> None:
    """The control: published after the commit."""
    async with running_receiver() as receiver:
        await prepare(database, receiver.url)
        recorder = start(RECORDER.format(harm=PUBLISHES_LATER), database_url)
        assert await asyncio.to_thread(recorder.wait) == -signal.SIGKILL
        async with served(database_url, webhook_hosts=HOSTS):
            await emptied(database)
    assert receiver.calls == []


class Undo(Exception):
    """What goes wrong after the answers are written."""


def record_and_fail(db: Connection) -> None:
    record(db, mastering("ann"))
    assert count_calls(db) == 1
    raise Undo


async def test_event_that_was_rolled_back_is_not_delivered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control tells what happens without waiting for the commit."""
    async with running_receiver() as receiver:
        await prepare(database, receiver.url)
        async with delivering(database):
            with pytest.raises(Undo):
                await database.write(record_and_fail)
            await database.write(record, mastering("bob"))
            await emptied(database)
        assert [call.event["data"]["learner"] for call in receiver.calls] == ["bob"]

        hasty: list[Any] = []
        insert = rows_of.insert_outbox

        def at_once(db: Connection, calls: Sequence[Any]) -> None:
            hasty.extend(calls)
            insert(db, calls)

        monkeypatch.setattr(rows_of, "insert_outbox", at_once)
        with pytest.raises(Undo):
            await database.write(record_and_fail)
        await database.write(insert, hasty)
        async with delivering(database):
            await emptied(database)
        assert [call.event["data"]["learner"] for call in receiver.calls] == ["bob", "ann"]


async def test_no_call_is_lost_by_two_processes_though_one_is_killed(database: Database, database_url: str) -> None:
    """Both have calls open when one dies; the other makes them again when the claim of the dead has lapsed."""
    killed = asyncio.Event()

    async def answer(_: ReceivedCall) -> bytes:
        await killed.wait()
        return status_reply(204)

    async with running_receiver(answer) as receiver:
        secret = await prepare(database, receiver.url)
        await database.write(record, mastering(*(f"l{n:02d}" for n in range(LEARNERS))))
        wanted = {row.id for row in await database.read(rows)}
        deliverers = [start(DELIVERER.format(harm=""), database_url) for _ in range(2)]
        try:
            # Four are claimed at once: these are of both.
            await receiver.until(lambda: len(receiver.ids) >= 8)
            deliverers[0].kill()
            killed.set()
            await emptied(database)
        finally:
            kill(*deliverers)
    assert len(wanted) == LEARNERS
    assert receiver.ids == wanted
    # What came twice is the same, so that it can be told.
    assert len({(call.id, call.body) for call in receiver.calls}) == LEARNERS
    assert all(verified(secret, call) for call in receiver.calls)


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_calls_in_flight_are_lost_if_they_are_deleted_when_claimed(database: Database, database_url: str) -> None:
    """The control: the process that is killed is the only one, and in the middle of its call."""
    async with running_receiver(never_reply) as receiver:
        await prepare(database, receiver.url)
        await database.write(record, mastering("ann"))
        process = start(DELIVERER.format(harm=FORGETS), database_url)
        try:
            await receiver.until(lambda: len(receiver.calls) == 1)
        finally:
            kill(process)
        receiver.answer = accept_call
        async with delivering(database):
            await emptied(database)
    assert len(receiver.calls) == 1


# Again later


def failing(first: Replier, times: int) -> Replier:
    """A receiver that gets well after some calls."""
    left = times

    async def answer(call: ReceivedCall) -> bytes:
        nonlocal left
        left -= 1
        return await (first if left >= 0 else accept_call)(call)

    return answer


async def endless(_: ReceivedCall) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


REFUSALS: dict[str, tuple[Replier, str]] = {
    "500": (refuse_call, "answered 500"),
    "hangs": (never_reply, "no answer within 0.5 seconds"),
    "redirects": (lambda _: reply_with(302, "Location: /elsewhere"), "answered 302"),
    "switches": (lambda _: reply_with(101), "the connection failed: RemoteProtocolError"),
    "speaks no HTTP": (lambda _: raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "the connection failed: RemoteProtocolError"),
    "never ends": (endless, "no answer within 0.5 seconds"),
}


async def reply_with(code: int, *headers: str) -> bytes:
    return status_reply(code, *headers)


async def raw(answer: bytes) -> bytes:
    return answer


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_call_that_is_refused_is_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    monkeypatch.setattr(webhook_delivery, "LONGEST_CALL_S", 0.5)
    answer, reason = REFUSALS[refusal]
    async with running_receiver(failing(answer, 2)) as receiver:
        secret = await prepare(database, receiver.url)
        await database.write(record, mastering("ann"))
        reasons = set()
        with capture_logs() as lines:
            async with delivering(database):
                await emptied(database)
        reasons = {line["reason"] for line in lines if line["event"] == "call failed"}
    assert reasons == {reason}
    assert len(receiver.calls) == 3
    assert len({(call.id, call.body) for call in receiver.calls}) == 1
    assert all(verified(secret, call) for call in receiver.calls)


async def test_call_fails_after_the_last_attempt_and_the_webhook_shows_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_ATTEMPTS", 3)
    async with running_receiver(refuse_call) as receiver, school(database_url, webhook_hosts=HOSTS) as client:
        address = client.base_url.join("/v1/webhooks")
        await client.post(address, json={"url": receiver.url, "events": ["skill.mastered"]})
        for n in range(UNTIL_MASTERED):
            response = {"learner": "ann", "item": ("i1", "i2")[n % 2], "correct": True, "id": f"r{n}"}
            await client.post("responses", json=response)
        await until(app_of(client).state.database, lambda left: left != [] and left[0].due_at is None)
        [listed] = (await client.get(address)).json()["data"]
    assert len(receiver.calls) == 3
    assert (listed["pending"], listed["failed"], listed["last_failure"]["reason"]) == (0, 1, "answered 500")


@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_long_reply_of_a_receiver_is_not_read_to_its_end(database: Database) -> None:
    async def flood(_: ReceivedCall) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + bytes(1 << 20)

    async with running_receiver(flood) as receiver:
        await prepare(database, receiver.url)
        await database.write(record, mastering("ann"))
        async with delivering(database):
            await emptied(database)
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_receiver_that_hangs_delays_no_other(database: Database) -> None:
    async with running_receiver(never_reply) as slow, running_receiver() as quick:
        await prepare(database, slow.url)
        await database.write(create_webhook, 1, quick.url, EVENTS, None, now())
        async with delivering(database):
            for who in ("ann", "bob", "eve"):
                await database.write(record, mastering(who))
                await quick.until(lambda who=who: who in {call.event["data"]["learner"] for call in quick.calls})  # type: ignore[misc]
                await slow.until(lambda: bool(slow.calls))
    assert len(quick.calls) == 3


async def test_calls_of_a_process_that_stops_are_returned(database: Database) -> None:
    async with running_receiver(never_reply) as receiver:
        await prepare(database, receiver.url)
        await database.write(record, mastering("ann"))
        async with delivering(database):
            await receiver.until(lambda: bool(receiver.calls))
        [row] = await database.read(rows)
    assert row.due_at <= now()
    assert (row.attempt, row.failed_at) == (0, None)


@pytest.mark.parametrize("stopped", [True, False])
async def test_deleted_webhook_is_called_no_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch, *, stopped: bool
) -> None:
    """Calls are under way when it is deleted. The control does not stop them."""
    monkeypatch.setattr(webhook_delivery, "STOPPED_ELSEWHERE_S", 0.1)
    if not stopped:
        monkeypatch.setattr(routers_webhooks, "stop_calls", do_nothing)
        monkeypatch.setattr(webhook_delivery, "_stop", do_nothing)
    finished: list[str] = []

    async def answer(call: ReceivedCall) -> bytes:
        await asyncio.sleep(0.2)
        finished.append(call.id)
        return status_reply(204)

    async with running_receiver(answer) as receiver, school(database_url, webhook_hosts=HOSTS) as client:
        address = client.base_url.join("/v1/webhooks")
        database = app_of(client).state.database
        made = (await client.post(address, json={"url": receiver.url, "events": list(EVENTS)})).json()["id"]
        await database.write(record, mastering(*(f"l{n:02d}" for n in range(LEARNERS))))
        await receiver.until(lambda: bool(receiver.calls))
        task = app_of(client).state.calls[1, made]
        assert (await client.delete(address.join(f"webhooks/{made}"))).status_code == 204
        assert task.done() == stopped
        before = len(receiver.calls)
        await asyncio.sleep(0.5)
        assert not stopped or len(receiver.calls) == before


async def do_nothing(*_: Any, **__: Any) -> None:
    """In the place of a protection."""


async def test_calls_of_a_webhook_that_another_process_deleted_are_stopped(database: Database) -> None:
    async with running_receiver(never_reply) as receiver:
        await prepare(database, receiver.url)
        await database.write(record, mastering("ann"))
        running: webhook_delivery.Running = {}
        task = asyncio.create_task(deliver(database, HOSTS, running))
        await receiver.until(lambda: bool(receiver.calls))
        [(_, webhook_id)] = running
        assert await database.write(webhooks.remove_webhook, 1, webhook_id)
        async with asyncio.timeout(LONGEST_S):
            await asyncio.wait(running.values())
        assert not running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("own_threads", [True, False])
async def test_names_that_hang_hold_up_their_tenant_only(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, own_threads: bool
) -> None:
    """The control looks names up as the event loop does, and has one thread."""
    goes_on = threading.Event()

    def hang(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("hang"):
            goes_on.wait(LONGEST_S)
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    if not own_threads:
        loop, few = asyncio.get_running_loop(), ThreadPoolExecutor(1)

        async def in_few_threads(_: int, host: str, port: int) -> list[str]:
            infos = await loop.run_in_executor(few, hang, host, port)
            return [str(address[0]) for *_, address in infos]

        monkeypatch.setattr(webhook_delivery, "look_up", in_few_threads)
    try:
        async with running_receiver() as receiver:
            await prepare(database, receiver.url)
            await database.write(create_key, "other", ["admin"], 1)
            for number in range(6):
                url = f"https://hang{number}.example.org/"
                await database.write(create_webhook, 2, url, EVENTS, None, now())
            await database.write(upsert, 2, COURSE, CATALOGUE, 1)
            await database.write(record, [replace(each, tenant_id=2) for each in mastering("eve")])
            async with delivering(database):
                await until(database, lambda left: sum(row.attempt > 0 for row in left) == 6)
                await database.write(record, mastering("ann"))
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if own_threads else 1.0):
                        await receiver.until(lambda: bool(receiver.calls))
                assert bool(receiver.calls) == own_threads
            left = await database.read(rows)
            assert {row.attempt for row in left if row.tenant_id == 2} == {0}
    finally:
        goes_on.set()


def test_places_go_to_the_tenants_that_have_the_fewest() -> None:
    due = [(1, f"wh-{number}") for number in range(100)] + [(2, "wh-a"), (2, "wh-b"), (3, "wh-c")]
    chosen = webhook_delivery._choose_next(due, [])
    assert Counter(tenant for tenant, _ in chosen) == {1: webhook_delivery.MAX_OF_TENANT, 2: 2, 3: 1}
    crowd = [(tenant, f"wh-{number}") for tenant in range(9) for number in range(100)]
    counts = Counter(tenant for tenant, _ in webhook_delivery._choose_next(crowd, [(0, "wh-x")]))
    assert sum(counts.values()) == webhook_delivery.MAX_CONCURRENT - 1
    counts[0] += 1  # which is under way
    assert max(counts.values()) - min(counts.values()) <= 1


HANGS = """
import asyncio, socket, sys, time
from app.jobs import webhook_delivery as delivery

socket.getaddrinfo = lambda *_: time.sleep(600)
{harm}

async def main():
    asking = asyncio.create_task(delivery.find_addresses(1, delivery.read_target("https://lms.example.org/", "")))
    await asyncio.sleep(0.2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    print("asked", flush=True)

asyncio.run(main())
"""
IN_THE_LOOP = """
async def look_up(_, host, port):
    return await asyncio.get_running_loop().getaddrinfo(host, port)
delivery.look_up = look_up
"""


@pytest.mark.parametrize(("harm", "ends"), [("", True), (IN_THE_LOOP, False)], ids=["apart", "control"])
def test_process_ends_though_a_name_hangs(harm: str, *, ends: bool) -> None:
    started = processes.start([], program=HANGS.format(harm=harm))
    try:
        if ends:
            assert started.wait(LONGEST_S) == 0
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(3.0)
    finally:
        kill(started)


# What is told


async def test_calls_follow_the_openapi_document(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)
    document = current_document()
    async with running_receiver() as receiver, school(database_url, webhook_hosts=HOSTS) as client:
        made = await client.post(
            client.base_url.join("/v1/webhooks"), json={"url": receiver.url, "events": list(EVENTS), "course": COURSE}
        )
        assert made.status_code == 201
        for n in range(UNTIL_MASTERED):
            body = {"learner": CANARY, "item": ("i1", "i2")[n % 2], "correct": True, "id": f"r-{n}"}
            assert (await client.post("responses", json=body)).status_code == 201
        for n in range(STUCK_AFTER):
            body = {"learner": "eve", "item": ("i1", "i2")[n % 2], "correct": False, "id": f"w-{n}"}
            assert (await client.post("responses", json=body)).status_code == 201
        assert (await client.post("responses/r-1/void", json={"reason": "misprint"})).status_code == 200
        assert (await client.post("responses/r-2/regrade", json={"score": 0.5, "reason": "half"})).status_code == 200
        database = app_of(client).state.database
        claim = await database.write(calibrations.request_calibration, 1, COURSE, now())
        await database.write(calibrations.save_failure, claim, "no luck", now())
        await receiver.until(lambda: len(receiver.ids) == 5)
    for call in receiver.calls:
        assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert call.headers["content-type"] == "application/json"
        assert verified(made.json()["secret"], call)
        assert not verified(f"whsec_{'A' * 44}", call)
        schema = document["webhooks"][call.event["type"]]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        jsonschema_rs.validator_for({**schema, "components": document["components"]}).validate(call.event)
    assert sorted(call.event["type"] for call in receiver.calls) == sorted([*EVENTS, "response.corrected"])
    assert set(document["webhooks"]) == set(EVENTS)


async def test_log_of_deliveries_names_no_learner_and_no_secret(database: Database) -> None:
    async with running_receiver(failing(refuse_call, 1)) as receiver:
        secret = await prepare(database, receiver.url)
        with capture_logs() as lines:
            async with delivering(database):
                await database.write(record, mastering(CANARY))
                await emptied(database)
    assert CANARY in receiver.calls[0].body.decode()
    assert len(lines) == 1
    assert CANARY not in str(lines)
    assert secret not in str(lines)


def test_signature_is_that_of_the_standard() -> None:
    """The example of the libraries of Standard Webhooks: github.com/standard-webhooks/standard-webhooks, Apache-2.0.

    `test_sign_function` of libraries/python/tests/test_webhooks.py, and the same in Java's WebhookTest.
    """
    told = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


# Where calls may go

# Each leads, or might lead somebody who reads it carelessly, to where only this machine or its network can go.
TRICKS = [
    "http://receiver.test:{port}/", "http://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "127.0.0.1:{port}", "https:127.0.0.1:{port}",
    "https:///127.0.0.1:{port}", "https://", "", "https://127.0.0.1:{port}/", "https://127.1:{port}/",
    "https://127.0.0.2:{port}/", "https://2130706433:{port}/", "https://0x7f000001:{port}/", "https://0x7f.1:{port}/",
    "https://0177.0.0.1:{port}/", "https://0:{port}/", "https://0.0.0.0:{port}/", "https://localhost:{port}/",
    "https://LOCALHOST:{port}/", "https://local.test:{port}/", "https://local.test.:{port}/",
    "https://mixed.test:{port}/", "https://[::1]:{port}/", "https://[::]:{port}/", "https://[::127.0.0.1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/", "https://[::ffff:7f00:1]:{port}/", "https://[0:0:0:0:0:ffff:7f00:1]:{port}/",
    "https://[::ffff:8.8.8.8]:{port}/", "https://[64:ff9b::7f00:1]:{port}/", "https://[2002:7f00:1::]:{port}/",
    "https://[fe80::1%25lo]:{port}/", "https://[fe80::1]:{port}/", "https://[fd00:ec2::254]:{port}/",
    "https://[fec0::1]:{port}/", "https://[ff02::1]:{port}/", "https://10.0.0.1:{port}/", "https://172.16.0.1:{port}/",
    "https://192.168.0.1:{port}/", "https://169.254.169.254/latest/meta-data/", "https://100.100.100.200/",
    "https://198.18.0.1/", "https://192.0.2.1/", "https://224.0.0.1/", "https://240.0.0.1/", "https://255.255.255.255/",
    "https://public.test@127.0.0.1:{port}/", "https://public.test:x@localhost:{port}/",
    "https://local.test:{port}#@public.test/", "https://local.test:{port}\\@public.test/",
    "https://local.test:{port}%2f@public.test/", "https://%31%32%37.0.0.1:{port}/", "https://①②⑦.0.0.1:{port}/",
    "https://127。0。0。1:{port}/", "https://local.test%00.public.test/", "https://local.test\t:{port}/",
    " https://local.test:{port}/", "https://local.test:{port}/\r\nX: y", "https://local.test:99999/",
    "https://local.test:{port}:443/", "https://[::1/", "https://a..b/", "https://" + "a" * 70 + "/",
    "https://public.test:0/", "https://8.8.8.010/", "https://example.0x1/", "https://example.1./",
]  # fmt: skip
NAMES = {
    "local.test": ["127.0.0.1"],
    "local.test.": ["127.0.0.1"],
    "mixed.test": ["93.184.216.34", "127.0.0.1"],
    "receiver.test": ["127.0.0.1"],
}
resolve = socket.getaddrinfo


def look_up(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0, **more: Any) -> Any:
    """Names of the tests, and what can be looked up without asking anybody."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in NAMES:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in NAMES[name]]
    if name.lower() != "localhost":
        flags |= socket.AI_NUMERICHOST
    return resolve(host, port, family, kind, proto, flags, **more)


async def try_out(url: str, hosts: str = "") -> str | None:
    """Call an address: why it failed, none if it was taken."""
    async with httpx.AsyncHTTPTransport(verify=webhook_delivery.tls()) as transport:
        return await make_call(transport, hosts, WebhookCall(1, "wh-0", "msg_1", 1, url, "whsec_AAAA", b"{}"))


async def test_url_tricks_reach_no_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control takes addresses of this machine for public ones: then many do."""
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert len(TRICKS) >= 40
    async with running_receiver(host="0.0.0.0") as receiver:  # noqa: S104 (whatever leads here is to be seen)
        errors = {trick: await try_out(trick.format(port=receiver.port)) for trick in TRICKS}
        assert receiver.connections == []
        assert [trick for trick, error in errors.items() if not (error or "").startswith("the url ")] == []

        monkeypatch.setattr(webhook_delivery, "_is_public", lambda text: text.startswith("127."))
        for trick in TRICKS:
            await try_out(trick.format(port=receiver.port))
        assert len(receiver.connections) > 5


@pytest.mark.parametrize(
    "url",
    ["https://example.org", "https://example.org:8443/a/b?c=d%20e", "https://8.8.8.8/", "https://[2606:4700::1111]/"],
)
def test_url_of_a_public_host_is_accepted(url: str) -> None:
    assert not read_target(url, "").exempt


@pytest.mark.parametrize(
    ("hosts", "url", "allowed"),
    [
        ("lms.internal", "http://lms.internal/hook", True),
        ("lms.internal", "http://lms.internal:8080/hook", True),
        ("lms.internal:8080", "http://lms.internal:8080/hook", True),
        ("lms.internal:8080", "http://lms.internal/hook", False),
        ("other, LMS.internal:80 ", "http://lms.INTERNAL/hook", True),
        ("lms.internal", "http://x.lms.internal/hook", False),
        ("lms.internal", "http://lms.internal@evil.org/hook", False),
        ("lms.internal", "ftp://lms.internal/hook", False),
        ("[::1]:8080,10.0.0.7", "http://[::1]:8080/", True),
        ("[::1]:8080,10.0.0.7", "https://10.0.0.7:1/", True),
        ("[::1]:8080,10.0.0.7", "https://10.0.0.8/", False),
        ("", "http:///", False),
    ],
)
def test_url_of_a_private_host_is_accepted_if_the_operator_allows_it(hosts: str, url: str, *, allowed: bool) -> None:
    if allowed:
        assert read_target(url, hosts).exempt
    else:
        with pytest.raises(Invalid):
            read_target(url, hosts)


class Rebinding(dict[str, list[str]]):
    """Names whose address changes after it was looked at."""

    def __getitem__(self, name: str) -> list[str]:
        addresses = super().__getitem__(name)
        return [addresses.pop(0)] if len(addresses) > 1 else addresses


@pytest.mark.parametrize("pinned", [True, False])
async def test_call_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch, *, pinned: bool) -> None:
    """127.0.0.1 counts as public here, 127.0.0.2 as private. The control calls by the name."""
    monkeypatch.setattr(webhook_delivery, "_is_public", lambda text: text == "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setitem(globals(), "NAMES", Rebinding({"rebind.test": ["127.0.0.1", "127.0.0.2"]}))
    if not pinned:
        find = webhook_delivery.find_addresses

        async def by_name(tenant_id: int, target: webhook_delivery.Target) -> list[str]:
            await find(tenant_id, target)
            return [target.host]

        monkeypatch.setattr(webhook_delivery, "find_addresses", by_name)
    async with running_receiver() as public, running_receiver(host="127.0.0.2", port=public.port) as private:
        assert await try_out(f"https://rebind.test:{public.port}/") is not None
    assert (len(public.connections), len(private.connections)) == ((1, 0) if pinned else (0, 1))


async def test_certificate_is_checked_against_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of the test names receiver.test, and trusts itself. The control calls another name there."""
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(webhook_delivery, "_is_public", lambda text: text == "127.0.0.1")
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    monkeypatch.setattr(webhook_delivery, "tls", lambda: trusting)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(CERTIFICATE)
    async with running_receiver(tls=shown) as receiver:
        url = f"https://receiver.test:{receiver.port}/hook?of=school"
        assert await try_out(url) is None
        assert receiver.calls[0].headers["host"] == f"receiver.test:{receiver.port}"
        assert await try_out(url.replace("receiver", "local")) == "no connection, or no certificate that is trusted"
        assert await try_out(url, hosts="local.test,receiver.test") is None
        assert len(receiver.calls) == 2


async def test_call_tries_the_next_address_if_one_takes_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "two.test", ["127.0.0.2", "127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with running_receiver() as receiver:
        assert await try_out(f"http://two.test:{receiver.port}/hook?of=school", "two.test") is None
    assert len(receiver.calls) == 1


# Through the interface


@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_webhook_with_a_forbidden_url_is_refused_at_once(database_url: str) -> None:
    async with school(database_url, webhook_hosts="lms.internal") as client:
        address = client.base_url.join("/v1/webhooks")
        for url in ("http://lms.example.org/", "https://127.0.0.1/", "https://a:b@lms.example.org/", "https://!/"):
            reply = await client.post(address, json={"url": url, "events": ["skill.mastered"]})
            assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/url"), url
        for url in ("http://lms.internal/", "https://lms.example.org/"):
            reply = await client.post(address, json={"url": url, "events": ["skill.mastered"]})
            assert (reply.status_code, len(reply.json()["secret"])) == (201, 50), url


async def test_list_of_webhooks_has_pages_and_no_secret(database_url: str) -> None:
    async with school(database_url) as client:
        address = str(client.base_url.join("/v1/webhooks"))
        other = await make_key(app_of(client).state.database, "neighbour")
        body = {"url": "https://lms.example.org/", "events": ["skill.mastered"]}
        made = [(await client.post(address, json=body)).json() for _ in range(5)]
        theirs = await client.post(address, json=body, headers={"authorization": f"Bearer {other}"})
        ids, at = [], f"{address}?limit=2"
        while at:
            page = await client.get(at)
            assert "whsec" not in page.text
            ids += [webhook["id"] for webhook in page.json()["data"]]
            following = page.json()["next"]
            at = f"{address}?limit=2&cursor={following}" if following else ""
        assert ids == sorted(webhook["id"] for webhook in made)
        assert (await client.delete(f"{address}/{theirs.json()['id']}")).status_code == 404
        assert (await client.delete(f"{address}/{ids[0]}")).status_code == 204
        assert (await client.delete(f"{address}/{ids[0]}")).status_code == 404
        assert len((await client.get(address)).json()["data"]) == 4
