"""Calibrations: fit, watch, switch."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ValidationError

from app.core.errors import Invalid
from app.http.auth import Caller, require
from app.http.json_body import StrictRequest, StrictRoute
from app.http.paging import (
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
from app.http.problems import faults_in, responses_for
from app.http.rate_limits import charge
from app.jobs.calibrations import run_calibration
from app.jobs.replay_stale import rebuild_course
from app.schemas.calibrations import (
    ActivationIn,
    CalibrationId,
    CalibrationIn,
    CalibrationOut,
    CalibrationPage,
    to_left_out,
)
from app.schemas.common import schema_reference
from app.services import calibrations as services

router = APIRouter(prefix="/v1/courses/{course}/calibrations", tags=["calibrations"], route_class=StrictRoute)

Writer = Annotated[Caller, require("catalogue:write")]
Analyst = Annotated[Caller, require("analytics:read")]
NumberedId = Annotated[CalibrationId, Path()]

START = {
    **responses_for(
        "malformed_json",
        "too_large",
        "too_slow",
        "unsupported_media_type",
        "unknown_course",
        "calibration_running",
        "nothing_to_calibrate",
    ),
    202: {"headers": {"Location": {**TEXT_HEADER, "description": "where to watch it"}}},
}
LIST = {**responses_for("unknown_course", "invalid_cursor"), 200: LINK}
READ = responses_for("unknown_course", "unknown_calibration")
ACTIVATE = responses_for(
    "malformed_json",
    "too_large",
    "too_slow",
    "unsupported_media_type",
    "unknown_course",
    "unknown_calibration",
    "calibration_not_ready",
    "calibration_worse",
)
Body = TypeVar("Body", bound=BaseModel)


def _optional_body(model: type[BaseModel]) -> dict[str, Any]:
    """How a body that may be absent is documented; FastAPI's own never are where reading is strict."""
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema_reference(model)}}}}


@router.post(
    "",
    status_code=202,
    response_model=CalibrationOut,
    responses=START,
    dependencies=NO_PARAMETERS,
    openapi_extra=_optional_body(CalibrationIn),
)
async def post_calibration(course: PathId, caller: Writer, request: Request) -> Response:
    """Start a calibration; watch it at the address in `Location`.

    Fits difficulties, learning rates and the population to all answers of the course at this moment, in a process of
    its own. It changes nothing before it is activated. A second one at the same time is refused. The body may be left
    out.
    """
    database, tenant_id = request.app.state.database, caller.tenant_id
    await charge(request, request.app.state.limits.calibrations, tenant_id, caller.key_id)
    body = await _read_optional_body(request, CalibrationIn)
    claim = await database.write(
        services.call_at_database_time,
        services.request_calibration,
        tenant_id,
        course,
        left_out=to_left_out(body),
    )
    _run_in_background(request, run_calibration(database, request.app.state.settings.database_url, claim))
    details = await database.read(services.describe_calibration, tenant_id, course, claim.number)
    return reply(details, 202, {"Location": f"{request.scope['raw_path'].decode('ascii')}/{details['id']}"})


@router.get("", response_model=CalibrationPage, responses=LIST)
async def list_calibrations(course: PathId, query: Paging, caller: Analyst, request: Request) -> Response:
    """The calibrations of a course, the newest first.

    Each with its report; at most one of them is active.
    """
    position = read_cursor(query.cursor, (int,))
    data = await request.app.state.database.read(
        services.page_of_calibrations, caller.tenant_id, course, position[0] if position else None, query.limit
    )
    full = len(data) == query.limit
    return page_reply(request, data, write_cursor(_calibration_number(data[-1]["id"])) if full else None)


@router.get("/{calibration}", response_model=CalibrationOut, responses=READ, dependencies=NO_PARAMETERS)
async def get_calibration(course: PathId, calibration: NumberedId, caller: Analyst, request: Request) -> Response:
    """One calibration.

    Its `status` says whether it is still running; when it has succeeded, its `report` says what it would change.
    """
    number = _calibration_number(calibration)
    return reply(await request.app.state.database.read(services.describe_calibration, caller.tenant_id, course, number))


@router.post(
    "/{calibration}/activate",
    response_model=CalibrationOut,
    responses=ACTIVATE,
    dependencies=NO_PARAMETERS,
    openapi_extra=_optional_body(ActivationIn),
)
async def post_activation(course: PathId, calibration: NumberedId, caller: Writer, request: Request) -> Response:
    """Put a calibration in force; activating an older one is the way back.

    From now on all replies come from it, and learners are replayed under it. One that predicts worse than the one
    before is refused unless `force` says so. The body may be left out.
    """
    database, tenant_id, number = request.app.state.database, caller.tenant_id, _calibration_number(calibration)
    activation = await _read_optional_body(request, ActivationIn)
    details = await database.write(
        services.call_at_database_time, services.activate, tenant_id, course, number, force=activation.force
    )
    _run_in_background(request, rebuild_course(database, tenant_id, course))
    return reply(details)


async def _read_optional_body(request: Request, model: type[Body]) -> Body:
    """The body, or what its absence means."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return model()
    body = await StrictRequest(request.scope, request.receive).json()
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise Invalid("the request is not valid; errors lists each place", faults_in(error, body)) from error


def _calibration_number(calibration: str) -> int:
    """The number in a calibration's id."""
    return int(calibration.removeprefix("c-"))


def _run_in_background(request: Request, work: Coroutine[object, object, object]) -> None:
    """Let work go on after the reply; it is waited for when the service stops."""
    tasks: set[asyncio.Task[object]] = request.app.state.tasks
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
