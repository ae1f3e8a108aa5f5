"""What is told, to whom, and when again: the outbox as seen from the transactions."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.util import await_only

from app.adaptive.state import States
from app.core.database import Database
from app.core.errors import UnknownCourse, UnknownLearner, UnknownWebhook
from app.core.times import DAY_US
from app.models import Outbox, Webhook
from app.queries import webhooks as rows_of
from app.queries.webhooks import Listener, list_webhooks
from app.services import calibrations, webhooks
from app.services.catalogue import upsert
from app.services.corrections import correct_response
from app.services.course_model import CourseModel
from app.services.keys import create_key
from app.services.mastery import learner_mastery
from app.services.responses import NewResponse, RecordedResponse, record, write
from app.services.webhooks import (
    CALIBRATION_FINISHED,
    EVENTS,
    RESPONSE_CORRECTED,
    SKILL_MASTERED,
    WebhookCall,
    claim_calls,
    create_webhook,
    delete_failed_calls,
    next_attempt_at,
    page_of_webhooks,
    remove_webhook,
    settle_calls,
)
from tests.client import (
    CATALOGUE,
    COURSE,
    NEW_YEAR_US,
    UNTIL_MASTERED,
    RunAndUndo,
    make_response,
    opened,
    rolled_back_runs,
)
from tests.gate.examples import examples

URL = "https://lms.example.org/hook"
AT = NEW_YEAR_US
ITEMS = ["i1", "i2", "i3", "i4"]


def prepare(db: Connection) -> None:
    """Two schools with the small course, and the first with another course too."""
    for tenant_id, name in enumerate(("school", "neighbour"), 1):
        create_key(db, name, ["admin"], 1)
        upsert(db, tenant_id, COURSE, CATALOGUE, 1)
    upsert(db, 1, "other", CATALOGUE, 1)


@pytest.fixture
def run_and_undo(database_url: str) -> Iterator[RunAndUndo]:
    """Do something with the schools, and undo it."""
    with rolled_back_runs(database_url, prepare) as once:
        yield once


def outbox(db: Connection) -> list[dict[str, Any]]:
    """Everything that is to be told, in the order in which it happened."""
    found = [dict(row) for row in db.execute(select(Outbox.__table__)).mappings()]
    return sorted(
        ({**row, **json.loads(row.pop("body"))} for row in found),
        key=lambda row: (row["data"].get("position", 0), str(row["data"])),
    )


def data_of(db: Connection) -> list[dict[str, Any]]:
    return [row["data"] for row in outbox(db)]


def record_all(db: Connection, answers: Sequence[NewResponse]) -> None:
    assert all(isinstance(result, RecordedResponse) for result in record(db, answers))


def mastering(learner: str = "ann", first: int = 0) -> list[NewResponse]:
    """Right answers: with the last of them the skill is mastered."""
    return [
        make_response(f"{learner}-{n}", learner, ITEMS[n % 2], n, correct=True)
        for n in range(first, first + UNTIL_MASTERED)
    ]


rows = st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(ITEMS), st.integers(0, 3), st.integers(0, 5))
histories = st.lists(rows, min_size=1, max_size=16).map(
    lambda listed: [
        make_response(f"{n:02d}", who, item, 60 * 24 * 30 * months + n, correct=luck > 0)
        for n, (who, item, months, luck) in enumerate(listed)
    ]
)


@examples(12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=histories, cuts=st.lists(st.integers(0, 16)))
def test_mastered_events_do_not_depend_on_how_answers_are_grouped(
    run_and_undo: RunAndUndo, history: list[NewResponse], cuts: list[int]
) -> None:
    def alone(db: Connection) -> list[Any]:
        """By asking before and after each answer for the learner at its moment, or at that of the last one if later."""
        found = []
        latest: dict[str, int] = {}
        for answer in history:
            moment = latest[answer.learner] = max(latest.get(answer.learner, 0), answer.occurred_at)
            before = mastered(db, answer.learner, moment)
            record_all(db, [answer])
            after = mastered(db, answer.learner, moment)
            found += [(answer.learner, skill, answer.id, after[skill]) for skill in after.keys() - before.keys()]
        return sorted(found)

    def grouped(db: Connection) -> list[Any]:
        create_webhook(db, 1, URL, EVENTS, COURSE, AT)
        edges = [0, *sorted(cut for cut in cuts if cut < len(history)), len(history)]
        for start, end in pairwise(edges):
            record_all(db, history[start:end])
        return sorted((data["learner"], data["skill"], data["response"], data["mastery"]) for data in data_of(db))

    assert run_and_undo(grouped) == run_and_undo(alone)


def mastered(db: Connection, learner: str, moment: int) -> dict[str, float]:
    """The skills that a learner has mastered at a moment, and how well."""
    try:
        known = learner_mastery(db, 1, COURSE, learner, moment, moment)
    except UnknownLearner:
        return {}
    return {row["skill"]: row["mastery"] for row in known["mastery"] if row["status"] == "mastered"}


def test_mastered_event_is_repeated_for_mastery_that_was_lost_and_regained(
    run_and_undo: RunAndUndo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control does not look at what was known before: then every right answer tells it again."""
    results = [True] * (UNTIL_MASTERED + 1) + [False] * 4 + [True] * 20
    history = [make_response(f"{n:02d}", "ann", ITEMS[n % 2], n, correct=good) for n, good in enumerate(results)]

    def work(db: Connection) -> list[str]:
        create_webhook(db, 1, URL, EVENTS, None, AT)
        record_all(db, history)
        return sorted(data["response"] for data in data_of(db))

    first, second = run_and_undo(work)
    assert (first, int(second) > UNTIL_MASTERED + 4) == (f"{UNTIL_MASTERED - 1:02d}", True)
    find = webhooks.mastery_events

    def forgetful(course_model: CourseModel, before: States, after: States, *rest: Any) -> list[webhooks.WebhookEvent]:
        before = before.copy()
        before.mastered[:] = False
        return find(course_model, before, after, *rest)

    monkeypatch.setattr(write, "mastery_events", forgetful)
    assert len(run_and_undo(work)) > 2


def test_event_describes_mastery_and_corrections(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> Any:
        create_webhook(db, 1, URL, EVENTS, None, AT)
        record_all(db, mastering())
        correct_response(db, 1, COURSE, "ann-1", 0.0, "misprint", "key-1", AT + 1)
        correct_response(db, 1, COURSE, "ann-1", None, "misprint", "key-1", AT + 2)
        return outbox(db)

    mastery, regrade, void = run_and_undo(work)
    assert (mastery["type"], regrade["type"], void["type"]) == (SKILL_MASTERED, RESPONSE_CORRECTED, RESPONSE_CORRECTED)
    assert mastery["data"] == {
        "course": COURSE,
        "learner": "ann",
        "skill": "add",
        "mastery": pytest.approx(0.96, abs=0.01),
        "response": f"ann-{UNTIL_MASTERED - 1}",
        "position": UNTIL_MASTERED,
    }
    about = {"course": COURSE, "learner": "ann", "response": "ann-1"}
    assert regrade["data"] == {**about, "kind": "regrade", "score": 0.0, "position": UNTIL_MASTERED + 1}
    assert void["data"] == {**about, "kind": "void", "score": None, "position": UNTIL_MASTERED + 2}
    assert {row["learner_id"] for row in (mastery, regrade, void)} == {"ann"}
    assert {row["course_id"] for row in (mastery, regrade, void)} == {COURSE}
    assert len({row["id"] for row in (mastery, regrade, void)}) == 3


def test_event_of_a_repeated_answer_or_correction_is_written_once(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> Any:
        create_webhook(db, 1, URL, EVENTS, None, AT)
        for _ in range(2):
            record_all(db, mastering())
            correct_response(db, 1, COURSE, "ann-1", None, "misprint", "key-1", AT)
        return [row["type"] for row in outbox(db)]

    assert sorted(run_and_undo(work)) == [RESPONSE_CORRECTED, SKILL_MASTERED]


def test_event_is_written_at_the_end_of_a_calibration(
    run_and_undo: RunAndUndo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)

    def work(db: Connection) -> Any:
        create_webhook(db, 1, URL, EVENTS, None, AT)
        record_all(db, mastering())
        lost, kept = (calibrations.request_calibration(db, 1, COURSE, AT + n * DAY_US) for n in range(2))
        result = calibrations.CalibrationResult(b"", {})
        assert calibrations.save_result(db, kept, result, AT + DAY_US)
        # What an attempt without a lease wants to write is neither written nor told.
        assert not calibrations.save_result(db, lost, result, AT + DAY_US)
        assert not calibrations.save_failure(db, kept, "late", AT + DAY_US)
        return [(row["data"], row["learner_id"]) for row in outbox(db) if row["type"] == CALIBRATION_FINISHED]

    assert run_and_undo(work) == [
        ({"course": COURSE, "calibration": "c-1", "status": "failed"}, None),
        ({"course": COURSE, "calibration": "c-2", "status": "succeeded"}, None),
    ]


def test_event_goes_to_the_webhooks_that_subscribe_to_it(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> Any:
        made = [
            create_webhook(db, tenant_id, URL, events, course, AT)["id"]
            for tenant_id, events, course in (
                (1, [SKILL_MASTERED], None),
                (1, [SKILL_MASTERED, RESPONSE_CORRECTED], COURSE),
                (1, [RESPONSE_CORRECTED], None),
                (1, EVENTS, "other"),
                (2, EVENTS, None),
            )
        ]
        record_all(db, mastering())
        return made, {row["webhook_id"] for row in outbox(db)}

    made, called = run_and_undo(work)
    assert called == set(made[:2])


class Statements:
    """The statements that a transaction runs."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __enter__(self) -> list[str]:
        event.listen(Engine, "before_cursor_execute", self.note)
        return self.seen

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "before_cursor_execute", self.note)

    def note(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.seen.append(statement)


def test_outbox_costs_no_statement_without_webhooks(run_and_undo: RunAndUndo) -> None:
    """The control is somebody who listens: then a group that masters something has two more."""

    def statements(db: Connection, first: int) -> list[str]:
        record_all(db, [make_response(f"warm-{first}", "eve", "i6", first, correct=True)])
        with Statements() as seen:
            record_all(db, mastering("ann", first) + mastering("bob", first))
        return seen

    def deaf(db: Connection) -> list[str]:
        create_webhook(db, 2, URL, EVENTS, None, AT)
        create_webhook(db, 1, URL, EVENTS, "other", AT)
        return statements(db, 10)

    def heard(db: Connection) -> list[str]:
        create_webhook(db, 1, URL, EVENTS, None, AT)
        return statements(db, 20)

    nobody, others, somebody = run_and_undo(lambda db: statements(db, 0)), run_and_undo(deaf), run_and_undo(heard)
    assert len(nobody) == len(others) == len(somebody) - 2
    assert sum("webhook" in statement for statement in nobody) == 1
    assert not any("outbox" in statement for statement in nobody)


def test_webhook_is_created_listed_and_removed(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> Any:
        made = [create_webhook(db, 1, URL, [SKILL_MASTERED, SKILL_MASTERED], course, AT) for course in (None, COURSE)]
        with pytest.raises(UnknownCourse):
            create_webhook(db, 1, URL, EVENTS, "nowhere", AT)
        record_all(db, mastering())
        listed = page_of_webhooks(db, 1, None, 10)
        remove_webhook(db, 1, made[0]["id"])
        for stranger in (1, 2):
            with pytest.raises(UnknownWebhook):
                remove_webhook(db, stranger, made[0]["id"])
        with pytest.raises(UnknownWebhook):
            remove_webhook(db, 2, made[1]["id"])
        return made, listed, page_of_webhooks(db, 1, None, 10), page_of_webhooks(db, 2, None, 10), outbox(db)

    made, listed, left, theirs, calls = run_and_undo(work)
    secrets = {webhook.pop("secret") for webhook in made}
    assert len(secrets) == 2
    fresh = {"pending": 1, "failed": 0, "last_failure": None}
    assert listed == sorted(({**webhook, **fresh} for webhook in made), key=lambda webhook: str(webhook["id"]))
    assert [webhook["id"] for webhook in left] == [made[1]["id"]]
    assert theirs == []
    assert [call["webhook_id"] for call in calls] == [made[1]["id"]]


def one_call(db: Connection) -> str:
    """A webhook with one call."""
    webhook_id = str(create_webhook(db, 1, URL, EVENTS, None, AT)["id"])
    record_all(db, mastering())
    return webhook_id


def test_claim_on_calls_ends_with_its_lease(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> None:
        webhook_id = one_call(db)
        [first] = claim_calls(db, 1, webhook_id, AT)
        assert claim_calls(db, 1, webhook_id, AT + webhooks.LEASE_US - 1) == []
        [second] = claim_calls(db, 1, webhook_id, AT + webhooks.LEASE_US)
        assert (first.id, first.body, first.attempt) == (second.id, second.body, second.attempt - 1)
        webhooks.return_calls(db, 1, webhook_id, [second], AT)
        assert claim_calls(db, 1, webhook_id, AT - 1) == []
        assert claim_calls(db, 1, webhook_id, AT) == [second]
        # Whoever was too slow may still say that it was taken; then it is over for both.
        settle_calls(db, 1, webhook_id, [(first, None)], AT)
        settle_calls(db, 1, webhook_id, [(second, "answered 500")], AT)
        assert outbox(db) == []

    run_and_undo(work)


def test_call_that_fails_is_repeated_for_three_days(run_and_undo: RunAndUndo) -> None:
    def work(db: Connection) -> None:
        webhook_id = one_call(db)
        moment, tries = AT, []
        while calls := claim_calls(db, 1, webhook_id, moment):
            [call] = calls
            tries.append((moment, call.id, call.body))
            settle_calls(db, 1, webhook_id, [(call, f"answered {call.attempt}")], moment)
            [row] = db.execute(select(Outbox.due_at, Outbox.error)).all()
            assert row.error == f"answered {call.attempt}"
            [shown] = page_of_webhooks(db, 1, None, 10)
            assert shown["last_failure"]["reason"] == row.error
            assert (shown["pending"], shown["failed"]) == ((1, 0) if row.due_at else (0, 1))
            moment = row.due_at or moment
        assert len(tries) == webhooks.MAX_ATTEMPTS
        assert len({call[1:] for call in tries}) == 1
        assert 2 * DAY_US < moment - AT < 4 * DAY_US
        assert list_webhooks(db, moment + 365 * DAY_US) == [(1, webhook_id, False)]
        delete_failed_calls(db, moment + webhooks.FAILED_RETENTION_US)
        assert page_of_webhooks(db, 1, None, 10)[0]["failed"] == 1
        delete_failed_calls(db, moment + webhooks.FAILED_RETENTION_US + 1)
        assert page_of_webhooks(db, 1, None, 10)[0]["failed"] == 0

    run_and_undo(work)


@given(attempt=st.integers(1, webhooks.MAX_ATTEMPTS - 1))
def test_pauses_between_calls_grow_and_scatter(attempt: int) -> None:
    due = [next_attempt_at(attempt, AT) for _ in range(20)]
    wanted = min(10_000_000 * 4 ** (attempt - 1), DAY_US // 2)
    assert all(moment is not None and 0.74 * wanted < moment - AT < 1.26 * wanted for moment in due)
    assert len(set(due)) > 1


@pytest.mark.anyio
async def test_claims_at_the_same_time_get_different_calls(database: Database, database_url: str) -> None:
    def fill(db: Connection) -> str:
        prepare(db)
        webhook_id = str(create_webhook(db, 1, URL, EVENTS, None, AT)["id"])
        record_all(db, [answer for n in range(40) for answer in mastering(f"l{n:02d}")])
        return webhook_id

    webhook_id = await database.write(fill)
    async with opened(database_url) as other:
        claims = [(database, other)[n % 2].write(claim_calls, 1, webhook_id, AT) for n in range(8)]
        groups: list[list[WebhookCall]] = await asyncio.gather(*claims)
    ids = [call.id for group in groups for call in group]
    # Whoever comes while others hold the first rows may find fewer than there are, but never the same.
    assert len(ids) == len(set(ids))
    rest = await database.write(claim_calls, 1, webhook_id, AT)
    while rest:
        ids += [call.id for call in rest]
        rest = await database.write(claim_calls, 1, webhook_id, AT)
    assert len(ids) == len(set(ids)) == 40


@pytest.mark.anyio
@pytest.mark.parametrize("engine_name", ["postgresql"])
@pytest.mark.parametrize("locked", [True, False])
async def test_webhook_can_be_removed_while_events_are_written_for_it(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, *, locked: bool
) -> None:
    """The control does not hold on to the webhook: then it goes, and the answers cannot be stored."""
    await database.write(prepare)
    webhook_id = (await database.write(create_webhook, 1, URL, EVENTS, None, AT))["id"]
    removal: list[asyncio.Task[bool]] = []
    find = rows_of.find_listeners

    def meanwhile(db: Connection, tenant_id: int, course_id: str) -> list[Listener]:
        bare = [Listener(*row) for row in db.execute(select(Webhook.id, Webhook.events))]
        found = find(db, tenant_id, course_id) if locked else bare
        removal.append(asyncio.get_running_loop().create_task(other.write(remove_webhook, 1, webhook_id)))
        await_only(asyncio.wait(removal, timeout=1))
        assert removal[0].done() != locked
        return found

    monkeypatch.setattr(rows_of, "find_listeners", meanwhile)
    async with opened(database_url) as other:
        if locked:
            await database.write(record_all, mastering())
        else:
            with pytest.raises(IntegrityError):
                await database.write(record_all, mastering())
        await removal[0]
    assert await database.read(outbox) == []
    assert await database.read(page_of_webhooks, 1, None, 10) == []
