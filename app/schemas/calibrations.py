"""Calibrations: their replies."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.common import Page, Reply, Request, Timestamp, examples

CalibrationId = Annotated[str, Field(pattern=r"^c-[1-9][0-9]{0,8}$")]


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
        description="log loss and AUC before and after on held-out learners, and what would change"
    )
    error: str | None


class CalibrationPage(Page):
    """Calibrations, the newest first."""

    data: list[CalibrationOut]
