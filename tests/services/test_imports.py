"""Files of answers: through the same fold, all or resumed, and found out when somebody changed what was kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text

from app import sample
from app.core.database import Database
from app.core.errors import InvalidFile
from app.core.times import now
from app.files.responses import Rejection
from app.jobs import imports as import_jobs
from app.jobs.imports import ImportTotals, import_responses
from app.models import Learner, Response
from app.queries.learners import page_learners
from app.services.catalogue import read_catalogue, upsert
from app.services.imports import ImportedChunk, import_chunk
from app.services.keys import create_key
from app.services.mastery import learner_mastery
from app.services.replay import rebuild_stale
from tests.client import CATALOGUE, COURSE, app_of, find_differences, minute_text, school, verify

pytestmark = pytest.mark.anyio

HEADER = "learner_id,item_id,skill_ids,correct,order,attempted_at,response_id"


async def begin(database: Database) -> None:
    await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, COURSE, CATALOGUE, 1)


async def load(database: Database, path: Path, course: str = COURSE) -> tuple[ImportTotals, list[Rejection]]:
    rejections: list[Rejection] = []
    totals = await import_responses(database, 1, course, path, rejections.extend, lambda *_: None)
    return totals, rejections


def counts(totals: ImportTotals) -> tuple[int, int, int]:
    return totals.created, totals.repeated, totals.rejected


def written(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


def snapshots(db: Connection) -> list[Any]:
    return page_learners(db, 1, COURSE, None, 1000)


def stored(db: Connection) -> tuple[int, int, int]:
    """Learners, answers, and positions given."""
    answers, learners = (db.scalar(select(func.count()).select_from(table)) or 0 for table in (Response, Learner))
    return learners, answers, db.scalar(select(func.sum(Learner.position))) or 0


def many(learners: int = 12, answers: int = 25) -> list[str]:
    """Rows of a file whose learners take turns."""
    return [
        f"l{who},i{1 + (who + n) % 4},,{(who * n + n) % 3 % 2},,{minute_text(n)},r-{who}-{n}"
        for n in range(answers)
        for who in range(learners)
    ]


async def test_import_loads_the_whole_sample_once_and_verifies(database: Database) -> None:
    await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, sample.COURSE, sample.catalogue(), 1)
    totals, rejections = await load(database, sample.responses(), sample.COURSE)
    assert (counts(totals), rejections) == ((10_720, 0, 0), [])
    assert await database.read(stored) == (536, 10_720, 10_720)
    totals, _ = await load(database, sample.responses(), sample.COURSE)
    assert counts(totals) == (0, 0, 0)
    found = await verify(database, sample.COURSE)
    assert (found.learners, found.responses, found.differences) == (536, 10_720, [])


async def test_import_of_a_copy_of_a_file_repeats_its_answers(database: Database, tmp_path: Path) -> None:
    await begin(database)
    rows = many()
    await load(database, written(tmp_path / "a.csv", rows))
    totals, _ = await load(database, written(tmp_path / "b.csv", rows[::-1]))
    assert counts(totals) == (0, 300, 0)
    assert await database.read(stored) == (12, 300, 300)


async def test_import_stops_before_anything_is_stored_if_scores_are_points(database: Database, tmp_path: Path) -> None:
    await begin(database)
    rows = [f"{who},i{1 + n % 4},,{score},,," for n in range(6) for who, score in (("top", 2), ("mid", 1), ("low", 0))]
    path = written(tmp_path / "points.csv", rows)
    with pytest.raises(InvalidFile, match="--max-score"):
        await load(database, path)
    assert await database.read(stored) == (0, 0, 0)
    totals = await import_responses(database, 1, COURSE, path, lambda _: None, lambda *_: None, 2.0)
    assert counts(totals) == (18, 0, 0)
    scores = await database.read(lambda db: dict(list(db.execute(select(Response.learner_id, Response.score)))))
    assert scores == {"top": 1.0, "mid": 0.5, "low": 0.0}


async def test_import_takes_thirds_in_two_decimals_for_graded_items(database: Database, tmp_path: Path) -> None:
    """As `proxima fit`, which made the item: the nearest category, and no other fraction."""
    await begin(database)
    rows = [f"ann,i8,,{score},{n},," for n, score in enumerate(["0", ".33", ".67", "1", ".5"])]
    totals, [rejection] = await load(database, written(tmp_path / "thirds.csv", rows))
    assert counts(totals) == (4, 0, 1)
    assert (rejection.line, rejection.reason) == (6, "this item is graded: its score is a whole number")
    assert await database.read(lambda db: sorted(db.scalars(select(Response.score)))) == [0, 1, 2, 3]


async def test_import_repeats_its_answers_after_a_change_of_the_maximum(database: Database, tmp_path: Path) -> None:
    """The way of the documents: import fractions, fit graded items, import these: nothing changes its worth."""
    await begin(database)
    await database.write(upsert, 1, COURSE, {"items": [{"id": "new", "skills": ["add"]}]}, 1)
    rows = [f"{who},new,,{score},{n},," for n in range(3) for who, score in (("top", 1), ("mid", "0.3333"), ("low", 0))]
    path = written(tmp_path / "answers.csv", rows)
    await load(database, path)
    thresholds = {"model": "graded", "a": 1.0, "thresholds": [-1.0, 0.0, 1.0]}
    await database.write(upsert, 1, COURSE, {"items": [{"id": "new", "skills": ["add"], "parameters": thresholds}]}, 2)
    copied = written(tmp_path / "copy.csv", [*rows, "zoe,new,,1,,,"])
    await database.write(lambda db: db.execute(text("DELETE FROM import_run")))
    totals, rejections = await load(database, path)
    assert (counts(totals), rejections) == ((0, 9, 0), [])
    totals, _ = await load(database, copied)
    assert totals.created >= 1

    def abilities(db: Connection) -> dict[str, float]:
        return {row.id: learner_mastery(db, 1, COURSE, row.id, None, 10)["ability"]["theta"] for row in snapshots(db)}

    await database.write(rebuild_stale, 1, COURSE, 100)
    found = await database.read(abilities)
    assert found["low"] < found["mid"] < found["top"]
    assert found["top"] > 0.3
    assert await find_differences(database) == []


async def test_import_orders_by_sort_keys_that_are_no_moments(database: Database, tmp_path: Path) -> None:
    """YYYYMMDDhhmmss, or microseconds since 1970: no time passes between answers, and none is refused."""
    await begin(database)
    for learner, first in (("small", 1), ("stamp", 20260901080000), ("micros", 1_790_000_000_000_000)):
        rows = [f"{learner},i1,,1,{first + 100 * n},," for n in range(8)]
        totals, _ = await load(database, written(tmp_path / f"{learner}.csv", rows))
        assert counts(totals) == (8, 0, 0)

    def masteries(db: Connection) -> list[Any]:
        return [learner_mastery(db, 1, COURSE, row.id, None, now())["mastery"] for row in snapshots(db)]

    one, *others = await database.read(masteries)
    assert others == [one, one]


async def test_import_counts_a_response_once_that_has_a_row_per_skill(database: Database, tmp_path: Path) -> None:
    """New items get all skills; attempts, and rows with ids of their own, are loaded each."""
    await begin(database)
    answers = [("ann", "new", 1), ("ann", "new", 1), ("bob", "new", 0), ("bob", "i1", 1), ("bob", "i1", 1)]
    rows = [
        f"{learner},{item},{skill},{score},,,"
        for learner, item, score in answers
        for skill in (("x", "y", "z") if item == "new" else ("",))
    ]
    totals, rejections = await load(database, written(tmp_path / "answers.csv", rows))
    assert (counts(totals), rejections) == ((5, 0, 0), [])
    assert totals.duplicates is not None
    assert (totals.duplicates.per_skill, totals.duplicates.exact, totals.duplicates.first_line) == (6, 0, 3)
    assert await database.read(stored) == (2, 5, 5)
    catalogue = await database.read(read_catalogue, 1, COURSE)
    assert sorted(catalogue.items["new"]["skills"]) == ["x", "y", "z"]
    named = [f"cy,new,{skill},1,,,{skill}" for skill in "xyz"]
    totals, _ = await load(database, written(tmp_path / "named.csv", named))
    assert counts(totals) == (3, 0, 0)
    twice = [f"dan,i1,,{n % 2},{n},{minute_text(n)}," for n in (1, 2, 3, 2)]
    totals, _ = await load(database, written(tmp_path / "twice.csv", twice))
    assert counts(totals) == (3, 0, 0)


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("before", [True, False])
async def test_import_that_was_killed_continues_without_loss_or_doubling(
    before: bool, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(database)
    monkeypatch.setattr(import_jobs, "CHUNK_ROWS", 70)
    monkeypatch.setattr(import_jobs, "WINDOW_ROWS", 150)
    path = written(tmp_path / "answers.csv", many())
    # In the second window: a window is two chunks whose learners are apart, or three.
    last, calls = {"postgresql": 3, "sqlite": 5}[database.dialect], []

    def one_dies(db: Connection, *arguments: Any) -> ImportedChunk:
        calls.append(1)
        number = len(calls)
        if number == last and before:
            raise Killed
        result = import_chunk(db, *arguments)
        if number == last:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(import_jobs, "import_chunk", one_dies)
        with pytest.raises(Killed):
            await load(database, path)
    # A window, and of the second window what was committed.
    kept = (await database.read(stored))[1]
    assert 150 <= kept < 300
    totals, _ = await load(database, path)
    assert counts(totals) == (300 - kept, kept - 150, 0)
    assert await database.read(stored) == (12, 300, 300)
    assert await find_differences(database) == []


@pytest.mark.parametrize(("chunk", "window"), [(7, 20), (7, 1000), (1000, 1000)])
async def test_import_does_not_depend_on_the_order_of_lines_and_the_size_of_chunks(
    chunk: int, window: int, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(database)
    await database.write(upsert, 1, "other", CATALOGUE, 1)
    monkeypatch.setattr(import_jobs, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(import_jobs, "WINDOW_ROWS", window)
    rows = many(4, 12)
    shuffled = [rows[place * 29 % len(rows)] for place in range(len(rows))]
    assert sorted(shuffled) == sorted(rows)
    await load(database, written(tmp_path / "shuffled.csv", shuffled))
    await load(database, written(tmp_path / "sorted.csv", rows), "other")
    assert [row.state for row in await database.read(snapshots)] == [
        row.state for row in await database.read(lambda db: page_learners(db, 1, "other", None, 1000))
    ]
    assert await find_differences(database) == []


async def test_import_reports_the_lines_of_rows_that_cannot_be_loaded(database: Database, tmp_path: Path) -> None:
    await begin(database)
    rows = [
        f"ann,i1,,1,,{minute_text(1)},r-1",
        f"ann,i8,,0.5,,{minute_text(2)},r-2",  # line 3: a graded item has whole scores
        f"ann,i1,,-2,,{minute_text(3)},r-3",  # line 4
        f"ann,i2,,1,,{minute_text(4)},r-1",  # line 5: r-1 is another answer
        f"ann,i1,,1,,{minute_text(1)},r-1",  # line 6 repeats line 2
        ",i1,,1,,,r-4",  # line 7
        "ann,i1,,1,,2199-01-01T00:00:00Z,r-5",  # line 8: not yet
        "ann,i1,,1,9000000000000000000,,r-6",  # only the rank counts
        "ann,i1,,1,-9000000000000000000,,r-7",
        "ann,i1,,1,1735689600000,,r-8",  # line 11: some count milliseconds
        f"ann,fresh,fraction;add,1,,{minute_text(5)},r-9",  # line 12: an item that the course learns of
        f"zoe,i1,,1,,{minute_text(6)},r-10",
        f"ann,i1,,1,,{minute_text(6)},r-10",  # line 14: r-10 is zoe's
    ]
    totals, rejections = await load(database, written(tmp_path / "answers.csv", rows))
    assert [rejection.line for rejection in rejections] == [3, 4, 5, 7, 8, 14]
    assert counts(totals) == (6, 0, 6)
    assert totals.duplicates is not None
    assert (totals.duplicates.exact, totals.duplicates.first_line) == (1, 6)
    assert await find_differences(database) == []
    items = (await database.read(read_catalogue, 1, COURSE)).items
    assert items["fresh"]["skills"] == ["fraction", "add"]


async def test_imported_answer_can_be_sent_again_and_its_outcome_stays(database_url: str, tmp_path: Path) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        rows = [
            "ann,i3,,0,0,,r-0",
            f"ann,i1,,1,,{minute_text(1)},r-1",
            f"ann,i5,,0.5,,{minute_text(3)},r-3",
            f"ann,i2,,1,,{minute_text(2)},r-2",
        ]
        await load(database, written(tmp_path / "answers.csv", rows))
        again = [
            {"id": "r-0", "learner": "ann", "item": "i3", "correct": False},
            {"id": "r-1", "learner": "ann", "item": "i1", "correct": True, "occurred_at": minute_text(1)},
            {"id": "r-3", "learner": "ann", "item": "i5", "score": 1, "occurred_at": minute_text(3)},
        ]
        batch = await client.post("/responses:batch", json={"responses": [*again, *again]})
        results = batch.json()["results"]
        assert [result["status"] for result in results] == ["duplicate"] * 6
        assert results[:3] == results[3:]
        for body in again:
            first, second = [await client.post("responses", json=body) for _ in range(2)]
            assert (first.status_code, second.content) == (200, first.content)
        assert [result["response"]["position"] for result in results[:3]] == [1, 2, 4]
        following = results[2]["next"]
        answer = {"learner": "ann", "item": following["item"], "correct": True, "recommendation": following["id"]}
        assert (await client.post("responses", json=answer)).status_code == 201
        other = await client.post("responses", json={**again[1], "correct": False})
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        assert await find_differences(database) == []


Tamper = Callable[[Connection], Any]


def change(statement: str) -> Tamper:
    return lambda db: db.execute(text(statement))


TAMPERED = {
    "state": change("UPDATE learner SET state = (SELECT state FROM learner WHERE id = 'bob') WHERE id = 'ann'"),
    "position": change("UPDATE learner SET position = position - 1 WHERE id = 'ann'"),
    "last": change("UPDATE learner SET last_occurred_at = last_occurred_at + 1 WHERE id = 'ann'"),
    "outcome": change("UPDATE response SET outcome = replace(outcome, '\"theta\"', '\"thета\"') WHERE id = 'r-2'"),
    "prediction": change("UPDATE response SET p_correct = p_correct + 1e-9 WHERE id = 'r-2'"),
    "prediction of an imported answer": change("UPDATE response SET p_correct = p_correct + 1e-9 WHERE id = 'm-1'"),
    "score": change("UPDATE response SET score = 1 - score WHERE id = 'm-1'"),
    "item of a recommendation": change("UPDATE recommendation SET item_id = 'i6' WHERE response_id = 'r-2'"),
    "chance of a recommendation": change("UPDATE recommendation SET propensity = 0.5 WHERE response_id = 'r-2'"),
    "recommendation gone": change("DELETE FROM recommendation WHERE response_id = 'r-2'"),
    "chance of an offer": change("UPDATE recommendation SET propensity = 0.5 WHERE response_id IS NULL"),
    "prediction of an offer": change("UPDATE recommendation SET p_correct = 0.5 WHERE response_id IS NULL"),
    "reason of an offer": change("UPDATE recommendation SET code = 'practice_item' WHERE response_id IS NULL"),
    "correction": change("UPDATE correction SET score = 1"),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_verification_finds_imported_answers_that_were_tampered_with(
    what: str, database_url: str, tmp_path: Path
) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        await load(
            database,
            written(tmp_path / "answers.csv", [f"ann,i1,,1,,{minute_text(1)},m-1", f"bob,i1,,0,,{minute_text(2)},m-2"]),
        )
        for number in range(4):
            body = {"id": f"r-{number}", "learner": "ann", "item": f"i{1 + number}", "correct": number != 1}
            assert (
                await client.post("responses", json={**body, "occurred_at": minute_text(9 - number)})
            ).status_code == 201
        await client.post("responses/r-0/regrade", json={"score": 0, "reason": "wrong key"})
        await client.post("learners/ann/recommendations", params={"limit": 2})
        found = await verify(database)
        assert (found.learners, found.responses, found.recommendations) == (2, 6, 6)
        assert found.differences == []
        await database.write(TAMPERED[what])
        assert await find_differences(database) != []
