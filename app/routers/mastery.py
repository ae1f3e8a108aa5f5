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

from app.errors import InvalidCursor, NotAcceptable, UnknownLearner
from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.limits import charge
from app.routers.parameters import LINK, PageQuery, PathId, page, read_cursor, reply
from app.routers.problems import responses_for
from app.schemas.common import Absent, Identifier, Moment
from app.schemas.mastery import CohortPage, LearnerMastery
from app.services.mastery import cohort_mastery, learner_mastery
from app.times import now

CSV, JSON = "text/csv", "application/json"
WEIGHT = re.compile(r"(?:^|;)\s*q=([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE | re.ASCII)
CSV_HEADERS = {"Content-Type": f"{CSV}; charset=utf-8", "X-Content-Type-Options": "nosniff"}
CSV_ROWS_AT_ONCE = 1000
COLUMNS = ("learner", "skill", "mastery", "low", "high", "evidence", "status")

router = APIRouter(prefix="/v1/courses/{course}", tags=["mastery"], route_class=StrictRoute)

Reader = Annotated[Caller, require("learners:read")]
Analyst = Annotated[Caller, require("analytics:read")]

LEARNER = responses_for("unknown_course", "unknown_learner")
COHORT = responses_for("unknown_course", "unknown_skill", "invalid_cursor", "not_acceptable")


class AsOf(BaseModel):
    """Up to when answers count."""

    model_config = ConfigDict(extra="forbid")

    as_of: Moment | Absent = Field(default=None, description="what was known at that moment, by the answers until then")


class CohortQuery(PageQuery):
    """Which rows of the cohort."""

    skill: Identifier | Absent = Field(default=None, description="only this skill")


@router.get("/learners/{learner}/mastery", response_model=LearnerMastery, responses=LEARNER)
async def get_mastery(
    course: PathId, learner: PathId, query: Annotated[AsOf, Query()], caller: Reader, request: Request
) -> Response:
    """One learner's ability and mastery of every skill."""
    told = await request.app.state.database.read(learner_mastery, caller.tenant_id, course, learner, query.as_of, now())
    return reply(told)


@router.get(
    "/mastery",
    response_model=CohortPage,
    responses={**COHORT, 200: {**LINK, "content": {CSV: {"schema": {"type": "string"}}}}},
)
async def get_cohort(
    course: PathId, query: Annotated[CohortQuery, Query()], caller: Analyst, request: Request
) -> Response:
    """The mastery of a cohort, a row for each learner and skill met; as CSV, all rows unless a limit is given."""
    place = read_cursor(query.cursor, (str, str))
    wants_csv = negotiate(request.headers.get("accept", "*/*"))
    if wants_csv and "limit" not in request.query_params:
        await charge(request, request.app.state.limits.exports, caller.tenant_id, caller.key_id)
        first = await read_rows(request, caller, course, query.skill, place, CSV_ROWS_AT_ONCE)
        return StreamingResponse(stream(request, caller, course, query.skill, first), headers=CSV_HEADERS)
    data = await read_rows(request, caller, course, query.skill, place, query.limit)
    if wants_csv:
        return Response(lines([COLUMNS]) + lines(map(cells, data)), headers=CSV_HEADERS)
    return page(request, data, query.limit, "learner", "skill")


async def read_rows(
    request: Request, caller: Caller, course: str, skill: str | None, place: tuple[Any, ...] | None, limit: int
) -> list[dict[str, Any]]:
    """A page of cohort rows."""
    try:
        rows: list[dict[str, Any]] = await request.app.state.database.read(
            cohort_mastery, caller.tenant_id, course, skill, place, limit, now()
        )
    except UnknownLearner:
        raise InvalidCursor("this cursor was not given by us; use the one of the page before") from None
    return rows


async def stream(
    request: Request, caller: Caller, course: str, skill: str | None, rows: list[dict[str, Any]]
) -> AsyncIterator[str]:
    """All rows from a first page on, a page at a time, so that memory stays flat."""
    yield lines([COLUMNS])
    while rows:
        yield lines(map(cells, rows))
        place = (rows[-1]["learner"], rows[-1]["skill"])
        rows = await read_rows(request, caller, course, skill, place, CSV_ROWS_AT_ONCE)


def negotiate(accept: str) -> bool:
    """Whether CSV is wanted rather than JSON. Raises `NotAcceptable` if neither is."""
    ranges = sorted(map(weigh, accept.split(",")), key=itemgetter(1), reverse=True)
    refused = {kind for kind, weight in ranges if weight <= 0}
    for kind, weight in ranges:
        for offer, family in ((JSON, "application/*"), (CSV, "text/*")):
            if weight > 0 and offer not in refused and kind in (offer, family, "*/*", ""):
                return offer == CSV
    raise NotAcceptable("this is to be had as application/json or text/csv")


def weigh(asked: str) -> tuple[str, float]:
    """A media range and its weight (RFC 9110); a weight that cannot be read counts as none given."""
    kind, _, rest = asked.partition(";")
    found = WEIGHT.search(rest)
    return kind.strip().lower(), float(found[1]) if found else 1.0


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row of the cohort as cells; a text that a spreadsheet could run is made plain."""
    low, high = row["interval"]
    return guard(row["learner"]), guard(row["skill"]), row["mastery"], low, high, row["evidence"], row["status"]


def guard(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def lines(rows: Any) -> str:
    """Rows as CSV (RFC 4180)."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
