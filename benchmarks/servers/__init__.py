"""What Proxima's write path is compared with: servers that store the same rows and compute nothing."""

from collections.abc import Callable

from starlette.types import ASGIApp

from benchmarks.servers import grouped, orm, raw

SERVERS: dict[str, Callable[[str, str], ASGIApp]] = {
    "orm": orm.create,
    "grouped": grouped.create,
    "grouped-plain": grouped.create_plain,
    "raw": raw.create,
}
