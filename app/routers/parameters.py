"""What the routes share: ids in paths, pages, and replies that are JSON already."""

import base64
import binascii
import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from app.errors import InvalidCursor

MAX_PAGE = 1000
LONGEST_ID = 255
# What `KeepSlashes` puts in place of an encoded slash: no id may hold it.
SLASH = "\0"


def restore_slashes(segment: str) -> str:
    """The id as the caller wrote it."""
    return segment.replace(SLASH, "/")


PathId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID), AfterValidator(restore_slashes)]


class PageQuery(BaseModel):
    """`limit` and `cursor` of a list; other parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    cursor: Annotated[str, Field(max_length=2000)] | None = None


Paging = Annotated[PageQuery, Query()]


def write_cursor(*place: str | int) -> str:
    """A place in a list as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """The place that `write_cursor` wrote. Raises `InvalidCursor` for anything else."""
    if cursor is None:
        return None
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidCursor("this cursor was not given by us; use the one of the page before") from None
    fits = isinstance(place, list) and len(place) == len(kinds)
    if not fits or not all(type(part) is kind and part_fits(part) for part, kind in zip(place, kinds, strict=True)):
        raise InvalidCursor("this cursor belongs to another list; use the one of the page before")
    return tuple(place)


def part_fits(part: Any) -> bool:
    """Whether a part of a cursor is something both databases can compare with."""
    if isinstance(part, int):
        return 0 <= part < 2**31
    return len(part) <= LONGEST_ID and not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in part)


def page(request: Request, data: list[dict[str, Any]], limit: int, *place: str) -> Response:
    """A page of a list, with the way to the next one if this one is full; `place` names the fields that sort it."""
    cursor = write_cursor(*(data[-1][field] for field in place)) if len(data) == limit else None
    return page_reply(request, data, cursor)


def page_reply(request: Request, data: list[dict[str, Any]], cursor: str | None) -> Response:
    """A page with its cursor, in the body and as a `Link` header (RFC 8288)."""
    headers = {}
    if cursor is not None:
        query = urlencode({**request.query_params, "cursor": cursor})
        headers["Link"] = f'<{request.scope["raw_path"].decode("ascii")}?{query}>; rel="next"'
    return reply({"data": data, "next": cursor}, headers=headers)


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON, without a second look at what was built here."""
    return raw_reply(to_json(body), status, headers)


def raw_reply(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    """JSON that is ready."""
    return Response(body, status, {"X-Content-Type-Options": "nosniff", **(headers or {})}, "application/json")
