"""A learner's log in the order of arrival: what was known at each position of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.queries.learners import LearnerRow
from app.queries.responses import CorrectionRow, Entry, ResponseRow, list_corrections, read_log
from app.services.course_model import CourseModel


@dataclass(frozen=True)
class LearnerLog:
    """The answers and corrections of one learner by position; `row` is the snapshot of today."""

    row: LearnerRow
    responses: dict[int, ResponseRow]
    corrections: dict[int, CorrectionRow]

    @property
    def end(self) -> int:
        """The last position of the log."""
        return max((*self.responses, *self.corrections), default=0)

    def entries(self, until: int) -> list[Entry]:
        """Return the responses that had arrived at a position, by sort key, with the scores that counted then."""
        scores = {c.response_id: c.score for c in self.corrections.values() if c.position <= until}
        arrived = [r for r in self.responses.values() if r.position <= until]
        entries = [
            Entry(self.row.id, r.id, r.item_id, scores.get(r.id, r.score), r.occurred_at, r.duration_ms, r.max_score)
            for r in arrived
        ]
        return sorted(entries, key=lambda entry: (entry.occurred_at, entry.id))

    def scored_entries(self, until: int) -> list[Entry]:
        """Return `entries` without those that were voided by then."""
        return [entry for entry in self.entries(until) if entry.score is not None]

    def row_at(self, position: int) -> LearnerRow:
        """Return the learner's row as it was at a position, but for the state."""
        arrived = [(r.occurred_at, r.id) for r in self.responses.values() if r.position <= position]
        last = max(arrived) if arrived else (None, None)
        return self.row._replace(position=position, last_occurred_at=last[0], last_response_id=last[1])


def read_learner_logs(db: Connection, course: CourseModel, rows: Sequence[LearnerRow]) -> list[LearnerLog]:
    """Read the logs of some learners."""
    ids = [row.id for row in rows]
    responses: dict[str, dict[int, ResponseRow]] = defaultdict(dict)
    for response in read_log(db, course.tenant_id, course.course_id, ids):
        responses[response.learner_id][response.position] = response
    corrections: dict[str, dict[int, CorrectionRow]] = defaultdict(dict)
    for correction in list_corrections(db, course.tenant_id, course.course_id, ids):
        corrections[correction.learner_id][correction.position] = correction
    return [LearnerLog(row, responses[row.id], corrections[row.id]) for row in rows]
