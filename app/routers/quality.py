"""How good the predictions turned out to be."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.database import Database
from app.errors import Fault, Invalid, InvalidCursor
from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.parameters import LINK, PageQuery, PathId, page_reply, read_cursor, write_cursor
from app.routers.problems import responses_for
from app.schemas.common import Absent, Identifier, Moment
from app.schemas.quality import QualityPage
from app.services.quality import Asked, Outcomes, Sample, draw, pieces, prepare, read_outcomes, report

router = APIRouter(prefix="/v1/courses/{course}", tags=["calibrations"], route_class=StrictRoute)

Analyst = Annotated[Caller, require("analytics:read")]
READ = {**responses_for("unknown_course", "unknown_skill", "unknown_calibration", "invalid_cursor"), 200: LINK}
DEFAULTS = "defaults"


class QualityQuery(PageQuery):
    """Which answers, and how they are grouped."""

    by: Literal["calibration", "skill", "day", "week", "month"] | Absent = Field(
        default=None, description="a row for each group; if absent, one row for all answers"
    )
    calibration: Annotated[str, Field(pattern=rf"^({DEFAULTS}|c-[1-9][0-9]{{0,8}})$")] | Absent = Field(
        default=None, description="only what was predicted under this calibration, or under the `defaults`"
    )
    skill: Identifier | Absent = Field(default=None, description="only answers to items of this skill")
    since: Moment | Absent = Field(default=None, description="only answers that occurred then or later")
    until: Moment | Absent = Field(default=None, description="only answers that occurred earlier")


@router.get("/quality", response_model=QualityPage, responses=READ)
async def get_quality(
    course: PathId, query: Annotated[QualityQuery, Query()], caller: Analyst, request: Request
) -> Response:
    """How good the predictions made before the answers were: log loss, AUC, Brier score, calibration."""
    after = place_of(query)
    asked = asked_of(query)
    database: Database = request.app.state.database
    sample = await database.read(prepare, caller.tenant_id, course, asked)
    sample, parts = await collect(database, sample, asked)
    data, last = await asyncio.to_thread(report, sample, parts, query.by, after, query.limit)
    return page_reply(request, data, None if last is None else write_cursor(str(query.by), last))


async def collect(database: Database, sample: Sample, asked: Asked) -> tuple[Sample, list[Outcomes]]:
    """The learners that are looked at, and their answers: piece by piece, as other requests want their turn too."""
    while not sample.complete:
        sample = await database.read(draw, sample, asked)
    return sample, [await database.read(read_outcomes, sample.bank, asked, piece) for piece in pieces(sample)]


def place_of(query: QualityQuery) -> int:
    """The number of the last group of the page before, -1 if this is the first."""
    place = read_cursor(query.cursor, (str, int))
    if place is None:
        return -1
    by, number = place
    if by != query.by:
        raise InvalidCursor("this cursor belongs to another list; use the one of the page before")
    return int(number)


def asked_of(query: QualityQuery) -> Asked:
    """The filters. Raises `Invalid` for a span of time that holds nothing."""
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise Invalid("the span of time is empty", [Fault("?until", "must be later than since")])
    calibration = query.calibration
    number = None if calibration is None else 0 if calibration == DEFAULTS else int(calibration.removeprefix("c-"))
    return Asked(number, query.skill, query.since, query.until)
