"""Mastery of learners: its replies."""

from pydantic import Field

from app.schemas.common import Absent, Page, Reply
from app.schemas.responses import Ability, Forecast, NotChosen, ReasonOut, RecommendationOut, SkillMastery


class LearnerMastery(Reply):
    """Everything known of one learner."""

    learner: str
    position: int = Field(description="how many answers and corrections the learner's log holds")
    ability: Ability
    mastery: list[SkillMastery] = Field(description="every skill of the course")
    calibration: str | None


class CohortRow(SkillMastery):
    """One learner, one skill."""

    learner: str


class CohortPage(Page):
    """Rows by learner and skill."""

    data: list[CohortRow]


class Recommendations(Reply):
    """Exercises, the best first; none is an answer too, with its reason."""

    recommendations: list[RecommendationOut]
    reason: ReasonOut | Absent = Field(default=None, description="only where there is none: why")
    forecast: Forecast | None = Field(default=None, description="only if asked for; null: no end can be predicted")
    why_not: list[NotChosen] | Absent = Field(default=None, description="only if asked")
