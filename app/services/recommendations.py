"""What comes next for a learner: as a preview, as an offer that is kept, and after an answer."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.filter import fade, initial, step
from app.adaptive.policy import CODES, Choice, Choices, choose
from app.adaptive.states import ENGINE
from app.adaptive.types import Integers, Seeds, States
from app.errors import UnknownLearner
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import Entry, insert_recommendations
from app.services.banks import Bank, read_bank
from app.services.catalogue import need_course
from app.services.folding import at, load_states
from app.services.reports import foreseen, not_chosen, nothing_to_offer, recommendation, terms
from app.services.wishes import Wanted, Wishes, read_needed, to_row, want
from app.times import to_days, to_text

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Offer:
    """Which recommendation this is, whose, after which answer if any, when, and what was wanted of it."""

    id: str
    learner: str
    response: str | None
    position: int
    seed: int
    avoided: Sequence[str]
    offered_at: int
    wishes: Wishes | None = None
    expires_at: int | None = None


def preview(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, wishes: Wishes, now: int
) -> dict[str, Any]:
    """The best `limit` exercises for a learner now; stores nothing, and drawn alike until the next answer."""
    bank = read_bank(db, tenant_id, course_id)
    if not bank.item_ids:
        return nothing_at_all(bank, wishes, now)
    row = find_learner(db, bank, learner)
    names = (f"{learner}\0{row.position}\0{rank}" for rank in range(limit))
    ids = [f"p-{digest(bank, name, 'preview').hex()}" for name in names]
    return recommend(db, bank, row, ids, wishes, now)[0]


def offer(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, wishes: Wishes, now: int
) -> dict[str, Any]:
    """The best `limit` exercises for a learner now, kept with the chance each had and what was wanted."""
    need_course(db, tenant_id, course_id)
    find_learners(db, tenant_id, course_id, [learner], lock=True)
    # Not before the learner is locked: whoever held it may have folded it under a newer bank.
    bank = read_bank(db, tenant_id, course_id)
    if not bank.item_ids:
        return nothing_at_all(bank, wishes, now)
    row = find_learner(db, bank, learner)
    ids = [f"o-{secrets.token_hex(12)}" for _ in range(limit)]
    expires_at = expiry(wishes, now)
    told, chosen = recommend(db, bank, row, ids, wishes, now, expires_at)
    drawn = seeds(bank, ids).tolist()
    shunned = [item for item in wishes.avoid if item in bank.item_numbers]
    rows = []
    for id_, seed, choice in zip(ids, drawn, chosen, strict=False):
        made = Offer(id_, learner, None, row.position, seed, shunned, now, wishes, expires_at)
        rows.append(recommendation_row(bank, choice, made))
        shunned = [*shunned, bank.item_ids[choice.item]]
    insert_recommendations(db, rows)
    return told


def nothing_at_all(bank: Bank, wishes: Wishes, now: int) -> dict[str, Any]:
    """The reply of a course without exercises, to whomever it is about."""
    nobody = initial(bank.parameters, 1)
    [choice] = choose(bank.parameters, nobody, np.zeros(1, dtype=np.uint64)).each()
    reason = nothing_to_offer(bank, nobody, choice, 0, want(bank, wishes, (), now))
    return {"recommendations": [], "reason": reason}


def expiry(wishes: Wishes | None, offered_at: int) -> int | None:
    """Until when a recommendation holds (µs), if that was wanted."""
    if wishes is None or wishes.lease_s is None:
        return None
    return offered_at + wishes.lease_s * SECOND_US


def find_learner(db: Connection, bank: Bank, learner: str) -> LearnerRow:
    """The learner's row. Raises `UnknownLearner`."""
    found = find_learners(db, bank.tenant_id, bank.course_id, [learner])
    if learner not in found:
        raise UnknownLearner("the course has no such learner; a learner is known from the first answer on")
    return found[learner]


def recommend(
    db: Connection,
    bank: Bank,
    row: LearnerRow,
    ids: Sequence[str],
    wishes: Wishes,
    now: int,
    expires_at: int | None = None,
) -> tuple[dict[str, Any], list[Choice]]:
    """The reply, and the choices behind it: each the best once those before it are avoided."""
    left = load_states(db, bank, [row])
    states, drawn = at(bank, left, now), seeds(bank, ids)
    first = wanted = want(bank, wishes, read_needed(db, bank, row.id, wishes, now), now)
    best = choices = choose_wanted(bank, states, drawn[:1], [wanted])
    told: list[dict[str, Any]] = []
    chosen: list[Choice] = []
    for place, id_ in enumerate(ids):
        if place:
            wanted = replace(wanted, avoid=np.union1d(wanted.avoid, choices.item))
            choices = choose_wanted(bank, states, drawn[place : place + 1], [wanted])
        [choice] = choices.each()
        following = tell_wanted(bank, (left, states), choice, 0, id_, wanted, expires_at)
        if following is None:
            break
        told.append(following)
        chosen.append(choice)
    reply: dict[str, Any] = {"recommendations": told}
    if not told:
        reply["reason"] = nothing_to_offer(bank, states, best.each()[0], 0, first)
    return reply | beside(bank, states, drawn[:1], best, first, {each["item"] for each in told}), chosen


def choose_wanted(bank: Bank, states: States, seeds: Seeds, wanted: Sequence[Wanted | None]) -> Choices:
    """The next exercise of each learner, as it is wanted of it."""
    avoid = [np.empty(0, dtype=np.int64) if each is None else each.avoid for each in wanted]
    return choose(bank.parameters, states, seeds, avoid, [None if each is None else each.aim for each in wanted])


def tell_wanted(
    bank: Bank,
    states: tuple[States, States],
    choice: Choice,
    learner: int,
    id_: str,
    wanted: Wanted,
    expires_at: int | None,
) -> dict[str, Any] | None:
    """A recommendation with what was wanted of it; `states` are those after the last answer, and as they are told."""
    left, now = states
    told = recommendation(bank, now, choice, learner, id_, wanted.wishes)
    if told is None:
        return None
    if expires_at is not None:
        told["expires_at"] = to_text(expires_at)
    if wanted.wishes.prefetch:
        alone, item = left[learner : learner + 1], np.array([choice.item])
        told["if_correct"] = branch(bank, alone, item, id_, wanted, 1.0)
        told["if_wrong"] = branch(bank, alone, item, id_, wanted, 0.0)
    return told


def branch(bank: Bank, left: States, item: Integers, id_: str, wanted: Wanted, score: float) -> dict[str, Any] | None:
    """What would follow for one learner if a recommendation were answered at once, with all or nothing."""
    moment = wanted.moment
    after, _ = step(bank.parameters, left, item, np.array([score]), np.array([to_days(moment)]))
    now = fade(bank.parameters, after, after.seen_at)
    name = bank.item_ids[item[0]]
    following = want(bank, wanted.wishes, [*wanted.log, Entry("", "", name, score, moment)], moment)
    choices = choose_wanted(bank, now, seeds(bank, [prefetched(id_)]), [following])
    told = recommendation(bank, now, choices.each()[0], 0, "", following.wishes)
    return None if told is None else {name: value for name, value in told.items() if name != "id"}


def beside(
    bank: Bank, states: States, seeds: Seeds, choices: Choices, wanted: Wanted, told: Collection[str]
) -> dict[str, Any]:
    """What was wanted beside the recommendations of one learner."""
    result: dict[str, Any] = {}
    if wanted.wishes.forecast:
        result["forecast"] = foreseen(bank, states, wanted)
    if wanted.wishes.why_not:
        result["why_not"] = not_chosen(bank, states, seeds, choices, wanted, told)
    return result


def recommendation_row(bank: Bank, choice: Choice, offer: Offer) -> dict[str, Any]:
    """What is kept of a recommendation: enough to weigh it later and to choose it again."""
    return {
        "tenant_id": bank.tenant_id,
        "course_id": bank.course_id,
        "id": offer.id,
        "learner_id": offer.learner,
        "response_id": offer.response,
        "item_id": bank.item_ids[choice.item],
        "skill_id": bank.skill_ids[choice.skill] if choice.skill >= 0 else None,
        "code": CODES[choice.code],
        "terms": terms(choice),
        "p_correct": choice.p,
        "propensity": choice.propensity,
        "seed": offer.seed,
        "avoided": list(offer.avoided),
        "wishes": to_row(offer.wishes),
        "position": offer.position,
        "calibration": bank.calibration,
        "revision": bank.revision,
        "engine": ENGINE,
        "offered_at": offer.offered_at,
        "expires_at": offer.expires_at,
    }


def seeds(bank: Bank, ids: Sequence[str]) -> Seeds:
    """The randomness of choices: fixed by the ids they are made for, so that they can be made again."""
    return np.array([int.from_bytes(digest(bank, id_, "seed")[:8]) >> 1 for id_ in ids], dtype=np.uint64)


def prefetched(id_: str) -> str:
    """What the choice that follows a prefetched recommendation is seeded by."""
    return f"{id_}\0next"


def next_id(bank: Bank, response_id: str) -> str:
    """The id of the recommendation that follows an answer."""
    return f"n-{digest(bank, response_id, 'next').hex()}"


def digest(bank: Bank, id_: str, purpose: str) -> bytes:
    """A hash of the full name of an answer or a recommendation."""
    name = "\0".join((purpose, str(bank.tenant_id), bank.course_id, id_))
    return hashlib.blake2b(name.encode(), digest_size=12).digest()
