"""The responses of several learners as arrays."""

from dataclasses import dataclass

from app.adaptive.arrays import Booleans, Floats, Integers


@dataclass(frozen=True)
class Log:
    """The answers of L learners, one learner after the other, each in the order of the sort keys.

    `starts` (L + 1,) says where each learner begins; `items`, `scores` (fractions of the maximum) and `times` (days
    since 1970; 0 where unknown, and then no time has passed) are (N,). `rapid` (N,) marks answers that were given too
    fast to say anything; None: none was.
    """

    starts: Integers
    items: Integers
    scores: Floats
    times: Floats
    rapid: Booleans | None = None

    @property
    def learners(self) -> int:
        """L."""
        return len(self.starts) - 1
