"""Recommendations for a learner: as a preview, as an offer that is stored, and after an answer."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Integers, Seeds
from app.adaptive.practice.branches import CODES
from app.adaptive.practice.choose import Choice, Choices, choose_items
from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states, initial_states, update_states
from app.core.times import to_days, to_text
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import Entry, insert_recommendations
from app.services.catalogue import need_course
from app.services.course_model import CourseModel, read_course_model
from app.services.options import (
    RecommendationOptions,
    ResolvedOptions,
    options_to_row,
    read_entries_for_options,
    resolve_options,
)
from app.services.present import (
    OUTCOME_VERSION,
    explanations,
    forecast_reply,
    no_recommendation_reason,
    reason_terms,
    recommendation_reply,
)
from app.services.replay import create_learners, load_states, new_learner, states_at

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class RecommendationOffer:
    """A recommendation: its id and learner, the answer it follows if any, when it was made, and its options."""

    id: str
    learner: str
    response: str | None
    position: int
    seed: int
    avoided: Sequence[str]
    offered_at: int
    options: RecommendationOptions | None = None
    expires_at: int | None = None


def preview_recommendations(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, options: RecommendationOptions, now: int
) -> dict[str, Any]:
    """Return the best `limit` exercises for a learner now, drawn alike until the next answer; nothing is stored.

    A learner never seen gets a first exercise, by what is likely of anybody.
    """
    course = read_course_model(db, tenant_id, course_id)
    if not course.item_ids:
        return _empty_course_reply(course, options, now)
    row = find_learners(db, tenant_id, course_id, [learner]).get(learner) or new_learner(course, learner)
    names = (f"{learner}\0{row.position}\0{rank}" for rank in range(limit))
    ids = [f"p-{_hash_id(course, name, 'preview').hex()}" for name in names]
    return _recommend(db, course, row, ids, options, now)[0]


def offer_recommendations(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, options: RecommendationOptions, now: int
) -> dict[str, Any]:
    """Choose the best `limit` exercises for a learner now, and store them with their probabilities and options.

    A learner never seen is created.
    """
    need_course(db, tenant_id, course_id)
    locked = find_learners(db, tenant_id, course_id, [learner], lock=True)
    # Only once the learner is locked: another transaction may have replayed it under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    if not course.item_ids:
        return _empty_course_reply(course, options, now)
    row = (locked or create_learners(db, course, [learner]))[learner]
    ids = [f"o-{secrets.token_hex(12)}" for _ in range(limit)]
    expires_at = expiry_time(options, now)
    reply, chosen = _recommend(db, course, row, ids, options, now, expires_at)
    seeds = choice_seeds(course, ids).tolist()
    excluded = [item for item in options.avoid if item in course.item_numbers]
    rows = []
    for id_, seed, choice in zip(ids, seeds, chosen, strict=False):
        new_offer = RecommendationOffer(id_, learner, None, row.position, seed, excluded, now, options, expires_at)
        rows.append(recommendation_row(course, choice, new_offer))
        excluded = [*excluded, course.item_ids[choice.item]]
    insert_recommendations(db, rows)
    return reply


def _empty_course_reply(course: CourseModel, options: RecommendationOptions, now: int) -> dict[str, Any]:
    """Return the reply for a course without exercises."""
    blank_states = initial_states(course.parameters, 1)
    [choice] = choose_items(course.parameters, blank_states, np.zeros(1, dtype=np.uint64)).each()
    reason = no_recommendation_reason(course, blank_states, choice, 0, resolve_options(course, options, (), now))
    return {"recommendations": [], "reason": reason}


def expiry_time(options: RecommendationOptions | None, offered_at: int) -> int | None:
    """Return until when a recommendation holds (µs), if the options say."""
    if options is None or options.expires_in is None:
        return None
    return offered_at + options.expires_in * SECOND_US


def _recommend(
    db: Connection,
    course: CourseModel,
    row: LearnerRow,
    ids: Sequence[str],
    options: RecommendationOptions,
    now: int,
    expires_at: int | None = None,
) -> tuple[dict[str, Any], list[Choice]]:
    """Return the reply and the choices behind it: each is the best when those before it are avoided."""
    stored_states = load_states(db, course, [row])
    states, seeds = states_at(course, stored_states, now), choice_seeds(course, ids)
    first = resolved = resolve_options(course, options, read_entries_for_options(db, course, row.id, options, now), now)
    best = choices = choose_resolved(course, states, seeds[:1], [resolved])
    replies: list[dict[str, Any]] = []
    chosen: list[Choice] = []
    for rank, id_ in enumerate(ids):
        if rank:
            resolved = replace(resolved, avoid=np.union1d(resolved.avoid, choices.item))
            choices = choose_resolved(course, states, seeds[rank : rank + 1], [resolved])
        [choice] = choices.each()
        following = recommendation_with_extras(course, (stored_states, states), choice, 0, id_, resolved, expires_at)
        if following is None:
            break
        replies.append(following)
        chosen.append(choice)
    reply: dict[str, Any] = {"recommendations": replies}
    if not replies:
        reply["reason"] = no_recommendation_reason(course, states, best.each()[0], 0, first)
    return reply | reply_extras(course, states, seeds[:1], best, first, {each["item"] for each in replies}), chosen


def choose_resolved(
    course: CourseModel, states: States, seeds: Seeds, resolved: Sequence[ResolvedOptions | None]
) -> Choices:
    """Choose the next exercise of each learner under the resolved options."""
    avoid = [np.empty(0, dtype=np.int64) if each is None else each.avoid for each in resolved]
    return choose_items(
        course.parameters, states, seeds, avoid, [None if each is None else each.criteria for each in resolved]
    )


def recommendation_with_extras(
    course: CourseModel,
    states: tuple[States, States],
    choice: Choice,
    learner: int,
    id_: str,
    resolved: ResolvedOptions,
    expires_at: int | None,
) -> dict[str, Any] | None:
    """Return a recommendation with the extras asked for; `states`: after the last answer, and faded to now."""
    stored_states, now = states
    reply = recommendation_reply(course, now, choice, learner, id_, resolved.options)
    if reply is None:
        return None
    if expires_at is not None:
        reply["expires_at"] = to_text(expires_at)
    if resolved.options.prefetch:
        single, item = stored_states[learner : learner + 1], np.array([choice.item])
        reply["if_correct"] = _hypothetical_next(course, single, item, id_, resolved, 1.0)
        reply["if_wrong"] = _hypothetical_next(course, single, item, id_, resolved, 0.0)
    return reply


def _hypothetical_next(
    course: CourseModel, stored_states: States, item: Integers, id_: str, resolved: ResolvedOptions, score: float
) -> dict[str, Any] | None:
    """Return what would follow for one learner if a recommendation were answered at once, all right or all wrong."""
    moment = resolved.moment
    after, _ = update_states(course.parameters, stored_states, item, np.array([score]), np.array([to_days(moment)]))
    now = fade_states(course.parameters, after, after.seen_at)
    name = course.item_ids[item[0]]
    following = resolve_options(course, resolved.options, [*resolved.log, Entry("", "", name, score, moment)], moment)
    choices = choose_resolved(course, now, choice_seeds(course, [prefetch_key(id_)]), [following])
    reply = recommendation_reply(course, now, choices.each()[0], 0, "", following.options)
    return None if reply is None else {name: value for name, value in reply.items() if name != "id"}


def reply_extras(
    course: CourseModel,
    states: States,
    seeds: Seeds,
    choices: Choices,
    resolved: ResolvedOptions,
    recommended: Collection[str],
) -> dict[str, Any]:
    """Return the optional extras of a reply for one learner: forecast and explanations."""
    result: dict[str, Any] = {}
    if resolved.options.forecast:
        result["forecast"] = forecast_reply(course, states, resolved)
    if resolved.options.why_not:
        result["why_not"] = explanations(course, states, seeds, choices, resolved, recommended)
    return result


def recommendation_row(course: CourseModel, choice: Choice, offer: RecommendationOffer) -> dict[str, Any]:
    """Return the row of a recommendation: enough to weigh it later and to choose it again."""
    return {
        "tenant_id": course.tenant_id,
        "course_id": course.course_id,
        "id": offer.id,
        "learner_id": offer.learner,
        "response_id": offer.response,
        "item_id": course.item_ids[choice.item],
        "skill_id": course.skill_ids[choice.skill] if choice.skill >= 0 else None,
        "code": CODES[choice.code],
        "terms": reason_terms(choice),
        "p_correct": choice.p,
        "propensity": choice.propensity,
        "seed": offer.seed,
        "avoided": list(offer.avoided),
        "options": options_to_row(offer.options),
        "position": offer.position,
        "calibration": course.calibration,
        "revision": course.revision,
        "outcome_version": OUTCOME_VERSION,
        "offered_at": offer.offered_at,
        "expires_at": offer.expires_at,
    }


def choice_seeds(course: CourseModel, ids: Sequence[str]) -> Seeds:
    """Derive the seeds of choices from the ids they are made for, so that they can be made again."""
    return np.array([int.from_bytes(_hash_id(course, id_, "seed")[:8]) >> 1 for id_ in ids], dtype=np.uint64)


def prefetch_key(id_: str) -> str:
    """Return the key that seeds the choice after a prefetched recommendation."""
    return f"{id_}\0next"


def next_recommendation_id(course: CourseModel, response_id: str) -> str:
    """Return the id of the recommendation that follows an answer."""
    return f"n-{_hash_id(course, response_id, 'next').hex()}"


def _hash_id(course: CourseModel, id_: str, purpose: str) -> bytes:
    """Hash the full name of an answer or a recommendation."""
    name = "\0".join((purpose, str(course.tenant_id), course.course_id, id_))
    return hashlib.blake2b(name.encode(), digest_size=12).digest()
