"""Moments as the integers that are stored: microseconds since 1970, UTC."""

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000
# Answers of a file that gives an order but no times stand here, a microsecond apart, long before any live answer.
UNDATED_EPOCH_US = 946_684_800_000_000
UNDATED_US = 183 * DAY_US


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


def to_days(moment: int) -> float:
    """A moment in days since 1970, as the engine counts time; 0, unknown, within half a year of `UNDATED_EPOCH_US`."""
    return 0.0 if abs(moment - UNDATED_EPOCH_US) < UNDATED_US else moment / DAY_US
