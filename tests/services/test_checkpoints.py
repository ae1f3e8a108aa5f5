"""A fold that starts at a checkpoint ends where the whole fold ends, to the bit, and reads only what comes after it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, event, func, select, update

from app.adaptive.tracing.replay import replay_marked
from app.adaptive.tracing.state_codec import ENGINE, encode_states
from app.files.responses import ResponseRecord
from app.models import Checkpoint
from app.queries.checkpoints import insert_checkpoints
from app.queries.learners import page_learners
from app.queries.responses import read_entries
from app.services import course_model as banks
from app.services import mastery, verification
from app.services import replay as folding
from app.services.catalogue import catalogue_at, upsert
from app.services.corrections import correct_response
from app.services.course_model import CourseModel, LruCache, read_course_model
from app.services.imports import import_chunk
from app.services.mastery import cohort_mastery, learner_mastery
from app.services.responses import NewResponse, RecordedResponse, record
from app.services.responses import late as late_responses
from app.services.verification import verify_learners
from tests.client import CATALOGUE, COURSE, MINUTE_US, NEW_YEAR_US, RunAndUndo, make_response, rolled_back_runs
from tests.gate.examples import examples

ITEMS = [item["id"] for item in CATALOGUE["items"]]
WHO = ("ann", "bob")
LATER = NEW_YEAR_US + 10**6 * MINUTE_US
EVERY = 4


@pytest.fixture
def course(database_url: str) -> Iterator[RunAndUndo]:
    """Do something with the small course, and undo it."""
    with rolled_back_runs(database_url) as once:
        yield once


@pytest.fixture(autouse=True)
def _many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "CHECKPOINT_INTERVAL", EVERY)


@pytest.fixture
def replayed_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each fold of logs went through."""
    counts: list[int] = []
    replay = replay_marked

    def watched(parameters: Any, log: Any, *rest: Any) -> Any:
        counts.append(len(log.items))
        return replay(parameters, log, *rest)

    for module in (folding, late_responses):
        monkeypatch.setattr(module, "replay_marked", watched)
    return counts


def answer(number: int, minute: int, who: str = "ann") -> NewResponse:
    return make_response(f"r{number:03d}", who, ITEMS[number * 5 % len(ITEMS)], minute, correct=number * 7919 % 10 < 6)


def give(db: Connection, answers: Sequence[NewResponse]) -> None:
    results = record(db, answers)
    assert all(isinstance(result, RecordedResponse) for result in results), results


def give_in_order(db: Connection, many: int, first: int = 0) -> None:
    for number in range(first, first + many):
        give(db, [answer(number, number)])


def load(db: Connection, many: int) -> None:
    rows = [
        ResponseRecord(
            line=number + 1,
            learner="ann",
            item=ITEMS[number % 4],
            skills=(),
            score=float(number % 3 > 0),
            order=None,
            occurred_at=NEW_YEAR_US + number * MINUTE_US,
            split=None,
            response_id=f"r{number:03d}",
            duration_ms=None,
        )
        for number in range(many)
    ]
    assert import_chunk(db, 1, COURSE, "0" * 64, rows, LATER).created == many


def count_checkpoints(db: Connection) -> int:
    return db.scalar(select(func.count()).select_from(Checkpoint)) or 0


def verification_differences(db: Connection) -> list[str]:
    """What is not as the whole fold says: answers told, snapshots, checkpoints."""
    return verify_learners(db, 1, COURSE, "", LruCache())[0].differences


def states(db: Connection) -> tuple[list[bytes], list[bytes]]:
    """What is kept of all learners, and what the whole fold says."""
    course_model, rows = read_course_model(db, 1, COURSE), page_learners(db, 1, COURSE, None, 100)
    whole = folding.rebuild(db, course_model, [row.id for row in rows]).states
    return encode_states(course_model.parameters, folding.load_states(db, course_model, rows)), encode_states(
        course_model.parameters, whole
    )


def as_of(db: Connection, moment: int) -> tuple[list[Any], list[Any]]:
    """What is told of a moment, and what the answers until then say."""
    course_model, rows = read_course_model(db, 1, COURSE), page_learners(db, 1, COURSE, None, 100)
    told = [learner_mastery(db, 1, COURSE, row.id, moment, LATER) for row in rows]
    expected = []
    for row in rows:
        entries = read_entries(db, 1, COURSE, [row.id], moment)
        known = folding.states_at(course_model, folding.replay_entries(course_model, [row.id], entries).states, moment)
        expected.append(mastery.mastery_report(course_model, known, row.id, row.position))
    return told, expected


# One step of a history: answers (whose, at which minute), a correction of one of them, a change of the catalogue that
# makes all snapshots and checkpoints stale, or the background's folding again.
steps = st.one_of(
    st.lists(st.tuples(st.sampled_from(WHO), st.integers(0, 30)), min_size=1, max_size=12),
    st.tuples(st.sampled_from([None, 0.0, 1.0]), st.integers(0, 10**6)),
    st.sampled_from(["retag", "rebuild"]),
)


def apply_history(db: Connection, history: Sequence[Any]) -> None:
    given: list[NewResponse] = []
    voided: set[str] = set()
    for number, step in enumerate(history):
        if isinstance(step, list):
            group = [answer(len(given) + place, minute, who) for place, (who, minute) in enumerate(step)]
            give(db, group)
            given += group
        elif step == "retag":
            skills = [["add"], ["subtract"]][number % 2]
            upsert(db, 1, COURSE, {"items": [{"id": "i1", "skills": skills}]}, 1)
        elif step == "rebuild":
            folding.rebuild_stale(db, 1, COURSE, 10)
        elif given:
            chosen = given[step[1] % len(given)]
            if step[0] is None or chosen.id not in voided:
                correct_response(db, 1, COURSE, chosen.id, step[0], "misprint", "key", 1)
            voided |= {chosen.id} if step[0] is None else set()


@examples(
    60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(steps, min_size=2, max_size=10), minute=st.integers(-1, 31))
def test_checkpoints_change_no_bit_after_any_history(
    course: Callable[[Callable[[Connection], Any]], Any], history: list[Any], minute: int
) -> None:
    def work(db: Connection) -> Any:
        apply_history(db, history)
        return verification_differences(db), states(db), as_of(db, NEW_YEAR_US + minute * MINUTE_US)

    found, (snapshots, whole), (told, expected) = course(work)
    assert found == []
    assert snapshots == whole
    assert told == expected


def late_twice(db: Connection) -> bool:
    """Whether all is right after a late answer, and another one after that."""
    give_in_order(db, 40)
    give(db, [make_response("x", "ann", "i1", 9, correct=False)])
    give(db, [make_response("y", "ann", "i1", 38, correct=False)])
    return verification_differences(db) == []


def void_then_late(db: Connection) -> bool:
    give_in_order(db, 40)
    correct_response(db, 1, COURSE, "r009", None, "misprint", "key", 1)
    give(db, [make_response("y", "ann", "i1", 38, correct=False)])
    return verification_differences(db) == []


@pytest.mark.parametrize("history", [late_twice, void_then_late])
def test_checkpoints_made_wrong_by_a_late_answer_or_a_void_are_dropped(
    course: Callable[[Callable[[Connection], Any]], Any], history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert course(history)
    monkeypatch.setattr(folding, "drop_checkpoints", lambda *_: None)
    monkeypatch.setattr(folding, "insert_checkpoints", skip_known)
    assert not course(history)


def skip_known(db: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert what is not there: a checkpoint that stays where it should have gone."""
    places = {tuple(row) for row in db.execute(select(Checkpoint.learner_id, Checkpoint.response_id))}
    insert_checkpoints(db, [row for row in rows if (row["learner_id"], row["response_id"]) not in places])


def test_checkpoints_of_another_catalogue_revision_are_not_used(
    course: Callable[[Callable[[Connection], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(db: Connection) -> bool:
        give_in_order(db, 20)
        upsert(db, 1, COURSE, {"items": [{"id": "i1", "skills": ["subtract"]}]}, 1)
        correct_response(db, 1, COURSE, "r018", None, "misprint", "key", 1)
        return verification_differences(db) == []

    assert course(stale)
    monkeypatch.setattr(folding, "current_version", lambda course_model: (course_model.calibration, 0, ENGINE))
    assert not course(stale)


def fill_by_answers(db: Connection) -> None:
    give_in_order(db, 40)


def fill_by_import(db: Connection) -> None:
    load(db, 40)


def fill_and_rebuild(db: Connection) -> None:
    load(db, 40)
    upsert(db, 1, COURSE, {"items": [{"id": "i1", "skills": ["subtract"]}]}, 1)
    assert folding.rebuild_stale(db, 1, COURSE, 10) == 1


def fill_and_answer_after_a_change(db: Connection) -> None:
    load(db, 40)
    upsert(db, 1, COURSE, {"items": [{"id": "i1", "skills": ["subtract"]}]}, 1)
    give(db, [make_response("z", "ann", "i1", 40, correct=True)])


def late(db: Connection) -> None:
    give(db, [make_response("x", "ann", "i1", 36, correct=False)])


def voided(db: Connection) -> None:
    correct_response(db, 1, COURSE, "r037", None, "misprint", "key", 1)


def asked(db: Connection) -> None:
    learner_mastery(db, 1, COURSE, "ann", NEW_YEAR_US + 38 * MINUTE_US, LATER)


@pytest.mark.parametrize("fill", [fill_by_answers, fill_by_import, fill_and_rebuild, fill_and_answer_after_a_change])
@pytest.mark.parametrize("change", [late, voided, asked])
def test_replay_processes_only_the_answers_after_a_checkpoint(
    course: Callable[[Callable[[Connection], Any]], Any],
    fill: Any,
    change: Any,
    replayed_counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def most(db: Connection) -> int:
        fill(db)
        replayed_counts.clear()
        change(db)
        most = max(replayed_counts)
        assert verification_differences(db) == []
        return most

    assert course(most) <= EVERY + 6
    monkeypatch.setattr(folding, "CHECKPOINT_INTERVAL", 10**9)
    assert course(most) >= 36


def test_checkpoints_are_written_only_by_groups_in_which_one_is_due(
    course: Callable[[Callable[[Connection], Any]], Any],
) -> None:
    def statements(db: Connection) -> list[int]:
        counts = []
        for number in range(3 * EVERY):
            seen: list[str] = []
            listener = lambda *given, seen=seen: seen.append(given[2])  # noqa: E731
            event.listen(db, "before_cursor_execute", listener)
            give(db, [answer(2 * number, number), answer(2 * number + 1, number, "bob")])
            event.remove(db, "before_cursor_execute", listener)
            counts.append(sum("checkpoint" in statement for statement in seen))
        assert count_checkpoints(db) == 6
        return counts

    assert course(statements) == [int(number % EVERY == EVERY - 1) for number in range(3 * EVERY)]


def test_verification_finds_checkpoints_that_were_tampered_with(
    course: Callable[[Callable[[Connection], Any]], Any],
) -> None:
    def tampered(db: Connection) -> list[str]:
        give_in_order(db, 10)
        assert verification_differences(db) == []
        [first, second] = db.execute(select(Checkpoint.response_id, Checkpoint.state).order_by(Checkpoint.response_id))
        db.execute(
            update(Checkpoint)
            .where(Checkpoint.tenant_id == 1, Checkpoint.response_id == first.response_id)
            .values(state=second.state)
        )
        return verification_differences(db)

    assert course(tampered) == ["learner ann: a checkpoint is not what the log replays to"]


def test_course_models_of_earlier_revisions_are_built_once_in_a_run(
    course: Callable[[Callable[[Connection], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    history = catalogue_at

    def watched(*given: Any) -> Any:
        built.append(given[3])
        return history(*given)

    monkeypatch.setattr(banks, "catalogue_at", watched)
    monkeypatch.setattr(verification, "PAGE", 1)

    def verify(db: Connection) -> list[int]:
        for number, item in enumerate(["new-1", "new-2"]):
            upsert(db, 1, COURSE, {"items": [{"id": item, "skills": ["add"]}]}, 1)
            give(db, [answer(3 * number + place, number, who) for place, who in enumerate(("ann", "bob", "cem"))])
        built.clear()
        shelf = LruCache[CourseModel]()
        after: str | None = ""
        while after is not None:
            found, after = verify_learners(db, 1, COURSE, after, shelf)
            assert found.differences == []
        return built

    assert course(verify) == [2, 3]
    monkeypatch.setattr(banks, "CACHED_MODELS", 1)
    assert course(verify) == [2, 3, 2, 3, 2, 3]


def test_page_of_the_cohort_reads_only_the_learners_it_needs(
    course: Callable[[Callable[[Connection], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    page = page_learners

    def watched(*given: Any) -> Any:
        rows = page(*given)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(folding, "page_learners", watched)

    def pages(db: Connection) -> tuple[int, list[Any]]:
        names = [f"l{number:03d}" for number in range(100)]
        group = [
            make_response(f"{who}-{item}", who, item, 1, correct=True) for who in names for item in ("i1", "i3", "i4")
        ]
        give(db, group)
        whole = cohort_mastery(db, 1, COURSE, None, None, 10**6, LATER)
        read.clear()
        rows, after = [], None
        while part := cohort_mastery(db, 1, COURSE, None, after, 50, LATER):
            rows += part
            after = (part[-1]["learner"], part[-1]["skill"])
        assert rows == whole
        return sum(read), rows

    count, rows = course(pages)
    assert len(rows) == 300
    assert count <= 200
    monkeypatch.setattr(mastery, "MIN_LEARNERS_READ", 50)
    assert course(pages)[0] > 200
