"""Courses: their catalogue of skills and items."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.parameters import LINK, NO_PARAMETERS, Paging, PathId, page, read_cursor, reply
from app.routers.problems import responses_for
from app.schemas.catalogue import CatalogueCounts, CatalogueIn, ItemPage, SkillPage
from app.services.catalogue import page_of_items, page_of_skills, upsert
from app.times import now

router = APIRouter(prefix="/v1/courses/{course}", tags=["catalogue"], route_class=StrictRoute)

Writer = Annotated[Caller, require("catalogue:write")]
Reader = Annotated[Caller, require("learners:read")]

UPSERT = responses_for("malformed_json", "prerequisite_cycle", "too_large", "too_slow", "unsupported_media_type")
LIST = {**responses_for("unknown_course", "invalid_cursor"), 200: LINK}


@router.put("/catalogue", response_model=CatalogueCounts, responses=UPSERT, dependencies=NO_PARAMETERS)
async def put_catalogue(course: PathId, body: CatalogueIn, caller: Writer, request: Request) -> Response:
    """Add or replace skills and items, all or nothing; the course is made on first sight."""
    given = body.model_dump(exclude_none=True)
    counts = await request.app.state.database.write(upsert, caller.tenant_id, course, given, now())
    return reply(asdict(counts))


@router.get("/skills", response_model=SkillPage, responses=LIST)
async def list_skills(course: PathId, query: Paging, caller: Reader, request: Request) -> Response:
    """The skills of a course by id."""
    place = read_cursor(query.cursor, (str,))
    data = await request.app.state.database.read(
        page_of_skills, caller.tenant_id, course, place[0] if place else None, query.limit
    )
    return page(request, data, query.limit, "id")


@router.get("/items", response_model=ItemPage, responses=LIST)
async def list_items(course: PathId, query: Paging, caller: Reader, request: Request) -> Response:
    """The items of a course by id."""
    place = read_cursor(query.cursor, (str,))
    data = await request.app.state.database.read(
        page_of_items, caller.tenant_id, course, place[0] if place else None, query.limit
    )
    return page(request, data, query.limit, "id")
