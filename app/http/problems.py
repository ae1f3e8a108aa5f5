"""Errors in the form of RFC 9457: `application/problem+json` with a stable code and what to do.

Below the address of 1EdTech CAT they have its form instead: app/http/ims_status.py.

Of the input, only names of fields are repeated: a reply, or a log of replies, must not hold learner data.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import (
    Conflict,
    Fault,
    Forbidden,
    HeaderTooLarge,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    NotMigrated,
    ProximaError,
    RateLimited,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from app.http import ims_status
from app.http.json_body import pointer_part
from app.schemas.problems import Problem

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 50

STATUS: dict[type[ProximaError], int] = {
    Malformed: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    NotAcceptable: 406,
    TooSlow: 408,
    Conflict: 409,
    TooLarge: 413,
    HeaderTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    UnsupportedMediaType: 415,
    Invalid: 422,
    RateLimited: 429,
    Unavailable: 503,
    NotMigrated: 503,
    ProximaError: 500,
}
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    429: {"Retry-After": "60"},
    503: {"Retry-After": "1"},
}
ALWAYS = (
    "unauthenticated",
    "missing_scope",
    "invalid",
    "rate_limited",
    "too_many_failures",
    "database_unavailable",
)

NO_SUCH_ADDRESS = "there is nothing at this address; /docs shows what there is"
OUR_FAULT = "something went wrong on our side; tell the operator the request_id"

log = structlog.get_logger()


def install_problems(app: FastAPI) -> None:
    """Turn every error of the app into a problem, in the replies and in the OpenAPI document.

    Call it before adding other middleware, which then sees the reply to an unexpected error too.
    """
    app.exception_handler(ProximaError)(handle_problem)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http)
    app.add_middleware(_LastResort)
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        definitions = schema.pop("$defs")
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions, Problem=schema)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def responses_for(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return `responses=` of a route: these codes, and those that every route with a key can answer."""
    classes = classes_by_code()
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in sorted((classes[code] for code in {*ALWAYS, *codes}), key=lambda kind: (status_of(kind), kind.code)):
        entry = by_status.setdefault(
            status_of(error),
            {"description": "", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{error.code}`: {error.title}"]))
        if headers := HEADERS.get(status_of(error)):
            entry["headers"] = {name: {"schema": {"type": "string"}} for name in headers}
    return by_status


def classes_by_code() -> dict[str, type[ProximaError]]:
    """Return every error with a code of its own, by that."""

    def below(error: type[ProximaError]) -> Iterator[type[ProximaError]]:
        yield error
        for child in error.__subclasses__():
            yield from below(child)

    return {error.code: error for error in below(ProximaError) if "code" in vars(error)}


def status_of(error: type[ProximaError]) -> int:
    """Return the HTTP status of the nearest branch of the error tree."""
    return next(STATUS[branch] for branch in error.__mro__ if branch in STATUS)


def problem_body(error: ProximaError, request_id: str, address: str) -> dict[str, Any]:
    """Return the problem as data; an internal error says nothing more than that. `address` is the caller's of us."""
    status = status_of(type(error))
    shown = error if status != HTTPStatus.INTERNAL_SERVER_ERROR else ProximaError(OUR_FAULT)
    return {
        "type": f"{address}errors#{shown.code}",
        "title": shown.title,
        "status": status,
        "detail": shown.detail,
        "code": shown.code,
        "request_id": request_id,
        "errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in shown.faults[:MAX_FAULTS]],
    }


def address_of(request: Request) -> str:
    """Return where the caller has reached the service, with a slash at the end."""
    return str(request.base_url)


def _problem_response(request: Request, error: ProximaError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the reply to an error."""
    body, media_type = problem_body(error, getattr(request.state, "request_id", ""), address_of(request)), MEDIA_TYPE
    status = body["status"]
    if ims_status.is_cat_path(request.scope["path"]):
        status, body, media_type = (
            ims_status.to_imsx_status(status),
            ims_status.to_status_info(body),
            ims_status.MEDIA_TYPE,
        )
    return Response(
        json.dumps(body).encode(),
        status,
        {**headers_of(error), **(headers or {}), "X-Content-Type-Options": "nosniff"},
        media_type,
    )


def headers_of(error: ProximaError) -> dict[str, str]:
    """Return the headers of the reply to an error."""
    headers = HEADERS.get(status_of(type(error)), {})
    return {**headers, "Retry-After": str(error.retry_after)} if isinstance(error, RateLimited) else headers


async def handle_problem(request: Request, error: ProximaError) -> Response:
    """Return the reply to an error, which is logged if it is internal."""
    if status_of(type(error)) == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log_unexpected(request, error)
    return _problem_response(request, error)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    faults = list(faults_of(error.errors(), error.body))
    return _problem_response(request, Invalid("the request is not valid; errors lists each place", faults))


async def _http(request: Request, error: HTTPException) -> Response:
    """Return the reply to what the framework itself refuses."""
    match error.status_code:
        case 404:
            return _problem_response(request, NotFound(NO_SUCH_ADDRESS))
        case 405:
            methods = ", ".join(_allowed_methods(request))
            refusal = MethodNotAllowed(f"this address takes {methods or 'no method'}")
            return _problem_response(request, refusal, {"Allow": methods})
        case 400:
            return _problem_response(request, Malformed("the request cannot be read"))
        case 413:
            return _problem_response(request, TooLarge("the body is too large; send less at once"))
    _log_unexpected(request, error)
    return _problem_response(request, ProximaError(OUR_FAULT))


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods of an address: the framework names those of one route."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return sorted(
        method
        for route in iter_route_contexts(request.app.routes)
        if route.methods and route.path_regex.match(path)
        for method in route.methods
    )


class _LastResort:
    """A middleware that logs any other exception and replies with a 500 that says nothing but its request id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:
                raise
            request = Request(scope)
            _log_unexpected(request, error)
            await _problem_response(request, ProximaError(OUR_FAULT))(scope, receive, send)


def _log_unexpected(request: Request, error: Exception) -> None:
    log.error("unexpected error", request_id=getattr(request.state, "request_id", ""), exc_info=error)


def faults_in(error: ValidationError, body: object) -> list[Fault]:
    """Return what is wrong in a body that was validated by hand."""
    errors = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
    return list(faults_of(errors, body))


def faults_of(errors: Sequence[Mapping[str, Any]], body: object) -> Iterator[Fault]:
    """Yield what is wrong, from pydantic's errors about `body` and the parameters."""
    for error in errors[:MAX_FAULTS]:
        where, *path = error["loc"] or ("body",)
        match where:
            case "query":
                pointer = f"?{path[0]}"
            case "path":
                pointer = f"{{{path[0]}}}"
            case "body":
                pointer = _pointer(path, body, missing=error["type"] == "missing")
            case _:
                pointer = f"{path[0]}:"
        yield Fault(pointer, _sentence(error))


def _pointer(path: Sequence[str | int], body: object, *, missing: bool) -> str:
    """Return the JSON pointer of pydantic's path, without the names of union members, which are not in the body."""
    parts: list[str | int] = []
    node = body
    for index, part in enumerate(path):
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and part in range(len(node))):
            node = node[part]  # type: ignore[index]
        elif not (missing and index == len(path) - 1):
            continue
        parts.append(part)
    return "".join(f"/{pointer_part(part)}" for part in parts)


def _sentence(error: Mapping[str, Any]) -> str:
    """Return what to do. Pydantic's own messages are used where they cannot hold the input."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", "is not valid"))
    if kind in SENTENCES:
        return SENTENCES[kind].format_map(context)
    return "is not valid"


SENTENCES: dict[str, str] = {
    "missing": "is required; give it",
    "extra_forbidden": "is not a known field; leave it out",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dataclass_type": "must be an object",
    "none_required": "must be null",
    "too_short": "must have at least {min_length} elements",
    "too_long": "must have at most {max_length} elements",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "must say which kind it is with {discriminator}",
    "datetime_type": "must be a time such as 2026-11-22T09:00:00Z",
    "datetime_parsing": "must be a time such as 2026-11-22T09:00:00Z",
    "datetime_from_date_parsing": "must be a time such as 2026-11-22T09:00:00Z",
    "datetime_object_invalid": "must be a time such as 2026-11-22T09:00:00Z",
    "timezone_aware": "must be a time with an offset, such as 2026-11-22T09:00:00Z",
    "url_type": "must be a URL such as https://example.org/item",
    "url_parsing": "must be a URL such as https://example.org/item",
    "url_scheme": "must be a URL that starts with {expected_schemes}",
    "url_too_long": "must have at most {max_length} characters",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
}
