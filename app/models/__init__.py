"""The tables, and nothing else."""

from app.models.base import Base
from app.models.calibration import Calibration
from app.models.catalogue import CatalogueChange, Course, Item, ItemSkill, Prerequisite, Skill
from app.models.checkpoint import Checkpoint
from app.models.learner import Learner
from app.models.limit import QuotaUse
from app.models.response import Correction, ImportRun, Recommendation, Response
from app.models.section import Section, SectionExchange, SectionSession
from app.models.session import Session, SessionResponse
from app.models.tenant import AccessToken, ApiKey, Tenant
from app.models.webhook import Outbox, Webhook

__all__ = [
    "AccessToken",
    "ApiKey",
    "Base",
    "Calibration",
    "CatalogueChange",
    "Checkpoint",
    "Correction",
    "Course",
    "ImportRun",
    "Item",
    "ItemSkill",
    "Learner",
    "Outbox",
    "Prerequisite",
    "QuotaUse",
    "Recommendation",
    "Response",
    "Section",
    "SectionExchange",
    "SectionSession",
    "Session",
    "SessionResponse",
    "Skill",
    "Tenant",
    "Webhook",
]
