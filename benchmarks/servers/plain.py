"""The least that can be between a socket and a function: an ASGI application for one kind of request."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

Take = Callable[[bytes], Awaitable[bytes]]


def plain(opening: Callable[[], AbstractAsyncContextManager[Take]]) -> ASGIApp:
    """Give the body of a POST to the function that `opening` makes at the start; its result is the reply, with 201."""
    takes: list[Take] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(opening, takes, receive, send)
            return
        posted = scope["method"] == "POST"
        told = await takes[0](await read(receive)) if posted else b"{}"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 201 if posted else 404, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    return app


async def live(
    opening: Callable[[], AbstractAsyncContextManager[Take]], takes: list[Take], receive: Receive, send: Send
) -> None:
    """From the start of the server to its end; it does not start if opening fails."""
    await receive()
    async with AsyncExitStack() as stack:
        try:
            takes.append(await stack.enter_async_context(opening()))
        except Exception as error:  # noqa: BLE001 (the server is told and ends)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def read(receive: Receive) -> bytes:
    """The whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
