"""What is known: of one learner, of a cohort."""

import csv
import io
import re
from collections.abc import AsyncIterator
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import InvalidCursor, NotAcceptable, UnknownLearner
from app.core.times import now
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import LINK, PageQuery, PathId, read_cursor, reply, sorted_page_reply
from app.http.problems import responses_for
from app.http.rate_limits import charge
from app.schemas.common import Absent, Moment, StoredIdentifier
from app.schemas.mastery import CohortPage, LearnerMastery
from app.services.mastery import cohort_mastery, learner_mastery

CSV, JSON = "text/csv", "application/json"
WEIGHT = re.compile(r"(?:^|;)\s*q=([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE | re.ASCII)
CSV_HEADERS = {"Content-Type": f"{CSV}; charset=utf-8", "X-Content-Type-Options": "nosniff"}
CSV_ROWS_AT_ONCE = 1000
COLUMNS = ("learner", "skill", "mastery", "low", "high", "responses", "status")

router = APIRouter(prefix="/v1/courses/{course}", tags=["mastery"], route_class=StrictRoute)

Reader = Annotated[Caller, require("learners:read")]
Analyst = Annotated[Caller, require("analytics:read")]

LEARNER = responses_for("unknown_course", "unknown_learner")
COHORT = responses_for("unknown_course", "unknown_skill", "invalid_cursor", "not_acceptable")


class _AsOf(BaseModel):
    """Up to when answers count."""

    model_config = ConfigDict(extra="forbid")

    as_of: Moment | Absent = Field(default=None, description="what was known at that moment, by the answers until then")


class _CohortQuery(PageQuery):
    """Which rows of the cohort."""

    skill: StoredIdentifier | Absent = Field(default=None, description="only this skill")


@router.get("/learners/{learner}/mastery", response_model=LearnerMastery, responses=LEARNER)
async def get_mastery(
    course: PathId, learner: PathId, query: Annotated[_AsOf, Query()], caller: Reader, request: Request
) -> Response:
    """One learner's ability and mastery of every skill.

    Every skill of the course, met or not. Skills fade while they are not practised, so the numbers are those of this
    moment, or of `as_of`: by the answers until then, as they are known today.
    """
    mastery = await request.app.state.database.read(
        learner_mastery, caller.tenant_id, course, learner, query.as_of, now()
    )
    return reply(mastery)


@router.get(
    "/mastery",
    response_model=CohortPage,
    responses={**COHORT, 200: {**LINK, "content": {CSV: {"schema": {"type": "string"}}}}},
)
async def get_cohort(
    course: PathId, query: Annotated[_CohortQuery, Query()], caller: Analyst, request: Request
) -> Response:
    """The mastery of a cohort, a row for each learner and skill met; as CSV, all rows unless a limit is given.

    Pages of JSON, or CSV if `Accept` asks for `text/csv`. In CSV a value that a spreadsheet could take for a formula
    begins with an apostrophe. A skill that a learner has no answer to has no row.
    """
    position = read_cursor(query.cursor, (str, str))
    wants_csv = _negotiate(request.headers.get("accept", "*/*"))
    if wants_csv and "limit" not in request.query_params:
        await charge(request, request.app.state.limits.exports, caller.tenant_id, caller.key_id)
        first = await _read_cohort_rows(request, caller, course, query.skill, position, CSV_ROWS_AT_ONCE)
        return StreamingResponse(_stream_csv(request, caller, course, query.skill, first), headers=CSV_HEADERS)
    data = await _read_cohort_rows(request, caller, course, query.skill, position, query.limit)
    if wants_csv:
        return Response(_to_csv([COLUMNS]) + _to_csv(map(_to_csv_cells, data)), headers=CSV_HEADERS)
    return sorted_page_reply(request, data, query.limit, "learner", "skill")


async def _read_cohort_rows(
    request: Request, caller: Caller, course: str, skill: str | None, position: tuple[Any, ...] | None, limit: int
) -> list[dict[str, Any]]:
    """A page of cohort rows."""
    try:
        rows: list[dict[str, Any]] = await request.app.state.database.read(
            cohort_mastery, caller.tenant_id, course, skill, position, limit, now()
        )
    except UnknownLearner:
        raise InvalidCursor("this cursor was not given by us; use the one of the page before") from None
    return rows


async def _stream_csv(
    request: Request, caller: Caller, course: str, skill: str | None, rows: list[dict[str, Any]]
) -> AsyncIterator[str]:
    """All rows from a first page on, a page at a time, so that memory stays flat."""
    yield _to_csv([COLUMNS])
    while rows:
        yield _to_csv(map(_to_csv_cells, rows))
        position = (rows[-1]["learner"], rows[-1]["skill"])
        rows = await _read_cohort_rows(request, caller, course, skill, position, CSV_ROWS_AT_ONCE)


def _negotiate(accept: str) -> bool:
    """Whether CSV is wanted rather than JSON. Raises `NotAcceptable` if neither is."""
    ranges = sorted(map(_parse_media_range, accept.split(",")), key=itemgetter(1), reverse=True)
    refused = {kind for kind, weight in ranges if weight <= 0}
    for kind, weight in ranges:
        for offered, family in ((JSON, "application/*"), (CSV, "text/*")):
            if weight > 0 and offered not in refused and kind in (offered, family, "*/*", ""):
                return offered == CSV
    raise NotAcceptable("this is to be had as application/json or text/csv")


def _parse_media_range(media_range: str) -> tuple[str, float]:
    """A media range and its weight (RFC 9110); a weight that cannot be read counts as none given."""
    kind, _, rest = media_range.partition(";")
    match = WEIGHT.search(rest)
    return kind.strip().lower(), float(match[1]) if match else 1.0


def _to_csv_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row of the cohort as cells; a text that a spreadsheet could run is made plain."""
    low, high = row["interval"]
    return (
        _escape_formula(row["learner"]),
        _escape_formula(row["skill"]),
        row["mastery"],
        low,
        high,
        row["responses"],
        row["status"],
    )


def _escape_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _to_csv(rows: Any) -> str:
    """Rows as CSV (RFC 4180)."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
