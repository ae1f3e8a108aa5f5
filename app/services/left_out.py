"""What a calibration leaves out on request: learners who did not try, and spans of time when something was wrong."""

from dataclasses import dataclass
from typing import Any

from app.core.times import to_text
from app.queries.responses import Entry

Json = dict[str, Any]
# Since when (included) and until when (excluded), in µs; None is without end.
Span = tuple[int | None, int | None]


@dataclass(frozen=True)
class LeftOut:
    """Whose answers are left out, all of them, and the spans in which everybody's are; empty: none."""

    learners: frozenset[str] = frozenset()
    spans: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.learners or self.spans)

    def has(self, entry: Entry) -> bool:
        """Return whether an answer is left out."""
        return entry.learner_id in self.learners or any(
            (since is None or since <= entry.occurred_at) and (until is None or entry.occurred_at < until)
            for since, until in self.spans
        )

    def to_json(self) -> Json:
        """Return it as it is stored."""
        return {"learners": sorted(self.learners), "spans": [list(span) for span in self.spans]}


def left_out_from_json(stored: Json | None) -> LeftOut:
    """Return what `to_json` wrote; nothing is left out without it."""
    if stored is None:
        return LeftOut()
    return LeftOut(frozenset(stored["learners"]), tuple((since, until) for since, until in stored["spans"]))


def left_out_report(left_out: LeftOut, responses: int) -> Json | None:
    """Return what a report says of it, with how many answers that were; None if nothing was to be left out."""
    if not left_out:
        return None
    spans = [
        {"since": None if since is None else to_text(since), "until": None if until is None else to_text(until)}
        for since, until in left_out.spans
    ]
    return {"responses": responses, "learners": sorted(left_out.learners), "spans": spans}
