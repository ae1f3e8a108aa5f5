"""How good the predictions turned out to be."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.core.database import Database
from app.core.errors import Fault, Invalid, InvalidCursor
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import LINK, PageQuery, PathId, page_reply, read_cursor, write_cursor
from app.http.problems import responses_for
from app.schemas.common import Absent, Moment, StoredIdentifier
from app.schemas.quality import QualityPage
from app.services.quality import (
    LearnerSample,
    QualityFilter,
    ScoredPredictions,
    draw_learners,
    quality_report,
    read_predictions,
    split_sample,
    start_sample,
)

router = APIRouter(prefix="/v1/courses/{course}", tags=["calibrations"], route_class=StrictRoute)

Analyst = Annotated[Caller, require("analytics:read")]
READ = {**responses_for("unknown_course", "unknown_skill", "unknown_calibration", "invalid_cursor"), 200: LINK}
DEFAULTS = "defaults"


class _QualityQuery(PageQuery):
    """Which answers, and how they are grouped."""

    by: Literal["calibration", "skill", "day", "week", "month"] | Absent = Field(
        default=None, description="a row for each group; if absent, one row for all answers"
    )
    calibration: Annotated[str, Field(pattern=rf"^({DEFAULTS}|c-[1-9][0-9]{{0,8}})$")] | Absent = Field(
        default=None, description="only what was predicted under this calibration, or under the `defaults`"
    )
    skill: StoredIdentifier | Absent = Field(default=None, description="only answers to items of this skill")
    since: Moment | Absent = Field(default=None, description="only answers that occurred then or later")
    until: Moment | Absent = Field(default=None, description="only answers that occurred earlier")


@router.get("/quality", response_model=QualityPage, responses=READ)
async def get_quality(
    course: PathId, query: Annotated[_QualityQuery, Query()], caller: Analyst, request: Request
) -> Response:
    """How good the predictions made before the answers were: log loss, AUC, Brier score, calibration.

    Every prediction was stored before its answer, so nothing is flattered by hindsight. In a large course a sample of
    the learners is measured, and `sample` says how large it is. Intervals take learners as the units that vary.
    """
    after = _last_group_number(query)
    criteria = _to_filters(query)
    database: Database = request.app.state.database
    sample = await database.read(start_sample, caller.tenant_id, course, criteria)
    sample, parts = await _collect_outcomes(database, sample, criteria)
    data, last = await asyncio.to_thread(quality_report, sample, parts, query.by, after, query.limit)
    return page_reply(request, data, None if last is None else write_cursor(str(query.by), last))


async def _collect_outcomes(
    database: Database, sample: LearnerSample, criteria: QualityFilter
) -> tuple[LearnerSample, list[ScoredPredictions]]:
    """Draw the learners and read their answers in pieces, between which other requests run."""
    while not sample.complete:
        sample = await database.read(draw_learners, sample, criteria)
    return sample, [
        await database.read(read_predictions, sample.course, criteria, piece) for piece in split_sample(sample)
    ]


def _last_group_number(query: _QualityQuery) -> int:
    """The number of the last group of the page before, -1 if this is the first."""
    position = read_cursor(query.cursor, (str, int))
    if position is None:
        return -1
    by, number = position
    if by != query.by:
        raise InvalidCursor("this cursor belongs to another list; use the one of the page before")
    return int(number)


def _to_filters(query: _QualityQuery) -> QualityFilter:
    """The filters. Raises `Invalid` for a span of time that holds nothing."""
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise Invalid("the span of time is empty", [Fault("?until", "must be later than since")])
    calibration = query.calibration
    number = None if calibration is None else 0 if calibration == DEFAULTS else int(calibration.removeprefix("c-"))
    return QualityFilter(number, query.skill, query.since, query.until)
