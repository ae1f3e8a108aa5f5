"""Webhooks: who is called at what, and in the OpenAPI document what the calls hold."""

from multiprocessing import parent_process
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app.core.times import now
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import LINK, NO_PARAMETERS, Paging, read_cursor, reply, sorted_page_reply
from app.http.problems import responses_for
from app.jobs.webhook_delivery import read_target, stop_calls
from app.schemas.webhooks import (
    WEBHOOK_ID,
    CalibrationFinished,
    LearnerStuck,
    ResponseCorrected,
    SkillMastered,
    WebhookIn,
    WebhookMade,
    WebhookPage,
)
from app.services import webhooks as services

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)
# What we call rather than what is called: only for the document.
calls = APIRouter()

Admin = Annotated[Caller, require("admin")]
WebhookId = Annotated[str, Path(pattern=WEBHOOK_ID)]

MAKE = responses_for(
    "malformed_json", "too_large", "too_slow", "unsupported_media_type", "unknown_course", "too_many_webhooks"
)
LIST = {**responses_for("invalid_cursor"), 200: LINK}
REMOVE = responses_for("unknown_webhook")
# What a receiver answers. FastAPI would add its own 422, with a body that nobody sends.
RECEIVER_REPLIES: dict[str, Any] = {
    "status_code": 204,
    "response_description": "delivered; any 2xx will do, and its body is not read",
    "openapi_extra": {"security": []},
    "responses": {"default": {"description": "not delivered: the same call comes again later"}},
}


@router.post("", status_code=201, response_model=WebhookMade, responses=MAKE, dependencies=NO_PARAMETERS)
async def post_webhook(body: WebhookIn, caller: Admin, request: Request) -> Response:
    """Have an address called at some events; the secret that signs the calls is shown this once.

    The address must be public and, unless the operator allows others, https. A call that is not taken comes again, for
    three days. Calls are signed as Standard Webhooks has it.
    """
    read_target(body.url, request.app.state.settings.webhook_hosts)
    created = await request.app.state.database.write(
        services.create_webhook, caller.tenant_id, body.url, body.events, body.course, now()
    )
    return reply(created, 201)


@router.get("", response_model=WebhookPage, responses=LIST)
async def list_webhooks(query: Paging, caller: Admin, request: Request) -> Response:
    """The webhooks by id, and how their calls fare.

    `pending` and `failed` say how many calls wait and how many were given up; `last_failure` says why.
    """
    position = read_cursor(query.cursor, (str,))
    after = position[0] if position else None
    data = await request.app.state.database.read(services.page_of_webhooks, caller.tenant_id, after, query.limit)
    return sorted_page_reply(request, data, query.limit, "id")


@router.delete("/{webhook}", status_code=204, responses=REMOVE, dependencies=NO_PARAMETERS)
async def delete_webhook(webhook: WebhookId, caller: Admin, request: Request) -> Response:
    """Delete a webhook and its pending calls; after the reply none is made.

    It cannot be undone: a webhook that is made anew has another id and another secret.
    """
    state = request.app.state
    attempted: bool = await state.database.write(services.remove_webhook, caller.tenant_id, webhook)
    others = state.database.dialect == "postgresql" or parent_process() is not None
    await stop_calls(state.calls, (caller.tenant_id, webhook), elsewhere=attempted and others)
    return Response(status_code=204, headers={"X-Content-Type-Options": "nosniff"})


@calls.post("skill.mastered", **RECEIVER_REPLIES)
async def skill_mastered(body: SkillMastered) -> None:
    """A learner has mastered a skill with an answer.

    Sent after the answer that lifted it, and again each time it is mastered after it had decayed.
    """


@calls.post("learner.stuck", **RECEIVER_REPLIES)
async def learner_stuck(body: LearnerStuck) -> None:
    """Practice of a skill makes no progress.

    Sent after the answer that showed it: something other than exercises may help.
    """


@calls.post("calibration.finished", **RECEIVER_REPLIES)
async def calibration_finished(body: CalibrationFinished) -> None:
    """A calibration has succeeded or failed.

    Sent when it ends, however; read its report to decide whether to activate it.
    """


@calls.post("response.corrected", **RECEIVER_REPLIES)
async def response_corrected(body: ResponseCorrected) -> None:
    """An answer was voided or regraded.

    Sent after the learner was replayed, so the mastery can be read at once.
    """
