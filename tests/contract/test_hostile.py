"""Whatever is sent, the answer is a reply of ours: never a 5xx, and the same on both databases."""

import base64
import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.ids import ID_PATTERN
from tests.client import client_of, make_key, served
from tests.contract.course import CATALOGUE, COURSE, fill
from tests.contract.replies import check_headers, check_problem
from tests.gate.examples import examples

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
AT = f"courses/{COURSE}"
# Every operation with a body, and a body it takes.
BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", f"{AT}/catalogue", {"skills": [{"id": "s1"}]}),
    ("POST", f"{AT}/responses", {"learner": "ann", "item": "i1", "correct": True}),
    ("POST", f"{AT}/responses:batch", {"responses": [{"learner": "ann", "item": "i1", "correct": True}]}),
    ("POST", f"{AT}/responses/r-1/regrade", {"score": 1, "reason": "because"}),
    ("POST", f"{AT}/responses/r-1/void", {"reason": "because"}),
]
# What no parser should take for JSON, or two parsers for different things.
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "space": b"  \n ",
    "a word": b"true false",
    "cut": b'{"learner": "ann", "it',
    "NaN": b'{"score": NaN}',
    "infinity": b'{"score": Infinity}',
    "minus infinity": b'{"score": -Infinity}',
    "1e400": b'{"score": 1e400}',
    "-1e400": b'{"score": -1e400}',
    "2 ** 63": b'{"score": 9223372036854775808}',
    "many digits": b'{"score": ' + b"9" * 5000 + b"}",
    "the same key twice": b'{"reason": "a", "reason": "b"}',
    "the same key in another spelling": rb'{"reason": "a", "r\u0065ason": "b"}',
    "half a pair": rb'{"reason": "\ud800"}',
    "the other half": rb'{"reason": "\udc00 \ud800"}',
    "half a pair as a key": rb'{"\udfff": 1}',
    "half a pair in bytes": b'{"reason": "\xed\xa0\x80"}',
    "NUL": b'{"reason": "a\x00b"}',
    "NUL escaped": rb'{"reason": "a\u0000b"}',
    "NUL as a key": rb'{"\u0000": 1}',
    "latin-1": b'{"reason": "\xe9"}',
    "overlong UTF-8": b'{"reason": "\xc0\x80"}',
    "UTF-16": '{"reason": "a"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"reason": "a"}',
    "33 levels": b"[" * 33 + b"]" * 33,
    "100,000 levels": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "comment": b'{"reason": "a"} // b',
    "trailing comma": b'{"reason": "a",}',
    "single quotes": b"{'reason': 'a'}",
    "hexadecimal": b'{"score": 0x10}',
    "leading zero": b'{"score": 01}',
    "two values": b"{}{}",
    "form": b"reason=a&score=1",
}
# Strict JSON of the wrong shape.
SHAPES: list[Any] = [None, True, 0, -1.5, "text", [], [[]], [{}], {}, {"unknown": 1}, {"": None}, {"__proto__": {}}]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**63 - 1,
    -(2**63),
    1e308,
    "",
    "x" * 5000,
    [],
    [None],
    {},
    {"a": {}},
    "\x7f\u200f",
]
MEDIA_TYPES = [
    "text/plain",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=latin-1",
    "application/json, text/html",
    "application/jsonx",
    "json",
    "/",
    "",
    "\xff",
]
BAD_IDS = ["%00", "a%00b", "%ff", "%C3%28", "%ED%A0%80", "x" * 256, "%F0%9F%98%80" * 213]
GOOD_IDS = [
    "%20",
    ".%20",
    "%2e%2e%2f",
    "a%2Fb",
    "%2F",
    "%2f%2F",
    "..;",
    "%25",
    "%2500",
    "é",
    "%F0%9F%98%80" * 212,
    "a+b",
    "'--",
    "%0A",
]
# Every operation with ids in its path, each id as a field; the first of them is varied, then the second.
PATHS = [
    ("GET", "courses/{0}/skills"),
    ("GET", "courses/{0}/items"),
    ("GET", "courses/{0}/mastery"),
    ("GET", "courses/{0}/quality"),
    ("GET", "courses/{0}/calibrations"),
    ("POST", "courses/{0}/calibrations"),
    ("GET", f"{AT}/learners/{{0}}/mastery"),
    ("GET", "courses/{0}/learners/ann/mastery"),
]
# Anybody may be a new learner.
NEW_LEARNERS = [("GET", 200), ("POST", 201)]
PATHS_WITH_BODY: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "courses/{0}/responses", {"learner": "ann", "item": "i1", "correct": True}),
    ("POST", "courses/{0}/responses/r-1/void", {"reason": "because"}),
    ("POST", f"{AT}/responses/{{0}}/void", {"reason": "because"}),
    ("POST", f"{AT}/responses/{{0}}/regrade", {"score": 1, "reason": "because"}),
]
LISTS = [f"{AT}/skills", f"{AT}/items", f"{AT}/mastery", f"{AT}/calibrations", f"{AT}/quality"]


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with served(database_url) as app, client_of(app, await make_key(app.state.database)) as caller:
        await fill(caller)
        yield caller


async def send_json(client: httpx.AsyncClient, method: str, path: str, body: object) -> httpx.Response:
    """Also `null`, which the client takes for no body."""
    return await client.request(method, path, content=json.dumps(body), headers=JSON)


def header(name: str, text: str) -> httpx.Headers:
    """One header, whatever it holds."""
    return httpx.Headers([(name.encode(), text.encode("latin-1"))])


async def test_text_that_is_not_strict_json_is_malformed(client: httpx.AsyncClient) -> None:
    for method, path, _ in BODIES:
        for name, body in MALFORMED.items():
            reply = await client.request(method, path, content=body, headers=JSON)
            check_problem(reply, 400, "malformed_json", (method, path, name))


async def test_body_of_the_wrong_shape_is_invalid_with_a_pointer(client: httpx.AsyncClient) -> None:
    for method, path, good in BODIES:
        for body in SHAPES:
            if body == {} and path.endswith("catalogue"):
                continue  # an upsert of nothing
            problem = check_problem(await send_json(client, method, path, body), 422, "invalid", (path, body))
            assert problem["errors"], (path, body)
        for field in good:
            for value in VALUES:
                reply = await send_json(client, method, path, {**good, field: value})
                assert reply.status_code in {200, 201, 404, 422}, (path, field, value, reply.text)
                check_headers(reply, (path, field, value))


async def test_batch_judges_each_answer_alone(client: httpx.AsyncClient) -> None:
    good = {"learner": "ann", "item": "i1", "correct": True}
    odd = [*SHAPES, *({**good, field: value} for field in good for value in VALUES), {**good, "score": 1}]
    reply = await client.post(f"{AT}/responses:batch", json={"responses": [*odd, good]})
    results = reply.json()["results"]
    assert len(results) == len(odd) + 1
    assert results[-1]["status"] == "created"
    for sent, result in zip(odd[: len(SHAPES)], results, strict=False):
        assert (result["status"], result["error"]["code"]) == ("invalid", "invalid"), sent


async def test_body_that_is_not_plain_json_is_refused(client: httpx.AsyncClient) -> None:
    for method, path, good in BODIES:
        body = json.dumps(good).encode()
        for media_type in MEDIA_TYPES:
            reply = await client.request(method, path, content=body, headers=header("content-type", media_type))
            check_problem(reply, 415, "unsupported_media_type", (path, media_type))
        for encoding in ("gzip", "br", "deflate", "GZIP, identity", "nonsense"):
            headers = {**JSON, "content-encoding": encoding}
            reply = await client.request(method, path, content=gzip.compress(body), headers=headers)
            check_problem(reply, 415, "unsupported_media_type", (path, encoding))
        check_problem(
            await client.request(method, path, content=gzip.compress(body), headers=JSON), 400, "malformed_json", path
        )
        large = b'{"reason": "' + b"x" * (1 << 20) + b'"}'
        check_problem(await client.request(method, path, content=large, headers=JSON), 413, "too_large", path)


async def test_ids_in_paths_are_used_unchanged_or_refused(client: httpx.AsyncClient) -> None:
    for method, template in PATHS:
        await check_ids(client, method, template, None)
    for method, template, body in PATHS_WITH_BODY:
        await check_ids(client, method, template, body)


async def test_id_of_a_new_learner_is_used_unchanged_or_refused(client: httpx.AsyncClient) -> None:
    for method, status in NEW_LEARNERS:
        for id_ in BAD_IDS:
            reply = await client.request(method, f"{AT}/learners/{id_}/recommendations")
            check_problem(reply, 422, "invalid", (method, id_))
        for id_ in GOOD_IDS:
            reply = await client.request(method, f"{AT}/learners/{id_}/recommendations")
            if method == "POST" and not re.fullmatch(ID_PATTERN, unquote(id_)):
                check_problem(reply, 422, "invalid", (method, id_))
                continue
            assert reply.status_code == status, (method, id_, reply.text)
            known = await client.get(f"{AT}/learners/{id_}/mastery")
            assert known.status_code == (200 if method == "POST" else 404), (method, id_)
            assert method == "GET" or known.json()["learner"] == unquote(id_)


async def check_ids(client: httpx.AsyncClient, method: str, template: str, body: dict[str, Any] | None) -> None:
    """An id that cannot be is invalid, one that could be is unknown."""
    for id_ in BAD_IDS:
        reply = await client.request(method, template.format(id_), json=body)
        check_problem(reply, 422, "invalid", (method, template, id_))
    for id_ in GOOD_IDS:
        reply = await client.request(method, template.format(id_), json=body)
        assert reply.status_code == 404, (method, template, id_, reply.text)
        assert reply.json()["code"].startswith("unknown_"), (method, template, id_, reply.text)


async def test_ids_of_calibrations_have_one_form(client: httpx.AsyncClient) -> None:
    for id_ in ("c-0", "c-01", "c-1234567890", "1", "c-1%20", "c-%D9%A1", "C-1", "c--1", "%00", "c-1%2F"):
        for method, rest in (("GET", ""), ("POST", "/activate")):
            check_problem(await client.request(method, f"{AT}/calibrations/{id_}{rest}"), 422, "invalid", id_)
    check_problem(await client.get(f"{AT}/calibrations/c-999999999"), 404, "unknown_calibration", "large")


def cursor(place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def raw(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


NO_PLACES: list[Any] = [None, 1, "a", [], {}, [[]], [{}], [None], [True], [1.5], [-1], [2**31], [2**70], ["a"] * 3]
BROKEN_CURSORS = [
    *map(cursor, NO_PLACES),
    *(cursor(place) for place in (["\0"], ["\ud800"], ["a\0", "b"], ["a", "\udfff"], ["x" * 256], ["x" * 256, "b"])),
    *(raw(text) for text in (b"[NaN]", b"[1e400]", b"[" * 1000, b'["a"', b"\xff\xfe", b"[1]]", b'[ "a" ', b"")),
    "A",
    "AAAAA",
]
FOREIGN: dict[str, list[Any]] = {
    "skills": ["a"],
    "items": ["a"],
    "mastery": ["a", "b"],
    "calibrations": [1],
    "quality": ["skill", 1],
}


async def test_cursor_of_another_list_is_refused(client: httpx.AsyncClient) -> None:
    for path in LISTS:
        own = FOREIGN[path.rpartition("/")[2]]
        others = [cursor(place) for place in FOREIGN.values() if [type(p) for p in place] != [type(p) for p in own]]
        for text in [*BROKEN_CURSORS, *others]:
            check_problem(await client.get(path, params={"cursor": text}), 422, "invalid_cursor", (path, text))
        for text in ("a b", "a%00", "%FF", "=" * 4, "ä", "+/", "A" * 2001):
            check_problem(await client.get(f"{path}?cursor={text}"), 422, "invalid", (path, text))
    stranger = {"cursor": cursor(["nobody", "s1"])}
    check_problem(await client.get(f"{AT}/mastery", params=stranger), 422, "invalid_cursor", stranger)


async def test_parameters_that_are_unknown_or_out_of_range_are_refused(client: httpx.AsyncClient) -> None:
    for path in (*LISTS, f"{AT}/learners/ann/recommendations"):
        for limit in (
            "0",
            "-1",
            "1001",
            "1e2",
            "NaN",
            "",
            "a",
            "%00",
            "9" * 5000,
            "0x10",
            "1.5",
            "%D9%A1%D9%A2",
            "null",
            "%FF",
        ):
            check_problem(await client.get(f"{path}?limit={limit}"), 422, "invalid", (path, limit))
        check_problem(await client.get(f"{path}?unknown=1"), 422, "invalid", path)
        check_problem(await client.get(f"{path}?Limit=1"), 422, "invalid", path)
        assert (await client.get(f"{path}?limit=1&limit=1")).status_code == 200
    for method, path, good in BODIES:
        check_problem(await client.request(method, f"{path}?limit=1", json=good), 422, "invalid", path)
    for method, path in (("POST", "calibrations"), ("GET", "calibrations/c-1"), ("POST", "calibrations/c-1/activate")):
        check_problem(await client.request(method, f"{AT}/{path}?limit=1"), 422, "invalid", path)
    for skill in ("", "%00", "x" * 256):
        check_problem(await client.get(f"{AT}/mastery?skill={skill}"), 422, "invalid", skill)
        check_problem(await client.get(f"{AT}/learners/ann/recommendations?avoid={skill}"), 422, "invalid", skill)
    check_problem(await client.get(f"{AT}/learners/ann/recommendations?" + "avoid=a&" * 101), 422, "invalid", "avoid")
    for moment in ("now", "2026", "2026-11-22", "2026-11-22T09:00:00", "2026-02-30T09:00:00Z", "1969-12-31T23:59:59Z",
                   "2200-01-01T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T09:00:60Z", "2026-11-22T09:00:00+24:00",
                   "2026-11-22T09:00:00 01:00", "", "%00", "0", "1763802000"):  # fmt: skip
        check_problem(await client.get(f"{AT}/learners/ann/mastery?as_of={moment}"), 422, "invalid", moment)


@pytest.mark.parametrize("key", ["", '""', '"', 'a"b', " ", "ä", "x" * 256, "a\tb"])
async def test_idempotency_key_must_be_printable(client: httpx.AsyncClient, key: str) -> None:
    body = {"learner": "ann", "item": "i1", "correct": True}
    reply = await client.post(f"{AT}/responses", json=body, headers=header("idempotency-key", key))
    check_problem(reply, 422, "invalid", key)


async def test_accept_header_chooses_the_media_type(client: httpx.AsyncClient) -> None:
    wanted = {
        "*/*": "application/json", "": "application/json", "application/*": "application/json",
        "text/csv": "text/csv; charset=utf-8", "TEXT/CSV": "text/csv; charset=utf-8",
        "text/html, text/csv": "text/csv; charset=utf-8", "text/csv;q=0, */*": "application/json",
        "text/csv;q=0.1, application/json": "application/json",
        "application/json;q=0.1, text/csv;q=0.9": "text/csv; charset=utf-8",
        "text/csv;q=x": "text/csv; charset=utf-8", ",,,": "application/json", ";;": "application/json",
    }  # fmt: skip
    for accept, media_type in wanted.items():
        reply = await client.get(f"{AT}/mastery", headers={"accept": accept})
        assert (reply.status_code, reply.headers["content-type"]) == (200, media_type), accept
        check_headers(reply, accept)
    for accept in ("text/html", "image/*", "application/xml;q=0.9", "nonsense", "*/html", "text/csv;q=0", "\xff"):
        reply = await client.get(f"{AT}/mastery", headers=header("accept", accept))
        check_problem(reply, 406, "not_acceptable", accept)


async def test_wrong_methods_get_the_allowed_ones(client: httpx.AsyncClient) -> None:
    allowed = {f"{AT}/skills": "GET", f"{AT}/catalogue": "PUT", f"{AT}/calibrations": "GET, POST"}
    for path, methods in allowed.items():
        for method in ("HEAD", "OPTIONS", "TRACE", "DELETE", "PATCH", "CONNECT", "QUERY", "BREW"):
            reply = await client.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, methods), (method, path)
            check_headers(reply, (method, path))


FUZZ = examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text() | st.sampled_from(["ann", "i1", "r-1", "", "é\u202e", "2026-11-22T09:00:00Z"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
FIELDS = st.sampled_from(["id", "learner", "item", "correct", "score", "occurred_at", "duration_ms", "recommendation"])
THINGS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | TEXTS, inner, max_size=9),
    max_leaves=20,
)
ANSWERS = st.fixed_dictionaries(
    {"learner": TEXTS, "item": st.just("i1")}, optional={"id": TEXTS, "correct": st.booleans(), "score": st.floats()}
)


@pytest.mark.parametrize("path", ["responses", "responses:batch"])
async def test_service_survives_any_body(client: httpx.AsyncClient, path: str) -> None:
    for body in examples_of(path):
        reply = await client.post(f"{AT}/{path}", content=body, headers=JSON)
        assert reply.status_code in {200, 201, 400, 404, 409, 413, 422}, (body, reply.text)
        check_headers(reply, body)


def examples_of(path: str) -> list[bytes]:
    """Bodies as hypothesis makes them, the same for both databases."""
    bodies: list[bytes] = []
    wrap = (
        (lambda value: {"responses": value if isinstance(value, list) else [value]})
        if "batch" in path
        else (lambda v: v)
    )

    @settings(FUZZ, derandomize=True, database=None)
    @given(
        st.binary() | st.text().map(str.encode) | (THINGS | ANSWERS).map(lambda value: json.dumps(wrap(value)).encode())
    )
    def collect(body: bytes) -> None:
        bodies.append(body)

    collect()
    return bodies


async def test_course_without_skills_takes_answers(client: httpx.AsyncClient) -> None:
    assert (await client.put("courses/bare/catalogue", json={"items": [{"id": "i", "skills": []}]})).status_code == 200
    assert (await client.put("courses/empty/catalogue", json={})).status_code == 200
    reply = await client.post("courses/bare/responses", json={"learner": "ann", "item": "i", "correct": True})
    assert reply.status_code == 201, reply.text
    assert (await client.get("courses/bare/learners/ann/mastery")).json()["mastery"] == []
    assert (await client.get("courses/bare/mastery")).json()["data"] == []
    reply = await client.post("courses/empty/responses", json={"learner": "ann", "item": "i", "correct": True})
    check_problem(reply, 404, "unknown_item", "empty")
    assert (await client.get("courses/empty/mastery")).json()["data"] == []


def test_catalogue_of_these_tests_has_the_items_they_name() -> None:
    assert {"i1", "graded"} <= {item["id"] for item in CATALOGUE["items"]}
