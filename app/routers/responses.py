"""Answers: one or many, and their corrections."""

import re
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import Field, ValidationError
from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Conflict, Fault, Invalid, OccurredInFuture, ProximaError, Unavailable
from app.routers.body import StrictRequest, StrictRoute
from app.routers.deps import Caller, Permit, require
from app.routers.limits import charge
from app.routers.parameters import NO_PARAMETERS, PathId, raw_reply, reply
from app.routers.problems import faults_in, problem_body, responses_for, tell_problem
from app.schemas.common import LONGEST_ID, Absent
from app.schemas.mastery import LearnerMastery
from app.schemas.responses import BatchIn, BatchOut, Outcome, RegradeIn, ResponseIn, VoidIn
from app.schemas.wishes import to_wishes
from app.services.corrections import correct
from app.services.responses import NewAnswer, Recorded
from app.times import now

FUTURE_US = 5 * 60 * 1_000_000
STATUS = {"created": 201, "duplicate": 200}
PLAIN = re.compile(rb"/v1/courses/([A-Za-z0-9._~-]{1,255})/responses")

router = APIRouter(
    prefix="/v1/courses/{course}", tags=["responses"], route_class=StrictRoute, dependencies=NO_PARAMETERS
)

Sender = Annotated[Caller, require("responses:write")]
KeyText = Annotated[str, Field(min_length=1, max_length=LONGEST_ID, pattern=r'^("[ !#-~]+"|[!#-~]([ !#-~]*[!#-~])?)$')]
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
    response_model=Outcome,
    responses={**SEND, 200: {"model": Outcome, "description": "sent before: the first outcome, byte for byte"}},
)
async def post_response(
    course: PathId, body: ResponseIn, caller: Sender, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Send one answer: what it did to mastery, and what comes next and why."""
    return await take(request, new_answer(caller, course, body, now(), idempotency_key))


async def take(request: Request, answer: NewAnswer | ProximaError) -> Response:
    """Record one answer and tell its outcome; raises what is wrong with it."""
    if isinstance(answer, ProximaError):
        raise answer
    [result] = await request.app.state.intake.submit([answer])
    if isinstance(result, ProximaError):
        raise result
    return raw_reply(result.outcome, STATUS[result.status])


class Express:
    """`post_response` for plain requests, past the framework, whose routing and injection are a third of their price.

    It calls what the route calls. Whatever is not plain, or not valid, goes to the route as it came, so that there is
    one place that says what is wrong.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.permit = Permit("responses:write")
        self.route = next(route for route in router.routes if getattr(route, "endpoint", None) is post_response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        course = plain_course(scope)
        if course is None:
            await self.app(scope, receive, send)
            return
        request = StrictRequest(scope, receive)
        try:
            caller = await self.permit(request)
            given = await request.json()
            try:
                body = ResponseIn.model_validate(given)
            except ValidationError:
                await self.app(scope, again(await request.body(), receive), send)
                return
            scope["route"] = self.route
            response = await take(request, new_answer(caller, course, body, now(), None))
        except ProximaError as error:
            scope["route"] = self.route
            response = await tell_problem(request, error)
        await response(scope, receive, send)


def plain_course(scope: Scope) -> str | None:
    """The course of a request that `Express` takes; none if it is not one."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    found = PLAIN.fullmatch(scope["raw_path"])
    if found is None or any(name == b"idempotency-key" for name, _ in scope["headers"]):
        return None
    return found[1].decode()


def again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def repeat() -> Message:
        return messages.pop() if messages else await receive()

    return repeat


@router.post("/responses:batch", response_model=BatchOut, responses=responses_for(*BODY, "overloaded"))
async def post_responses(course: PathId, body: BatchIn, caller: Sender, request: Request) -> Response:
    """Send up to 1,000 answers: one result for each, in order."""
    await charge(request, request.app.state.limits.requests, caller.tenant_id, caller.key_id, len(body.responses) - 1)
    moment = now()
    # A microsecond apart: those without a time of their own count in the order they are listed in.
    read = [read_answer(caller, course, given, moment + place) for place, given in enumerate(body.responses)]
    taken = [answer for answer in read if isinstance(answer, NewAnswer)]
    results = iter(await request.app.state.intake.submit(taken))
    told = [tell(request, next(results) if isinstance(answer, NewAnswer) else answer) for answer in read]
    return reply({"results": told})


@router.post("/responses/{response}/void", response_model=LearnerMastery, responses=CORRECT)
async def post_void(course: PathId, response: PathId, body: VoidIn, caller: Sender, request: Request) -> Response:
    """Make an answer count as never given; the learner's mastery without it."""
    return reply(
        await request.app.state.database.write(
            correct, caller.tenant_id, course, response, None, body.reason, caller.key_id, now()
        )
    )


@router.post("/responses/{response}/regrade", response_model=LearnerMastery, responses=CORRECT)
async def post_regrade(course: PathId, response: PathId, body: RegradeIn, caller: Sender, request: Request) -> Response:
    """Give an answer the score it should have had; the learner's mastery with it."""
    return reply(
        await request.app.state.database.write(
            correct, caller.tenant_id, course, response, body.score, body.reason, caller.key_id, now()
        )
    )


def read_answer(caller: Caller, course: str, given: Any, moment: int) -> NewAnswer | ProximaError:
    """One answer of a batch, or what is wrong with it."""
    try:
        body = ResponseIn.model_validate(given)
    except ValidationError as error:
        return Invalid("this answer is not valid; errors lists each place", faults_in(error, given))
    return new_answer(caller, course, body, moment, None)


def new_answer(
    caller: Caller, course: str, body: ResponseIn, moment: int, idempotency_key: str | None
) -> NewAnswer | ProximaError:
    """The answer as the service takes it, or what is wrong with it."""
    try:
        id_ = one_id(body.id, idempotency_key)
        need_past(body.occurred_at, moment)
    except ProximaError as error:
        return error
    return NewAnswer(
        tenant_id=caller.tenant_id,
        course_id=course,
        id=id_ or f"r-{uuid.uuid4().hex}",
        learner=body.learner,
        item=body.item,
        score=body.score,
        correct=body.correct,
        occurred_at=moment if body.occurred_at is None else body.occurred_at,
        dated=body.occurred_at is not None,
        received_at=moment,
        duration_ms=body.duration_ms,
        recommendation=body.recommendation,
        next=None if body.next is None else to_wishes(body.next),
    )


def one_id(given: str | None, header: str | None) -> str | None:
    """The id of an answer, from its body or from the header. Raises `Invalid` if they differ."""
    named = None if header is None else header.strip('"')
    if named is not None and given not in (None, named):
        raise Invalid("the header Idempotency-Key and id differ; give one of them", [Fault("/id", "differs")])
    return given or named


def need_past(occurred_at: int | None, moment: int) -> None:
    """Raise `OccurredInFuture` for an answer that nobody can have given yet."""
    if occurred_at is not None and occurred_at > moment + FUTURE_US:
        raise OccurredInFuture(
            "occurred_at lies more than five minutes in the future; check the sender's clock",
            [Fault("/occurred_at", "must not lie in the future")],
        )


def tell(request: Request, result: Recorded | ProximaError) -> dict[str, Any]:
    """The result of one answer of a batch."""
    if isinstance(result, Unavailable):
        raise result
    if isinstance(result, Recorded):
        return {"status": result.status, **from_json(result.outcome)}
    status = "conflict" if isinstance(result, Conflict) else "invalid"
    return {"status": status, "error": problem_body(result, request.state.request_id)}
