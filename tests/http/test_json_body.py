"""Strict JSON: what is accepted is what `json` reads; what is refused says where."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import Malformed
from app.http.json_body import parse_json
from tests.http.edge import LIMIT, edge_client, make_edge

JSON = {"content-type": "application/json"}

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | TEXTS | NUMBERS
LITERALS = ["1", "-", "1e999", "NaN", "-Infinity", "null", "é"]
PARTS = [*'{}[],:" ', '"a"', '"b"', "\\u0000", "\\ud800", "\\", *LITERALS]
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5))

REFUSED = [
    (b"", "line 1, column 1"),
    (b"{", "line 1, column 2"),
    (b'{"a": 1}\n x', "line 2, column 2"),
    (b'{"a": NaN}', "line 1, column 7: NaN"),
    (b'["NaN",\n NaN]', "line 2, column 2: NaN"),
    (b'{"a": Infinity}', "line 1, column 7: NaN"),
    (b'{"a": -Infinity}', "line 1, column 7: NaN"),
    (b"[1, 1e400]", "line 1, column 5: the number is too large"),
    (b"[-1e400]", "line 1, column 2: the number is too large"),
    (b"[1" + b"0" * 400 + b".5]", "line 1, column 2: the number is too large"),
    (b"[9223372036854775808]", "line 1, column 2: the whole number"),
    (b"[-9223372036854775809]", "line 1, column 2: the whole number"),
    (b"[1" + b"0" * 100_000 + b"]", "line 1, column 2: the whole number"),
    (b'{"a": 1, "a": 1}', "line 1, column 10: an object has the same key twice"),
    (b'{"a": 1, "\\u0061": 2}', "line 1, column 10: an object has the same key twice"),
    (b'{"a": {"a": 1}, "b": "a", "c": [{"x": 1, "a": 2, "x": 3}]}', "line 1, column 50: an object has the same"),
    (b"1e999\\u0000}", "line 1, column 1: the number is too large"),
    (b'{"a": "\xed\xa0\x80"}', "byte 8"),
    (b'{"a": "\xff"}', "byte 8"),
    (b'{"a": "\xc0\x80"}', "byte 8"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b"\xff\xfe{\x00}\x00", "byte 1"),
    (b'{"a": "\0"}', "line 1, column 8"),
    (b'{"a": "\n"}', "line 1, column 8"),
    (b"[" * 33 + b"]" * 33, "32 levels"),
    (b'{"a":' * 33 + b"1" + b"}" * 33, "32 levels"),
    (b"[" * 100_000, "32 levels"),
    (b"[" * 100_000 + b"]" * 100_000, "32 levels"),
    (b'{"a":' * 100_000, "32 levels"),
    (b"{'a': 1}", "line 1, column 2"),
    (b"[01]", "line 1, column 3"),
    (b"[1.]", "line 1, column 3"),
    (b"[+1]", "line 1, column 2"),
    (b"[1,]", "line 1"),
    (b"// x\n1", "line 1, column 1"),
    (b'"\\x41"', "line 1"),
]

HIDDEN = [
    (rb'{"a/b": ["x", "\u0000"]}', "/a~1b/1"),
    (rb'{"a": {"\u0000": 1}}', "/a"),
    (rb'["\uD800"]', "/0"),
    (rb'["\udc00\ud800"]', "/0"),
    (rb'{"~": "\ud83d x"}', "/~0"),
    (rb'"\uDFFF"', ""),
]


@pytest.mark.parametrize(("body", "where"), REFUSED)
def test_text_that_is_not_strict_json_is_refused_with_its_position(body: bytes, where: str) -> None:
    with pytest.raises(Malformed) as refusal:
        parse_json(body)
    assert where in refusal.value.detail


@pytest.mark.parametrize(("body", "pointer"), HIDDEN)
def test_escaped_surrogates_and_nul_are_refused_with_their_pointer(body: bytes, pointer: str) -> None:
    with pytest.raises(Malformed) as refusal:
        parse_json(body)
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" \t\r\n[] ", []),
        (b"[" * 32 + b"]" * 32, None),
        (b"[" + b"[]," * 200 + b"[]]", [[]] * 201),
        (b"[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        (b"[1.7976931348623157e308, 1e-400]", [1.7976931348623157e308, 0.0]),
        (rb'["\ud83d\ude00", "\\u0000", "\\ud800"]', ["\U0001f600", "\\u0000", "\\ud800"]),
        (b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}', {"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}),
    ],
)
def test_strict_json_is_read(body: bytes, value: object) -> None:
    assert value is None or parse_json(body) == value


@given(VALUES, st.booleans())
def test_json_that_was_written_is_read_back(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_parser_reads_or_refuses_any_bytes(body: bytes) -> None:
    check_read_or_refused(body)


@given(st.lists(st.sampled_from(PARTS)))
def test_parser_reads_or_refuses_anything_like_json(parts: list[str]) -> None:
    check_read_or_refused("".join(parts).encode())


def check_read_or_refused(body: bytes) -> None:
    """What is read can be written by the strictest writer and stored by either database."""
    try:
        value = parse_json(body)
    except Malformed:
        return
    written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    assert "\\u0000" not in written
    assert json.loads(written.encode()) == json.loads(body)


def test_parser_takes_little_longer_than_json() -> None:
    answer = {"id": "r" * 36, "learner": "l" * 36, "item": "i" * 36, "score": 1.0, "duration_ms": 1234}
    body = json.dumps(answer).encode()
    assert fastest(lambda: parse_json(body)) < max(20e-6, 5 * fastest(lambda: json.loads(body)))


def fastest(call: object) -> float:
    assert callable(call)
    times = []
    for _ in range(200):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.anyio
async def test_strict_body_reaches_the_route() -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.post("/v1/echo", json={"a": [1, 2.5, "é", None]})
        assert (reply.status_code, reply.json()) == (200, {"a": [1, 2.5, "é", None]})


@pytest.mark.anyio
@pytest.mark.parametrize("body", [body for body, _ in REFUSED + HIDDEN if len(body) <= LIMIT])
async def test_malformed_body_is_a_400(body: bytes) -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.post("/v1/echo", content=body, headers=JSON)
        assert (reply.status_code, reply.json()["code"]) == (400, "malformed_json")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'],
)
async def test_json_under_any_of_its_media_types_is_accepted(kind: str) -> None:
    async with edge_client(make_edge()) as client:
        headers = {"content-type": kind, "content-encoding": "identity"}
        reply = await client.post("/v1/echo", content=b"[1]", headers=headers)
        assert (reply.status_code, reply.json()) == (200, [1])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/problem+json"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json; charset=utf-8; charset=utf-16"},
        {"content-type": "application/json; profile=x"},
        {"content-type": "application/jsonx"},
        {**JSON, "content-encoding": "gzip"},
        {**JSON, "content-encoding": "identity, gzip"},
    ],
)
async def test_body_of_another_media_type_is_a_415(headers: dict[str, str]) -> None:
    async with edge_client(make_edge()) as client:
        reply = await client.post("/v1/echo", content=b"[1]", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.anyio
async def test_body_limit_is_exact() -> None:
    async with edge_client(make_edge()) as client:
        for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
            reply = await client.post("/v1/echo", content=b'"' + b"x" * (size - 2) + b'"', headers=JSON)
            assert reply.status_code == status
            assert status == 200 or reply.json()["code"] == "too_large"


@pytest.mark.anyio
async def test_body_that_breaks_off_reaches_no_route() -> None:
    messages: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": b"[1]", "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/echo", "query_string": b""}
    headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
    await make_edge()({**scope, "headers": headers}, receive, send)
    assert sent[0]["status"] == 400


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The edge behind a real server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(make_edge(), log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


HEAD = b"POST /v1/echo HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"


def talk(port: int, *parts: bytes) -> bytes:
    """Send the parts; what is answered until the server stops or half a second passes in silence."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for part in parts:
            client.sendall(part)
        client.settimeout(0.5)
        answer = b""
        try:
            while data := client.recv(65536):
                answer += data
        except TimeoutError:
            pass
        return answer


def test_body_with_a_declared_length_over_the_limit_is_refused_before_it_comes(port: int) -> None:
    answer = talk(port, HEAD + b"Content-Length: 1000000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


def test_chunked_body_is_refused_when_it_passes_the_limit_and_not_at_its_end(port: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (LIMIT // 2, b" " * (LIMIT // 2))
    answer = talk(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk)
    assert answer.startswith(b"HTTP/1.1 413")


def test_chunked_body_within_the_limit_is_read_whole(port: int) -> None:
    chunks = b"1\r\n[\r\n", b"3\r\n1,2\r\n", b"1\r\n]\r\n0\r\n\r\n"
    answer = talk(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"[1,2]")


def test_bytes_after_the_declared_length_are_not_part_of_the_body(port: int) -> None:
    answer = talk(port, HEAD + b"Content-Length: 3\r\n\r\n[1]GET /livez HTTP/1.1\r\nHost: edge\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"\r\n\r\n[1]" in answer
    assert answer.endswith(b'{"status":"ok"}')


def test_client_that_sends_far_too_much_gets_a_413_and_the_server_continues(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for body in (b" " * 50_000_000, (b" " * 65536 for _ in range(800))):
            reply = client.post("/v1/echo", content=body, headers=JSON)
            assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
        assert client.get("/livez").json() == {"status": "ok"}
