"""Decide what new responses change and which item follows each: pure, from what was read to what is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats
from app.adaptive.practice.choose import choose_items
from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states, update_states
from app.core.times import to_days
from app.queries.checkpoints import SortKey
from app.queries.learners import LearnerRow
from app.queries.responses import Entry
from app.services.course_model import CourseModel
from app.services.options import RecommendationOptions, ResolvedOptions, resolve_options
from app.services.recommendations import (
    RecommendationOffer,
    choice_seeds,
    choose_resolved,
    expiry_time,
    next_recommendation_id,
    prefetch_key,
)
from app.services.replay import as_fractions, entry_sort_key, find_rapid, known_durations
from app.services.responses.late import LateReplays, advance_row, replay_late, walk_arrivals
from app.services.responses.types import AcceptedResponse, DecidedRound, Decision, Known


@dataclass
class _Progress:
    """The learners while their responses are taken; `pending` are those taken so far."""

    learners: list[LearnerRow]
    states: States
    late: LateReplays | None
    pending: dict[str, list[Entry]] = field(default_factory=dict)


def make_decision(known: Known) -> Decision:
    """Update each learner's state response by response, and choose what follows each; `known` stays as it is.

    The result for a response is the same whatever it was grouped with.
    """
    late = replay_late(known.course, known.learners, known.histories, known.responses) if known.histories else None
    progress = _Progress(list(known.learners), known.states.copy(), late)
    rounds = [_decide_round(known, progress, responses) for responses in _split_into_rounds(known.responses)]
    checkpoint_sets = {**known.checkpoint_sets, **(late.checkpoint_sets if late else {})}
    return Decision(known.course, rounds, progress.learners, progress.states, checkpoint_sets)


class _ReadingNeeds(NamedTuple):
    """What must be read for a decision beside states.

    `late` has the earliest sort key of the new responses of each learner with a late one; `recent` has for each
    response with options, by its id, the learner, the options, and the moment they count from (µs).
    """

    late: Mapping[str, SortKey]
    recent: Mapping[str, tuple[str, RecommendationOptions, int]]


def find_reading_needs(learners: Sequence[LearnerRow], responses: Sequence[AcceptedResponse]) -> _ReadingNeeds:
    """What to read for a decision on `responses` of these learners."""
    earliest: dict[str, SortKey] = {}
    found_late: set[str] = set()
    recent: dict[str, tuple[str, RecommendationOptions, int]] = {}
    for accepted, entry, row, late in walk_arrivals(learners, responses):
        learner, options = entry.learner_id, accepted.options()
        earliest[learner] = min(earliest.get(learner, entry_sort_key(entry)), entry_sort_key(entry))
        if late:
            found_late.add(learner)
        if options is not None:
            recent[entry.id] = learner, options, row.last_occurred_at or 0
    return _ReadingNeeds({learner: earliest[learner] for learner in found_late}, recent)


def _split_into_rounds(responses: Sequence[AcceptedResponse]) -> list[list[AcceptedResponse]]:
    """Split responses so that each learner has at most one in a round, in the order of arrival."""
    counts: dict[str, int] = {}
    result: list[list[AcceptedResponse]] = []
    for accepted in responses:
        number = counts[accepted.response.learner] = counts.get(accepted.response.learner, -1) + 1
        if number == len(result):
            result.append([])
        result[number].append(accepted)
    return result


def _decide_round(known: Known, progress: _Progress, responses: Sequence[AcceptedResponse]) -> DecidedRound:
    """Take one response each of different learners."""
    course = known.course
    index = {row.id: number for number, row in enumerate(progress.learners)}
    indices = np.array([index[accepted.response.learner] for accepted in responses])
    before = progress.states[indices]
    after, p, rapid = _update(course, before, responses)
    for number, (accepted, learner) in enumerate(zip(responses, indices.tolist(), strict=True)):
        row, entry = progress.learners[learner], accepted.entry()
        progress.pending.setdefault(row.id, []).append(entry)
        if progress.late and entry.id in progress.late.rows:
            replayed = progress.late.rows[entry.id]
            after.put(np.array([number]), progress.late.states[replayed : replayed + 1])
            p[number] = progress.late.p[replayed]
        progress.learners[learner] = advance_row(row, entry)
    progress.states.put(indices, after)
    rows = [progress.learners[learner] for learner in indices.tolist()]
    offers = [_prepare_offer(course, accepted, row) for accepted, row in zip(responses, rows, strict=True)]
    resolved = [_resolve_options(known, progress, offer, row) for offer, row in zip(offers, rows, strict=True)]
    # Replies tell what is known at the moment of the last response; how far the others have faded then is not kept.
    before_now, now = (fade_states(course.parameters, states, after.seen_at) for states in (before, after))
    seeds = np.array([offer.seed for offer in offers], dtype=np.uint64)
    choices = (
        choose_resolved(course, now, seeds, resolved) if any(resolved) else choose_items(course.parameters, now, seeds)
    )
    return DecidedRound(responses, before_now, after, now, p, rapid, offers, resolved, choices)


def _update(
    course: CourseModel, before: States, responses: Sequence[AcceptedResponse]
) -> tuple[States, Floats, Booleans | None]:
    """The states of B learners after one response each, P(correct) before it, (B,), and which came too fast, if any."""
    items = np.array([accepted.item for accepted in responses])
    times = np.array([to_days(accepted.response.occurred_at) for accepted in responses])
    scores = as_fractions(course, items, [(accepted.score, accepted.max_score) for accepted in responses])
    durations = known_durations([accepted.response.duration_ms for accepted in responses])
    rapid = find_rapid(course.rapid_below, items, durations)
    after, predicted = update_states(course.parameters, before, items, scores, times, rapid)
    return after, predicted.p, rapid


def _prepare_offer(course: CourseModel, accepted: AcceptedResponse, row: LearnerRow) -> RecommendationOffer:
    """The recommendation that follows a response, before its item is chosen."""
    response, options, prefetched_by = accepted.response, accepted.options(), accepted.prefetched_by()
    name = response.id if prefetched_by is None else prefetch_key(prefetched_by)
    id_, [seed] = next_recommendation_id(course, response.id), choice_seeds(course, [name]).tolist()
    avoided = [] if options is None else [item for item in options.avoid if item in course.item_numbers]
    expires_at = expiry_time(options, response.received_at)
    return RecommendationOffer(
        id_, response.learner, response.id, row.position, seed, avoided, response.received_at, options, expires_at
    )


def _resolve_options(
    known: Known, progress: _Progress, offer: RecommendationOffer, row: LearnerRow
) -> ResolvedOptions | None:
    """What the options of a recommendation mean for its learner; none without options."""
    if offer.options is None or offer.response is None:
        return None
    log = sorted([*known.recent[offer.response], *progress.pending[row.id]], key=entry_sort_key)
    return resolve_options(known.course, offer.options, log, row.last_occurred_at or 0)
