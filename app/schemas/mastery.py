"""Mastery of learners: its replies."""

from pydantic import Field

from app.schemas.common import Absent, Page, Reply
from app.schemas.responses import (
    CALIBRATION,
    LEARNER,
    Ability,
    Forecast,
    NoneReason,
    NotChosen,
    RecommendationOut,
    SkillMastery,
)


class LearnerMastery(Reply):
    """Everything known of one learner."""

    learner: str = LEARNER
    position: int = Field(description="how many answers and corrections the learner's log holds")
    ability: Ability = Field(description="how able the learner is beside the skills, by all answers that count")
    mastery: list[SkillMastery] = Field(description="every skill of the course, met or not")
    calibration: str | None = CALIBRATION


class CohortRow(SkillMastery):
    """One learner, one skill."""

    learner: str = LEARNER


class CohortPage(Page):
    """Rows by learner and skill."""

    data: list[CohortRow] = Field(description="pairs of a learner and a skill with answers, by their ids")


class RecommendationList(Reply):
    """Exercises, the best first; none is an answer too, with its reason."""

    recommendations: list[RecommendationOut] = Field(
        description="at most `limit`, the best first; empty if nothing may be offered"
    )
    reason: NoneReason | Absent = Field(
        default=None, description="why nothing is recommended; only where the list is empty"
    )
    forecast: Forecast | None = Field(
        default=None, description="how many exercises are left; only if asked for; null: no end can be predicted"
    )
    why_not: list[NotChosen] | Absent = Field(
        default=None, description="why the items that were asked about do not come first; only if asked"
    )
