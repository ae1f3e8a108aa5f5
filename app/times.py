"""Moments as the integers that are stored: microseconds since 1970, UTC."""

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def now() -> int:
    """This moment."""
    return time.time_ns() // 1000


def from_datetime(moment: datetime) -> int:
    """A datetime with an offset as microseconds."""
    return (moment - EPOCH) // MICROSECOND


def to_text(moment: int) -> str:
    """RFC 3339 in UTC: `2026-11-22T09:00:00Z`, with a fraction only where there is one."""
    text = (EPOCH + moment * MICROSECOND).isoformat()
    return text.removesuffix("+00:00") + "Z"
