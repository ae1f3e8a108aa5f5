"""Quality of predictions: its replies."""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from app.schemas.calibrations import CalibrationId
from app.schemas.common import Page, Probability, Reply

Interval = Annotated[tuple[float, float], Field(description="95 %, with learners as the units that vary")]
Day = Annotated[str, WithJsonSchema({"type": "string", "format": "date"})]


class CurvePoint(Reply):
    """The answers whose prediction fell into one tenth of the scale."""

    predicted: Probability = Field(description="the mean of the predictions")
    observed: Probability = Field(description="mean score, as a fraction")
    interval: Interval | None = Field(description="from where to where `observed` lies with 95 % certainty")
    responses: int = Field(ge=1, description="how many answers these are")


class QualityIntervals(Reply):
    """95 % intervals; null where they cannot be computed, as for a single learner."""

    log_loss: Interval | None = Field(description="from where to where the log loss lies")
    auc: Interval | None = Field(description="from where to where the AUC lies")
    brier: Interval | None = Field(description="from where to where the Brier score lies")


class QualityOut(Reply):
    """How good predictions were; null where there is nothing to say."""

    responses: int = Field(ge=0, description="how many answers were measured")
    learners: int = Field(ge=0, description="of how many learners they are")
    sample: Probability = Field(description="the share of the learners measured: 1, unless there are too many answers")
    predicted: Probability | None = Field(description="the mean of the predictions")
    observed: Probability | None = Field(description="mean score, as a fraction")
    log_loss: float | None = Field(description="mean log loss in nats; lower is better, .693 is a toss of a coin")
    auc: Probability | None = Field(
        description="how well successes are told from failures, .5 is by chance; null without one of them"
    )
    brier: Probability | None = Field(description="mean squared difference of prediction and score; lower is better")
    ece: Probability | None = Field(description="expected calibration error over the points of `curve`")
    interval: QualityIntervals = Field(description="how sure these numbers are")
    curve: list[CurvePoint] = Field(description="from low to high predictions; tenths without an answer are left out")


class CalibrationQuality(QualityOut):
    """The answers predicted under one calibration; null for the defaults."""

    calibration: CalibrationId | None = Field(description="the calibration that predicted; null: the defaults")


class SkillQuality(QualityOut):
    """The answers to items of one skill; null for items without skills."""

    skill: str | None = Field(description="the id of the skill; null: items without skills")


class PeriodQuality(QualityOut):
    """The answers of one day, week or month of UTC."""

    period: Day = Field(description="its first day; weeks begin on Monday")


class QualityPage(Page):
    """One row for all answers, or one for each group."""

    data: list[QualityOut] | list[CalibrationQuality] | list[SkillQuality] | list[PeriodQuality] = Field(
        description="rows of one kind, as `by` asks for"
    )
