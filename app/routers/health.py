"""Is it alive, can it serve, how is it doing: for machines, without a key."""

import asyncio

from fastapi import APIRouter, Request, Response

from app.core.errors import NotMigrated, Stopping, Unavailable
from app.core.migrate import is_current
from app.core.telemetry import METRICS_MEDIA_TYPE, render_metrics

READY_TIMEOUT_S = 2.0

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Answer while the process runs; not checking the database, as its failure must not restart the process."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Answer if the database has the tables this program was written for, and the process is not stopping."""
    if getattr(request.app.state, "stopping", False):
        raise Stopping("this process was told to stop; send requests elsewhere")
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            current = await request.app.state.database.read(is_current)
    except TimeoutError:
        raise Unavailable("the database does not answer in time") from None
    if not current:
        raise NotMigrated("the database is not at the version of this program; run proxima migrate")
    return {"status": "ok"}


@router.get("/metrics")
async def metrics() -> Response:
    """Prometheus' text form."""
    return Response(render_metrics(), media_type=METRICS_MEDIA_TYPE)
