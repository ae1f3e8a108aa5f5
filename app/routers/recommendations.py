"""What comes next for a learner, asked for."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.parameters import PathId, reply
from app.routers.problems import responses_for
from app.schemas.mastery import Recommendations
from app.schemas.wishes import OfferQuery, PreviewQuery, to_wishes
from app.services.recommendations import offer, preview
from app.times import now

router = APIRouter(prefix="/v1/courses/{course}/learners/{learner}", tags=["recommendations"], route_class=StrictRoute)

Reader = Annotated[Caller, require("learners:read")]
ASK = responses_for("unknown_course", "unknown_learner")


@router.get("/recommendations", response_model=Recommendations, responses=ASK)
async def get_recommendations(
    course: PathId, learner: PathId, query: Annotated[PreviewQuery, Query()], caller: Reader, request: Request
) -> Response:
    """A preview of the next exercises; nothing is stored."""
    return reply(
        await request.app.state.database.read(
            preview, caller.tenant_id, course, learner, query.limit, to_wishes(query), now()
        )
    )


@router.post("/recommendations", status_code=201, response_model=Recommendations, responses=ASK)
async def post_recommendations(
    course: PathId, learner: PathId, query: Annotated[OfferQuery, Query()], caller: Reader, request: Request
) -> Response:
    """Offer the next exercises: stored, with the chance that each had."""
    told = await request.app.state.database.write(
        offer, caller.tenant_id, course, learner, query.limit, to_wishes(query), now()
    )
    return reply(told, 201)
