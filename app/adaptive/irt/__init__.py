"""Item response theory: calibration of item banks by marginal maximum likelihood (docs/models.md)."""

from app.adaptive.irt.fit import ItemCalibration, calibrate_items, calibrate_rasch
from app.adaptive.irt.item_models import Model
from app.adaptive.irt.items import ItemBank, ItemResponses
from app.adaptive.irt.parameters import FLAT, Priors

__all__ = [
    "FLAT",
    "ItemBank",
    "ItemCalibration",
    "ItemResponses",
    "Model",
    "Priors",
    "calibrate_items",
    "calibrate_rasch",
]
