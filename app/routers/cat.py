"""1EdTech CAT 1.0 (REST binding of 2021): sections, sessions, results.

Only how its messages become ours is here. What is Base64 in them is read as strictly as a body once it is decoded.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from app.errors import Fault, Invalid, Malformed
from app.routers import imsx
from app.routers.body import StrictRoute, parse
from app.routers.deps import Caller, require
from app.routers.parameters import PathId, raw_reply, reply
from app.routers.problems import faults_in
from app.schemas.cat import (
    CatNext,
    CatResults,
    CatSection,
    CatSectionMade,
    CatSectionOut,
    CatSession,
    CatSessionMade,
    Configuration,
    ConfiguredItem,
    Forms,
    ItemResult,
    PriorData,
    Rules,
)
from app.services import cat as services
from app.services.usagedata import Scale, items_of, read_statistics
from app.times import now

router = APIRouter(prefix=imsx.PREFIX, tags=["cat"], route_class=StrictRoute, responses=imsx.responses_for())

Publisher = Annotated[Caller, require("catalogue:write")]
Sender = Annotated[Caller, require("responses:write")]

CONFIGURATION, USAGE = "/sectionConfiguration", "/qtiUsagedata"
NOT_BASE64 = re.compile(r"[\s=]+")
URL_SAFE = str.maketrans("-_", "+/")

Model = TypeVar("Model", bound=BaseModel)


@router.post("/sections", status_code=201, response_model=CatSectionMade)
async def create_section(body: CatSection, caller: Publisher, request: Request) -> Response:
    """Make an adaptive section; the same content is the same section."""
    given = read_section(body)
    id_ = await request.app.state.database.write(services.create_section, caller.tenant_id, given, now())
    return reply({"sectionIdentifier": id_}, 201)


@router.get("/sections/{sectionIdentifier}", response_model=CatSectionOut)
async def get_section(sectionIdentifier: PathId, caller: Publisher, request: Request) -> Response:
    """A section as it was posted, and its items."""
    told = await request.app.state.database.read(services.read_section, caller.tenant_id, sectionIdentifier)
    return raw_reply(told, 200)


@router.delete("/sections/{sectionIdentifier}", status_code=204)
async def end_section(sectionIdentifier: PathId, caller: Publisher, request: Request) -> Response:
    """End a section with its sessions."""
    await request.app.state.database.write(services.end_section, caller.tenant_id, sectionIdentifier, now())
    return Response(status_code=204, headers={"X-Content-Type-Options": "nosniff"})


@router.post("/sections/{sectionIdentifier}/sessions", status_code=201, response_model=CatSessionMade)
async def create_session(sectionIdentifier: PathId, body: CatSession, caller: Sender, request: Request) -> Response:
    """Begin a session of a section: its first items."""
    given = read_prior(body)
    told = await request.app.state.database.write(
        services.begin_session, caller.tenant_id, sectionIdentifier, given, now()
    )
    return raw_reply(told, 201)


@router.delete("/sections/{sectionIdentifier}/sessions/{sessionIdentifier}", status_code=204)
async def end_session(
    sectionIdentifier: PathId, sessionIdentifier: PathId, caller: Sender, request: Request
) -> Response:
    """End a session; what it measured is kept."""
    await request.app.state.database.write(
        services.end_session, caller.tenant_id, sectionIdentifier, sessionIdentifier, now()
    )
    return Response(status_code=204, headers={"X-Content-Type-Options": "nosniff"})


@router.post(
    "/sections/{sectionIdentifier}/sessions/{sessionIdentifier}/results", status_code=201, response_model=CatNext
)
async def submit_results(
    sectionIdentifier: PathId, sessionIdentifier: PathId, body: CatResults, caller: Sender, request: Request
) -> Response:
    """Send results: the items that come next, and what is known of the learner."""
    results = read_results(body.assessmentResult.itemResult or ())
    told = await request.app.state.database.write(
        services.submit, caller.tenant_id, sectionIdentifier, sessionIdentifier, body.sessionState, results, now()
    )
    return raw_reply(told, 201)


def read_section(body: CatSection) -> services.NewSection:
    """What a section is to be made of. Raises `Invalid`, `Malformed`."""
    posted = to_json(body.model_dump(exclude_none=True)).decode()
    configuration = decode(body.sectionConfiguration, CONFIGURATION)
    usage = read_statistics(decode(body.qtiUsagedata, USAGE)) if body.qtiUsagedata else []
    content = read_content(configuration)
    if isinstance(content, dict) and "forms" in content:
        forms = checked(Forms, content).listed()
        names = dict.fromkeys(id_ for form in forms for id_ in form)
        known = {item["id"]: item for item in items_of(usage, Scale())}
        items = as_catalogue([checked(ConfiguredItem, known.get(id_, {"id": id_, "b": 0.0})) for id_ in names], None)
        return services.NewSection(
            posted,
            configuration,
            Rules().settings(forms),
            items=items if known else None,
            otherwise=items,
        )
    if isinstance(content, dict) and Configuration.model_fields.keys() & content:
        return configured(posted, configuration, checked(Configuration, content), usage)
    given = configured(posted, configuration, Configuration(), usage)
    course = content if isinstance(content, str) and content else None
    return services.NewSection(posted, configuration, given.settings, course=course, items=given.items)


def configured(posted: str, configuration: bytes, given: Configuration, usage: Sequence[Any]) -> services.NewSection:
    """A section of ours; the usage data counts where neither a pool nor items are named."""
    items = given.items
    if given.pool is None and items is None:
        scale = Scale(given.usage.context, given.usage.slope, given.usage.intercept, given.usage.d)
        items = [checked(ConfiguredItem, item) for item in items_of(usage, scale)]
    made = as_catalogue(items, given.model) if items else None
    return services.NewSection(
        posted, configuration, given.settings(), course=given.pool, certain=given.pool is not None, items=made
    )


def decode(text: str, pointer: str) -> bytes:
    """Base64 in either alphabet, with or without padding and line breaks. Raises `Invalid`."""
    bare = NOT_BASE64.sub("", text).translate(URL_SAFE)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("a member is not Base64", [Fault(pointer, "is not Base64")]) from None


def read_content(configuration: bytes) -> Any:
    """What a configuration says: an object or a list of JSON, or a text that may be the id of a course.

    Raises `Malformed` for what looks like JSON and is none.
    """
    try:
        text = configuration.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    if not text.startswith(("{", "[", '"')):
        return None if "\0" in text else text
    try:
        return parse(text.encode())
    except Malformed as error:
        raise Malformed(f"the sectionConfiguration is not strict JSON: {error.detail}", error.faults) from None


def checked(model: type[Model], content: object) -> Model:
    """A part of a configuration as a model. Raises `Invalid` with the places that are wrong in it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [Fault(CONFIGURATION + fault.pointer, fault.detail) for fault in faults_in(error, content)]
        raise Invalid("the sectionConfiguration is not valid", faults) from None


def as_catalogue(items: Sequence[ConfiguredItem], model: str | None) -> list[dict[str, Any]]:
    """Items as a catalogue has them. Raises `Invalid` with the places that are wrong."""
    made: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        at = f"{CONFIGURATION}/items/{place}"
        try:
            made.append(item.to_catalogue(model))
        except ValidationError as error:
            faults = [Fault(at, f"{fault.pointer.rpartition('/')[2]} {fault.detail}") for fault in faults_in(error, {})]
            raise Invalid("an item of the section is not valid", faults) from None
        except ValueError as error:
            raise Invalid("an item of the section is not valid", [Fault(at, str(error))]) from None
    return made


def read_prior(body: CatSession) -> services.NewSession:
    """What is known of the learner beforehand, by the keys that we know. Raises `Invalid`."""
    pairs = {pair.key: pair.value for pair in body.priorData or () if pair.value != ""}
    try:
        known = PriorData.model_validate(pairs)
    except ValidationError as error:
        faults = [Fault("/priorData", f"{fault.pointer[1:]} {fault.detail}") for fault in faults_in(error, pairs)]
        raise Invalid("what is known of the learner is not valid", faults) from None
    return services.NewSession(
        learner=known.learnerId,
        mean=known.priorMean,
        sd=known.priorSd,
        estimate=known.initialEstimatedAbility,
        seed=known.seed,
    )


def read_results(listed: Sequence[ItemResult]) -> list[services.Result]:
    """The results of items that are done: of several attempts at one the last. Raises `Invalid`."""
    last: dict[str, services.Result] = {}
    for place, one in enumerate(listed):
        if one.sessionStatus != "final":
            continue
        try:
            result = services.Result(one.identifier, one.datestamp, *one.scores())
        except ValueError:
            fault = Fault(f"/assessmentResult/itemResult/{place}/outcomeVariables", "SCORE must be a finite number")
            raise Invalid("a SCORE is not a number", [fault]) from None
        before = last.get(result.item)
        if before is None or result.occurred_at >= before.occurred_at:
            last[result.item] = result
    return list(last.values())
