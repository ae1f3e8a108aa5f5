"""Answers: one or many, and their corrections."""

import re
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import Conflict, Fault, Invalid, OccurredInFuture, ProximaError, Unavailable
from app.core.ids import LONGEST_ID, check_id
from app.core.times import now
from app.http.auth import Caller, Permit, require
from app.http.json_body import StrictRequest, StrictRoute
from app.http.paging import NO_PARAMETERS, PathId, raw_reply, reply
from app.http.problems import address_of, faults_in, handle_problem, problem_body, responses_for
from app.http.rate_limits import charge
from app.schemas.common import Absent
from app.schemas.mastery import LearnerMastery
from app.schemas.options import to_options
from app.schemas.responses import BatchIn, BatchOut, RegradeIn, ResponseIn, ResponseOutcome, VoidIn
from app.services.corrections import correct_response
from app.services.responses import NewResponse, RecordedResponse

FUTURE_US = 5 * 60 * 1_000_000
STATUS = {"created": 201, "duplicate": 200}
PLAIN = re.compile(rb"/v1/courses/([A-Za-z0-9._~-]{1,255})/responses")

router = APIRouter(
    prefix="/v1/courses/{course}", tags=["responses"], route_class=StrictRoute, dependencies=NO_PARAMETERS
)

Sender = Annotated[Caller, require("responses:write")]


def _unquote_id(key: str) -> str:
    """The id in a key."""
    return check_id(key.strip('"'))


KeyText = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_ID, pattern=r'^("[ !#-~]+"|[!#-~]([ !#-~]*[!#-~])?)$'),
    AfterValidator(_unquote_id),
]
IdempotencyKey = Annotated[
    KeyText | Absent, Header(alias="Idempotency-Key", description="the same as `id`: printable ASCII, in quotes or not")
]

BODY = ("malformed_json", "too_large", "too_slow", "unsupported_media_type", "unknown_course")
SEND = responses_for(
    *BODY, "unknown_item", "unknown_recommendation", "conflict", "invalid_score", "occurred_in_future", "overloaded"
)
CORRECT = responses_for(*BODY, "unknown_response", "response_voided", "invalid_score")


@router.post(
    "/responses",
    status_code=201,
    response_model=ResponseOutcome,
    responses={**SEND, 200: {"model": ResponseOutcome, "description": "sent before: the first outcome, byte for byte"}},
)
async def post_response(
    course: PathId, body: ResponseIn, caller: Sender, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Send one answer: what it did to mastery, and what comes next and why.

    The answer is appended to the learner's log, the learner's state is updated, and the next exercise is chosen, in one
    transaction. Give it an `id`, or the header `Idempotency-Key`: sent again with the same content it is answered by
    the first outcome, byte for byte, with 200. An answer that comes late is put where its `occurred_at` belongs.
    """
    return await _submit_response(request, caller, course, body, idempotency_key)


async def _submit_response(
    request: Request, caller: Caller, course: str, body: ResponseIn, idempotency_key: str | None = None
) -> Response:
    """Record one response and reply with its outcome; raises what is wrong with it. Route and fast path call it."""
    new_response = _to_new_response(caller, course, body, now(), idempotency_key)
    if isinstance(new_response, ProximaError):
        raise new_response
    [result] = await request.app.state.group_commit.submit([new_response])
    if isinstance(result, ProximaError):
        raise result
    return raw_reply(result.outcome, STATUS[result.status])


class FastPath:
    """`post_response` for plain requests, past the framework, whose routing and injection are a third of their price.

    It calls what the route calls. Whatever is not plain, or not valid, goes to the route as it came, so that there is
    one place that says what is wrong.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.permit = Permit("responses:write")
        self.route = next(route for route in router.routes if getattr(route, "endpoint", None) is post_response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        course = fast_path_course(scope)
        if course is None:
            await self.app(scope, receive, send)
            return
        request = StrictRequest(scope, receive)
        try:
            caller = await self.permit(request)
            content = await request.json()
            try:
                body = ResponseIn.model_validate(content)
            except ValidationError:
                await self.app(scope, restore_body(await request.body(), receive), send)
                return
            scope["route"] = self.route
            response = await _submit_response(request, caller, course, body)
        except ProximaError as error:
            scope["route"] = self.route
            response = await handle_problem(request, error)
        await response(scope, receive, send)


def fast_path_course(scope: Scope) -> str | None:
    """The course of a request that `FastPath` takes; none if it is not one."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    match = PLAIN.fullmatch(scope["raw_path"])
    if match is None or any(name == b"idempotency-key" for name, _ in scope["headers"]):
        return None
    return match[1].decode()


def restore_body(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


@router.post("/responses:batch", response_model=BatchOut, responses=responses_for(*BODY, "overloaded"))
async def post_responses(course: PathId, body: BatchIn, caller: Sender, request: Request) -> Response:
    """Send up to 1,000 answers: one result for each, in order.

    Each answer is checked on its own, and what is wrong with one is its result and stops no other. The outcomes are
    those that the answers would have had one by one. It costs as many requests of the quota as it has answers.
    """
    await charge(request, request.app.state.limits.requests, caller.tenant_id, caller.key_id, len(body.responses) - 1)
    moment = now()
    # A microsecond apart: those without a time of their own count in the order they are listed in.
    parsed = [_parse_batch_entry(caller, course, entry, moment + index) for index, entry in enumerate(body.responses)]
    valid = [new_response for new_response in parsed if isinstance(new_response, NewResponse)]
    results = iter(await request.app.state.group_commit.submit(valid))
    replies = [
        _batch_result(request, next(results) if isinstance(new_response, NewResponse) else new_response)
        for new_response in parsed
    ]
    return reply({"results": replies})


@router.post("/responses/{response_id}/void", response_model=LearnerMastery, responses=CORRECT)
async def post_void(course: PathId, response_id: PathId, body: VoidIn, caller: Sender, request: Request) -> Response:
    """Make an answer count as never given; the learner's mastery without it.

    The answer stays in the log, and the learner is replayed without it. It cannot be undone, and a voided answer cannot
    be regraded. Webhooks are told `response.corrected`.
    """
    return reply(
        await request.app.state.database.write(
            correct_response, caller.tenant_id, course, response_id, None, body.reason, caller.key_id, now()
        )
    )


@router.post("/responses/{response_id}/regrade", response_model=LearnerMastery, responses=CORRECT)
async def post_regrade(
    course: PathId, response_id: PathId, body: RegradeIn, caller: Sender, request: Request
) -> Response:
    """Give an answer the score it should have had; the learner's mastery with it.

    The answer keeps its place in the log, and the learner is replayed with the new score. It can be regraded again;
    what counts is the last score. Webhooks are told `response.corrected`.
    """
    return reply(
        await request.app.state.database.write(
            correct_response, caller.tenant_id, course, response_id, body.score, body.reason, caller.key_id, now()
        )
    )


def _parse_batch_entry(caller: Caller, course: str, entry: Any, moment: int) -> NewResponse | ProximaError:
    """One answer of a batch, or what is wrong with it."""
    try:
        body = ResponseIn.model_validate(entry)
    except ValidationError as error:
        return Invalid("this answer is not valid; errors lists each place", faults_in(error, entry))
    return _to_new_response(caller, course, body, moment, None)


def _to_new_response(
    caller: Caller, course: str, body: ResponseIn, moment: int, idempotency_key: str | None
) -> NewResponse | ProximaError:
    """The answer as the service takes it, or what is wrong with it."""
    try:
        id_ = resolve_id(body.id, idempotency_key)
        check_not_in_future(body.occurred_at, moment)
    except ProximaError as error:
        return error
    return NewResponse(
        tenant_id=caller.tenant_id,
        course_id=course,
        id=id_ or f"r-{uuid.uuid4().hex}",
        learner=body.learner,
        item=body.item,
        score=body.score,
        correct=body.correct,
        occurred_at=moment if body.occurred_at is None else body.occurred_at,
        has_timestamp=body.occurred_at is not None,
        received_at=moment,
        duration_ms=body.duration_ms,
        recommendation=body.recommendation,
        next=None if body.next is None else to_options(body.next),
    )


def resolve_id(body_id: str | None, header_id: str | None) -> str | None:
    """The id of an answer, from its body or from the header. Raises `Invalid` if they differ."""
    if header_id is not None and body_id not in (None, header_id):
        raise Invalid("the header Idempotency-Key and id differ; give one of them", [Fault("/id", "differs")])
    return body_id or header_id


def check_not_in_future(occurred_at: int | None, moment: int) -> None:
    """Raise `OccurredInFuture` for an answer that nobody can have given yet."""
    if occurred_at is not None and occurred_at > moment + FUTURE_US:
        raise OccurredInFuture(
            "occurred_at lies more than five minutes in the future; check the sender's clock",
            [Fault("/occurred_at", "must not lie in the future")],
        )


def _batch_result(request: Request, result: RecordedResponse | ProximaError) -> dict[str, Any]:
    """The result of one answer of a batch."""
    if isinstance(result, Unavailable):
        raise result
    if isinstance(result, RecordedResponse):
        return {"status": result.status, **from_json(result.outcome)}
    status = "conflict" if isinstance(result, Conflict) else "invalid"
    return {"status": status, "error": problem_body(result, request.state.request_id, address_of(request))}
