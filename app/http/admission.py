"""Admission control: no more requests at once than can be answered soon, and no body that comes too slowly."""

import asyncio
import json
import secrets

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import Overloaded, TooSlow
from app.core.telemetry import REQUESTS, UNMATCHED
from app.http import ims_status
from app.http.problems import MEDIA_TYPE, address_of, problem_body

# At five hundred requests a second or more the last of them is answered after a second.
MOST_IN_HAND = 500
PROBES = frozenset({"/livez", "/readyz"})

BODY_S = 30.0
BODY_FIRST_S = 10.0
BODY_BYTES_A_SECOND = 500

# What is put in place of these is of one request.
ID, ADDRESS = "0" * 32, "<address>"
PROBLEM = problem_body(Overloaded("too many requests are in hand; send this one again a little later"), ID, ADDRESS)
REFUSAL, IMSX_REFUSAL = json.dumps(PROBLEM).encode(), json.dumps(ims_status.to_status_info(PROBLEM)).encode()
REFUSED = REQUESTS.labels("other", UNMATCHED, 503)


class AdmissionControl:
    """Refuses requests beyond capacity, and closes connections when the service is about to stop.

    The probes are always let in: a busy process is alive, and restarting it would not help.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if getattr(scope["app"].state, "stopping", False):
            send = _close_after_reply(send)
        if scope["path"] in PROBES:
            await self.app(scope, receive, send)
        elif self.in_progress >= MOST_IN_HAND:
            await _refuse_overload(scope, send)
        else:
            self.in_progress += 1
            try:
                await self.app(scope, _with_deadline(receive), send)
            finally:
                self.in_progress -= 1


async def _refuse_overload(scope: Scope, send: Send) -> None:
    """Reply that the sender should come back later: counted and not logged, as it must cost next to nothing."""
    REFUSED.inc()
    request_id = secrets.token_hex(16).encode()
    is_cat = ims_status.is_cat_path(scope["path"])
    body, media_type = (IMSX_REFUSAL, ims_status.MEDIA_TYPE) if is_cat else (REFUSAL, MEDIA_TYPE)
    body = body.replace(ID.encode(), request_id).replace(ADDRESS.encode(), address_of(Request(scope)).encode())
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _close_after_reply(send: Send) -> Send:
    """Announce that the connection ends with this reply, so that the next request goes elsewhere."""

    async def close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return close


def _with_deadline(receive: Receive) -> Receive:
    """Receive a body while it keeps coming: ten seconds, longer the more has come, thirty in all.

    The clock starts when the body is first asked for. Raises `TooSlow`.
    """
    began = 0.0
    size = 0
    ended = False

    async def receive_in_time() -> Message:
        nonlocal began, size, ended
        if ended:
            return await receive()
        began = began or asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(began + min(BODY_FIRST_S + size / BODY_BYTES_A_SECOND, BODY_S)):
                message = await receive()
        except TimeoutError:
            ended = True
            raise TooSlow("the body came too slowly; send the request again over a better connection") from None
        size += len(message.get("body", b""))
        ended = not message.get("more_body", False)
        return message

    return receive_in_time
