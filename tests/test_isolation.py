"""Nobody sees or changes what is another tenant's: tried at every operation, as the routes list them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from sqlalchemy import Connection, select

from app.adaptive.calibration.fit import CalibrationFit
from app.core.security import SCOPES
from app.core.settings import Settings
from app.core.times import now
from app.http import ims_status
from app.http.auth import permits_of
from app.main import create_app
from app.models import Base
from app.queries.responses import count_responses
from app.services import calibrations
from app.services.keys import create_key
from tests.client import CATALOGUE, COURSE, client_of, encoded, fixed_cat_ids, make_key, served
from tests.contract.course import HOOKS, insert_webhooks

pytestmark = pytest.mark.anyio

PUBLIC = {
    "GET /",
    "GET /docs",
    "GET /docs/{name}",
    "GET /errors",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "POST /v1/oauth/token",
}


@dataclass(frozen=True)
class Request:
    """A sound request: how it is answered to the owner, and to a stranger who names another's course."""

    status: int = 200
    json: Any = None
    foreign: int = 404


LIST = Request()
SECTIONS = f"{ims_status.PREFIX}/sections"
SECTION = f"{SECTIONS}/{{sectionIdentifier}}"
SITTING = f"{SECTION}/sessions/{{sessionIdentifier}}"
SECTION_ID, SITTING_ID = (f"{kind}-{'0' * 31}1" for kind in "st")
COURSES = "/v1/courses/{course}"
# Nobody else's course is there for this one: it makes one of the caller's own.
MAKES_A_COURSE = f"PUT {COURSES}/catalogue"
REQUESTS = {
    MAKES_A_COURSE: Request(json={"title": "Mine"}),
    f"GET {COURSES}/skills": LIST,
    f"GET {COURSES}/items": LIST,
    f"POST {COURSES}/responses": Request(201, {"learner": "ann", "item": "i2", "correct": True}),
    f"POST {COURSES}/responses:batch": Request(
        json={"responses": [{"learner": "ann", "item": "i2", "correct": True}]}, foreign=200
    ),
    f"POST {COURSES}/responses/{{response_id}}/regrade": Request(json={"score": 0, "reason": "wrong key"}),
    f"POST {COURSES}/responses/{{response_id}}/void": Request(json={"reason": "misprint"}),
    f"GET {COURSES}/learners/{{learner}}/recommendations": LIST,
    f"POST {COURSES}/learners/{{learner}}/recommendations": Request(201),
    f"GET {COURSES}/learners/{{learner}}/mastery": LIST,
    f"GET {COURSES}/mastery": LIST,
    f"GET {COURSES}/mastery?skill=add": LIST,
    f"GET {COURSES}/quality": LIST,
    f"GET {COURSES}/quality?by=skill": LIST,
    f"POST {COURSES}/sessions": Request(201, {"stop": {"max_items": 2}}),
    f"GET {COURSES}/sessions": LIST,
    "GET /v1/sessions/{session}": LIST,
    "POST /v1/sessions/{session}/responses": Request(201, {"item": "i7", "correct": True}),
    "POST /v1/sessions/{session}/end": LIST,
    f"POST {COURSES}/calibrations": Request(409),
    f"GET {COURSES}/calibrations": LIST,
    f"GET {COURSES}/calibrations/{{calibration}}": LIST,
    f"POST {COURSES}/calibrations/{{calibration}}/activate": LIST,
    "POST /v1/webhooks": Request(201, {"url": "https://lms.example.org", "events": ["skill.mastered"]}),
    "GET /v1/webhooks": LIST,
    "DELETE /v1/webhooks/{webhook}": Request(204),
    f"POST {SECTIONS}": Request(201, {"sectionConfiguration": encoded({"pool": COURSE, "lookAhead": 1})}),
    f"GET {SECTION}": LIST,
    f"POST {SECTION}/sessions": Request(201, {}),
    f"POST {SITTING}/results": Request(201, {"assessmentResult": {}}),
    f"DELETE {SITTING}": Request(204),
    f"DELETE {SECTION}": Request(204),
}
OURS = {
    "course": COURSE,
    "response_id": "r-1",
    "learner": "ann",
    "calibration": "c-1",
    "webhook": HOOKS[0],
    "session": "t-1",
    "sectionIdentifier": SECTION_ID,
    "sessionIdentifier": SITTING_ID,
}
ABSENT = {
    "course": "nowhere",
    "response_id": "r-0",
    "learner": "nobody",
    "calibration": "c-9",
    "webhook": "wh-0000000000000009",
    "session": "t-9",
    "sectionIdentifier": "s-9",
    "sessionIdentifier": "t-9",
}


def operations(app: FastAPI) -> dict[str, set[str]]:
    """The scopes that each operation asks for."""
    return {
        f"{method} {route.path}": scopes_of(route)
        for route in iter_route_contexts(app.routes)
        for method in (route.methods or set()) - {"HEAD"}
    }


def scopes_of(route: RouteContext) -> set[str]:
    dependant = getattr(route, "dependant", None)
    return set() if dependant is None else {permit.scope for permit in permits_of(dependant)}


def unclassified(app: FastAPI) -> set[str]:
    """Operations of which nobody has said who may call them, or how."""
    tried = {name.partition("?")[0] for name in REQUESTS}
    return {name for name, scopes in operations(app).items() if (name in PUBLIC) == bool(scopes)} | (
        {name for name, scopes in operations(app).items() if scopes} ^ tried
    )


def some_app() -> FastAPI:
    return create_app(Settings(database_url="sqlite:///unused.db"))


def test_operations_are_public_or_have_one_scope_and_are_tested_here() -> None:
    assert unclassified(some_app()) == set()
    assert all(len(scopes) <= 1 for scopes in operations(some_app()).values())


def test_law_of_isolation_notices_a_new_operation() -> None:
    app = some_app()
    app.add_api_route("/v1/secrets", lambda: None)
    assert unclassified(app) == {"GET /v1/secrets"}


@dataclass
class World:
    """Two schools with a course of the same name, and a stranger who has none."""

    app: FastAPI
    keys: dict[str, str]
    recommendation: str
    faults: list[str] = field(default_factory=list)

    async def send(self, name: str, key: str | None, ids: dict[str, str]) -> httpx.Response:
        method, _, path = name.partition(" ")
        async with client_of(self.app, key) as client:
            return await client.request(method, f"http://service{path.format_map(ids)}", json=REQUESTS[name].json)

    def expect(self, name: str, what: str, given: object, wanted: object) -> None:
        if given != wanted:
            self.faults.append(f"{name}, {what}: {given} instead of {wanted}")


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(served(database_url))
        database = app.state.database
        keys = {name: await make_key(database, name) for name in ("owner", "neighbour", "stranger")}
        owner, neighbour = [
            await stack.enter_async_context(client_of(app, keys[name])) for name in ("owner", "neighbour")
        ]
        for client in (owner, neighbour):
            assert (await client.put(f"courses/{COURSE}/catalogue", json=CATALOGUE)).status_code == 200
        answer = {"id": "r-1", "learner": "ann", "item": "i1", "correct": True}
        told = (await owner.post(f"courses/{COURSE}/responses", json=answer)).json()
        test = {"id": "t-1", "stop": {"max_items": 2}, "selection": {"first": ["i7"]}}
        assert (await owner.post(f"courses/{COURSE}/sessions", json=test)).status_code == 201
        section = {"sectionConfiguration": encoded({"pool": COURSE})}
        with fixed_cat_ids(1):
            assert (await owner.post(f"http://service{SECTIONS}", json=section)).status_code == 201
            assert (await owner.post(f"http://service{SECTIONS}/{SECTION_ID}/sessions", json={})).status_code == 201
        await database.write(calibrate_course, 1)
        await database.write(insert_webhooks)
        yield World(app, keys, told["next"]["id"])


def calibrate_course(db: Connection, tenant_id: int) -> None:
    """A calibration that changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrations, "MIN_RESPONSES", 1)
        claim = calibrations.request_calibration(db, tenant_id, COURSE, now())
    job = calibrations.read_calibration_job(db, claim)
    fit = CalibrationFit(job.course.parameters, job.course.parameters, 1, 0.6, 0.6, 0.5, 0.5, 0.6)
    calibrations.save_result(db, claim, calibrations.build_result(job, fit), now())


def rows_of_tenant(db: Connection, tenant_id: int) -> dict[str, list[Any]]:
    """Every row of a tenant, but those that count how often its keys have called."""
    return {
        table.name: sorted(map(repr, db.execute(select(table).where(table.c.tenant_id == tenant_id))))
        for table in Base.metadata.sorted_tables
        if "tenant_id" in table.c and table.name != "quota_use"
    }


def parameters(name: str) -> Iterator[str]:
    return (parameter for parameter in OURS if f"{{{parameter}}}" in name)


def absent_parameters(name: str) -> Iterator[str]:
    """The ids without which there is nothing; anybody may be a new learner who asks for a first exercise."""
    if name == MAKES_A_COURSE:
        return iter(())
    return (each for each in parameters(name) if (each, name.endswith("/recommendations")) != ("learner", True))


def code_of(reply: httpx.Response) -> str:
    """The code of an error, in whichever form it is told."""
    told = reply.json()
    if "imsx_codeMinor" not in told:
        return str(told["code"])
    minor = told["imsx_codeMinor"]["imsx_codeMinorField"][0]["imsx_codeMinorFieldValue"]
    return {"unauthorisedrequest": "unauthenticated", "forbidden": "missing_scope"}[minor]


def without_request_id(reply: httpx.Response) -> Any:
    body = reply.json()
    for part in (body, *(result.get("error", {}) for result in body.get("results", ()))):
        part.pop("request_id", None)
    return body


async def test_valid_requests_of_the_owner_succeed(world: World) -> None:
    for name, request in REQUESTS.items():
        reply = await world.send(name, world.keys["owner"], OURS)
        world.expect(name, "the owner", reply.status_code, request.status)
    assert world.faults == []


async def test_resources_of_another_tenant_look_like_missing_ones(world: World) -> None:
    database = world.app.state.database
    before = await database.read(rows_of_tenant, 1)
    for name, request in REQUESTS.items():
        for parameter in absent_parameters(name):
            caller = world.keys["stranger" if parameter == "course" else "neighbour"]
            foreign = await world.send(name, caller, OURS)
            absent = await world.send(name, world.keys["owner"], OURS | {parameter: ABSENT[parameter]})
            world.expect(name, f"another's {parameter}", foreign.status_code, request.foreign)
            world.expect(name, f"absent {parameter}", absent.status_code, request.foreign)
            world.expect(name, parameter, without_request_id(foreign), without_request_id(absent))
            world.expect(name, f"{parameter}: type", foreign.headers["content-type"], absent.headers["content-type"])
    assert world.faults == []
    assert await database.read(rows_of_tenant, 1) == before


async def test_learner_of_another_tenant_is_a_new_learner(world: World) -> None:
    database = world.app.state.database
    before = await database.read(rows_of_tenant, 1)
    mastery = f"GET {COURSES}/learners/{{learner}}/mastery"
    for method in ("GET", "POST"):
        assert (await world.send(mastery, world.keys["neighbour"], OURS)).status_code == 404
        reply = await world.send(
            f"{method} {COURSES}/learners/{{learner}}/recommendations", world.keys["neighbour"], OURS
        )
        assert reply.json()["recommendations"][0]["skill"] == "add"
    assert (await world.send(mastery, world.keys["neighbour"], OURS)).json()["position"] == 0
    assert await database.read(rows_of_tenant, 1) == before


async def test_catalogue_of_another_tenant_creates_a_course_of_their_own(world: World) -> None:
    database = world.app.state.database
    before = await database.read(rows_of_tenant, 1)
    for who in ("stranger", "neighbour"):
        assert (await world.send(MAKES_A_COURSE, world.keys[who], OURS)).status_code == 200
    assert await database.read(rows_of_tenant, 1) == before


async def test_tenant_with_a_course_of_the_same_name_sees_only_their_own(world: World) -> None:
    for name in REQUESTS:
        if name.startswith("GET") and list(parameters(name)) == ["course"]:
            reply = await world.send(name, world.keys["neighbour"], OURS)
            world.expect(name, "the neighbour", reply.status_code, 200)
            world.expect(name, "the neighbour sees ann or c-1", "ann" in reply.text or "c-1" in reply.text, False)  # noqa: FBT003
    assert world.faults == []


@pytest.mark.parametrize("who", ["neighbour", "owner"])
async def test_recommendation_of_another_tenant_is_unknown(world: World, who: str) -> None:
    answer = {"learner": "ann" if who == "neighbour" else "bob", "item": "i2", "correct": True}
    async with client_of(world.app, world.keys[who]) as client:
        replies = [
            await client.post(f"courses/{COURSE}/responses", json={**answer, "recommendation": id_})
            for id_ in (world.recommendation, "n-none")
        ]
    assert [reply.status_code for reply in replies] == [404, 404]
    assert without_request_id(replies[0]) == without_request_id(replies[1])
    assert await world.app.state.database.read(count_responses, 1, COURSE) == 1


async def test_course_of_another_tenant_is_no_item_pool(world: World) -> None:
    name = f"POST {SECTIONS}"
    foreign = await world.send(name, world.keys["stranger"], OURS)
    async with client_of(world.app, world.keys["owner"]) as client:
        body = {"sectionConfiguration": encoded({"pool": "nowhere"})}
        absent = await client.post(f"http://service{SECTIONS}", json=body)
    assert (foreign.status_code, absent.status_code) == (400, 400)
    assert foreign.json() == absent.json()


async def test_token_allows_what_its_key_allows_and_nothing_else(world: World) -> None:
    key = await world.app.state.database.write(create_key, "neighbour", ["admin"], now())
    form = {"grant_type": "client_credentials", "client_id": key.id, "client_secret": key.text}
    async with client_of(world.app) as client:
        token = (await client.post("oauth/token", data=form)).json()["access_token"]
    for name, request in REQUESTS.items():
        for parameter in parameters(name) if "course" not in name else ():
            reply = await world.send(name, token, OURS)
            world.expect(name, f"another's {parameter}", reply.status_code, request.foreign)
    assert (await world.send(f"GET {COURSES}/items", token, OURS)).status_code == 200
    assert world.faults == []


async def test_requests_without_a_key_are_refused(world: World) -> None:
    before = await world.app.state.database.read(rows_of_tenant, 1)
    key = world.keys["owner"]
    wrong = [None, "", "prx_1_short", key[:-1] + ("A" if key[-1] != "A" else "B"), key.replace("prx_1_", "prx_2_")]
    for name in REQUESTS:
        for text in wrong:
            for ids in (OURS, ABSENT):
                reply = await world.send(name, text, ids)
                world.expect(name, f"key {text}", (reply.status_code, code_of(reply)), (401, "unauthenticated"))
    assert world.faults == []
    assert await world.app.state.database.read(rows_of_tenant, 1) == before


async def test_key_allows_what_its_scope_names_and_nothing_else(world: World) -> None:
    database = world.app.state.database
    before = await database.read(rows_of_tenant, 1)
    needed = operations(world.app)
    for name in REQUESTS:
        [scope] = needed[name.partition("?")[0]]
        key = await make_key(database, "owner", [other for other in SCOPES if other not in {scope, "admin"}])
        for ids in (OURS, ABSENT):
            reply = await world.send(name, key, ids)
            world.expect(name, "all scopes but one", (reply.status_code, code_of(reply)), (403, "missing_scope"))
    after = await database.read(rows_of_tenant, 1)
    assert {table for table in after if after[table] != before[table]} == {"api_key"}
    for name, request in REQUESTS.items():
        [scope] = needed[name.partition("?")[0]]
        reply = await world.send(name, await make_key(database, "owner", [scope]), OURS)
        world.expect(name, "that scope alone", reply.status_code, request.status)
    assert world.faults == []
