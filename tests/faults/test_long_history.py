"""What many clients saw while workers were killed is what one log, read in one order, would have shown them.

After Jepsen (Kingsbury): every operation is noted when it begins and when it ends, as `ok`, `fail` or `info` (nobody
knows). The checker knows nothing of the service but its promises.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from app.queries.learners import find_learners
from app.services.banks import read_bank
from app.services.folding import at, fold
from app.services.history import Life, read_lives
from app.services.mastery import report
from app.times import now, to_text
from tests.client import COURSE, opened, verified
from tests.faults.harness import ITEMS, Service, amounts, clients_of, furnish, serving

pytestmark = pytest.mark.anyio

LEARNERS = [f"l{number}" for number in range(6)]
CLIENTS = 8
KILL_EVERY = 150
MOST_LATE_US = 60_000_000
SHARES = {"append": 70, "read": 15, "void": 8, "regrade": 7}
COMPARED_READS = 400


@dataclass(frozen=True)
class Operation:
    """What one client did: `told` is the reply of one that is `ok`."""

    kind: str
    learner: str
    id: str
    began: float
    ended: float
    end: str
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> int:
        """The place in the learner's log that the reply speaks of."""
        told = self.told.get("response", self.told)
        return int(told["position"])


@pytest.mark.parametrize(("engine_name", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine_name"])
@pytest.mark.parametrize("operations", amounts(600, 100_000))
async def test_clients_see_one_history(operations: int, workers: int, database_url: str, tmp_path: Path) -> None:
    key = await furnish(database_url)
    with serving(database_url, key, tmp_path / "service", workers=workers) as service:
        await service.ready(workers)
        history = await live(service, operations)
        assert service.unexpected() == []
    ends = {operation.end for operation in history}
    assert {"ok", "info"} <= ends
    async with opened(database_url) as database:
        lives = await database.read(stored_lives)
        assert anomalies(history, lives) == []
        assert await database.read(misread, history) == []
        assert (await verified(database)).differences == []
    for doctor in DOCTORS:
        assert anomalies(*doctor(history, lives)), doctor.__name__


async def live(service: Service, operations: int) -> list[Operation]:
    """Clients at work, while workers die."""
    history: list[Operation] = []
    mine: list[tuple[str, str]] = []
    numbers = iter(range(operations))

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            if number % KILL_EVERY == KILL_EVERY // 2 and service.pids:
                service.kill([random.choice(service.pids)])
            history.append(await act(client, number, mine))
            if history[-1].end == "info":
                await asyncio.sleep(0.05)

    async with clients_of(service, clients=CLIENTS) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
    return history


async def act(client: httpx.AsyncClient, number: int, mine: list[tuple[str, str]]) -> Operation:
    """One operation, tried once; `mine` are the answers that were acknowledged, and whose they are."""
    kind = random.choices(list(SHARES), list(SHARES.values()))[0] if mine else "append"
    learner, id_ = random.choice(LEARNERS), f"r-{number}"
    if kind == "append":
        late = random.choice([0, 0, random.randrange(MOST_LATE_US)])
        answer = {"id": id_, "learner": learner, "item": random.choice(ITEMS), "correct": random.random() < 0.6}
        asked = client.post("responses", json={**answer, "occurred_at": to_text(now() - late)})
    elif kind == "read":
        asked = client.get(f"learners/{learner}/mastery")
    else:
        id_, learner = random.choice(mine)
        body = {"reason": "test"} if kind == "void" else {"reason": "test", "score": random.choice([0, 1])}
        asked = client.post(f"responses/{id_}/{kind}", json=body)
    began = time.monotonic()
    try:
        reply = await asked
    except httpx.TransportError:
        return Operation(kind, learner, id_, began, time.monotonic(), "info")
    ended = time.monotonic()
    if reply.status_code == 503:
        return Operation(kind, learner, id_, began, ended, "info")
    # Nobody voids what was voided, and a learner is known from the first answer on.
    assert reply.is_success or reply.status_code in {404, 409}, reply.text
    if kind == "append" and reply.is_success:
        mine.append((id_, learner))
    end = "ok" if reply.is_success else "fail"
    return Operation(kind, learner, id_, began, ended, end, reply.json() if reply.is_success else {})


# The checker


def stored_lives(db: Connection) -> dict[str, Life]:
    """The whole log."""
    bank = read_bank(db, 1, COURSE)
    return {life.row.id: life for life in read_lives(db, bank, list(find_learners(db, 1, COURSE, LEARNERS).values()))}


def anomalies(history: Sequence[Operation], lives: dict[str, Life]) -> list[str]:
    """What one log, read in one order, could not have shown."""
    return [*misplaced(history, lives), *unseen(history), *risen(history, lives)]


def misplaced(history: Sequence[Operation], lives: dict[str, Life]) -> list[str]:
    """Answers that are gone, or that nobody sent, or that were refused and are there."""
    stored = {response.id for life in lives.values() for response in life.responses.values()}
    ends = {operation.id: operation.end for operation in history if operation.kind == "append"}
    gone = [f"{id_} is gone" for id_, end in ends.items() if end == "ok" and id_ not in stored]
    refused = [f"{id_} was refused" for id_, end in ends.items() if end == "fail" and id_ in stored]
    torn = [
        f"the log of {life.row.id} has gaps"
        for life in lives.values()
        if sorted([*life.responses, *life.corrections]) != list(range(1, life.row.position + 1))
    ]
    return gone + refused + torn + [f"{id_} is a phantom" for id_ in stored - ends.keys()]


def unseen(history: Sequence[Operation]) -> list[str]:
    """Operations that were told of an earlier place than one that had ended before they began."""
    found = []
    moments: dict[str, list[tuple[float, int, Operation]]] = defaultdict(list)
    for operation in history:
        if operation.end == "ok":
            # At one moment, what ends is noted before what begins.
            moments[operation.learner] += [(operation.ended, 0, operation), (operation.began, 1, operation)]
    for learner, events in moments.items():
        reached, expected = 0, {}
        for _, begins, operation in sorted(events, key=lambda event: event[:2]):
            if begins:
                expected[id(operation)] = reached
            # A repetition is told the place it had at first; none is sent here.
            else:
                reached = max(reached, operation.position)
        found += [
            f"{operation.kind} of {learner} went back to {operation.position}"
            for _, begins, operation in events
            if begins and operation.position < expected[id(operation)]
        ]
    return found


def risen(history: Sequence[Operation], lives: dict[str, Life]) -> list[str]:
    """Answers that were voided and count again."""
    voided = {operation.id for operation in history if operation.kind == "void" and operation.end == "ok"}
    counted = {entry.id for life in lives.values() for entry in life.entries(life.end) if entry.score is not None}
    return [f"{id_} was voided and counts" for id_ in voided & counted]


def misread(db: Connection, history: Sequence[Operation]) -> list[str]:
    """Readings that were not the fold of the log up to their position."""
    bank, lives = read_bank(db, 1, COURSE), stored_lives(db)
    reads = [operation for operation in history if operation.kind != "append" and operation.end == "ok"]
    wrong = []
    for read in random.sample(reads, min(len(reads), COMPARED_READS)):
        entries = lives[read.learner].entries(read.position)
        # Within an hour nothing fades, so any moment of the test will do.
        states = at(bank, fold(bank, [read.learner], entries).states, now())
        if report(bank, states, read.learner, read.position) != read.told:
            wrong.append(f"{read.kind} of {read.learner} at {read.position}")
    return wrong


# Controls: histories with a lie in them


Lie = tuple[Sequence[Operation], dict[str, Life]]


def first(history: Sequence[Operation], wanted: Callable[[Operation], bool]) -> Operation:
    return next(operation for operation in history if operation.end == "ok" and wanted(operation))


def lose_an_answer(history: Sequence[Operation], lives: dict[str, Life]) -> Lie:
    life = max(lives.values(), key=lambda each: len(each.responses))
    kept = {position: row for position, row in life.responses.items() if position != min(life.responses)}
    return history, {**lives, life.row.id: replace(life, responses=kept)}


def dream_of_an_answer(history: Sequence[Operation], lives: dict[str, Life]) -> Lie:
    dreamt = first(history, lambda operation: operation.kind == "append")
    return [operation for operation in history if operation.id != dreamt.id], lives


def read_the_past(history: Sequence[Operation], lives: dict[str, Life]) -> Lie:
    known = first(history, lambda operation: operation.kind == "append")
    late = Operation("read", known.learner, "", known.ended + 1, known.ended + 2, "ok", {"position": 0})
    return [*history, late], lives


def void_what_counts(history: Sequence[Operation], lives: dict[str, Life]) -> Lie:
    counts = next(entry for life in lives.values() for entry in life.entries(life.end) if entry.score is not None)
    void = Operation("void", counts.learner_id, counts.id, 0.0, 0.0, "ok", {"position": 0})
    return [*history, void], lives


DOCTORS = (lose_an_answer, dream_of_an_answer, read_the_past, void_what_counts)
