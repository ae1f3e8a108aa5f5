"""What comes next for a learner, asked for."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.routers.body import StrictRoute
from app.routers.deps import Caller, require
from app.routers.parameters import PathId, reply
from app.routers.problems import responses_for
from app.schemas.common import Identifier
from app.schemas.mastery import Recommendations
from app.services.recommendations import offer, preview
from app.times import now

router = APIRouter(prefix="/v1/courses/{course}/learners/{learner}", tags=["recommendations"], route_class=StrictRoute)

Reader = Annotated[Caller, require("learners:read")]
ASK = responses_for("unknown_course", "unknown_learner")


class RecommendationQuery(BaseModel):
    """How many exercises, and which not."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=10)] = 1
    avoid: Annotated[list[Identifier], Field(max_length=100, description="items not to offer; may be repeated")] = []


Asked = Annotated[RecommendationQuery, Query()]


@router.get("/recommendations", response_model=Recommendations, responses=ASK)
async def get_recommendations(
    course: PathId, learner: PathId, query: Asked, caller: Reader, request: Request
) -> Response:
    """A preview of the next exercises; nothing is stored."""
    return reply(
        await request.app.state.database.read(
            preview, caller.tenant_id, course, learner, query.limit, query.avoid, now()
        )
    )


@router.post("/recommendations", status_code=201, response_model=Recommendations, responses=ASK)
async def post_recommendations(
    course: PathId, learner: PathId, query: Asked, caller: Reader, request: Request
) -> Response:
    """Offer the next exercises: stored, with the chance that each had."""
    told = await request.app.state.database.write(
        offer, caller.tenant_id, course, learner, query.limit, query.avoid, now()
    )
    return reply(told, 201)
