"""The application: the pieces put together. Nothing is opened at import."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.core.database import Database, open_database
from app.core.errors import NotMigrated, Unavailable
from app.core.migrate import is_current
from app.core.settings import Settings, read_settings
from app.core.telemetry import Telemetry, configure_logging
from app.group_commit import GroupCommit
from app.http import html
from app.http.admission import AdmissionControl
from app.http.auth import KnownKeys
from app.http.paging import SLASH
from app.http.problems import install_problems
from app.http.rate_limits import LimitHeaders, Limits
from app.http.server import drain_on_signal
from app.ims_cat import routes
from app.jobs.loop import run_background_work
from app.jobs.webhook_delivery import deliver
from app.openapi import METADATA, describe_operations
from app.routers import (
    calibrations,
    catalogue,
    health,
    mastery,
    quality,
    recommendations,
    responses,
    sessions,
    tokens,
    webhooks,
)

STOP_S = 10
# The first collections of a busy worker would otherwise walk all modules, for milliseconds, again and again.
GC_THRESHOLD = (50_000, 20, 100)


log = structlog.get_logger("proxima")


@dataclass(frozen=True)
class Demo:
    """What the front page shows of a demonstration."""

    key: str
    course: str
    curl: str


def create_app(settings: Settings | None = None, demo: Demo | None = None) -> FastAPI:
    """The service under `settings` (none: from the environment)."""
    settings = settings or read_settings()
    app = FastAPI(
        **METADATA,
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.demo = demo
    app.add_middleware(responses.FastPath)
    install_problems(app)
    # Routers are asked in turn for every request, so the one with the hot route comes first.
    for module in (
        responses,
        sessions,
        mastery,
        recommendations,
        catalogue,
        calibrations,
        quality,
        webhooks,
        routes,
        tokens,
        health,
        html,
    ):
        # Not `include_router`, which would build each route once more for each application.
        app.router.routes.extend(module.router.routes)
    describe_operations(app)
    app.add_middleware(_ReadPath)
    app.add_middleware(LimitHeaders)
    app.add_middleware(Telemetry)
    app.add_middleware(AdmissionControl)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database, go on with work that was left; on the way out let what was begun end."""
    settings: Settings = app.state.settings
    configure_logging(settings)
    database = open_database(settings.database_url, pool_size=settings.pool_size)
    await _need_current_schema(database)
    app.state.database = database
    app.state.known_keys = KnownKeys()
    app.state.limits = Limits(database, settings)
    app.state.group_commit = GroupCommit(database, settings.max_waiting_responses)
    app.state.tasks = set()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    app.state.calls = {}
    background = [
        asyncio.create_task(run_background_work(database, settings.database_url)),
        asyncio.create_task(deliver(database, settings.webhook_hosts, app.state.calls)),
    ]
    app.state.stopping = False
    with drain_on_signal(lambda: setattr(app.state, "stopping", True), settings.drain_seconds):
        yield
    await app.state.group_commit.close()
    for task in background:
        task.cancel()
    # All of them: what one still hands back needs the database.
    await asyncio.gather(*background, return_exceptions=True)
    if app.state.tasks:
        _, unfinished = await asyncio.wait(app.state.tasks, timeout=STOP_S)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
    await app.state.limits.close()
    await database.close()


async def _need_current_schema(database: Database) -> None:
    """Raises `NotMigrated`. A worker that is started again while the database is away waits for it, not ready."""
    try:
        current = await database.read(is_current)
    except Unavailable:
        log.warning("the database does not answer; not ready until it does")
        return
    if not current:
        await database.close()
        raise NotMigrated("the database is not at the version of this program; run proxima migrate")


class _ReadPath:
    """Keep what an id in a path is: the caller's own opaque string.

    An encoded slash must not split it, and bytes that are not UTF-8 must not be taken for another id. Both become
    halves of surrogate pairs, which no id has.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path", b"")
        if scope["type"] == "http" and b"%" in raw:
            parts = re.split(rb"%2[fF]", raw)
            scope["path"] = SLASH.join(unquote_to_bytes(part).decode("utf-8", "surrogateescape") for part in parts)
        await self.app(scope, receive, send)
