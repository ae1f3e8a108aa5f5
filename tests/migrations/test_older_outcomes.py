"""What an older program stored keeps its words: repeated byte for byte, and never called damage by verification.

`tests/data/backup-0007.gz` was made by the last program of revision 0007, before the public names were changed: two
courses with single, late, voided and imported responses, an offer, a calibration, a running session and a failed call.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import Connection, select, text, update

from app.adaptive.tracing.state_codec import ENGINE
from app.core.migrate import migrate, run_exclusively
from app.core.times import to_text
from app.files.backup_format import check_backup
from app.models import Session
from app.services import verification
from app.services.present import OUTCOME_VERSION
from app.services.sessions import NewSessionResponse, record_session_response
from app.services.transfer import restore
from tests.client import COURSE, app_of, client_of, make_key, opened, served, verify

pytestmark = pytest.mark.anyio

BACKUP = Path(__file__).parents[1] / "data" / "backup-0007.gz"
# The engine and the learners of the file.
OLD_ENGINE, OLD_LEARNERS = 3, 3
OLD_WORDS = (b'"evidence":', b'"doubt":', b'"opens_up":', b'"challenge":', b'"tells":')
NEW_WORDS = (b'"responses":', b'"need":', b'"unlocks":', b'"difficulty_match":', b'"diagnosticity":')
NEXT = {"goal": ["divide"], "expires_in": 60, "prefetch": True, "why_not": ["i1", "i8"], "forecast": True}


def ignore(*_: object) -> None:
    """A progress that nobody looks at."""


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table as they are in the file."""
    columns: list[str] = []
    for line in map(json.loads, gzip.decompress(BACKUP.read_bytes()).splitlines()):
        if isinstance(line, dict):
            columns = list(line["columns"]) if line.get("table") == name else []
        elif columns:
            yield dict(zip(columns, line, strict=True))


STORED = {row["id"]: row for row in rows_of("response") if row["course_id"] == COURSE}
OUTCOMES = {id_: row["outcome"].encode() for id_, row in STORED.items() if row["outcome"]}


def body_of(row: dict[str, Any]) -> dict[str, Any]:
    """A stored response as it was sent."""
    body = {"id": row["id"], "learner": row["learner_id"], "item": row["item_id"], "score": row["score"]}
    if row["dated"]:
        body["occurred_at"] = to_text(row["occurred_at"])
    if row["recommendation_id"]:
        body["recommendation"] = row["recommendation_id"]
    if row["wishes"]:
        body["next"] = NEXT
    return body


@asynccontextmanager
async def restored(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a service on the restored file; addresses are below its first course."""
    work = partial(restore, path=BACKUP, contents=check_backup(BACKUP, ignore)[1], progress=ignore)
    await asyncio.to_thread(run_exclusively, url, work)
    async with served(url) as app, client_of(app, await make_key(app.state.database)) as client:
        client.base_url = client.base_url.join(f"courses/{COURSE}/")
        yield client


async def test_outcome_in_old_words_is_repeated_byte_for_byte(empty_database_url: str) -> None:
    async with restored(empty_database_url) as client:
        assert len(OUTCOMES) == 9
        for id_, outcome in OUTCOMES.items():
            assert all(word in outcome for word in OLD_WORDS)
            repeated = await client.post("responses", json=body_of(STORED[id_]))
            assert (repeated.status_code, repeated.content) == (200, outcome)
        # The control: what was sent is compared too, so other options are a conflict.
        other = await client.post("responses", json=body_of(STORED["r-2"]) | {"next": {**NEXT, "expires_in": 61}})
        assert other.status_code == 409


async def test_verification_counts_old_outcomes_and_stale_states(empty_database_url: str) -> None:
    async with restored(empty_database_url) as client:
        database = app_of(client).state.database
        result = await verify(database)
        assert result.differences == []
        assert (result.responses, result.other_version) == (0, len(STORED) + 1)
        # As many as the service has not yet replayed by itself.
        assert result.stale <= OLD_LEARNERS

        new = await client.post("responses", json={"id": "n-1", "learner": "ann", "item": "i4", "correct": True})
        assert all(word in new.content for word in NEW_WORDS)
        assert not any(word in new.content for word in OLD_WORDS)
        result = await verify(database)
        assert (result.differences, result.responses) == ([], 1)
        assert result.stale < OLD_LEARNERS


async def test_verification_reports_old_outcomes_if_they_have_the_new_version(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: without a version of their own, old outcomes would be called damage."""
    assert {row["engine"] for row in STORED.values()} == {OLD_ENGINE}
    assert OUTCOME_VERSION > ENGINE > OLD_ENGINE
    async with restored(empty_database_url) as client:
        monkeypatch.setattr(verification, "OUTCOME_VERSION", OLD_ENGINE)
        differences = (await verify(app_of(client).state.database)).differences
        assert f"response {min(OUTCOMES)}: another outcome follows from the log" in differences


async def test_outcome_of_an_old_import_is_in_new_words_and_stays(empty_database_url: str) -> None:
    async with restored(empty_database_url) as client:
        first, again = [await client.post("responses", json=body_of(STORED["m-2"])) for _ in range(2)]
        assert (first.status_code, again.status_code, first.content) == (200, 200, again.content)
        assert all(word in first.content for word in NEW_WORDS)
        assert (await verify(app_of(client).state.database)).differences == []


async def test_verification_finds_a_changed_outcome_of_the_same_version(empty_database_url: str) -> None:
    async with restored(empty_database_url) as client:
        database = app_of(client).state.database
        await client.post("responses", json={"id": "n-1", "learner": "ann", "item": "i4", "correct": True})
        change = text("UPDATE response SET outcome = replace(outcome, 'diagnosticity', 'tells') WHERE id = 'n-1'")
        await database.write(lambda db: db.execute(change))
        assert (await verify(database)).differences == ["response n-1: another outcome follows from the log"]


def next_response(session: dict[str, Any]) -> NewSessionResponse:
    """A response to what a session of the file offers, a moment after the last one."""
    at = session["active_at"] + 1
    return NewSessionResponse("a-3", session["turn"]["item"], None, True, at, False, at, None)  # noqa: FBT003 (as sent)


async def test_session_of_an_old_backup_continues(empty_database_url: str) -> None:
    [session] = rows_of("session")
    assert session["plan"]["selection"]["pilot"] == {"items": ["fresh"], "places": [2]}
    async with restored(empty_database_url) as client:
        database = app_of(client).state.database
        await database.write(record_session_response, 1, session["id"], next_response(session))
        result = await verify(database, "bank")
        assert (result.differences, result.sessions) == ([], 1)
        plan = await database.read(lambda db: db.scalar(select(Session.plan)))
        assert plan["selection"]["pilot"] == {"items": ["fresh"], "positions": [2]}
        assert plan["updates_mastery"] is True


async def test_session_whose_plan_was_not_renamed_cannot_continue(empty_database_url: str) -> None:
    """The control of the test above: nothing but the revision knows the old names."""
    [session] = rows_of("session")
    async with restored(empty_database_url) as client:
        database = app_of(client).state.database
        await database.write(lambda db: db.execute(update(Session).values(plan=session["plan"])))
        with pytest.raises(ValidationError, match="positions"):
            await database.write(record_session_response, 1, session["id"], next_response(session))


async def test_downgrade_restores_old_names_within_columns(empty_database_url: str) -> None:
    """Down to 0007 the names are those of the file again."""

    def plans_and_options(db: Connection) -> list[Any]:
        options = "SELECT id, wishes FROM response WHERE wishes IS NOT NULL ORDER BY id"
        return [db.scalar(text("SELECT plan FROM session")), *db.execute(text(options))]

    async with restored(empty_database_url):
        pass
    await asyncio.to_thread(migrate, empty_database_url, "0007", lose_data=True)
    async with opened(empty_database_url) as database:
        plan, (id_, options) = (await database.read(plans_and_options))[:2]
    [session] = rows_of("session")
    assert (parsed(plan), id_, parsed(options)) == (session["plan"], "r-2", STORED["r-2"]["wishes"])


def parsed(value: Any) -> Any:
    """JSON as one database gives it parsed and the other as text."""
    return json.loads(value) if isinstance(value, str) else value
