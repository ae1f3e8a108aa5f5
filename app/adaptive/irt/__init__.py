"""Item response theory: calibration of item banks by marginal maximum likelihood (docs/models.md)."""

from app.adaptive.irt.bank import Answers, Bank, Model
from app.adaptive.irt.fit import Calibration, calibrate
from app.adaptive.irt.parameters import FLAT, Priors

__all__ = ["FLAT", "Answers", "Bank", "Calibration", "Model", "Priors", "calibrate"]
