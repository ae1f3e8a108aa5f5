"""The short way of a plain answer tells what the ordinary way tells, byte for byte."""

import json
import re
from typing import Any

import httpx
import pytest

from app.routers import responses
from tests.client import app_of, client_of, make_key, school

pytestmark = pytest.mark.anyio

GOOD = {"learner": "ann", "item": "i1", "correct": True, "occurred_at": "2025-01-01T09:00:00Z"}
# (body or bytes, headers): each is sent both ways, in this order
REQUESTS: list[tuple[Any, dict[str, str]]] = [
    ({**GOOD, "id": "r-1"}, {}),
    ({**GOOD, "id": "r-1"}, {}),
    ({**GOOD, "id": "r-1", "correct": False}, {}),
    ({**GOOD, "id": "r-2", "item": "i5", "correct": None, "score": 1.5}, {}),
    ({**GOOD, "id": "r-3", "item": "i8", "correct": None, "score": 1.5}, {}),
    ({**GOOD, "id": "r-4", "item": "nowhere"}, {}),
    ({**GOOD, "id": "r-5", "recommendation": "none"}, {}),
    ({**GOOD, "id": "r-6", "occurred_at": "2199-01-01T00:00:00Z"}, {}),
    ({**GOOD, "id": "r-7", "occurred_at": "yesterday"}, {}),
    ({**GOOD, "id": "r-8", "more": 1}, {}),
    ({"id": "r-9"}, {}),
    ([], {}),
    (b"", {}),
    (b"{", {}),
    (b'{"learner": NaN}', {}),
    (b'{"learner": "a", "learner": "b"}', {}),
    (json.dumps({**GOOD, "id": "r-10"}).encode(), {"Content-Type": "text/plain"}),
    (json.dumps({**GOOD, "id": "r-11"}).encode(), {"Content-Encoding": "gzip"}),
    ({**GOOD, "id": "r-12", "learner": "x" * 2000}, {}),
    ({**GOOD, "id": "r-13"}, {"Authorization": "Bearer nobody"}),
    ({**GOOD, "id": "r-14"}, {"Authorization": ""}),
    ({**GOOD, "learner": "bob", "id": "r-15"}, {"X-Request-Id": "mine"}),
    ({**GOOD}, {"Idempotency-Key": "r-16"}),
    ({**GOOD, "id": "r-17"}, {"Idempotency-Key": "r-18"}),
]
# The same course: FastAPI's way is taken by an address that is not plain.
EXPRESS, ORDINARY = "responses", "%72esponses"


async def test_fast_path_replies_as_the_ordinary_route(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(responses, "fast_path_course", spy(taken))
    told = [await replies(database_url, way) for way in (EXPRESS, ORDINARY)]
    assert told[0] == told[1]
    assert {status for status, _, _ in told[0]} >= {201, 200, 409, 404, 422, 400, 415, 401}
    assert taken.count("arithmetic") == len(REQUESTS) - 2


@pytest.mark.controls
async def test_comparison_of_both_routes_notices_another_body(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = responses.restore_body
    monkeypatch.setattr(responses, "restore_body", lambda _, receive: real(b"{}", receive))
    told = [await replies(database_url, way) for way in (EXPRESS, ORDINARY)]
    assert told[0] != told[1]


async def test_key_without_the_scope_is_refused_by_both_routes(database_url: str) -> None:
    async with school(database_url) as client:
        key = await make_key(app_of(client).state.database, scopes=["learners:read"])
        async with client_of(app_of(client), key) as other:
            told = [await other.post(f"courses/arithmetic/{way}", json=GOOD) for way in (EXPRESS, ORDINARY)]
    assert [each.status_code for each in told] == [403, 403]
    assert same(told[0]) == same(told[1])


async def replies(database_url: str, way: str) -> list[tuple[int, dict[str, str], str]]:
    """What a course says to all requests, whose learners are those of this way alone."""
    async with school(database_url) as client:
        return [same(await send(client, way, body, headers)) for body, headers in REQUESTS]


async def send(client: httpx.AsyncClient, way: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    """Post a body as it is, or as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(personal(body, way)).encode()
    if "Idempotency-Key" in headers:
        headers = {"Idempotency-Key": headers["Idempotency-Key"] + sign(way)}
    return await client.post(way, content=content, headers={"Content-Type": "application/json", **headers})


def personal(body: Any, way: str) -> Any:
    """The body with a learner and an id of this way, as long as those of the other."""
    if not isinstance(body, dict):
        return body
    return {name: value + sign(way) if name in ("id", "learner") else value for name, value in body.items()}


def sign(way: str) -> str:
    """What marks the names of one way."""
    return "E" if way == EXPRESS else "O"


def same(response: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Status, headers and body, without names, counts, the id of the request and what is drawn by chance."""
    headers = {name: value for name, value in response.headers.items() if name not in ("content-length", "ratelimit")}
    if headers.get("x-request-id") != "mine":
        headers.pop("x-request-id", None)
    body = response.json()
    body.pop("request_id", None)
    body.pop("next", None)
    return response.status_code, headers, re.sub(r'[EO]"', '"', json.dumps(body))


def spy(taken: list[str]) -> Any:
    """`fast_path_course`, with a list of what it took."""
    real = responses.fast_path_course

    def plain_course(scope: Any) -> str | None:
        course = real(scope)
        if course is not None:
            taken.append(course)
        return course

    return plain_course
