"""A small service made of the HTTP edge alone, for the tests of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter, Body, FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.core.database import Database
from app.core.errors import Overloaded, ProximaError, UnknownCourse
from app.core.settings import Settings
from app.core.telemetry import Telemetry, configure_logging
from app.http import html
from app.http.auth import Caller, KnownKeys, require
from app.http.json_body import StrictRoute
from app.http.problems import install_problems, responses_for
from app.http.rate_limits import LimitHeaders, Limits
from app.routers import health

LIMIT = 4096
CANARY = "canary-4711"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Choice(Strict):
    kind: Literal["choice"]
    option: int


class Text(Strict):
    kind: Literal["text"]
    words: list[str]


class Answer(Strict):
    id: str = Field(max_length=20)
    score: float = Field(ge=0, le=1)
    part: Annotated[Choice | Text, Field(discriminator="kind")] | None = None

    @field_validator("id")
    @classmethod
    def _no_space(cls, value: str) -> str:
        if " " in value:
            raise ValueError("must not hold a space")
        return value


class Answers(Strict):
    answers: list[Answer]


open_router = APIRouter(route_class=StrictRoute)
keyed_router = APIRouter(route_class=StrictRoute, prefix="/courses")


@open_router.post("/echo")
async def echo(body: Annotated[Any, Body()]) -> Any:
    return body


@open_router.post("/answers")
async def answers(body: Answers) -> int:
    return len(body.answers)


@open_router.get("/limited/{number}")
async def limited(number: int, limit: Annotated[int, Query(le=10)] = 1) -> int:
    return number + limit


@open_router.get("/broken")
async def broken() -> None:
    raise RuntimeError(CANARY)


@open_router.get("/ours")
async def ours() -> None:
    raise ProximaError(CANARY)


@open_router.get("/overloaded")
async def overloaded() -> None:
    raise Overloaded("2000 answers are waiting; try again")


@keyed_router.get("/{course}", responses=responses_for("unknown_course"))
async def course_of(course: str, caller: Annotated[Caller, require("learners:read")]) -> dict[str, Any]:
    if course == "missing":
        raise UnknownCourse("there is no course of this id")
    return {"tenant": caller.tenant_id, "key": caller.key_id}


@keyed_router.put("/{course}", responses=responses_for("malformed_json", "too_large"))
async def change(course: str, body: Answers, caller: Annotated[Caller, require("catalogue:write")]) -> int:
    return len(course) + caller.tenant_id + len(body.answers)


def make_edge(database: Database | None = None, **settings: Any) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.state.settings = Settings(max_body_bytes=LIMIT, **settings)
    app.state.database = database
    app.state.known_keys = KnownKeys()
    if database is not None:
        app.state.limits = Limits(database, app.state.settings)
    install_problems(app)
    app.add_middleware(LimitHeaders)
    app.add_middleware(Telemetry)
    for router in (health.router, html.router):
        app.include_router(router)
    app.include_router(open_router, prefix="/v1")
    app.include_router(keyed_router, prefix="/v1")
    return app


@asynccontextmanager
async def edge_client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
        yield client


def make_served_edge() -> FastAPI:
    """For a server of several processes."""
    app = make_edge()
    configure_logging(app.state.settings)
    return app
