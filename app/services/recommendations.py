"""What comes next for a learner: as a preview, as an offer that is kept, and after an answer."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.policy import CODES, Choices, choose
from app.adaptive.states import ENGINE
from app.adaptive.types import Seeds
from app.errors import UnknownLearner
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import insert_recommendations
from app.services.banks import Bank, read_bank
from app.services.catalogue import need_course
from app.services.folding import at, load_states
from app.services.reports import nothing_to_offer, recommendation, terms


@dataclass(frozen=True, slots=True)
class Offer:
    """Which recommendation this is, whose, after which answer if any, and when."""

    id: str
    learner: str
    response: str | None
    position: int
    seed: int
    avoided: Sequence[str]
    offered_at: int


def preview(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, avoid: Collection[str], now: int
) -> dict[str, Any]:
    """The best `limit` exercises for a learner now; stores nothing, and drawn alike until the next answer."""
    bank = read_bank(db, tenant_id, course_id)
    row = find_learner(db, bank, learner)
    names = (f"{learner}\0{row.position}\0{rank}" for rank in range(limit))
    told, _ = recommend(db, bank, row, [f"p-{digest(bank, name, 'preview').hex()}" for name in names], avoid, now)
    return told


def offer(
    db: Connection, tenant_id: int, course_id: str, learner: str, limit: int, avoid: Collection[str], now: int
) -> dict[str, Any]:
    """The best `limit` exercises for a learner now, kept with the chance each had."""
    need_course(db, tenant_id, course_id)
    find_learners(db, tenant_id, course_id, [learner], lock=True)
    # Not before the learner is locked: whoever held it may have folded it under a newer bank.
    bank = read_bank(db, tenant_id, course_id)
    row = find_learner(db, bank, learner)
    ids = [f"o-{secrets.token_hex(12)}" for _ in range(limit)]
    told, chosen = recommend(db, bank, row, ids, avoid, now)
    drawn = seeds(bank, ids).tolist()
    shunned = [item for item in avoid if item in bank.item_numbers]
    rows = []
    for id_, seed, choices in zip(ids, drawn, chosen, strict=False):
        made = Offer(id_, learner, None, row.position, seed, shunned, now)
        rows.append(recommendation_row(bank, choices, 0, made))
        shunned = [*shunned, bank.item_ids[choices.item[0]]]
    insert_recommendations(db, rows)
    return told


def find_learner(db: Connection, bank: Bank, learner: str) -> LearnerRow:
    """The learner's row. Raises `UnknownLearner`."""
    found = find_learners(db, bank.tenant_id, bank.course_id, [learner])
    if learner not in found:
        raise UnknownLearner("the course has no such learner; a learner is known from the first answer on")
    return found[learner]


def recommend(
    db: Connection, bank: Bank, row: LearnerRow, ids: Sequence[str], avoid: Collection[str], now: int
) -> tuple[dict[str, Any], list[Choices]]:
    """The reply, and the choices behind it: each the best once those before it are avoided."""
    states = at(bank, load_states(db, bank, [row]), now)
    shunned = [bank.item_numbers[item] for item in avoid if item in bank.item_numbers]
    told: list[dict[str, Any]] = []
    chosen: list[Choices] = []
    reply: dict[str, Any] = {"recommendations": told}
    for id_, seed in zip(ids, seeds(bank, ids), strict=True):
        choices = choose(bank.parameters, states, np.array([seed]), [np.array(shunned, dtype=np.int64)])
        following = recommendation(bank, states, choices, 0, id_)
        if following is None:
            if not told:
                reply["reason"] = nothing_to_offer(choices, 0)
            break
        told.append(following)
        chosen.append(choices)
        shunned.append(int(choices.item[0]))
    return reply, chosen


def recommendation_row(bank: Bank, choices: Choices, number: int, offer: Offer) -> dict[str, Any]:
    """What is kept of a recommendation: enough to weigh it later and to choose it again."""
    skill = int(choices.skill[number])
    return {
        "tenant_id": bank.tenant_id,
        "course_id": bank.course_id,
        "id": offer.id,
        "learner_id": offer.learner,
        "response_id": offer.response,
        "item_id": bank.item_ids[choices.item[number]],
        "skill_id": bank.skill_ids[skill] if skill >= 0 else None,
        "code": CODES[choices.code[number]],
        "terms": terms(choices, number),
        "p_correct": float(choices.p[number]),
        "propensity": float(choices.propensity[number]),
        "seed": offer.seed,
        "avoided": list(offer.avoided),
        "position": offer.position,
        "calibration": bank.calibration,
        "revision": bank.revision,
        "engine": ENGINE,
        "offered_at": offer.offered_at,
    }


def seeds(bank: Bank, ids: Sequence[str]) -> Seeds:
    """The randomness of choices: fixed by the ids they are made for, so that they can be made again."""
    return np.array([int.from_bytes(digest(bank, id_, "seed")[:8]) >> 1 for id_ in ids], dtype=np.uint64)


def next_id(bank: Bank, response_id: str) -> str:
    """The id of the recommendation that follows an answer."""
    return f"n-{digest(bank, response_id, 'next').hex()}"


def digest(bank: Bank, id_: str, purpose: str) -> bytes:
    """A hash of the full name of an answer or a recommendation."""
    name = "\0".join((purpose, str(bank.tenant_id), bank.course_id, id_))
    return hashlib.blake2b(name.encode(), digest_size=12).digest()
