"""The application: the pieces put together. Nothing is opened at import."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.database import open_database
from app.errors import NotMigrated
from app.intake import Intake
from app.migrate import is_current
from app.routers import calibrations, catalogue, health, mastery, pages, recommendations, responses
from app.routers.deps import KnownKeys
from app.routers.parameters import SLASH
from app.routers.problems import install_problems
from app.settings import Settings, read_settings
from app.telemetry import Telemetry, configure_logging

STOP_S = 20
# The first collections of a busy worker would otherwise walk all modules, for milliseconds, again and again.
GC_THRESHOLD = (50_000, 20, 100)


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
        title="Proxima",
        version=__version__,
        summary="What each learner has mastered, how sure that is, and what comes next and why.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.demo = demo
    install_problems(app)
    for module in (health, pages, catalogue, responses, recommendations, mastery, calibrations):
        app.include_router(module.router)
    app.add_middleware(KeepSlashes)
    app.add_middleware(Telemetry)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database and the intake; on the way out let what was begun end."""
    settings: Settings = app.state.settings
    configure_logging(settings)
    database = open_database(settings.database_url, pool_size=settings.pool_size)
    if not await database.read(is_current):
        raise NotMigrated("the database is not at the version of this program; run proxima migrate")
    app.state.database = database
    app.state.known_keys = KnownKeys()
    app.state.intake = Intake(database, settings.max_waiting_responses)
    app.state.tasks = set()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    yield
    await app.state.intake.close()
    if app.state.tasks:
        await asyncio.wait(app.state.tasks, timeout=STOP_S)
    await database.close()


class KeepSlashes:
    """An encoded slash in a path belongs to an id and must not split it: ids are the caller's own opaque strings."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path", b"")
        if scope["type"] == "http" and b"%2" in raw and re.search(rb"%2[fF]", raw) and b"%00" not in raw:
            path = re.sub("%2f", SLASH, raw.decode("latin-1"), flags=re.IGNORECASE)
            scope["path"] = unquote(path)
        await self.app(scope, receive, send)
