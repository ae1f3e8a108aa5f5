"""Rate limits: right across workers whatever their clocks say, cheap, told, and never in the way of a good key."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from subprocess import PIPE
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, insert, select
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.core.database import Database
from app.core.errors import RateLimited, Unavailable
from app.core.rate_limits import Bucket, CounterReading, Policy, exact_policy, sliced_policy
from app.core.settings import Settings
from app.http import rate_limits as edge
from app.http.rate_limits import Limits, address_subject
from app.models import QuotaUse
from app.queries.clock import read_clock
from app.queries.limits import count_use
from tests.client import CATALOGUE, COURSE, client_of, make_key, served
from tests.processes import start

WORKERS = 4
# A window that no test sees the end of.
LONG_S = 10_000_000
ITEM = re.compile(r'"([a-z-]+)";r=([0-9]+);t=([0-9]+)')


# The arithmetic


@dataclass
class Counters:
    """The counter in the database, on the database's own clock."""

    policy: Policy
    now: float = 0.0
    used: Counter[int] = field(default_factory=Counter)

    @property
    def window(self) -> int:
        return int(self.now // self.policy.window_s)

    def take(self, amount: int) -> CounterReading:
        self.used[self.window] += amount
        left = (self.window + 1) * self.policy.window_s - self.now
        return CounterReading(self.window, left, self.used[self.window])


Send = Callable[[Counters, Bucket, float, int], bool]


def send(counters: Counters, bucket: Bucket, skew: float, cost: int, latency: float = 0.01) -> bool:
    """What a worker does with a request, as `Limits.spend` does; whether it let it through."""
    while not bucket.spend(cost, counters.now + skew):
        if bucket.exhausted:
            return False
        amount, asked_at = bucket.amount_to_fetch(cost), counters.now + skew
        counters.now += latency
        taken = counters.take(amount)
        counters.now += latency
        bucket.add_grant(amount, taken, asked_at, counters.now + skew)
    return True


def send_at_once(counters: Counters, bucket: Bucket, skew: float, cost: int) -> bool:
    """The same with a database that needs no time."""
    return send(counters, bucket, skew, cost, 0.0)


def send_by_memory(counters: Counters, bucket: Bucket, skew: float, cost: int) -> bool:
    """A control: each worker counts for itself."""
    if counters.now + skew >= bucket.ends:
        bucket.spend(0, counters.now + skew)
    bucket.spent += cost
    return bucket.spent <= bucket.policy.quota


def passed(policy: Policy, events: list[tuple[int, float, int]], skews: list[float], send: Send) -> Counter[int]:
    """How much was let through in each window of the database by workers with clocks that are wrong."""
    counters = Counters(policy)
    buckets = [Bucket(policy, 1, "k", skew) for skew in skews]
    through: Counter[int] = Counter()
    for worker, pause, cost in events:
        counters.now += pause
        if send(counters, buckets[worker], skews[worker], cost):
            through[counters.window] += cost
    return through


policies = st.builds(
    lambda often, quota: sliced_policy("p", quota, 60) if often else exact_policy("p", quota, 60),
    st.booleans(),
    st.one_of(st.integers(1, 300), st.just(2000)),
)
sent = st.tuples(st.integers(0, WORKERS - 1), st.floats(0, 20), st.integers(1, 40))
clocks = st.lists(st.floats(-1e9, 1e9), min_size=WORKERS, max_size=WORKERS)


@given(policies, st.lists(sent, max_size=200), clocks)
def test_quota_is_never_exceeded_by_more_than_the_credits(
    policy: Policy, events: list[tuple[int, float, int]], skews: list[float]
) -> None:
    events = [(worker, pause, min(cost, policy.quota)) for worker, pause, cost in events]
    through = passed(policy, events, skews, send)
    assert max(through.values(), default=0) <= policy.quota + 2 * WORKERS * policy.credit
    assert 2 * WORKERS * policy.credit <= policy.quota / 10


@given(policies, st.integers(1, 40), st.floats(-1e9, 1e9))
def test_quota_is_granted_whole_by_a_single_worker(policy: Policy, cost: int, skew: float) -> None:
    cost = min(cost, policy.quota)
    through = passed(policy, [(0, 0.0, cost)] * (policy.quota // cost + 5), [skew], send_at_once)
    assert through == {0: policy.quota - policy.quota % cost}


def test_quota_is_multiplied_by_workers_that_count_for_themselves() -> None:
    events = [(number % WORKERS, 0.0, 1) for number in range(2000)]
    policy = sliced_policy("p", 300, 60)
    assert passed(policy, events, [0.0] * WORKERS, send_by_memory)[0] == WORKERS * policy.quota
    assert passed(policy, events, [0.0] * WORKERS, send)[0] <= 1.1 * policy.quota


def test_quota_is_mostly_granted_by_all_workers_together() -> None:
    events = [(number % WORKERS, 0.0, 1) for number in range(2000)]
    policy = sliced_policy("p", 1000, 60)
    assert passed(policy, events, [0.0] * WORKERS, send_at_once)[0] == policy.quota


# Processes


RACER = """
import asyncio, sys, time, types
import app.core.times
app.core.times.time = types.SimpleNamespace(time_ns=lambda: time.time_ns() + int(sys.argv[2]) * 10**9)
from app.core.database import open_database
from app.core.errors import RateLimited
from app.core.rate_limits import sliced_policy
from app.http.rate_limits import Limits
from app.core.settings import Settings

async def main():
    database = open_database(sys.argv[1], pool_size=2)
    limits = Limits(database, Settings())
    bucket = limits.bucket(sliced_policy("requests", 1000, 10_000_000), 1, "key-1")
    through = 0
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1000):
        try:
            await limits.spend(bucket, 1)
            through += 1
        except RateLimited:
            pass
        await asyncio.sleep(0)
    await limits.close()
    await database.close()
    print(through)

{mutation}
asyncio.run(main())
"""
BY_MEMORY = """
import app.http.rate_limits
from app.core.rate_limits import CounterReading
app.http.rate_limits.count_use = lambda db, tenant, subject, window_s, amount: CounterReading(1, 1e6, 0)
"""
YEAR_S = 365 * 86_400


def race(url: str, mutation: str = "", skews: Sequence[int] = (0, -86_400, YEAR_S, 7)) -> int:
    """How many requests processes let through, each asked for 1,000, under a quota of 1,000, with wrong clocks."""
    processes = [
        start([url, str(skew)], program=RACER.format(mutation=mutation), stdin=PIPE, stdout=PIPE) for skew in skews
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=120)[0]) for process in processes)


def test_quota_is_shared_by_four_processes(database_url: str) -> None:
    assert 1000 <= race(database_url) <= 1100


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_quota_is_exceeded_by_processes_without_a_shared_counter(database_url: str) -> None:
    assert race(database_url, BY_MEMORY, (0, YEAR_S)) > 1100


# The counter


@pytest.mark.anyio
async def test_counter_is_of_one_caller_and_one_window(database: Database) -> None:
    first = await database.write(count_use, 1, "requests:k", LONG_S, 5)
    again = await database.write(count_use, 1, "requests:k", LONG_S, 7)
    assert (first.used, again.used, again.window) == (5, 12, first.window)
    assert 0 < again.remaining_s <= first.remaining_s <= LONG_S
    assert (await database.write(count_use, 1, "requests:l", LONG_S, 5)).used == 5
    assert (await database.write(count_use, 2, "requests:k", LONG_S, 5)).used == 5


@pytest.mark.anyio
async def test_counters_of_ended_windows_are_deleted(database: Database) -> None:
    now = await database.read(read_clock)

    def leave(db: Connection) -> None:
        rows = [{"tenant_id": tenant, "subject": "x", "ends_at": now - 1, "used": 1} for tenant in (0, 1)]
        db.execute(insert(QuotaUse), [*rows, {**rows[1], "ends_at": now + 10**12}])

    def count(db: Connection) -> dict[int, int]:
        rows = db.execute(select(QuotaUse.tenant_id, func.count()).group_by(QuotaUse.tenant_id))
        return dict(list(rows))

    await database.write(leave)
    await database.write(count_use, 1, "requests:k", 60, 1)
    assert await database.read(count) == {0: 1, 1: 2}
    await database.write(count_use, 0, "failed-keys:a", 60, 1)
    assert await database.read(count) == {0: 1, 1: 2}


# One worker


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("policy", "most"), [(sliced_policy("p", 100_000, LONG_S), 2), (exact_policy("p", 100_000, LONG_S), 200)]
)
async def test_counting_most_requests_needs_no_database(
    database: Database, monkeypatch: pytest.MonkeyPatch, policy: Policy, most: int
) -> None:
    """The second policy is the control: a counter that is asked every time."""
    asked = 0

    def counted(*arguments: Any) -> CounterReading:
        nonlocal asked
        asked += 1
        return count_use(*arguments)

    monkeypatch.setattr(edge, "count_use", counted)
    limits = Limits(database, Settings())
    bucket = limits.bucket(policy, 1, "k")
    for _ in range(200 if policy.slice == 1 else 2000):
        await limits.spend(bucket, 1)
    await limits.close()
    assert (asked == most) if policy.slice == 1 else (asked <= most)


class Down:
    """A database that does not answer."""

    async def write(self, *_: Any) -> Any:
        raise Unavailable("the database does not answer; try again")


def down() -> Any:
    """As a database."""
    return Down()


@pytest.mark.anyio
async def test_credit_lasts_a_while_when_the_database_is_down() -> None:
    limits = Limits(down(), Settings())
    bucket = limits.bucket(sliced_policy("p", 1000, LONG_S), 1, "k")
    for _ in range(5):
        await limits.spend(bucket, 1)
    with pytest.raises(Unavailable):
        await limits.spend(bucket, 1)
    await limits.close()


@pytest.mark.anyio
async def test_cancelled_request_takes_nothing_from_those_that_wait(database: Database) -> None:
    limits = Limits(database, Settings())
    bucket = limits.bucket(sliced_policy("p", 100, LONG_S), 1, "k")
    waiting = [asyncio.create_task(limits.spend(bucket, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [asyncio.CancelledError, type(None), type(None)]
    assert bucket.spent == 2


@pytest.mark.anyio
async def test_request_that_costs_more_than_the_quota_spends_the_quota(database: Database) -> None:
    limits = Limits(database, Settings())
    bucket = limits.bucket(sliced_policy("p", 10, LONG_S), 1, "k")
    await limits.spend(bucket, 1000)
    with pytest.raises(RateLimited):
        await limits.spend(bucket, 1)


@pytest.mark.anyio
async def test_number_of_remembered_counters_is_bounded_and_forgetting_grants_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "KNOWN_BUCKETS", 2)
    limits = Limits(database, Settings())
    policy = sliced_policy("p", 3, LONG_S)
    for _ in range(3):
        await limits.spend(limits.bucket(policy, 1, "a"), 1)
    for other in "bc":
        limits.bucket(policy, 1, other)
    assert len(limits._buckets) == 2
    with pytest.raises(RateLimited):
        await limits.spend(limits.bucket(policy, 1, "a"), 1)


def test_addresses_are_counted_by_the_network_of_one_caller() -> None:
    assert address_subject("192.0.2.1") != address_subject("192.0.2.2")
    assert address_subject("2001:db8::1") == address_subject("2001:db8::ffff:1")
    assert address_subject("2001:db8::1") != address_subject("2001:db8:0:1::1")
    odd = ["", "unix", "x" * 9999, "\udcff", "fe80::1%eth0"]
    assert len({address_subject(host) for host in odd}) == len(odd)
    assert {len(address_subject(host)) for host in odd} == {32}


# At the interface


@pytest.fixture(autouse=True)
def _no_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "MINUTE_S", LONG_S)
    monkeypatch.setattr(edge, "HOUR_S", LONG_S)


@asynccontextmanager
async def course(database_url: str, **settings: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """A service with a course, and a caller whose key has sent one request."""
    async with served(database_url, **settings) as app, client_of(app, await make_key(app.state.database)) as client:
        assert (await client.put(f"courses/{COURSE}/catalogue", json=CATALOGUE)).status_code == 200
        client.base_url = client.base_url.join(f"courses/{COURSE}/")
        yield app, client


def left(reply: httpx.Response) -> dict[str, int]:
    """What is left of each quota, as a reply says; its policies must say the same names."""
    items = ITEM.findall(reply.headers["RateLimit"])
    assert ", ".join(f'"{name}";r={r};t={t}' for name, r, t in items) == reply.headers["RateLimit"]
    policies = re.findall(r'"([a-z-]+)";q=[0-9]+;w=[0-9]+', reply.headers["RateLimit-Policy"])
    assert policies == [name for name, _, _ in items]
    assert all(1 <= int(t) <= LONG_S for _, _, t in items)
    return {name: int(r) for name, r, _ in items}


def check_refused(reply: httpx.Response, code: str) -> None:
    assert (reply.status_code, reply.json()["code"]) == (429, code)
    assert 1 <= int(reply.headers["Retry-After"]) <= LONG_S


@pytest.mark.anyio
async def test_key_has_a_quota_of_requests(database_url: str) -> None:
    async with course(database_url, requests_per_minute=10) as (app, client):
        replies = [await client.get("skills") for _ in range(9)]
        assert [left(reply)["requests"] for reply in replies] == list(range(8, -1, -1))
        assert replies[0].headers["RateLimit-Policy"] == f'"requests";q=10;w={LONG_S}'
        refused = await client.get("items")
        check_refused(refused, "rate_limited")
        assert left(refused) == {"requests": 0}
        assert (await client.get(client.base_url.join("/livez"))).headers.get("RateLimit") is None
        async with client_of(app, await make_key(app.state.database)) as other:
            assert (await other.get(f"courses/{COURSE}/skills")).status_code == 200
        async with client_of(app, await make_key(app.state.database, "college")) as other:
            assert (await other.get(f"courses/{COURSE}/skills")).status_code == 404


@pytest.mark.anyio
async def test_expensive_operations_have_quotas_of_their_own(database_url: str) -> None:
    async with course(database_url, calibrations_per_hour=2, exports_per_hour=2) as (_, client):
        csv = {"Accept": "text/csv"}
        assert [(await client.post("calibrations")).status_code for _ in range(2)] == [409, 409]
        refused = await client.post("calibrations")
        check_refused(refused, "rate_limited")
        assert left(refused)["calibrations"] == 0
        exports = [await client.get("mastery", headers=csv) for _ in range(2)]
        assert [left(reply)["exports"] for reply in exports] == [1, 0]
        check_refused(await client.get("mastery", headers=csv), "rate_limited")
        assert (await client.get("mastery?limit=5", headers=csv)).status_code == 200
        assert (await client.get("mastery")).status_code == 200


WRONG: list[dict[str, str]] = [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}]


@pytest.mark.anyio
async def test_address_that_fails_too_often_is_refused_but_a_valid_key_passes(database_url: str) -> None:
    async with course(database_url, failed_keys_per_minute=3) as (app, client), client_of(app) as stranger:
        assert [(await stranger.get("courses/c/skills", headers=h)).status_code for h in WRONG] == [401] * 3
        for headers in WRONG:
            refused = await stranger.get("courses/c/skills", headers=headers)
            check_refused(refused, "too_many_failures")
            assert left(refused) == {"failed-keys": 0}
        assert (await client.get("skills")).status_code == 200
        async with client_of(app, await make_key(app.state.database)) as newcomer:
            assert (await newcomer.get(f"courses/{COURSE}/skills")).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.1"])
async def test_client_behind_a_trusted_proxy_has_its_own_address(database_url: str, trusted: str) -> None:
    async with served(database_url, failed_keys_per_minute=1) as app:
        transport = httpx.ASGITransport(ProxyHeadersMiddleware(app, trusted))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://service/v1/") as client:
            replies = [
                await client.get("courses/c/skills", headers={"X-Forwarded-For": f"198.51.100.{number}"})
                for number in range(3)
            ]
        expected = [401] * 3 if trusted == "127.0.0.1" else [401, 429, 429]
        assert [reply.status_code for reply in replies] == expected


@pytest.mark.anyio
async def test_wrong_key_is_refused_without_a_database(database_url: str) -> None:
    async with served(database_url, failed_keys_per_minute=1) as app, client_of(app) as stranger:
        app.state.limits = Limits(down(), app.state.settings)
        assert [(await stranger.get("courses/c/skills", headers=h)).status_code for h in WRONG] == [401] * 3
