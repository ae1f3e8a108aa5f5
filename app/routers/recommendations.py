"""What comes next for a learner, asked for."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.core.times import now
from app.http.auth import Caller, require
from app.http.json_body import StrictRoute
from app.http.paging import NewPathId, PathId, reply
from app.http.problems import responses_for
from app.schemas.mastery import RecommendationList
from app.schemas.options import OfferQuery, PreviewQuery, to_options
from app.services.recommendations import offer_recommendations, preview_recommendations

router = APIRouter(prefix="/v1/courses/{course}/learners/{learner}", tags=["recommendations"], route_class=StrictRoute)

Reader = Annotated[Caller, require("learners:read")]
ASK = responses_for("unknown_course")


@router.get("/recommendations", response_model=RecommendationList, responses=ASK)
async def get_recommendations(
    course: PathId, learner: PathId, query: Annotated[PreviewQuery, Query()], caller: Reader, request: Request
) -> Response:
    """A preview of the next exercises; nothing is stored.

    The same parameters give the same exercises until the next answer. An answer cannot name a preview, so its chances
    are not for evaluation. A learner never seen gets a first exercise, by what is likely of anybody.
    """
    return reply(
        await request.app.state.database.read(
            preview_recommendations, caller.tenant_id, course, learner, query.limit, to_options(query), now()
        )
    )


@router.post("/recommendations", status_code=201, response_model=RecommendationList, responses=ASK)
async def post_recommendations(
    course: PathId, learner: NewPathId, query: Annotated[OfferQuery, Query()], caller: Reader, request: Request
) -> Response:
    """Offer the next exercises: stored, with the chance that each had.

    Name the one that is done in its answer, as `recommendation`: the outcome then says whether it fits, and the log has
    what is needed to evaluate the choice. An offer holds for `expires_in` seconds. A learner never seen is created.
    """
    offered = await request.app.state.database.write(
        offer_recommendations, caller.tenant_id, course, learner, query.limit, to_options(query), now()
    )
    return reply(offered, 201)
