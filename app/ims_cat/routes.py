"""1EdTech CAT 1.0 (REST binding of 2021): sections, sessions, results.

This module only translates messages. What is Base64 in them is parsed as strictly as a body.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from app.core.errors import Fault, Invalid, Malformed
from app.core.times import now
from app.http import ims_status
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute, parse_json
from app.http.paging import PathId, raw_reply, reply
from app.http.problems import faults_in
from app.ims_cat import sections as services
from app.ims_cat.schemas import (
    CatNext,
    CatResults,
    CatSection,
    CatSectionMade,
    CatSectionOut,
    CatSession,
    CatSessionMade,
    ConfiguredItem,
    FixedForms,
    ItemResult,
    PriorData,
    SectionConfiguration,
    SectionRules,
)
from app.ims_cat.sections import CONFIGURATION
from app.ims_cat.usage_data import UsageScale, extract_items, read_statistics

router = APIRouter(
    prefix=ims_status.PREFIX, tags=["cat"], route_class=StrictRoute, responses=ims_status.documented_errors()
)

Publisher = Annotated[Caller, require("catalogue:write")]
Sender = Annotated[Caller, require("responses:write")]

USAGE = "/qtiUsagedata"
NOT_BASE64 = re.compile(r"[\s=]+")
URL_SAFE = str.maketrans("-_", "+/")

Model = TypeVar("Model", bound=BaseModel)


@router.post("/sections", status_code=201, response_model=CatSectionMade)
async def create_section(body: CatSection, caller: Publisher, request: Request) -> Response:
    """Make an adaptive section; the same content is the same section.

    Its configuration names a stored course as the pool, brings items of its own, or leaves that to the QTI usage data.
    """
    new_section = parse_section(body)
    id_ = await request.app.state.database.write(services.create_section, caller.tenant_id, new_section, now())
    return reply({"sectionIdentifier": id_}, 201)


@router.get("/sections/{sectionIdentifier}", response_model=CatSectionOut)
async def get_section(sectionIdentifier: PathId, caller: Publisher, request: Request) -> Response:
    """A section as it was posted, and its items.

    What was posted comes back as it was; members that the standard does not have are left out.
    """
    encoded = await request.app.state.database.read(services.read_section, caller.tenant_id, sectionIdentifier)
    return raw_reply(encoded, 200)


@router.delete("/sections/{sectionIdentifier}", status_code=204)
async def end_section(sectionIdentifier: PathId, caller: Publisher, request: Request) -> Response:
    """End a section with its sessions.

    Sessions that are open end; what they have measured stays stored.
    """
    await request.app.state.database.write(services.end_section, caller.tenant_id, sectionIdentifier, now())
    return Response(status_code=204, headers={"X-Content-Type-Options": "nosniff"})


@router.post("/sections/{sectionIdentifier}/sessions", status_code=201, response_model=CatSessionMade)
async def create_session(sectionIdentifier: PathId, body: CatSession, caller: Sender, request: Request) -> Response:
    """Begin a session of a section: its first items.

    What is known of the learner beforehand may come with it. The same body twice begins two sessions.
    """
    new_session = _parse_prior(body)
    encoded = await request.app.state.database.write(
        services.start_cat_session, caller.tenant_id, sectionIdentifier, new_session, now()
    )
    return raw_reply(encoded, 201)


@router.delete("/sections/{sectionIdentifier}/sessions/{sessionIdentifier}", status_code=204)
async def end_session(
    sectionIdentifier: PathId, sessionIdentifier: PathId, caller: Sender, request: Request
) -> Response:
    """End a session; its results stay stored.

    A session that has ended cannot be gone on with.
    """
    await request.app.state.database.write(
        services.end_cat_session, caller.tenant_id, sectionIdentifier, sessionIdentifier, now()
    )
    return Response(status_code=204, headers={"X-Content-Type-Options": "nosniff"})


@router.post(
    "/sections/{sectionIdentifier}/sessions/{sessionIdentifier}/results", status_code=201, response_model=CatNext
)
async def submit_results(
    sectionIdentifier: PathId, sessionIdentifier: PathId, body: CatResults, caller: Sender, request: Request
) -> Response:
    """Send results; the reply has the next items and the test result.

    The `sessionState` of the reply before goes with them; sent again with the same state and results, it is answered as
    the first time. At the end the list of next items is empty, or left out if the section says so.
    """
    results = _parse_results(body.assessmentResult.itemResult or ())
    encoded = await request.app.state.database.write(
        services.submit_results,
        caller.tenant_id,
        sectionIdentifier,
        sessionIdentifier,
        body.sessionState,
        results,
        now(),
    )
    return raw_reply(encoded, 201)


def parse_section(body: CatSection) -> services.NewSection:
    """Return what a section is to be made of. Raises `Invalid`, `Malformed`."""
    posted = to_json(body.model_dump(exclude_none=True)).decode()
    configuration = _decode_base64(body.sectionConfiguration, CONFIGURATION)
    usage = read_statistics(_decode_base64(body.qtiUsagedata, USAGE)) if body.qtiUsagedata else []
    content = _parse_configuration(configuration)
    if isinstance(content, dict) and "forms" in content:
        forms = _validate_part(FixedForms, content).item_ids()
        names = dict.fromkeys(id_ for form in forms for id_ in form)
        known = {item["id"]: item for item in extract_items(usage, UsageScale())}
        items = _to_catalogue_items(
            [_validate_part(ConfiguredItem, known.get(id_, {"id": id_, "b": 0.0})) for id_ in names], None
        )
        return services.NewSection(
            posted,
            configuration,
            SectionRules().settings(forms),
            items=items if known else None,
            fallback=items,
        )
    if isinstance(content, dict) and SectionConfiguration.model_fields.keys() & content:
        return _build_section(posted, configuration, _validate_part(SectionConfiguration, content), usage)
    section = _build_section(posted, configuration, SectionConfiguration(), usage)
    course = content if isinstance(content, str) and content else None
    return services.NewSection(posted, configuration, section.settings, course=course, items=section.items)


def _build_section(
    posted: str, configuration: bytes, settings: SectionConfiguration, usage: Sequence[Any]
) -> services.NewSection:
    """Build a section of ours; the usage data counts if neither a pool nor items are named."""
    items = settings.items
    if settings.pool is None and items is None:
        scale = UsageScale(settings.usage.context, settings.usage.slope, settings.usage.intercept, settings.usage.d)
        items = [_validate_part(ConfiguredItem, item) for item in extract_items(usage, scale)]
    catalogue_items = _to_catalogue_items(items, settings.model) if items else None
    return services.NewSection(
        posted,
        configuration,
        settings.settings(),
        course=settings.pool,
        must_exist=settings.pool is not None,
        items=catalogue_items,
    )


def _decode_base64(text: str, pointer: str) -> bytes:
    """Decode Base64 in either alphabet, with or without padding and line breaks. Raises `Invalid`."""
    bare = NOT_BASE64.sub("", text).translate(URL_SAFE)
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("a member is not Base64", [Fault(pointer, "is not Base64")]) from None


def _parse_configuration(configuration: bytes) -> Any:
    """Parse a configuration: an object or a list of JSON, or a text that may be the id of a course.

    Raises `Malformed` for what looks like JSON and is none.
    """
    try:
        text = configuration.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    if not text.startswith(("{", "[", '"')):
        return None if "\0" in text else text
    try:
        return parse_json(text.encode())
    except Malformed as error:
        raise Malformed(f"the sectionConfiguration is not strict JSON: {error.detail}", error.faults) from None


def _validate_part(model: type[Model], content: object) -> Model:
    """Validate a part of a configuration as a model. Raises `Invalid` with the pointers to what is wrong in it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [Fault(CONFIGURATION + fault.pointer, fault.detail) for fault in faults_in(error, content)]
        raise Invalid("the sectionConfiguration is not valid", faults) from None


def _to_catalogue_items(items: Sequence[ConfiguredItem], model: str | None) -> list[dict[str, Any]]:
    """Return items as a catalogue has them. Raises `Invalid` with the pointers to what is wrong."""
    catalogue_items: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        pointer = f"{CONFIGURATION}/items/{index}"
        try:
            catalogue_items.append(item.to_catalogue(model))
        except ValidationError as error:
            faults = [
                Fault(pointer, f"{fault.pointer.rpartition('/')[2]} {fault.detail}") for fault in faults_in(error, {})
            ]
            raise Invalid("an item of the section is not valid", faults) from None
        except ValueError as error:
            raise Invalid("an item of the section is not valid", [Fault(pointer, str(error))]) from None
    return catalogue_items


def _parse_prior(body: CatSession) -> services.NewSession:
    """Return the prior of the learner, from the keys that we know. Raises `Invalid`."""
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


def _parse_results(item_results: Sequence[ItemResult]) -> list[services.SubmittedResult]:
    """Return the results of completed items: of several attempts at one the last. Raises `Invalid`."""
    last: dict[str, services.SubmittedResult] = {}
    for index, item_result in enumerate(item_results):
        if item_result.sessionStatus != "final":
            continue
        pointer = f"{services.RESULTS}/{index}/outcomeVariables"
        try:
            scores = item_result.scores()
        except ValueError:
            fault = Fault(pointer, "SCORE, normalMinimum and normalMaximum must be finite numbers")
            raise Invalid("a SCORE or an end of its range is not a number", [fault]) from None
        result = services.SubmittedResult(pointer, item_result.identifier, item_result.datestamp, *scores)
        previous = last.get(result.item)
        if previous is None or result.occurred_at >= previous.occurred_at:
            last[result.item] = result
    return list(last.values())
