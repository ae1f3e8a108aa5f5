"""The tables, and nothing else."""

from app.models.base import Base
from app.models.calibration import Calibration
from app.models.catalogue import CatalogueChange, Course, Item, ItemSkill, Prerequisite, Skill
from app.models.learner import Learner
from app.models.response import Correction, ImportRun, Recommendation, Response
from app.models.tenant import ApiKey, Tenant

__all__ = [
    "ApiKey",
    "Base",
    "Calibration",
    "CatalogueChange",
    "Correction",
    "Course",
    "ImportRun",
    "Item",
    "ItemSkill",
    "Learner",
    "Prerequisite",
    "Recommendation",
    "Response",
    "Skill",
    "Tenant",
]
