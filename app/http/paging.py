"""Ids in paths, pages of lists, and replies that are JSON already."""

import base64
import binascii
import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from app.core.errors import Fault, Invalid, InvalidCursor
from app.core.ids import ID_PATTERN, LONGEST_ID, check_id, check_storable
from app.schemas.common import TEXT, Absent

MAX_PAGE = 1000
# What `ReadPath` puts in place of an encoded slash; like every half of a surrogate pair it cannot come in otherwise.
SLASH = "\udc2f"

# Headers of replies, for the OpenAPI document.
TEXT_HEADER: dict[str, Any] = {"schema": {"type": "string"}}
LINK: dict[str, Any] = {
    "headers": {
        "Link": {**TEXT_HEADER, "description": 'the address of the next page, rel="next"; none on the last one'}
    }
}


def _restore_slashes(segment: object) -> object:
    """Return the id as the caller wrote it."""
    return segment.replace(SLASH, "/") if isinstance(segment, str) else segment


PathId = Annotated[
    str,
    Path(min_length=1, max_length=LONGEST_ID, pattern=TEXT, examples=["c1"]),
    BeforeValidator(_restore_slashes),
    AfterValidator(check_storable),
]
# The id of what may be new.
NewPathId = Annotated[
    str,
    Path(min_length=1, max_length=LONGEST_ID, json_schema_extra={"pattern": ID_PATTERN}, examples=["c1"]),
    BeforeValidator(_restore_slashes),
    AfterValidator(check_id),
]


async def _refuse_parameters(request: Request) -> None:
    """Refuse query parameters at an address that has none, rather than letting a mistyped one pass."""
    if request.query_params:
        faults = [Fault(f"?{name}", "is not a known parameter; leave it out") for name in request.query_params]
        raise Invalid("this address takes no query parameters", faults)


NO_PARAMETERS = [Depends(_refuse_parameters)]


class PageQuery(BaseModel):
    """`limit` and `cursor` of a list; other parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = Field(default=100, description="how many rows a page has at most")
    cursor: Annotated[str, Field(max_length=2000, pattern=r"^[A-Za-z0-9_-]*$")] | Absent = Field(
        default=None, description="`next` of the page before"
    )


Paging = Annotated[PageQuery, Query()]


def write_cursor(*position: str | int) -> str:
    """Encode a position in a list as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """Return the position that `write_cursor` encoded. Raises `InvalidCursor` for anything else."""
    if cursor is None:
        return None
    try:
        position = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidCursor("this cursor was not given by us; use the one of the page before") from None
    fits = isinstance(position, list) and len(position) == len(kinds)
    if not fits or not all(
        type(part) is kind and _is_comparable(part) for part, kind in zip(position, kinds, strict=True)
    ):
        raise InvalidCursor("this cursor belongs to another list; use the one of the page before")
    return tuple(position)


def _is_comparable(part: Any) -> bool:
    """Return whether both databases can compare with a part of a cursor."""
    if isinstance(part, int):
        return 0 <= part < 2**31
    return len(part) <= LONGEST_ID and not any(
        character == "\0" or "\ud800" <= character <= "\udfff" for character in part
    )


def sorted_page_reply(request: Request, data: list[dict[str, Any]], limit: int, *sort_fields: str) -> Response:
    """Return a page of a list, with a cursor to the next one if this one is full; `sort_fields` name its order."""
    cursor = write_cursor(*(data[-1][field] for field in sort_fields)) if len(data) == limit else None
    return page_reply(request, data, cursor)


def page_reply(request: Request, data: list[dict[str, Any]], cursor: str | None) -> Response:
    """Return a page with its cursor, in the body and as a `Link` header (RFC 8288)."""
    headers = {}
    if cursor is not None:
        query = urlencode({**request.query_params, "cursor": cursor})
        headers["Link"] = f'<{request.scope["raw_path"].decode("ascii")}?{query}>; rel="next"'
    return reply({"data": data, "next": cursor}, headers=headers)


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON reply without validating what was built here."""
    return raw_reply(to_json(body), status, headers)


def raw_reply(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a reply of JSON that is encoded already."""
    return Response(body, status, {"X-Content-Type-Options": "nosniff", **(headers or {})}, "application/json")
