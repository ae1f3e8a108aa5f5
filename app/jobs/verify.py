"""Verification of a course: everything recomputed from its log and compared with what is stored."""

from collections.abc import Callable

from app.core.database import Database
from app.services.course_model import CourseModel, LruCache
from app.services.verification import VerificationResult, verify_learners, verify_offers, verify_sessions


async def verify_course(
    database: Database, tenant_id: int, course_id: str, progress: Callable[[VerificationResult], None]
) -> VerificationResult:
    """Recompute every snapshot, outcome and recommendation of a course; stops at the first page with a difference."""
    total, course_models = VerificationResult(), LruCache[CourseModel]()
    for verify in (verify_learners, verify_offers, verify_sessions):
        after: str | None = ""
        while after is not None and not total.differences:
            part, after = await database.read(verify, tenant_id, course_id, after, course_models)
            total.add(part)
            progress(total)
    return total
