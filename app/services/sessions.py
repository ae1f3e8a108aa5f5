"""Adaptive tests: begun, answered, looked at, ended.

A session is a function of what was agreed at its start, kept in its row, and of its answers: it is folded from them
with each request, so whoever goes on after a crash is offered the same item. Everything here runs inside the caller's
transaction, and the row of the session is locked first.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json
from scipy.special import ndtr
from sqlalchemy import Connection

from app.adaptive.filter import initial, step
from app.adaptive.states import ENGINE
from app.adaptive.testing import Plan, Sitting, Turn, begin, expected_score, look_ahead, next_item, take
from app.adaptive.testing.sitting import given as passed_over
from app.adaptive.testing.stopping import sides
from app.adaptive.types import Floats
from app.adaptive.uncertainty import standard_error
from app.errors import Conflict, Fault, Invalid, InvalidScore, NotOffered, ProximaError, SessionFinished, UnknownSession
from app.queries import sessions as rows
from app.queries.learners import find_learners
from app.services.banks import Bank, Shelf, bank_at, read_bank
from app.services.catalogue import need_course
from app.services.folding import as_fractions, at, load_states
from app.services.pools import TestPool, plan_of, read_pool
from app.services.reports import DIGITS, calibration_id, mastery_rows
from app.services.responses import NewAnswer, Recorded, record
from app.times import to_days, to_text

SECOND_US = 1_000_000
# The latest sessions of a course by which an item is found to have been shown too often.
LATEST = 1000
BANKS: Shelf[Bank] = Shelf()
ENDED = "ended"
AHEAD = "ahead"
SKIPPED = {"scored": False, "skipped": True}

Json = dict[str, Any]

REASONS = {
    "max_information": "Of {candidates} this item tells most about an ability near {theta}.",
    "min_expected_posterior_variance": "Of {candidates} this item is expected to make the estimate most precise.",
    "kullback_leibler": "Of {candidates} this item tells an ability near {theta} best from others that are likely.",
    "random": "This item was drawn by lot, from {candidates}.",
    "first_item": "The test begins with this item.",
    "pilot_item": "This item is tried out and does not count.",
}
STOPS = {
    "standard_error": "The standard error is as small as was asked for.",
    "standard_error_change": "A further answer would hardly make the estimate more precise.",
    "classified": "It is clear on which side of each cut score the ability lies.",
    "max_items": "The test has as many items as it may have.",
    "max_seconds": "The time is up.",
    "no_items": "No item is left that could be given.",
    ENDED: "The test was ended from outside.",
}


@dataclass(frozen=True, slots=True)
class NewSessionAnswer:
    """An answer to the item that a session offers, as it came in; times in µs, `dated` if the caller gave one.

    `skipped`: the learner left the item out, and that says nothing; the score is then 0.
    """

    id: str
    item: str
    score: float | None
    correct: bool | None
    occurred_at: int
    dated: bool
    received_at: int
    duration_ms: int | None
    skipped: bool = False


@dataclass(frozen=True)
class Test:
    """What a session is a function of, but for its answers. `barred` (I,) is 1 for the items that it may not have."""

    pool: TestPool
    plan: Plan
    scales: tuple[str, ...]
    seed: int
    barred: Floats
    started_at: int


def start(db: Connection, tenant_id: int, course_id: str, id_: str, given: Json, now: int) -> tuple[str, Json]:
    """Begin a session: `created`, or `duplicate` if there is one of this id that agreed on the same; and how it stands.

    Raises `Conflict` if it agreed on something else, `Invalid` for a plan that the course cannot follow.
    """
    course = need_course(db, tenant_id, course_id)
    known = rows.find_session(db, tenant_id, id_)
    if known is not None:
        if known.course_id != course_id or not same_plan(known.plan, given):
            raise Conflict("this id was used for a different session; use a new id", [Fault("/id", "is taken")])
        return "duplicate", describe(db, tenant_id, id_, now)
    plan: Json = {**given, "prior": prior_of(db, tenant_id, course_id, given, now)}
    drawn = given.get("seed")
    row = rows.SessionRow(
        tenant_id=tenant_id,
        id=id_,
        course_id=course_id,
        learner_id=given.get("learner"),
        plan=plan,
        barred=shown_too_often(db, tenant_id, course_id, given["selection"].get("max_exposure")),
        seed=secrets.randbits(53) if drawn is None else drawn,
        revision=course.revision,
        calibration=course.calibration,
        engine=ENGINE,
        position=0,
        turn=None,
        stop=None,
        lifetime_s=given["lifetime_s"],
        started_at=now,
        active_at=now,
    )
    test = read_test(db, row)
    try:
        sitting = begin(test.pool.pool, test.plan)
    except ValueError as error:
        raise Invalid(f"the test cannot be held: {error}") from error
    turn = choose_next(test, sitting, now)
    rows.insert_session(db, row._replace(turn=keep_turn(test.pool, turn), stop=turn.stop))
    return "created", describe(db, tenant_id, id_, now)


def same_plan(kept: Json, given: Json) -> bool:
    """Whether a session agreed on what is asked for; a prior that practice gave was not asked for in numbers."""
    same_prior = given["prior_from_practice"] or kept["prior"] == given["prior"]
    return same_prior and {**kept, "prior": None} == {**given, "prior": None}


def prior_of(db: Connection, tenant_id: int, course_id: str, given: Json, now: int) -> Json:
    """The prior in numbers: what was given, or what practice has shown of the learner, as it is now."""
    if not given["prior_from_practice"]:
        return dict(given["prior"])
    bank = read_bank(db, tenant_id, course_id)
    found = find_learners(db, tenant_id, course_id, [given["learner"]])
    known = list(found.values())
    states = at(bank, load_states(db, bank, known), now) if known else initial(bank.parameters, 1)
    return {"mean": float(states.ability[0]), "sd": float(standard_error(bank.parameters, states)[0])}


def shown_too_often(db: Connection, tenant_id: int, course_id: str, most: float | None) -> list[str]:
    """The items that a greater share of the course's latest sessions had than is allowed."""
    if most is None:
        return []
    sessions, shown = rows.count_exposures(db, tenant_id, course_id, LATEST)
    return sorted(item for item, count in shown.items() if count >= most * sessions)


def rates(pool: TestPool, barred: Sequence[str]) -> Floats:
    """(I,): 1 for the items that are barred, 0 for all others."""
    found = np.zeros(len(pool.item_ids))
    found[[pool.numbers[item] for item in barred if item in pool.numbers]] = 1.0
    return found


def answer(
    db: Connection, tenant_id: int, session_id: str, given: NewSessionAnswer, ahead: Sequence[str] = ()
) -> Recorded:
    """Take the answer to the item that is offered, and offer the next one.

    The items of `ahead` were offered too, beforehand, to somebody who could not ask again. Raises `UnknownSession`,
    `NotOffered`, `SessionFinished`, `InvalidScore`, and `Conflict` for an id that is taken.
    """
    session = need_session(db, tenant_id, session_id, lock=True)
    answers = rows.list_session_responses(db, tenant_id, session_id)
    test = read_test(db, session)
    known = next((row for row in answers if row.id == given.id), None)
    if known is not None:
        return repeat(test, given, known)
    offer = offer_answered(test, need_open(session, given.received_at), given, ahead)
    row = rows.AnswerRow(
        tenant_id=tenant_id,
        session_id=session_id,
        id=given.id,
        position=session.position + 1,
        course_id=session.course_id,
        item_id=given.item,
        score=score_of(test, given),
        occurred_at=given.occurred_at,
        received_at=given.received_at,
        duration_ms=given.duration_ms,
        turn=offer,
        outcome="",
    )
    sitting = sit(test, [*answers, row])
    turn = choose_next(test, sitting, given.received_at)
    outcome = tell_outcome(test, sitting, turn, row)
    rows.insert_session_response(db, row._replace(outcome=outcome.decode()))
    values = {
        "position": row.position,
        "turn": keep_turn(test.pool, turn),
        "stop": turn.stop,
        "active_at": given.received_at,
    }
    rows.update_session(db, tenant_id, session_id, values)
    if session.learner_id is not None and session.plan["informs_practice"] and offer["scored"]:
        inform_practice(db, session.learner_id, given, row)
    return Recorded("created", outcome)


def offer_answered(test: Test, offer: Json, given: NewSessionAnswer, ahead: Sequence[str]) -> Json:
    """The offer that an answer was given to, as it is kept with it. Raises `NotOffered`."""
    if given.item != offer["item"]:
        if given.item not in ahead:
            raise NotOffered(
                f"this session offers the item {offer['item']}; answer that one",
                [Fault("/item", "is not the one offered")],
            )
        offer = offer_ahead(test, given.item)
    return {**offer, **SKIPPED} if given.skipped else offer


def offer_ahead(test: Test, item: str) -> Json:
    """The offer of an item that was answered ahead, and that might not have been chosen any more."""
    scored = test.pool.numbers[item] not in test.plan.unscored
    return {"item": item, "kind": AHEAD, "scored": scored, "propensity": None, "relaxed": [], "terms": {}}


def choose_next(test: Test, sitting: Sitting, moment: int) -> Turn:
    """What follows the answers so far, at a moment in µs."""
    elapsed = max(moment - test.started_at, 0) / SECOND_US
    return next_item(test.pool.pool, test.plan, sitting, test.seed, elapsed, test.barred)


def tell_outcome(test: Test, sitting: Sitting, turn: Turn, row: rows.AnswerRow) -> bytes:
    """What is told of an answer, as JSON; `sitting` is the session after it."""
    state = tell(test, sitting, keep_turn(test.pool, turn), turn.stop, row.position)
    return to_json({"response": tell_answer(row), **state})


def tell_answer(row: rows.AnswerRow) -> Json:
    """An answer as it was stored."""
    return {
        "id": row.id,
        "item": row.item_id,
        "score": row.score,
        "scored": row.turn["scored"],
        "occurred_at": to_text(row.occurred_at),
        "position": row.position,
    }


def repeat(test: Test, given: NewSessionAnswer, row: rows.AnswerRow) -> Recorded:
    """The first outcome again if the content is the same. Raises `Conflict` if not."""
    same = (given.item, given.duration_ms) == (row.item_id, row.duration_ms)
    if not same or score_of(test, given) != row.score or (given.dated and given.occurred_at != row.occurred_at):
        raise Conflict("this id was used for a different answer; use a new id", [Fault("/id", "is taken")])
    return Recorded("duplicate", row.outcome.encode())


def inform_practice(db: Connection, learner: str, given: NewSessionAnswer, row: rows.AnswerRow) -> None:
    """Let an answer of the test be an answer of the learner in the course too."""
    name = hashlib.blake2b(f"{row.session_id}\0{row.id}".encode(), digest_size=12).hexdigest()
    in_practice = NewAnswer(
        tenant_id=row.tenant_id,
        course_id=row.course_id,
        id=f"t-{name}",
        learner=learner,
        item=row.item_id,
        score=row.score,
        correct=None,
        occurred_at=row.occurred_at,
        dated=given.dated,
        received_at=row.received_at,
        duration_ms=row.duration_ms,
        recommendation=None,
    )
    [result] = record(db, [in_practice])
    if isinstance(result, ProximaError):
        raise result


def end(db: Connection, tenant_id: int, session_id: str, now: int) -> Json:
    """End a session before its time; ending it again changes nothing. How it stands."""
    session = need_session(db, tenant_id, session_id, lock=True)
    if session.stop is None:
        rows.update_session(db, tenant_id, session_id, {"turn": None, "stop": ENDED, "active_at": now})
    return describe(db, tenant_id, session_id, now)


def describe(db: Connection, tenant_id: int, session_id: str, now: int) -> Json:
    """A session as a whole."""
    session = need_session(db, tenant_id, session_id)
    test = read_test(db, session)
    answers = rows.list_session_responses(db, tenant_id, session_id)
    sitting, steps = begin(test.pool.pool, test.plan), []
    for row in answers:
        sitting = take_one(test, sitting, row)
        steps.append({**tell_answer(row), **abilities(test, sitting)})
    state = tell(test, sitting, session.turn, session.stop, session.position)
    return {
        "id": session.id,
        "course": session.course_id,
        "learner": session.learner_id,
        **state,
        "status": status(session, now),
        "seed": session.seed,
        "calibration": calibration_id(session.calibration),
        "revision": session.revision,
        "started_at": to_text(session.started_at),
        "expires_at": to_text(expires_at(session)),
        "responses": steps,
        "mastery": mastery(db, session, answers),
    }


def page(db: Connection, tenant_id: int, course_id: str, after: str, limit: int, now: int) -> list[Json]:
    """Sessions of a course by id. Raises `UnknownCourse`."""
    need_course(db, tenant_id, course_id)
    return [
        {
            "id": row.id,
            "learner": row.learner_id,
            "status": status(row, now),
            "position": row.position,
            "started_at": to_text(row.started_at),
        }
        for row in rows.page_sessions(db, tenant_id, course_id, after, limit)
    ]


def further_items(db: Connection, session: rows.SessionRow, many: int) -> list[str]:
    """Up to so many items that would come next if no answer said anything, that which is offered first."""
    if session.turn is None:
        return []
    test = read_test(db, session)
    answers = rows.list_session_responses(db, session.tenant_id, session.id)
    sitting = sit(test, answers)
    ahead = look_ahead(test.pool.pool, test.plan, sitting, test.seed, many, test.barred)
    return [test.pool.item_ids[item] for item in ahead]


def need_session(db: Connection, tenant_id: int, session_id: str, *, lock: bool = False) -> rows.SessionRow:
    """The row of a session. Raises `UnknownSession`."""
    session = rows.find_session(db, tenant_id, session_id, lock=lock)
    if session is None:
        raise UnknownSession("there is no such session")
    return session


def need_open(session: rows.SessionRow, now: int) -> Json:
    """What a session offers. Raises `SessionFinished` for one that takes no answer any more."""
    if session.stop is not None or session.turn is None:
        raise SessionFinished(f"this session is over: {STOPS[session.stop or ENDED]}")
    if now > expires_at(session):
        raise SessionFinished("this session was left alone for longer than its lifetime_s; begin another")
    return session.turn


def status(session: rows.SessionRow, now: int) -> str:
    """Whether it can be gone on with."""
    if session.stop is not None:
        return "finished"
    return "expired" if now > expires_at(session) else "open"


def expires_at(session: rows.SessionRow) -> int:
    """When a session can no longer be gone on with."""
    return int(session.active_at + session.lifetime_s * SECOND_US)


def read_test(db: Connection, session: rows.SessionRow) -> Test:
    """What a session is a function of. Raises `Invalid` where it names what the course does not have."""
    pool = read_pool(db, session.tenant_id, session.course_id, session.revision, session.plan)
    scales = tuple(scale["id"] for scale in session.plan.get("scales") or ())
    barred = rates(pool, session.barred)
    return Test(pool, plan_of(pool, session.plan), scales, session.seed, barred, session.started_at)


def sit(test: Test, answers: Sequence[rows.AnswerRow]) -> Sitting:
    """The session after some answers."""
    sitting = begin(test.pool.pool, test.plan)
    for row in answers:
        sitting = take_one(test, sitting, row)
    return sitting


def take_one(test: Test, sitting: Sitting, row: rows.AnswerRow) -> Sitting:
    """The session after one more answer."""
    item = test.pool.numbers[row.item_id]
    if row.turn.get("skipped"):
        return passed_over(sitting, item)
    return take(test.pool.pool, test.plan, sitting, item, category(test, item, row.score))


def category(test: Test, item: int, score: float) -> int:
    """The category that a score is; of an item that does not count, any."""
    if item in test.plan.unscored:
        return 0
    return round(score / test.pool.max_scores[item] * int(test.pool.pool.grades[item]))


def score_of(test: Test, given: NewSessionAnswer) -> float:
    """The score of an answer. Raises `InvalidScore` for one that the item cannot have, or that no category is."""
    item = test.pool.numbers.get(given.item)
    highest = 1.0 if item is None else test.pool.max_scores[item]
    score = highest * bool(given.correct) if given.score is None else given.score
    if score > highest:
        raise InvalidScore(
            f"the score is higher than the item's maximum, {highest:g}",
            [Fault("/score", f"must be from 0 to {highest:g}")],
        )
    if item is not None and item not in test.plan.unscored:
        grades = int(test.pool.pool.grades[item])
        if score * grades / highest != category(test, item, score):
            wanted = "0 or its maximum" if grades == 1 else "a whole number"
            raise InvalidScore(f"in a test the score of this item is {wanted}", [Fault("/score", f"must be {wanted}")])
    return score


def keep_turn(pool: TestPool, turn: Turn) -> Json | None:
    """An offer as it is kept; none at the end."""
    if turn.item < 0:
        return None
    return {
        "item": pool.item_ids[turn.item],
        "kind": turn.kind,
        "scored": turn.kind != "pilot",
        "propensity": round(turn.propensity, DIGITS),
        "relaxed": list(turn.relaxed),
        "terms": {name: round(float(value), DIGITS) + 0.0 for name, value in turn.terms.items()},
    }


def tell(test: Test, sitting: Sitting, kept: Json | None, stop: str | None, position: int) -> Json:
    """Where a session stands."""
    told: Json = {
        "status": "open" if stop is None else "finished",
        "position": position,
        **abilities(test, sitting),
        "next": None if kept is None else tell_next(test, sitting, kept),
        "stop": None if stop is None else {"code": stop, "text": STOPS[stop]},
    }
    if test.plan.classification is not None:
        told["classification"] = classification(test, sitting)
    return told


def tell_next(test: Test, sitting: Sitting, kept: Json) -> Json:
    """The item that is offered, and why."""
    item = test.pool.numbers[kept["item"]]
    code = test.plan.rule if kept["kind"] == "selected" else f"{kept['kind']}_item"
    candidates = int(kept["terms"].get("candidates", 0))
    p = (
        None
        if item in test.plan.unscored
        else expected_score(test.pool.pool, item, sitting.ability[int(test.pool.pool.scale[item])])
    )
    return {
        "item": kept["item"],
        "skill": test.pool.skills[item],
        "scored": kept["scored"],
        "p_correct": None if p is None else round(p, DIGITS),
        "propensity": kept["propensity"],
        "reason": {
            "code": code,
            "text": REASONS[code].format(
                candidates="1 item" if candidates == 1 else f"{candidates} items",
                theta=f"{kept['terms']['ability']:.2f}",
            ),
            "terms": kept["terms"],
            **({"relaxed": kept["relaxed"]} if kept["relaxed"] else {}),
        },
    }


def abilities(test: Test, sitting: Sitting) -> Json:
    """The ability, or those of several scales."""
    told = [
        {
            "theta": round(theta, DIGITS) + 0.0,
            "standard_error": round(error, DIGITS),
            **({"at_bound": True} if at_bound else {}),
        }
        for theta, error, at_bound in zip(sitting.ability, sitting.standard_error, sitting.at_bound, strict=True)
    ]
    if not test.scales:
        return {"ability": told[0]}
    several = [{"scale": name, **each} for name, each in zip(test.scales, told, strict=True)]
    return {"ability": None, "abilities": several}


def classification(test: Test, sitting: Sitting) -> list[Json]:
    """On which side of each cut score every ability lies: by the rule where it is decided, else by the estimate."""
    rule = test.plan.classification
    if rule is None:
        return []
    told = []
    for scale, (theta, error) in enumerate(zip(sitting.ability, sitting.standard_error, strict=True)):
        for cut, side in zip(rule.cuts[scale], sides(rule, sitting, scale), strict=True):
            told.append(
                {
                    **({"scale": test.scales[scale]} if test.scales else {}),
                    "cut": cut,
                    "above": theta > cut if side is None else side,
                    "probability": round(float(ndtr((theta - cut) / error)), DIGITS),
                    "decided": side is not None,
                }
            )
    return told


def differences(db: Connection, session: rows.SessionRow) -> Iterator[str]:
    """What is kept of a session and does not follow from its answers, in words."""
    test = read_test(db, session)
    sitting = begin(test.pool.pool, test.plan)
    turn = choose_next(test, sitting, session.started_at)
    for row in rows.list_session_responses(db, session.tenant_id, session.id):
        if offer_before(test, turn, row) != row.turn or row.turn["item"] != row.item_id:
            yield f"session {session.id}: another item follows from the answers before the one at {row.position}"
        sitting = take_one(test, sitting, row)
        turn = choose_next(test, sitting, row.received_at)
        if tell_outcome(test, sitting, turn, row) != row.outcome.encode():
            yield f"session {session.id}: another outcome follows from the answer at {row.position}"
    stands = (len(sitting.items), keep_turn(test.pool, turn), turn.stop)
    if session.stop != ENDED and stands != (session.position, session.turn, session.stop):
        yield f"session {session.id}: where it stands does not follow from its answers"


def offer_before(test: Test, turn: Turn, row: rows.AnswerRow) -> Json:
    """The offer that an answer must have been given to, if `turn` follows from those before."""
    offer = offer_ahead(test, row.item_id) if row.turn["kind"] == AHEAD else keep_turn(test.pool, turn) or {}
    return {**offer, **SKIPPED} if row.turn.get("skipped") else offer


def mastery(db: Connection, session: rows.SessionRow, answers: Sequence[rows.AnswerRow]) -> list[Json]:
    """What the answers that count say of their skills: one fold of the course's engine, from its prior."""
    scored = [row for row in answers if row.turn["scored"]]
    if not scored:
        return []
    bank = bank_at(db, session.tenant_id, session.course_id, session.revision, session.calibration, BANKS)
    states, learner = initial(bank.parameters, 1), np.zeros(1, dtype=np.int64)
    for row in scored:
        item = np.array([bank.item_numbers[row.item_id]])
        score = as_fractions(bank, item, [row.score])
        states, _ = step(bank.parameters, states, item, score, np.array([to_days(row.occurred_at)]))
    skills = np.flatnonzero(states.evidence[0] > 0)
    return mastery_rows(bank, states, np.repeat(learner, len(skills)), skills)
