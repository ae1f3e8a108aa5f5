"""Calibrations: their requests and replies."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from app.schemas.common import Absent, Identifier, Moment, Page, Reply, Request, Timestamp, examples
from app.services.left_out import LeftOut

MAX_LEARNERS, MAX_SPANS = 1000, 20

CalibrationId = Annotated[str, Field(pattern=r"^c-[1-9][0-9]{0,8}$")]


class SpanIn(Request):
    """A span of time, by `occurred_at`; at least one end."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    since: Moment | Absent = Field(default=None, description="from then on")
    until: Moment | Absent = Field(default=None, description="until just before then")

    @model_validator(mode="after")
    def _not_empty(self) -> "SpanIn":
        if self.since is None and self.until is None:
            raise ValueError("needs since, until or both")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("until must be later than since")
        return self


class LeaveOutIn(Request):
    """Answers that are left out of a fit: all of these learners, and everybody's in these spans."""

    learners: Annotated[list[Identifier], Field(max_length=MAX_LEARNERS)] = Field(
        default=[], description="whose answers are left out"
    )
    spans: Annotated[list[SpanIn], Field(max_length=MAX_SPANS)] = Field(
        default=[], description="when answers are left out, everybody's"
    )


class CalibrationIn(Request):
    """How to calibrate; an empty body is the same as none."""

    model_config = examples({"leave_out": {"learners": ["learner-007"], "spans": [{"until": "2026-09-01T00:00:00Z"}]}})

    leave_out: LeaveOutIn | Absent = Field(default=None, description="answers that must not count")


def to_left_out(request: CalibrationIn) -> LeftOut:
    """What a request leaves out."""
    leave_out = request.leave_out or LeaveOutIn()
    return LeftOut(frozenset(leave_out.learners), tuple((span.since, span.until) for span in leave_out.spans))


class ActivationIn(Request):
    """How to activate a calibration; an empty body is the same as none."""

    model_config = examples({"force": True})

    force: bool = Field(default=False, description="activate it although it predicts worse than the one before")


class CalibrationOut(Reply):
    """One calibration: `report` when it succeeded, `error` when it failed."""

    id: str
    status: Literal["running", "succeeded", "failed"]
    active: bool
    requested_at: Timestamp
    finished_at: Timestamp | None
    activated_at: Timestamp | None = Field(description="when it was last put in force")
    revision: int = Field(description="the revision of the catalogue it was made for")
    report: dict[str, Any] | None = Field(
        description="log loss and AUC before and after on held-out learners, what would change, and what to look at"
    )
    error: str | None


class CalibrationPage(Page):
    """Calibrations, the newest first."""

    data: list[CalibrationOut]
