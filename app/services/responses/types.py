"""What the write path passes on: a response as it came in, what a decision rests on, the decision, and the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.adaptive.arrays import Booleans, Floats
from app.adaptive.practice.choose import Choices
from app.adaptive.state import States
from app.core.errors import Overloaded
from app.queries.learners import LearnerRow
from app.queries.responses import Entry, RecommendationRow
from app.services.course_model import CourseModel
from app.services.options import RecommendationOptions, ResolvedOptions, options_from_row, select_equally
from app.services.recommendations import RecommendationOffer
from app.services.replay import CheckpointSet, History


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response as it came in, of a known tenant; times in µs. `has_timestamp` if the caller said when it was given.

    `next` are the options of the recommendation that follows.
    """

    tenant_id: int
    course_id: str
    id: str
    learner: str
    item: str
    score: float | None
    correct: bool | None
    occurred_at: int
    has_timestamp: bool
    received_at: int
    duration_ms: int | None
    recommendation: str | None
    next: RecommendationOptions | None = None


class Postponed(Overloaded):
    """Not recorded yet: its transaction has replayed enough for responses that came late."""


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """The result of a response: `created` or `duplicate`, and the outcome as JSON, the same bytes each time."""

    status: str
    outcome: bytes


@dataclass(frozen=True)
class AcceptedResponse:
    """A response that the course can take: the number of its item, its score, and the recommendation it names.

    `max_score` is what the score is out of; none: the item's maximum of today.
    """

    response: NewResponse
    item: int
    score: float
    max_score: float | None
    offered: RecommendationRow | None = None

    def prefetched_by(self) -> str | None:
        """The id of the recommendation that it names, if what follows was prefetched with that one.

        The same options sent again, change nothing of it.
        """
        options = None if self.offered is None else options_from_row(self.offered.options)
        if self.offered is None or options is None or not options.prefetch:
            return None
        requested = self.response.next
        return self.offered.id if requested is None or select_equally(requested, options) else None

    def options(self) -> RecommendationOptions | None:
        """The options of the recommendation that follows."""
        if self.response.next is None and self.offered is not None and self.prefetched_by() is not None:
            return options_from_row(self.offered.options)
        return self.response.next

    def entry(self) -> Entry:
        """The response as an entry of the log."""
        response = self.response
        return Entry(
            response.learner,
            response.id,
            response.item,
            self.score,
            response.occurred_at,
            response.duration_ms,
            self.max_score,
        )


@dataclass(frozen=True)
class Known:
    """All that a decision about new responses to one course rests on.

    `learners` are the rows of the L learners, `states` what is known of them. `responses` are in the order of arrival.
    `histories` hold the log of each learner with a late response, from before the earliest of these on; `recent` the
    stored answers that the options after a response ask about, by its id. `checkpoint_sets` are of learners whose
    states had to be replayed to be known.
    """

    course: CourseModel
    learners: Sequence[LearnerRow]
    states: States
    responses: Sequence[AcceptedResponse]
    histories: Mapping[str, History]
    recent: Mapping[str, Sequence[Entry]]
    checkpoint_sets: Mapping[str, CheckpointSet]


@dataclass(frozen=True)
class DecidedRound:
    """What follows from one response each of B learners.

    `before` and `now` are the states without and with the responses, faded to the moment of each learner's last
    response; `after` those with them as they are kept. `p` (B,) is P(correct) before each response. `rapid` (B,) marks
    those given too fast to be thought about, None if none was. `choices` are the
    recommendations chosen for `offers`, under the options in `resolved`.
    """

    responses: Sequence[AcceptedResponse]
    before: States
    after: States
    now: States
    p: Floats
    rapid: Booleans | None
    offers: Sequence[RecommendationOffer]
    resolved: Sequence[ResolvedOptions | None]
    choices: Choices


@dataclass(frozen=True)
class Decision:
    """What follows from new responses to a course: the rounds, and the learners' rows and states after them."""

    course: CourseModel
    rounds: Sequence[DecidedRound]
    learners: Sequence[LearnerRow]
    states: States
    checkpoint_sets: Mapping[str, CheckpointSet]
