"""Courses: their catalogue of skills and items."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.core.times import now
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import LINK, NO_PARAMETERS, Paging, PathId, read_cursor, reply, sorted_page_reply
from app.http.problems import responses_for
from app.schemas.catalogue import CatalogueCounts, CatalogueIn, ItemPage, SkillPage
from app.services.catalogue import page_of_items, page_of_skills, upsert

router = APIRouter(prefix="/v1/courses/{course}", tags=["catalogue"], route_class=StrictRoute)

Writer = Annotated[Caller, require("catalogue:write")]
Reader = Annotated[Caller, require("learners:read")]

UPSERT = responses_for("malformed_json", "prerequisite_cycle", "too_large", "too_slow", "unsupported_media_type")
LIST = {**responses_for("unknown_course", "invalid_cursor"), 200: LINK}


@router.put("/catalogue", response_model=CatalogueCounts, responses=UPSERT, dependencies=NO_PARAMETERS)
async def put_catalogue(course: PathId, body: CatalogueIn, caller: Writer, request: Request) -> Response:
    """Add or replace skills and items, all or nothing; the course is made on first sight.

    What is not named stays as it is; what is named is replaced as a whole, and what is left out of it is empty then.
    Nothing is ever removed. Prerequisites must not form a cycle. Where items ask for other skills, learners are
    replayed.
    """
    content = body.model_dump(exclude_none=True)
    counts = await request.app.state.database.write(upsert, caller.tenant_id, course, content, now())
    return reply(asdict(counts))


@router.get("/skills", response_model=SkillPage, responses=LIST)
async def list_skills(course: PathId, query: Paging, caller: Reader, request: Request) -> Response:
    """The skills of a course by id.

    With their titles and prerequisites, as the catalogue has them now.
    """
    position = read_cursor(query.cursor, (str,))
    data = await request.app.state.database.read(
        page_of_skills, caller.tenant_id, course, position[0] if position else None, query.limit
    )
    return sorted_page_reply(request, data, query.limit, "id")


@router.get("/items", response_model=ItemPage, responses=LIST)
async def list_items(course: PathId, query: Paging, caller: Reader, request: Request) -> Response:
    """The items of a course by id.

    With their skills, labels and parameters, as the catalogue has them now.
    """
    position = read_cursor(query.cursor, (str,))
    data = await request.app.state.database.read(
        page_of_items, caller.tenant_id, course, position[0] if position else None, query.limit
    )
    return sorted_page_reply(request, data, query.limit, "id")
