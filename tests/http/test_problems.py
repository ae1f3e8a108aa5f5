"""Every error is a problem: the same form, a documented code, no stack and nothing of what was sent."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from structlog.testing import capture_logs

from app.core import errors
from app.core.errors import ProximaError
from app.http import ims_status
from app.http.error_help import ADVICE
from app.http.problems import classes_by_code, faults_of, problem_body, responses_for, status_of
from app.schemas.problems import Problem
from tests.http.edge import CANARY, Answers, edge_client, make_edge

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
GOOD = {"id": "r-1", "score": 1}


def check(reply: httpx.Response, status: int, code: str) -> Problem:
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(reply.content, strict=True)
    assert (problem.status, problem.code, problem.type) == (
        status,
        code,
        f"{reply.url.copy_with(raw_path=b'/')}errors#{code}",
    )
    assert problem.request_id == reply.headers["x-request-id"]
    assert reply.headers.get_list("x-request-id") == [problem.request_id]
    assert CANARY not in reply.text
    assert "Traceback" not in reply.text
    return problem


def details_by_pointer(problem: Problem) -> dict[str, str]:
    return {fault.pointer: fault.detail for fault in problem.errors}


async def send_answers(body: Any) -> httpx.Response:
    async with edge_client(make_edge()) as client:
        return await client.post("/v1/answers", json=body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], {"": "must be an object"}),
        ({}, {"/answers": "is required; give it"}),
        ({"answers": CANARY}, {"/answers": "must be a list"}),
        ({"answers": [GOOD, {"id": "r-2"}]}, {"/answers/1/score": "is required; give it"}),
        ({"answers": [{**GOOD, "score": 1.5}]}, {"/answers/0/score": "must be at most 1.0"}),
        ({"answers": [{**GOOD, "score": CANARY}]}, {"/answers/0/score": "must be a number"}),
        ({"answers": [{**GOOD, "id": CANARY * 5}]}, {"/answers/0/id": "must have at most 20 characters"}),
        ({"answers": [{**GOOD, "id": CANARY + " "}]}, {"/answers/0/id": "must not hold a space"}),
        ({"answers": [{**GOOD, "a/~b": CANARY}]}, {"/answers/0/a~1~0b": "is not a known field; leave it out"}),
        (
            {"answers": [{**GOOD, "part": {"kind": CANARY}}]},
            {"/answers/0/part": "'kind' must be one of 'choice', 'text'"},
        ),
        ({"answers": [{**GOOD, "part": {}}]}, {"/answers/0/part": "must say which kind it is with 'kind'"}),
        (
            {"answers": [{**GOOD, "part": {"kind": "choice", "option": CANARY}}]},
            {"/answers/0/part/option": "must be a whole number"},
        ),
        ({"answers": [{**GOOD, "part": {"kind": "choice"}}]}, {"/answers/0/part/option": "is required; give it"}),
        (
            {"answers": [{**GOOD, "part": {"kind": "text", "words": ["a", 7]}}]},
            {"/answers/0/part/words/1": "must be a string"},
        ),
    ],
)
async def test_problem_of_an_invalid_body_names_every_pointer(body: Any, expected: dict[str, str]) -> None:
    assert details_by_pointer(check(await send_answers(body), 422, "invalid")) == expected


@pytest.mark.anyio
async def test_problem_with_a_thousand_faults_lists_only_some() -> None:
    problem = check(await send_answers({"answers": [{}] * 1000}), 422, "invalid")
    assert len(problem.errors) == 50


@pytest.mark.anyio
async def test_problem_names_parameters_of_path_and_query() -> None:
    async with edge_client(make_edge()) as client:
        problem = check(await client.get(f"/v1/limited/{CANARY}?limit={CANARY}"), 422, "invalid")
        assert details_by_pointer(problem) == {"{number}": "must be a whole number", "?limit": "must be a whole number"}
        problem = check(await client.get("/v1/limited/1?limit=11"), 422, "invalid")
        assert details_by_pointer(problem) == {"?limit": "must be at most 10"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.just(CANARY) | st.just(f"choice {CANARY}"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["answers", "id", "score", "part", "kind", "words", "option"]), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_problem_repeats_no_value_and_its_pointers_exist(value: object) -> None:
    try:
        TypeAdapter(Answers).validate_python(value)
    except ValidationError as error:
        found = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors()]
        for entry, fault in zip(found, faults_of(found, value), strict=False):
            assert CANARY not in fault.detail + fault.pointer
            *parents, last = fault.pointer.split("/")
            node: Any = value
            for part in parents[1:]:
                node = node[int(part)] if isinstance(node, list) else node[part]
            assert fault.pointer == "" or entry["type"] == "missing" or last.isdigit() or last in node


@pytest.mark.anyio
async def test_problem_of_an_unknown_path_is_a_404_without_the_path() -> None:
    async with edge_client(make_edge()) as client:
        for path in (f"/{CANARY}", f"/v1/{CANARY}", f"/docs/{CANARY}", f"/v1/limited/1/{CANARY}"):
            check(await client.get(path), 404, "not_found")


@pytest.mark.anyio
async def test_problem_of_a_wrong_method_lists_the_allowed_ones() -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.delete("/v1/courses/c-1")
        check(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == "GET, PUT"
        assert (await client.request("BREW", "/livez")).headers["allow"] == "GET"


@pytest.mark.anyio
async def test_problem_of_overload_has_a_retry_after_header() -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.get("/v1/overloaded")
        check(reply, 503, "overloaded")
        assert reply.headers["retry-after"] == "1"


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "kind"), [("/v1/broken", RuntimeError), ("/v1/ours", ProximaError)])
async def test_problem_of_an_unexpected_error_has_its_request_id_and_is_logged(
    path: str, kind: type[Exception]
) -> None:
    with capture_logs() as lines:
        async with edge_client(make_edge()) as client:
            reply = await client.get(path)
    problem = check(reply, 500, "internal")
    logged = [line for line in lines if line["log_level"] == "error"]
    assert [(type(line["exc_info"]), line["request_id"]) for line in logged] == [(kind, problem.request_id)]


def test_statuses_follow_the_tree_of_exceptions() -> None:
    expected = {
        "malformed_json": 400, "unauthenticated": 401, "missing_scope": 403, "unknown_item": 404,
        "method_not_allowed": 405, "not_acceptable": 406, "response_voided": 409, "too_large": 413,
        "unsupported_media_type": 415, "prerequisite_cycle": 422, "overloaded": 503,
        "not_migrated": 503, "internal": 500,
    }  # fmt: skip
    assert {code: status_of(classes_by_code()[code]) for code in expected} == expected


def test_error_classes_have_codes_of_their_own() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProximaError)]
    assert {kind.code: kind for kind in classes} == classes_by_code()
    assert len(classes) == len(classes_by_code())


def entries() -> Iterator[tuple[str, str]]:
    text = DOCUMENT.read_text()
    for match in re.finditer(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("lms.example:8443", "http://lms.example:8443/"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]:80/"),
        ("a b", "http://edge:81/"),
        ('x"y', "http://edge:81/"),
        ("u@h/../x", "http://edge:81/"),
        ("[::1", "http://edge:81/"),
    ],
)
async def test_type_is_an_address_that_can_be_opened(host: str, address: str) -> None:
    """Where the caller has reached us; a header that is no host is passed over."""
    async with edge_client(make_edge()) as client:
        reply = await client.get("http://edge:81/nowhere", headers={"Host": host})
    assert reply.json()["type"] == f"{address}errors#not_found"


def test_error_codes_are_documented_once_and_no_others() -> None:
    assert sorted(code for code, _ in entries()) == sorted(ADVICE) == sorted(classes_by_code())


@pytest.mark.parametrize(("code", "entry"), list(entries()))
def test_documented_error_has_the_title_and_advice_of_the_program(code: str, entry: str) -> None:
    error = classes_by_code()[code]
    assert f"**{error.title}**" in entry
    assert f"What to do: {ADVICE[code]}" in entry
    for example in re.findall(r"```json\n(.*?)```", entry, re.DOTALL):
        shown = json.loads(example)
        if "imsx_description" in shown:
            _, _, detail = shown["imsx_description"].partition(": ")
            assert shown == ims_status.to_status_info(problem_body(error(detail), "", ""))
            continue
        assert shown.items() <= {**problem_body(error(shown["detail"]), "", ""), **shown}.items()
        assert (shown["code"], shown["status"], shown["title"]) == (code, status_of(error), error.title)
    assert "```" in entry


def test_openapi_document_describes_problems() -> None:
    app = make_edge()
    document = app.openapi()
    assert {"Problem", "Fault"} <= document["components"]["schemas"].keys()
    get = document["paths"]["/v1/courses/{course}"]["get"]
    assert get["responses"].keys() >= {"200", "401", "403", "404", "422", "503"}
    for status, entry in get["responses"].items():
        if status != "200":
            reference = entry["content"]["application/problem+json"]["schema"]["$ref"]
            assert reference == "#/components/schemas/Problem"
    assert list(get["responses"]["401"]["headers"]) == ["WWW-Authenticate"]
    assert "`unknown_course`" in get["responses"]["404"]["description"]
    assert app.openapi() == document


def test_unknown_error_code_cannot_be_declared() -> None:
    with pytest.raises(KeyError):
        responses_for("no_such_code")
