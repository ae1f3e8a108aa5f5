"""What is known of learners, as it is told."""

from app.schemas.common import Page, Reply
from app.schemas.responses import Ability, RecommendationOut, SkillMastery, Why


class LearnerMastery(Reply):
    """Everything known of one learner."""

    learner: str
    position: int
    ability: Ability
    mastery: list[SkillMastery]
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
    reason: Why | None = None
