"""Adaptive tests: begin one, answer what it offers, look at it, end it."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.core.times import now
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import LINK, NO_PARAMETERS, Paging, PathId, raw_reply, read_cursor, reply, sorted_page_reply
from app.http.problems import responses_for
from app.routers.responses import STATUS, IdempotencyKey, check_not_in_future, resolve_id
from app.schemas.sessions import SessionIn, SessionOut, SessionOutcome, SessionPage, SessionResponseIn
from app.services import sessions as services
from app.services.session_agreement import decode_agreement

router = APIRouter(prefix="/v1", tags=["sessions"], route_class=StrictRoute)

Sender = Annotated[Caller, require("responses:write")]
Reader = Annotated[Caller, require("learners:read")]
Analyst = Annotated[Caller, require("analytics:read")]

BODY = ("malformed_json", "too_large", "too_slow", "unsupported_media_type")
START = {
    **responses_for(*BODY, "unknown_course", "conflict"),
    200: {"model": SessionOut, "description": "begun before: how it stands"},
}
ANSWER = {
    **responses_for(
        *BODY, "unknown_session", "conflict", "not_offered", "session_finished", "invalid_score", "occurred_in_future"
    ),
    200: {"model": SessionOutcome, "description": "sent before: the first outcome, byte for byte"},
}
LIST = {**responses_for("unknown_course", "invalid_cursor"), 200: LINK}
READ = responses_for("unknown_session")


@router.post(
    "/courses/{course}/sessions",
    status_code=201,
    response_model=SessionOut,
    responses=START,
    dependencies=NO_PARAMETERS,
)
async def post_session(course: PathId, body: SessionIn, caller: Sender, request: Request) -> Response:
    """Begin an adaptive test: its first item.

    Which items may come, how they are chosen and when it ends is agreed on here and stays as it is. Given an `id` that
    has begun already, the reply tells how that test stands, with 200.
    """
    agreed = decode_agreement(body.model_dump(exclude_none=True, exclude={"id"}))
    id_ = body.id or f"t-{uuid.uuid4().hex}"
    status, details = await request.app.state.database.write(
        services.start_session, caller.tenant_id, course, id_, agreed, now()
    )
    return reply(details, STATUS[status])


@router.get("/courses/{course}/sessions", response_model=SessionPage, responses=LIST)
async def list_sessions(course: PathId, query: Paging, caller: Analyst, request: Request) -> Response:
    """The tests of a course by id.

    Each with its state, without answers; `GET /v1/sessions/{session}` has the whole test.
    """
    position = read_cursor(query.cursor, (str,))
    after = position[0] if position else ""
    data = await request.app.state.database.read(
        services.page_of_sessions, caller.tenant_id, course, after, query.limit, now()
    )
    return sorted_page_reply(request, data, query.limit, "id")


@router.post(
    "/sessions/{session}/responses",
    status_code=201,
    response_model=SessionOutcome,
    responses=ANSWER,
    dependencies=NO_PARAMETERS,
)
async def post_session_response(
    session: PathId, body: SessionResponseIn, caller: Sender, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer the item that is offered: the ability after it, and the next item or the end.

    Only the item that is offered can be answered. Sent again with the same `id` and content, it is answered by the
    first outcome, byte for byte, with 200.
    """
    moment = now()
    check_not_in_future(body.occurred_at, moment)
    response = services.NewSessionResponse(
        id=resolve_id(body.id, idempotency_key) or f"a-{uuid.uuid4().hex}",
        item=body.item,
        score=body.score,
        correct=body.correct,
        occurred_at=moment if body.occurred_at is None else body.occurred_at,
        has_timestamp=body.occurred_at is not None,
        received_at=moment,
        duration_ms=body.duration_ms,
    )
    result = await request.app.state.database.write(
        services.record_session_response, caller.tenant_id, session, response
    )
    return raw_reply(result.outcome, STATUS[result.status])


@router.get("/sessions/{session}", response_model=SessionOut, responses=READ, dependencies=NO_PARAMETERS)
async def get_session(session: PathId, caller: Reader, request: Request) -> Response:
    """A test as a whole: every answer, the ability after it, and where it stands.

    With the ability after each answer its whole way can be drawn; a test that has ended can be read too.
    """
    return reply(await request.app.state.database.read(services.describe_session, caller.tenant_id, session, now()))


@router.post("/sessions/{session}/end", response_model=SessionOut, responses=READ, dependencies=NO_PARAMETERS)
async def post_session_end(session: PathId, caller: Sender, request: Request) -> Response:
    """End a test before its time.

    What is known of the ability stays, and no further answer is taken. A test that is over stays as it ended.
    """
    return reply(await request.app.state.database.write(services.end_session, caller.tenant_id, session, now()))
