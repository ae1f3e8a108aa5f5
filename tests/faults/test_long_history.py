"""What many clients saw while workers were killed is what one log, read in one order, would have shown them.

After Jepsen (Kingsbury): every operation is noted when it begins and when it ends, as `ok`, `fail` or `info` (nobody
knows). The checker knows nothing of the service but its promises.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from app.core.times import now, to_text
from app.queries.learners import page_learners
from app.services.course_model import CourseModel, read_course_model
from app.services.learner_log import LearnerLog, read_learner_logs
from app.services.mastery import mastery_report
from app.services.replay import replay_entries, states_at
from tests.client import COURSE, opened, verify
from tests.faults.harness import ITEMS, Service, clients_of, create_courses, fault_counts, serving

pytestmark = pytest.mark.anyio

LEARNERS = 6
# After so many operations others take their place: whoever has thousands of answers is slow to correct.
ERA = 600
# Most corrections are of one of the last answers that were acknowledged.
RECENT = 300
CLIENTS = 8
# Another death every so many operations, but not more in all: each costs seconds in which nothing happens.
KILL_EVERY, MOST_KILLS = 150, 200
MOST_TIMES = 10
MOST_LATE_US = 60_000_000
SHARES = {"append": 70, "read": 15, "void": 8, "regrade": 7}
COMPARED_READS = 400
AGAIN_S = 0.05
# The whole log is read at once.
LONGEST_CHECK_S = 600.0


@dataclass(frozen=True)
class Operation:
    """What one client did: `reply` is that of one that is `ok`."""

    kind: str
    learner: str
    id: str
    began: float
    ended: float
    end: str
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> int:
        """The place in the learner's log that the reply speaks of."""
        told = self.reply.get("response", self.reply)
        return int(told["position"])


@pytest.mark.parametrize(("engine_name", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine_name"])
@pytest.mark.parametrize("operations", fault_counts(300, 100_000))
async def test_clients_see_one_history_while_workers_are_killed(
    operations: int, workers: int, database_url: str, tmp_path: Path
) -> None:
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", workers=workers) as service:
        await service.ready(workers)
        history = await run_clients(service, operations)
        assert service.unexpected() == []
    ends = Counter(operation.end for operation in history)
    print(  # noqa: T201 (how much there was to check)
        f"{database_url.partition(':')[0]}: {dict(ends)}, {service.started - workers} starts after a kill"
    )
    assert ends["ok"] > operations / 2
    assert ends["info"] > 0
    async with opened(database_url, LONGEST_CHECK_S) as database:
        course_model, learner_logs = await database.read(stored)
        assert anomalies(history, learner_logs) == []
        assert misread(course_model, history, learner_logs) == []
        assert (await verify(database)).differences == []
    for doctor in DOCTORS:
        assert anomalies(*doctor(history, learner_logs)), doctor.__name__


async def run_clients(service: Service, operations: int) -> list[Operation]:
    """Clients at work, while workers die."""
    history: list[Operation] = []
    mine: list[tuple[str, str]] = []
    kill_every = max(KILL_EVERY, operations // MOST_KILLS)

    def numbered() -> Iterator[int]:
        """So many operations, and more while no death has cut one: whether one is under way is luck."""
        yield from range(operations)
        for number in range(operations, MOST_TIMES * operations):
            if any(operation.end == "info" for operation in history):
                return
            yield number

    numbers = numbered()

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            if number % kill_every == kill_every // 2 and service.pids:
                service.kill([random.choice(service.pids)])
            history.append(await act(client, number, mine))

    async with clients_of(service, clients=CLIENTS) as client:
        await asyncio.gather(*(work(client) for _ in range(CLIENTS)))
    return history


async def act(client: httpx.AsyncClient, number: int, mine: list[tuple[str, str]]) -> Operation:
    """One operation, tried once; `mine` are the answers that were acknowledged, and whose they are."""
    kind = random.choices(list(SHARES), list(SHARES.values()))[0] if mine else "append"
    learner, id_ = f"l{number // ERA}-{random.randrange(LEARNERS)}", f"r-{number}"
    path, body = f"learners/{learner}/mastery", None
    if kind == "append":
        late = random.choice([0, 0, random.randrange(MOST_LATE_US)])
        body = {"id": id_, "learner": learner, "item": random.choice(ITEMS), "correct": random.random() < 0.6}
        path, body = "responses", {**body, "occurred_at": to_text(now() - late)}
    elif kind != "read":
        id_, learner = random.choice(mine if random.random() < 0.05 else mine[-RECENT:])
        path, body = f"responses/{id_}/{kind}", {"reason": "test"}
        if kind == "regrade":
            body["score"] = random.choice([0, 1])
    began = time.monotonic()
    try:
        reply = await reach(client, path, body)
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


async def reach(client: httpx.AsyncClient, path: str, body: dict[str, Any] | None) -> httpx.Response:
    """Send a request as soon as somebody listens: what could not be sent is no operation yet."""
    while True:
        try:
            return await (client.get(path) if body is None else client.post(path, json=body))
        except httpx.ConnectError:
            await asyncio.sleep(AGAIN_S)


# The checker


def stored(db: Connection) -> tuple[CourseModel, dict[str, LearnerLog]]:
    """The course and its whole log."""
    course_model = read_course_model(db, 1, COURSE)
    return course_model, {
        learner_log.row.id: learner_log
        for learner_log in read_learner_logs(db, course_model, page_learners(db, 1, COURSE, None, 1_000_000))
    }


def anomalies(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> list[str]:
    """What one log, read in one order, could not have shown."""
    return [*misplaced(history, learner_logs), *unseen(history), *risen(history, learner_logs)]


def misplaced(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> list[str]:
    """Answers that are gone, or that nobody sent, or that were refused and are there."""
    stored = {response.id for learner_log in learner_logs.values() for response in learner_log.responses.values()}
    ends = {operation.id: operation.end for operation in history if operation.kind == "append"}
    gone = [f"{id_} is gone" for id_, end in ends.items() if end == "ok" and id_ not in stored]
    refused = [f"{id_} was refused" for id_, end in ends.items() if end == "fail" and id_ in stored]
    torn = [
        f"the log of {learner_log.row.id} has gaps"
        for learner_log in learner_logs.values()
        if sorted([*learner_log.responses, *learner_log.corrections]) != list(range(1, learner_log.row.position + 1))
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


def risen(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> list[str]:
    """Answers that were voided and count again."""
    voided = {operation.id for operation in history if operation.kind == "void" and operation.end == "ok"}
    counted = {
        entry.id
        for learner_log in learner_logs.values()
        for entry in learner_log.entries(learner_log.end)
        if entry.score is not None
    }
    return [f"{id_} was voided and counts" for id_ in voided & counted]


def misread(course_model: CourseModel, history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> list[str]:
    """Readings that were not the fold of the log up to their position."""
    reads = [operation for operation in history if operation.kind != "append" and operation.end == "ok"]
    wrong = []
    for read in random.sample(reads, min(len(reads), COMPARED_READS)):
        entries = learner_logs[read.learner].entries(read.position)
        # After an hour skills begin to fade: what counts is when it was read.
        read_at = now() - round((time.monotonic() - read.ended) * 1e6)
        states = states_at(course_model, replay_entries(course_model, [read.learner], entries).states, read_at)
        if mastery_report(course_model, states, read.learner, read.position) != read.reply:
            wrong.append(f"{read.kind} of {read.learner} at {read.position}")
    return wrong


# Controls: histories with a lie in them


Lie = tuple[Sequence[Operation], dict[str, LearnerLog]]


def first(history: Sequence[Operation], wanted: Callable[[Operation], bool]) -> Operation:
    return next(operation for operation in history if operation.end == "ok" and wanted(operation))


def lose_an_answer(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> Lie:
    learner_log = max(learner_logs.values(), key=lambda each: len(each.responses))
    kept = {position: row for position, row in learner_log.responses.items() if position != min(learner_log.responses)}
    return history, {**learner_logs, learner_log.row.id: replace(learner_log, responses=kept)}


def dream_of_an_answer(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> Lie:
    dreamt = first(history, lambda operation: operation.kind == "append")
    return [operation for operation in history if operation.id != dreamt.id], learner_logs


def read_an_outdated_state(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> Lie:
    known = first(history, lambda operation: operation.kind == "append")
    late = Operation("read", known.learner, "", known.ended + 1, known.ended + 2, "ok", {"position": 0})
    return [*history, late], learner_logs


def void_what_counts(history: Sequence[Operation], learner_logs: dict[str, LearnerLog]) -> Lie:
    counts = next(
        entry
        for learner_log in learner_logs.values()
        for entry in learner_log.entries(learner_log.end)
        if entry.score is not None
    )
    void = Operation("void", counts.learner_id, counts.id, 0.0, 0.0, "ok", {"position": 0})
    return [*history, void], learner_logs


DOCTORS = (lose_an_answer, dream_of_an_answer, read_an_outdated_state, void_what_counts)
