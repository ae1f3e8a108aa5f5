"""Look-ups of host names that may hang: in threads that nothing waits for, few at once for each tenant.

The event loop's own share four threads among everybody, and keep a process from ending for as long as they hang.
"""

import asyncio
import socket
import threading

# Look-ups at once, of all tenants and of each; more wait for these.
MOST_LOOKUPS, MOST_OF_TENANT = 32, 4

Lookup = tuple[int, str, int]
_running: dict[Lookup, "asyncio.Future[list[str]]"] = {}


async def look_up(tenant_id: int, host: str, port: int) -> list[str]:
    """Return the addresses of a host, preferred ones first; calls of one name share it. Raises OSError, ValueError."""
    key = (tenant_id, host, port)
    while key not in _running:
        of_tenant = [future for other, future in _running.items() if other[0] == tenant_id]
        waited_for = of_tenant if len(of_tenant) >= MOST_OF_TENANT else list(_running.values())
        if len(of_tenant) < MOST_OF_TENANT and len(_running) < MOST_LOOKUPS:
            _start(key)
        else:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    return await asyncio.shield(_running[key])


def _start(key: Lookup) -> None:
    """Start a look-up in a thread of its own, which a process that ends does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()
    # Those who asked may have given up by then.
    future.add_done_callback(lambda done: done.exception())
    _running[key] = future

    def settle(addresses: list[str], error: Exception | None) -> None:
        del _running[key]
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(addresses)

    def find() -> None:
        addresses: list[str] = []
        error: Exception | None = None
        try:
            infos = socket.getaddrinfo(key[1], key[2], 0, socket.SOCK_STREAM)
            addresses = [str(address[0]) for *_, address in infos]
        except (OSError, ValueError) as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, addresses, error)
        except RuntimeError:
            # The loop was closed meanwhile.
            _running.pop(key, None)

    threading.Thread(target=find, name="name-lookup", daemon=True).start()
