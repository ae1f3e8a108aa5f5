"""Calibrations: their requests and replies."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.common import (
    Absent,
    Moment,
    Page,
    Probability,
    Reply,
    Request,
    StoredIdentifier,
    Timestamp,
    examples,
    words,
)
from app.schemas.responses import ITEM
from app.services.left_out import LeftOut

MAX_LEARNERS, MAX_SPANS = 1000, 20

CalibrationId = Annotated[str, Field(pattern=r"^c-[1-9][0-9]{0,8}$")]


class SpanIn(Request):
    """A span of time, by `occurred_at`; at least one end."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    since: Moment | Absent = Field(
        default=None, description="answers that occurred then or later; if absent: from the beginning"
    )
    until: Moment | Absent = Field(default=None, description="answers that occurred earlier; if absent: without end")

    @model_validator(mode="after")
    def _not_empty(self) -> "SpanIn":
        if self.since is None and self.until is None:
            raise ValueError("needs since, until or both")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("until must be later than since")
        return self


class LeaveOutIn(Request):
    """Answers that are left out of a fit: all of these learners, and everybody's in these spans."""

    learners: Annotated[list[StoredIdentifier], Field(max_length=MAX_LEARNERS)] = Field(
        default=[], description="whose answers are left out"
    )
    spans: Annotated[list[SpanIn], Field(max_length=MAX_SPANS)] = Field(
        default=[], description="when answers are left out, everybody's"
    )


class CalibrationIn(Request):
    """How to calibrate; an empty body is the same as none."""

    model_config = examples({"leave_out": {"learners": ["learner-007"], "spans": [{"until": "2026-09-01T00:00:00Z"}]}})

    leave_out: LeaveOutIn | Absent = Field(default=None, description="answers that must not count in this fit")


def to_left_out(request: CalibrationIn) -> LeftOut:
    """What a request leaves out."""
    leave_out = request.leave_out or LeaveOutIn()
    return LeftOut(frozenset(leave_out.learners), tuple((span.since, span.until) for span in leave_out.spans))


class ActivationIn(Request):
    """How to activate a calibration; an empty body is the same as none."""

    model_config = examples({"force": True})

    force: bool = Field(default=False, description="activate it although it predicts worse than the one before")


class _Reported(BaseModel):
    """A part of a report: a later version may say more."""


class TimeSpan(_Reported):
    """A span of time by `occurred_at`, one end of which may be missing."""

    since: Timestamp | None = Field(description="from then on; null: from the beginning")
    until: Timestamp | None = Field(description="until just before then; null: without end")


class LeftOutReport(_Reported):
    """What the request left out."""

    responses: int = Field(ge=0, description="how many answers that were")
    learners: list[str] = Field(description="whose answers were left out, all of them")
    spans: list[TimeSpan] = Field(description="when everybody's were left out")


class ScaleShift(_Reported):
    """How far the whole scale moved, by items with enough answers in both calibrations."""

    shift: float = Field(description="an ability of θ corresponds to θ + shift before, in logits")
    anchors: int = Field(ge=0, description="how many items it rests on")
    drifted: int = Field(ge=0, description="how many more moved differently from the rest, and were left out of it")
    drifted_items: list[str] = Field(description="the ids of the first 20 of these, those that moved most first")


class ItemChange(_Reported):
    """An item that moved by more than .25 logits, apart from the shift of the scale."""

    item: str = ITEM
    difficulty_before: float = Field(description="b in logits, on the scale of the calibration before")
    difficulty_after: float = Field(description="b in logits, on the scale of this calibration")
    change: float = Field(description="of b, on the scale before; above 0 where the item has become harder")
    responses: int = Field(ge=0, description="how many answers it was fitted to")


class SkillMasteryChange(_Reported):
    """How many learners would cross the threshold of mastery on one skill."""

    skill: str = Field(description="the id of the skill")
    gained: int = Field(ge=0, description="how many would have mastered it that have not now")
    lost: int = Field(ge=0, description="how many have mastered it now that would not")


class MasteryChanges(_Reported):
    """Who would cross the threshold of mastery, either way."""

    learners: int = Field(ge=0, description="how many learners would, on some skill")
    gained: int = Field(ge=0, description="pairs of a learner and a skill that would be mastered and are not now")
    lost: int = Field(ge=0, description="pairs of a learner and a skill that are mastered now and would not be")
    skills: list[SkillMasteryChange] = Field(description="the same by skill, the most changed first; at most 100")
    learner_ids: list[str] = Field(description="the first 20 of the learners")
    ability_change: float = Field(description="the mean change of θ over all learners, in logits")


class PopulationReport(_Reported):
    """What all learners of the course share; variances in squared logits."""

    ability_variance: float = Field(ge=0, description="how much abilities differ")
    ability_drift: float = Field(ge=0, description="how much the variance of an ability grows with each answer")
    skill_variance: float = Field(ge=0, description="how much a learner differs from skill to skill")
    skill_drift: float = Field(ge=0, description="how much that variance grows with each answer")
    daily_effect_variance: float = Field(ge=0, description="how much the form of the moment differs")
    daily_effect_retention: float = Field(
        description="how much of the form of the moment is left at the next answer: its AR(1) coefficient"
    )
    unknown_shift: float = Field(description="what not knowing a skill adds to the logit of success")
    known_shift: float = Field(description="what knowing a skill adds to the logit of success")
    fading: float = Field(ge=0, description="the exponent by which mastery fades with the days")
    daily_drift: float = Field(ge=0, description="how much the variance of an ability grows with each day")
    guessing: Probability | Absent = Field(
        default=None, description="how often items are guessed of which nobody has said it; older reports do not say"
    )


class SuspectItem(_Reported):
    """An item that does not measure what the others measure."""

    item: str = ITEM
    problem: Annotated[str, words(("negative_discrimination", "no_discrimination"))] = Field(
        description="its key is probably wrong, or it tells nothing"
    )
    correlation: float = Field(ge=-1, le=1, description="the item-rest correlation")
    interval: tuple[float, float] = Field(description="from where to where it lies with 90 % certainty")
    expected: float = Field(ge=-1, le=1, description="what an average item would have there")
    responses: int = Field(ge=0, description="how many answers that rests on")


class SuspectItems(_Reported):
    """The items that do not measure what the others measure."""

    judged: int = Field(ge=0, description="how many items had enough answers to be judged")
    count: int = Field(ge=0, description="how many of them are suspect")
    items: list[SuspectItem] = Field(description="the surest first, at most 100")


class PersonFit(_Reported):
    """The learners whose answers have little to do with how difficult the items are."""

    judged: int = Field(ge=0, description="how many learners had enough first answers to be judged")
    misfitting: int = Field(ge=0, description="how many of them fit badly; one of a hundred does by chance")
    many: bool = Field(description="whether these are more than chance explains")
    learner_ids: list[str] = Field(description="those who fit least first, at most 1,000")


class CalibrationWarning(_Reported):
    """Something to look at before the calibration is put in force."""

    code: str = Field(
        description="what it is about, for programs, such as `suspect_items` or `many_items_changed`; more may come"
    )
    detail: str = Field(description="what was found and what to do, as a sentence")


class CalibrationReport(_Reported):
    """What helps to decide whether to put a calibration in force."""

    responses: int = Field(ge=0, description="how many answers it was fitted to")
    learners: int = Field(ge=0, description="of how many learners they are")
    left_out: LeftOutReport | None = Field(description="what the request left out; null if nothing")
    rapid_responses: Annotated[int, Field(ge=0)] | Absent = Field(
        default=None, description="how many answers came too fast to count, and took no part"
    )
    compared_with: str | None = Field(description="the calibration in force at the request; null: the defaults")
    held_out_responses: int = Field(ge=0, description="answers of the learners whom no calibration ever saw")
    log_loss_before: float = Field(ge=0, description="how badly these were predicted before, in nats")
    log_loss_after: float = Field(ge=0, description="how badly they would be predicted; lower is better")
    log_loss_without_behaviour: float = Field(ge=0, description="the same by ability and mastery alone")
    auc_before: Probability | None = Field(
        description="how well successes were told from failures before; null if all succeeded or all failed"
    )
    auc_after: Probability | None = Field(description="how well they would be; higher is better")
    items_changed: int = Field(ge=0, description="items that moved by more than .25 logits, apart from the scale")
    items_without_responses: int = Field(ge=0, description="items that have no answer to be fitted to")
    most_changed_items: list[ItemChange] = Field(description="the 20 items that moved most, and how far")
    scale: ScaleShift | None = Field(description="how the scale moved; null with fewer than 5 anchors")
    mastery: MasteryChanges = Field(description="who would have mastered more, or less")
    population: PopulationReport = Field(description="what was fitted of all learners together")
    suspect_items: SuspectItems = Field(description="items with a wrong key, or none")
    person_fit: PersonFit = Field(description="learners who did not try, or were not themselves")
    warnings: list[CalibrationWarning] = Field(description="what to look at first; empty if nothing")


class CalibrationOut(Reply):
    """One calibration: `report` when it succeeded, `error` when it failed."""

    id: str = Field(description="`c-` and its number in the course")
    status: Literal["running", "succeeded", "failed"] = Field(
        description="whether it is still `running`, and how it ended"
    )
    active: bool = Field(description="whether replies come from it now")
    requested_at: Timestamp = Field(description="when it was asked for: later answers belong to the next one")
    finished_at: Timestamp | None = Field(description="when it ended; null while it runs")
    activated_at: Timestamp | None = Field(description="when it was last put in force; null: never")
    revision: int = Field(ge=1, description="the revision of the catalogue it was made for")
    report: CalibrationReport | None = Field(description="what it would change; null unless it succeeded")
    error: str | None = Field(description="why it failed, as a sentence; null unless it did")


class CalibrationPage(Page):
    """Calibrations, the newest first."""

    data: list[CalibrationOut] = Field(description="the calibrations of the course, the newest first")
