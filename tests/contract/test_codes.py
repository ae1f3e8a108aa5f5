"""Every documented error that HTTP can give is given: by its code, with its status, where the document says so."""

import sqlite3
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest
from sqlalchemy import Connection, text

from app.http import rate_limits
from app.http.problems import classes_by_code, status_of
from app.services.webhooks import MOST_WEBHOOKS
from tests.client import client_of, make_key, served
from tests.contract.course import COURSE, fill, insert_running_calibration, insert_worse_calibration
from tests.contract.document import current_document
from tests.contract.replies import check_problem

AT = f"courses/{COURSE}"
ANSWER = {"learner": "ann", "item": "i1", "correct": True}
SMALL = {"items": [{"id": "i1", "skills": ["s"]}], "skills": [{"id": "s"}]}
JSON = {"content-type": "application/json"}
OPERATIONS = {
    operation["operationId"]: operation for path in current_document()["paths"].values() for operation in path.values()
}


class Row(NamedTuple):
    """A request that meets the code, as the operation of that name (none: no operation's address)."""

    code: str
    operation: str | None
    method: str
    path: str
    body: Any = None
    content: bytes | None = None
    headers: dict[str, str] | None = None


ROWS = [
    Row("malformed_json", "post_response", "POST", f"{AT}/responses", content=b"{", headers=JSON),
    Row("too_large", "post_responses", "POST", f"{AT}/responses:batch", content=b" " * (1 << 21), headers=JSON),
    Row("unsupported_media_type", "put_catalogue", "PUT", f"{AT}/catalogue", content=b"{}"),
    Row("unauthenticated", "list_skills", "GET", f"{AT}/skills", headers={"authorization": "Bearer prx_1_no"}),
    Row("missing_scope", "list_calibrations", "GET", f"{AT}/calibrations", headers={"authorization": "reader"}),
    Row("not_found", None, "GET", "nothing"),
    Row("method_not_allowed", None, "DELETE", f"{AT}/skills"),
    Row("not_acceptable", "get_cohort", "GET", f"{AT}/mastery", headers={"accept": "text/html"}),
    Row("unknown_course", "list_items", "GET", "courses/none/items"),
    Row("unknown_item", "post_response", "POST", f"{AT}/responses", {**ANSWER, "item": "none"}),
    Row("unknown_skill", "get_cohort", "GET", f"{AT}/mastery?skill=none"),
    Row("unknown_learner", "get_mastery", "GET", f"{AT}/learners/none/mastery"),
    Row("unknown_response", "post_void", "POST", f"{AT}/responses/none/void", {"reason": "r"}),
    Row("unknown_recommendation", "post_response", "POST", f"{AT}/responses", {**ANSWER, "recommendation": "none"}),
    Row("unknown_calibration", "get_calibration", "GET", f"{AT}/calibrations/c-9"),
    Row("unknown_webhook", "delete_webhook", "DELETE", "webhooks/wh-0000000000000009"),
    Row("unknown_session", "get_session", "GET", "sessions/none"),
    Row("not_offered", "post_session_response", "POST", "sessions/t-1/responses", {"item": "free", "correct": True}),
    Row("session_finished", "post_session_response", "POST", "sessions/t-over/responses",
        {"item": "i2", "correct": True}),
    Row("conflict", "post_response", "POST", f"{AT}/responses", {**ANSWER, "id": "r-2"}),
    Row("response_voided", "post_regrade", "POST", f"{AT}/responses/r-4/regrade", {"score": 1, "reason": "r"}),
    Row("calibration_not_ready", "post_activation", "POST", f"{AT}/calibrations/c-1/activate"),
    Row("calibration_worse", "post_activation", "POST", "courses/small/calibrations/c-1/activate"),
    Row("calibration_running", "post_calibration", "POST", f"{AT}/calibrations"),
    Row("nothing_to_calibrate", "post_calibration", "POST", "courses/small/calibrations"),
    Row("invalid", "get_recommendations", "GET", f"{AT}/learners/ann/recommendations?limit=11"),
    Row("prerequisite_cycle", "put_catalogue", "PUT", "courses/small/catalogue",
        {"skills": [{"id": "a", "prerequisites": ["b"]}, {"id": "b", "prerequisites": ["a"]}]}),
    Row("invalid_score", "post_regrade", "POST", f"{AT}/responses/r-1/regrade", {"score": 2, "reason": "r"}),
    Row("invalid_score", "post_response", "POST", f"{AT}/responses",
        {"learner": "ann", "item": "graded", "score": 1.5}),
    Row("occurred_in_future", "post_response", "POST", f"{AT}/responses",
        {**ANSWER, "occurred_at": "2199-01-01T00:00:00Z"}),
    Row("invalid_cursor", "list_skills", "GET", f"{AT}/skills?cursor=AAAA"),
]  # fmt: skip
# Met in tests of their own below, or elsewhere for the reason given.
OTHERS = {
    "too_many_webhooks",
    "rate_limited",
    "too_many_failures",
    "overloaded",
    "database_unavailable",
    "not_migrated",
}
ELSEWHERE = {
    "internal": "no request meets it, or that would be a bug; tests/http/test_problems.py breaks a route",
    "invalid_file": "the command line only",
    "invalid_setting": "the command line only",
    "stopping": "a process that stops, in tests/edge/test_stopping.py",
    "unknown_section": "it is told as 1EdTech tells it, in tests/ims_cat/test_routes.py",
    "header_too_large": "a connection of its own, in tests/edge/test_heads.py",
    "too_slow": "a slow sender, in tests/edge/test_slow_clients.py",
}


def test_error_codes_have_requests_that_meet_them() -> None:
    assert {row.code for row in ROWS} | OTHERS | ELSEWHERE.keys() == classes_by_code().keys()


@pytest.mark.anyio
async def test_errors_are_met_and_documented_where_they_occur(database_url: str) -> None:
    async with served(database_url) as app, client_of(app, await make_key(app.state.database)) as client:
        await fill(client)
        await client.post(f"{AT}/responses/r-4/void", json={"reason": "wrong"})
        await client.put(
            "courses/small/catalogue", json={"skills": [{"id": "s"}], "items": [{"id": "i", "skills": ["s"]}]}
        )
        await insert_running_calibration(app.state.database)
        await insert_worse_calibration(app.state.database, "small")
        reader = await make_key(app.state.database, scopes=["learners:read"])
        for row in ROWS:
            headers = dict(row.headers or {})
            if headers.get("authorization") == "reader":
                headers["authorization"] = f"Bearer {reader}"
            extra = {"json": row.body} if row.body is not None else {"content": row.content}
            reply = await client.request(row.method, row.path, headers=headers, **extra)
            check_met(reply, row.code, row.operation)


def check_met(reply: httpx.Response, code: str, operation: str | None) -> None:
    status = status_of(classes_by_code()[code])
    check_problem(reply, status, code, (code, operation))
    if operation is not None:
        documented = OPERATIONS[operation]["responses"][str(status)]
        assert f"`{code}`" in documented["description"], (code, operation)
        for name in documented["headers"]:
            assert name in reply.headers, (code, name)


@pytest.mark.anyio
async def test_too_many_pending_answers_get_a_retry_after_header(database_url: str) -> None:
    async with (
        served(database_url, max_waiting_responses=1) as app,
        client_of(app, await make_key(app.state.database)) as client,
    ):
        await client.put(f"{AT}/catalogue", json=SMALL)
        reply = await client.post(f"{AT}/responses:batch", json={"responses": [ANSWER, ANSWER]})
        check_met(reply, "overloaded", "post_responses")
        assert (await client.post(f"{AT}/responses", json=ANSWER)).status_code == 201


@pytest.mark.anyio
async def test_tenant_with_as_many_webhooks_as_it_may_have_gets_no_more(database_url: str) -> None:
    async with served(database_url) as app:
        keys = [await make_key(app.state.database, tenant) for tenant in ("school", "other")]
        async with client_of(app, keys[0]) as client, client_of(app, keys[1]) as neighbour:
            wanted = {"url": "https://lms.example.org/", "events": ["skill.mastered"]}
            made = [await client.post("webhooks", json=wanted) for _ in range(MOST_WEBHOOKS)]
            assert {reply.status_code for reply in made} == {201}
            check_met(await client.post("webhooks", json=wanted), "too_many_webhooks", "post_webhook")
            assert (await neighbour.post("webhooks", json=wanted)).status_code == 201
            assert (await client.delete(f"webhooks/{made[0].json()['id']}")).status_code == 204
            assert (await client.post("webhooks", json=wanted)).status_code == 201


@pytest.mark.anyio
async def test_caller_beyond_the_quota_gets_a_retry_after_header(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "MINUTE_S", 10_000_000)  # no window ends meanwhile
    async with (
        served(database_url, requests_per_minute=1, failed_keys_per_minute=1) as app,
        client_of(app, await make_key(app.state.database)) as client,
        client_of(app) as stranger,
    ):
        assert (await client.get(f"{AT}/skills")).status_code == 404
        check_met(await client.get(f"{AT}/skills"), "rate_limited", "list_skills")
        assert (await stranger.get(f"{AT}/skills")).status_code == 401
        check_met(await stranger.get(f"{AT}/skills"), "too_many_failures", "list_skills")


@pytest.mark.anyio
async def test_database_that_does_not_answer_is_unavailable(database_url: str) -> None:
    async with served(database_url) as app, client_of(app, await make_key(app.state.database)) as client:
        await client.put(f"{AT}/catalogue", json=SMALL)
        if app.state.database.dialect == "sqlite":
            holder = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            reply = await client.put(f"{AT}/catalogue", json=SMALL)
            holder.close()
        else:
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("LOCK TABLE course IN ACCESS EXCLUSIVE MODE")
                reply = await client.put(f"{AT}/catalogue", json=SMALL)
            await other.close()
        check_met(reply, "database_unavailable", "put_catalogue")
        assert (await client.put(f"{AT}/catalogue", json=SMALL)).status_code == 200


@pytest.mark.anyio
async def test_database_of_another_version_is_not_ready(database_url: str) -> None:
    async with served(database_url) as app, client_of(app) as client:
        await app.state.database.write(age)
        check_met(await client.get(client.base_url.join("/readyz")), "not_migrated", None)


def age(db: Connection) -> None:
    db.execute(text("UPDATE alembic_version SET version_num = '0000'"))
