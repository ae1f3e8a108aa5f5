"""Logs and metrics. One line a request, and nothing in either that says who a learner is.

The path of a request names learners, so only the template of its route is told. A traceback names the places and
the kinds of the errors; their messages may quote rows and are shown at the level `debug` only.
"""

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import getrandbits
from typing import Any

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict, Processor, WrappedLogger

from app.core.settings import Settings

METRICS_MEDIA_TYPE = CONTENT_TYPE_LATEST
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

REQUESTS = Counter("proxima_http_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "proxima_http_request_duration_seconds",
    "Time from the head of a request to the end of its reply.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
IN_FLIGHT = Gauge("proxima_http_requests_in_flight", "Requests not yet answered.", multiprocess_mode="livesum")
GROUP_SIZE = Histogram(
    "proxima_group_commit_size",
    "Answers that shared one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
GROUP_SECONDS = Histogram(
    "proxima_group_commit_duration_seconds",
    "Time of one transaction of answers, including its commit.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)

DECIDE_SECONDS = Histogram(
    "proxima_decide_duration_seconds",
    "Time to decide on the responses of one transaction and to present the outcomes, without the database.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")

log = structlog.get_logger("proxima.request")


def configure_logging(settings: Settings) -> None:
    """Write our lines, those of the server and Python's warnings to standard error, all in one form."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info if level == logging.DEBUG else _format_exception_without_values,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(set()), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Their lines hold paths, which name learners; for requests to us, ours take their place.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _format_exception_without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the places and kinds of the errors, without their messages."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
    if info and error is not None:
        event["exception"] = "".join(_chain(error))
    return event


def _chain(error: BaseException | None) -> "list[str]":
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = f"{type(error).__module__}.{type(error).__qualname__}\n"
        lines = [*traceback.format_tb(error.__traceback__), kind, *(["caused\n"] if lines else []), *lines]
        error = error.__cause__ or error.__context__
    return lines


class Telemetry:
    """The outermost middleware: gives each request an id, and tells of it when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        started = time.perf_counter()
        IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            IN_FLIGHT.dec()
            _record_request(scope, status, time.perf_counter() - started)


def _record_request(scope: Scope, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in METHODS else "other"
    route = _route_of(scope)
    requests, durations = _counters(method, route, status)
    requests.inc()
    durations.observe(seconds)
    state = scope["state"]
    caller = state.get("caller")
    log.info(
        "request",
        method=method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 3),
        request_id=state["request_id"],
        tenant=None if caller is None else caller.tenant_id,
    )


@cache
def _counters(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The counters of these labels: looking them up is dearer than counting. There are few routes."""
    return REQUESTS.labels(method, route, status), REQUEST_SECONDS.labels(method, route)


def _route_of(scope: Scope) -> str:
    """The template of the matched route, such as `/v1/courses/{course}/skills`."""
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    route = getattr(route, "starlette_route", None) or route or _plain_route(scope)
    return getattr(route, "path", None) or UNMATCHED


def _plain_route(scope: Scope) -> object:
    """A route that was given to the router below FastAPI leaves only its endpoint."""
    endpoint = scope.get("endpoint")
    routes = scope["app"].routes if endpoint else ()
    return next((route for route in routes if getattr(route, "endpoint", None) is endpoint), None)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(request_id):
                return request_id
    # To tell requests apart, not to keep them secret.
    return f"{getrandbits(128):032x}"


class _Processes:
    """`process_*` of the process that keeps the workers and of all below it, fits too, by `pid`."""

    def collect(self) -> Iterable[Metric]:
        """Read them from the system, as the library does for the process it runs in."""
        families: dict[str, Metric] = {}
        for pid in _with_descendants(os.getppid()):
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                for sample in family.samples:
                    known.add_sample(sample.name, {**sample.labels, "pid": str(pid)}, sample.value)
        return families.values()


def _with_descendants(pid: int) -> Iterator[int]:
    """A process and all that it, or one of these, has started; where the system does not say, the process alone."""
    yield pid
    for threads in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in threads.read_text().split():
                yield from _with_descendants(int(child))


def render_metrics() -> bytes:
    """All metrics in Prometheus' text form; with PROMETHEUS_MULTIPROC_DIR set, those of all workers together."""
    if METRICS_FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_Processes())
    return generate_latest(registry)
