"""Tokens for clients that cannot send a key itself: OAuth 2.0 client credentials (RFC 6749, section 4.4).

The client's id is that of a key and its secret the key. Errors have the form that the RFC gives them.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app.core.errors import Malformed, ProximaError, RateLimited, TooLarge, TooSlow, Unauthenticated, Unavailable
from app.core.security import SCOPES, allows, parse_key
from app.core.times import now
from app.http.auth import Caller, caller_of_key, charge_caller
from app.http.json_body import receive_body
from app.http.paging import reply
from app.http.problems import handle_problem, headers_of, status_of
from app.schemas.common import schema_reference
from app.schemas.tokens import TokenError, TokenOut, TokenRequest
from app.services.keys import TOKEN_LIFETIME_S, issue_token

MOST_BYTES = 16_384
FORM = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
CHALLENGE = {"WWW-Authenticate": 'Basic realm="proxima", charset="UTF-8"'}

ERROR: dict[str, Any] = {"model": TokenError}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {**ERROR, "description": "`invalid_request`, `unsupported_grant_type`, `invalid_scope`"},
    401: {**ERROR, "description": "`invalid_client`: no key in force has this id and this text"},
    408: {**ERROR, "description": "`invalid_request`: the body came too slowly"},
    413: {**ERROR, "description": "`invalid_request`: the body is too large"},
    429: {**ERROR, "description": "`temporarily_unavailable`: too often; wait as long as `Retry-After` says"},
    503: {**ERROR, "description": "`temporarily_unavailable`: the database does not answer"},
}


class _Refusal(Exception):
    """A request that cannot be granted; `error` is the RFC's code for it."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail


class _TokenRoute(APIRoute):
    """A route whose errors are those of RFC 6749."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except (ProximaError, _Refusal) as error:
                return await _to_oauth_response(request, error)

        return handle_errors


router = APIRouter(tags=["tokens"], route_class=_TokenRoute)


async def _to_oauth_response(request: Request, error: ProximaError | _Refusal) -> Response:
    """An error as RFC 6749 tells it; one that is ours as any other."""
    if isinstance(error, _Refusal):
        return _error_reply(HTTPStatus.BAD_REQUEST, error.error, error.detail, {})
    status = status_of(type(error))
    match error:
        case Unauthenticated():
            return _error_reply(status, "invalid_client", error.detail, CHALLENGE)
        case RateLimited() | Unavailable():
            return _error_reply(status, "temporarily_unavailable", error.detail, headers_of(error))
        case Malformed() | TooLarge() | TooSlow():
            return _error_reply(status, "invalid_request", error.detail, headers_of(error))
    return await handle_problem(request, error)


def _error_reply(status: int, error: str, detail: str, headers: Mapping[str, str]) -> Response:
    """A reply that gives no token."""
    return reply({"error": error, "error_description": _to_printable(detail)}, status, {**headers, **NO_STORE})


def _to_printable(text: str) -> str:
    """A text in the characters that RFC 6749 allows in a description."""
    plain = text.replace("…", "...").replace('"', "'").replace("\\", "/")
    return "".join(sign if " " <= sign <= "~" else "?" for sign in plain)


@router.post(
    "/v1/oauth/token",
    response_model=TokenOut,
    responses=ERRORS,
    openapi_extra={
        "security": [],
        "requestBody": {"required": True, "content": {FORM: {"schema": schema_reference(TokenRequest)}}},
    },
)
async def post_token(request: Request) -> Response:
    """Get a token that stands for a key for an hour.

    OAuth 2.0 client credentials (RFC 6749, section 4.4): `client_id` is the id of a key and `client_secret` the key, in
    the form or in the header `Authorization: Basic`. Errors have the form of that RFC.
    """
    form = await _read_form(request)
    client_id, secret = _read_client(request, form)
    caller = await charge_caller(request, _find_client(request, client_id, secret))
    if form.get("grant_type") is None:
        raise _Refusal("invalid_request", "give grant_type=client_credentials")
    if form["grant_type"] != "client_credentials":
        raise _Refusal("unsupported_grant_type", "the grant_type is client_credentials")
    scopes = _grant_scopes(caller, form.get("scope", ""))
    token = await request.app.state.database.write(issue_token, caller.tenant_id, caller.key_id, scopes, now())
    body = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME_S, "scope": " ".join(scopes)}
    return reply(body, headers=NO_STORE)


async def _read_form(request: Request) -> Mapping[str, str]:
    """The fields of a form; empty ones are absent. Raises `_Refusal`, `TooLarge`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _Refusal("invalid_request", f"send a form: Content-Type {FORM}, not compressed")
    body = await receive_body(request, MOST_BYTES)
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise _Refusal("invalid_request", "the form cannot be read") from None
    if len({name for name, _ in fields}) < len(fields):
        raise _Refusal("invalid_request", "a field stands twice in the form")
    return {name: value for name, value in fields if value}


def _read_client(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
    """Id and secret of the client, from the header or from the form. Raises `Unauthenticated`, `_Refusal`."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if not scheme:
        return form.get("client_id", ""), form.get("client_secret", "")
    if scheme.lower() != "basic":
        raise Unauthenticated("the client authenticates with Basic, or with client_id and client_secret in the form")
    try:
        pair = base64.b64decode(text.strip(" "), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unauthenticated("the header Authorization cannot be read") from None
    client_id, _, secret = (unquote_plus(part) for part in pair.partition(":"))
    if "client_secret" in form or form.get("client_id", client_id) != client_id:
        raise _Refusal("invalid_request", "authenticate in the header or in the form, not in both")
    return client_id, secret


async def _find_client(request: Request, client_id: str, secret: str) -> Caller:
    """The caller whose key this is. Raises `Unauthenticated`."""
    parsed = parse_key(secret)
    if parsed is None:
        raise Unauthenticated("client_secret is a key: prx_…, copied whole")
    caller = await caller_of_key(request, *parsed)
    if not hmac.compare_digest(caller.key_id.encode(), client_id.encode("utf-8", "surrogatepass")):
        raise Unauthenticated("client_id is the id of the key: key-…")
    return caller


def _grant_scopes(caller: Caller, requested: str) -> Sequence[str]:
    """The scopes of the token: those asked for, or all of the key. Raises `_Refusal`.

    Scopes that are URIs are those of other vocabularies: they narrow nothing, and grant nothing.
    """
    ours = [scope for scope in requested.split() if "://" not in scope]
    lacking = [scope for scope in ours if scope not in SCOPES or not allows(caller.scopes, scope)]
    if lacking:
        raise _Refusal("invalid_scope", f"the key has the scopes {', '.join(sorted(caller.scopes))}")
    return sorted(set(ours) or caller.scopes)
