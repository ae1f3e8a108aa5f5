"""Strict JSON: the only way from a request body to data, bounded in size while it is read.

Everything that two JSON parsers could understand differently, that a database could store differently or that
could exhaust this process is refused here, so that no later code has to check for it.
"""

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.core.errors import Fault, Malformed, TooLarge, UnsupportedMediaType
from app.http.auth import permits_of

MAX_DEPTH = 32
INT64 = range(-(2**63), 2**63)
INT64_CHARACTERS = 20

_JSON_TYPE = re.compile(r'application/json[ \t]*(;[ \t]*charset="?utf-8"?[ \t]*)?', re.IGNORECASE)
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_TOKEN = re.compile(
    r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?'
    r"|[{}\[\]]"
    r"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|-?Infinity|NaN"
)


class StrictRoute(APIRoute):
    """A route that authenticates its caller before it reads the body, and reads the body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        permits = tuple(permits_of(self.dependant))
        reads_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            for permit in permits:
                await permit(request)
            if not reads_body:
                return await handle(request)
            strict_request = StrictRequest(request.scope, request.receive)
            # Before FastAPI does it: there, every error while reading would become a plain 400.
            await strict_request.json()
            return await handle(strict_request)

        return strict


class StrictRequest(Request):
    """A request whose `json()` is strict."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._body = await _read_body(self)
            self._json = parse_json(self._body)
        return self._json


async def _read_body(request: Request) -> bytes:
    """Return the body, if it is plain `application/json` and not longer than `max_body_bytes`."""
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without Content-Encoding")
    media_type = headers.get("content-type")
    if media_type is not None and not _JSON_TYPE.fullmatch(media_type):
        raise UnsupportedMediaType("send JSON in UTF-8 with the header Content-Type: application/json")
    body = await receive_body(request, request.app.state.settings.max_body_bytes)
    if not body:
        raise Malformed("the body is empty; send a JSON object")
    if media_type is None:
        raise UnsupportedMediaType("say what the body is with the header Content-Type: application/json")
    return body


async def receive_body(request: Request, limit: int) -> bytes:
    """Return the bytes of a body. Raises `TooLarge` as soon as they are more than `limit`."""
    if _declared_length(request) > limit:
        _refuse_size(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the connection was closed before the end of the body")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            _refuse_size(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _declared_length(request: Request) -> float:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        return 0
    return int(declared) if len(declared) < INT64_CHARACTERS else math.inf


def _refuse_size(limit: int) -> NoReturn:
    raise TooLarge(f"a body has at most {limit} bytes; send less at once")


class _RefusedError(ValueError):
    """A hook of the decoder met something it refuses: this token, or (None) a key given twice."""

    def __init__(self, reason: str, token: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.token = token


def parse_json(body: bytes) -> Any:
    """Return the value of a strict JSON text. Raises `Malformed` with the position of what is wrong."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8: byte {error.start + 1} cannot be read") from None
    if text.startswith("\ufeff"):
        raise Malformed("the body starts with a byte order mark; send it without")
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(text, error.pos, _reason(error)) from None
    except _RefusedError as error:
        raise _malformed(text, _position(text, error.token), error.reason) from None
    except RecursionError:
        raise _too_deep() from None
    # An upper bound that is nearly free: only a text with many brackets can be nested deeply.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if _SUSPECT_ESCAPE.search(text):
        _check_strings(value, "")
    return value


def _float(token: str) -> float:
    value = float(token)
    if math.isinf(value):
        raise _RefusedError("the number is too large for a 64-bit float", token)
    return value


def _int(token: str) -> int:
    if len(token) > INT64_CHARACTERS or (value := int(token)) not in INT64:
        raise _RefusedError("the whole number does not fit in 64 bits", token)
    return value


def _constant(token: str) -> NoReturn:
    raise _RefusedError("NaN and Infinity are not JSON; leave the field out or send null", token)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RefusedError("an object has the same key twice")
    return value


_decode = json.JSONDecoder(
    parse_float=_float, parse_int=_int, parse_constant=_constant, object_pairs_hook=_object
).decode


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _check_strings(value: Any, pointer: str) -> None:
    """Refuse what an escape can hide: NUL, and half of a surrogate pair."""
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            detail = "holds the character NUL or half of a surrogate pair"
            raise Malformed(f"a string {detail}", [Fault(pointer, detail)])
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _check_strings(child, f"{pointer}/{index}")
    elif isinstance(value, dict):
        for key, child in value.items():
            _check_strings(key, pointer)
            _check_strings(child, f"{pointer}/{pointer_part(key)}")


def pointer_part(key: object) -> str:
    """Return one step of a JSON pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _too_deep() -> Malformed:
    return Malformed(f"the body is nested more than {MAX_DEPTH} levels deep")


def _malformed(text: str, position: int, reason: str) -> Malformed:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return Malformed(f"line {line}, column {column}: {reason}")


def _reason(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" at")


def _position(text: str, refused: str | None) -> int:
    """Return where the refused token stands, or (None) the first key that its object has already."""
    seen: list[set[str] | None] = []
    for match in _TOKEN.finditer(text):
        part = match[0]
        if part == refused:
            return match.start()
        if part in "[{":
            seen.append(set() if part == "{" else None)
        elif part in "]}":
            seen.pop()
        elif match[2] is not None and refused is None:
            key, keys = json.loads(match[1]), seen[-1]
            if keys is None or key in keys:
                return match.start()
            keys.add(key)
    return 0
