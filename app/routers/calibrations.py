"""Calibrations: fit, watch, switch."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.parameters import (
    LINK,
    NO_PARAMETERS,
    TEXT_HEADER,
    Paging,
    PathId,
    page_reply,
    read_cursor,
    reply,
    write_cursor,
)
from app.routers.problems import responses_for
from app.schemas.calibrations import CalibrationId, CalibrationOut, CalibrationPage
from app.services import calibrations as services
from app.times import now
from app.worker import fit_in_process, refold_course, run_calibration

router = APIRouter(prefix="/v1/courses/{course}/calibrations", tags=["calibrations"], route_class=StrictRoute)

Writer = Annotated[Caller, require("catalogue:write")]
Analyst = Annotated[Caller, require("analytics:read")]
NumberedId = Annotated[CalibrationId, Path()]

START = {
    **responses_for("unknown_course", "calibration_running", "nothing_to_calibrate"),
    202: {"headers": {"Location": {**TEXT_HEADER, "description": "where to watch it"}}},
}
LIST = {**responses_for("unknown_course", "invalid_cursor"), 200: LINK}
READ = responses_for("unknown_course", "unknown_calibration")


@router.post("", status_code=202, response_model=CalibrationOut, responses=START, dependencies=NO_PARAMETERS)
async def post_calibration(course: PathId, caller: Writer, request: Request) -> Response:
    """Start a calibration; watch it at the address in `Location`."""
    database, tenant_id = request.app.state.database, caller.tenant_id
    number = await database.write(services.request, tenant_id, course, now())
    in_background(request, run_calibration(database, tenant_id, course, number, fit_in_process))
    told = await database.read(services.describe, tenant_id, course, number, now())
    return reply(told, 202, {"Location": f"{request.scope['raw_path'].decode('ascii')}/c-{number}"})


@router.get("", response_model=CalibrationPage, responses=LIST)
async def list_calibrations(course: PathId, query: Paging, caller: Analyst, request: Request) -> Response:
    """The calibrations of a course, the newest first."""
    place = read_cursor(query.cursor, (int,))
    data = await request.app.state.database.read(
        services.page, caller.tenant_id, course, place[0] if place else None, query.limit, now()
    )
    full = len(data) == query.limit
    return page_reply(request, data, write_cursor(number_of(data[-1]["id"])) if full else None)


@router.get("/{calibration}", response_model=CalibrationOut, responses=READ, dependencies=NO_PARAMETERS)
async def get_calibration(course: PathId, calibration: NumberedId, caller: Analyst, request: Request) -> Response:
    """One calibration."""
    number = number_of(calibration)
    return reply(await request.app.state.database.read(services.describe, caller.tenant_id, course, number, now()))


@router.post(
    "/{calibration}/activate",
    response_model=CalibrationOut,
    responses=responses_for("unknown_course", "unknown_calibration", "calibration_not_ready"),
    dependencies=NO_PARAMETERS,
)
async def post_activation(course: PathId, calibration: NumberedId, caller: Writer, request: Request) -> Response:
    """Put a calibration in force; activating an older one is the way back."""
    database, tenant_id = request.app.state.database, caller.tenant_id
    told = await database.write(services.activate, tenant_id, course, number_of(calibration), now())
    in_background(request, refold_course(database, tenant_id, course))
    return reply(told)


def number_of(calibration: str) -> int:
    """The number in a calibration's id."""
    return int(calibration.removeprefix("c-"))


def in_background(request: Request, work: Coroutine[object, object, object]) -> None:
    """Let work go on after the reply; it is waited for when the service stops."""
    tasks: set[asyncio.Task[object]] = request.app.state.tasks
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
