"""Adaptive tests: start, answer, read and end a session.

A session is a function of what was agreed at its start, stored in its row, and of its answers: each request replays
it from them, so the same item is offered after a crash. Everything here runs inside the caller's
transaction, and the row of the session is locked first.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic_core import to_json
from scipy.special import ndtr
from sqlalchemy import Connection

from app.adaptive.arrays import Floats
from app.adaptive.cat import (
    Assemble,
    ExamineeState,
    NextItem,
    Plan,
    assemble_shadow_test,
    expected_score,
    look_ahead,
    next_item,
    start_test,
    update_state,
)
from app.adaptive.cat.state import add_unscored
from app.adaptive.cat.stopping import decide_cuts
from app.adaptive.tracing.filter import initial_states, update_states
from app.adaptive.tracing.state_codec import ENGINE
from app.adaptive.tracing.uncertainty import standard_error
from app.core.errors import (
    Conflict,
    Fault,
    InvalidScore,
    NotOffered,
    ProximaError,
    SessionFinished,
    UnknownSession,
)
from app.core.times import to_days, to_text
from app.files.responses import ROUNDING
from app.queries import sessions as rows
from app.queries.learners import find_learners
from app.services.catalogue import need_course
from app.services.course_model import CourseModel, LruCache, course_model_at, read_course_model
from app.services.item_pools import ItemPool, check_agreement, read_pool
from app.services.present import DIGITS, calibration_id, mastery_rows
from app.services.replay import as_fractions, load_states, states_at
from app.services.responses import NewResponse, RecordedResponse, record
from app.services.responses.read import check_score
from app.services.session_agreement import (
    AgreedPrior,
    SessionAgreement,
    decode_agreement,
    encode_agreement,
    pool_indices,
    to_engine_plan,
)
from app.services.shadow_tests import assemble_first
from app.texts import FALLBACK, say

SECOND_US = 1_000_000
# The latest sessions of a course by which an item is found to have been shown too often.
EXPOSURE_WINDOW = 1000
SESSION_MODELS: LruCache[CourseModel] = LruCache()
ENDED = "ended"
AHEAD = "ahead"
ASSEMBLY = "assembly"
SKIPPED = {"scored": False, "skipped": True}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewSessionResponse:
    """A received answer to the item that a session offers; times in µs, `has_timestamp` if the caller gave one.

    `skipped`: the learner left the item out; the score is then 0 and does not count.
    """

    id: str
    item: str
    score: float | None
    correct: bool | None
    occurred_at: int
    has_timestamp: bool
    received_at: int
    duration_ms: int | None
    skipped: bool = False


@dataclass(frozen=True)
class _AdaptiveTest:
    """All that determines a session but for its answers. `excluded` (I,) is 1 for the items that it may not have.

    Its sentences are in `language`.
    """

    pool: ItemPool
    plan: Plan
    scales: tuple[str, ...]
    seed: int
    excluded: Floats
    started_at: int
    language: str


def start_session(
    db: Connection, tenant_id: int, course_id: str, id_: str, agreed: SessionAgreement, now: int
) -> tuple[str, Json]:
    """Start a session and return its state: `created`, or `duplicate` if this id agreed on the same before.

    Raises `Conflict` if it agreed on something else, `Invalid` for what no test of the course can keep.
    """
    course = need_course(db, tenant_id, course_id)
    known = rows.find_session(db, tenant_id, id_)
    if known is not None:
        if known.course_id != course_id or not _is_same_agreement(decode_agreement(known.plan), agreed):
            raise Conflict("this id was used for a different session; use a new id", [Fault("/id", "is taken")])
        return "duplicate", describe_session(db, tenant_id, id_, now)
    agreement = replace(agreed, prior=_resolve_prior(db, tenant_id, course_id, agreed, now))
    row = rows.SessionRow(
        tenant_id=tenant_id,
        id=id_,
        course_id=course_id,
        learner_id=agreed.learner,
        plan=encode_agreement(agreement),
        excluded_items=_find_overexposed_items(db, tenant_id, course_id, agreed.selection.max_exposure),
        seed=secrets.randbits(53) if agreed.seed is None else agreed.seed,
        revision=course.revision,
        calibration=course.calibration,
        engine=ENGINE,
        position=0,
        offer=None,
        stop=None,
        lifetime_s=agreed.lifetime_s,
        started_at=now,
        active_at=now,
    )
    test = read_test(db, row)
    check_agreement(db, tenant_id, course_id, agreement, test.pool)
    state = start_test(test.pool.pool, test.plan)
    decision = _select_next_item(test, state, now, (), assemble_first)
    rows.insert_session(db, row._replace(offer=_to_offer(test.pool, decision), stop=decision.stop))
    return "created", describe_session(db, tenant_id, id_, now)


def _is_same_agreement(stored: SessionAgreement, agreed: SessionAgreement) -> bool:
    """Return whether a session agreed on what is asked for; a prior that practice gave was not asked for in numbers."""
    return (replace(stored, prior=agreed.prior) if agreed.prior_from_practice else stored) == agreed


def _resolve_prior(db: Connection, tenant_id: int, course_id: str, agreed: SessionAgreement, now: int) -> AgreedPrior:
    """Return the prior in numbers: as given, or from what practice has shown of the learner until now."""
    if not agreed.prior_from_practice or agreed.learner is None:
        return agreed.prior
    course_model = read_course_model(db, tenant_id, course_id)
    learner_rows = find_learners(db, tenant_id, course_id, [agreed.learner])
    learners = list(learner_rows.values())
    states = (
        states_at(course_model, load_states(db, course_model, learners), now)
        if learners
        else initial_states(course_model.parameters, 1)
    )
    return AgreedPrior(float(states.ability[0]), float(standard_error(course_model.parameters, states)[0]))


def _find_overexposed_items(db: Connection, tenant_id: int, course_id: str, max_share: float | None) -> list[str]:
    """Return the items that were in a greater share of the course's latest sessions than is allowed."""
    if max_share is None:
        return []
    sessions, shown = rows.count_exposures(db, tenant_id, course_id, EXPOSURE_WINDOW)
    return sorted(item for item, count in shown.items() if count >= max_share * sessions)


def _exclusion_vector(pool: ItemPool, excluded: Sequence[str]) -> Floats:
    """Return 1 for the items that are excluded, 0 for all others; (I,)."""
    vector = np.zeros(len(pool.item_ids))
    vector[[pool.index_by_id[item] for item in excluded if item in pool.index_by_id]] = 1.0
    return vector


def record_session_response(
    db: Connection, tenant_id: int, session_id: str, response: NewSessionResponse, lookahead: Sequence[str] = ()
) -> RecordedResponse:
    """Record the answer to the offered item, and offer the next one.

    The items of `lookahead` were offered in advance too, to a client that could not ask again. Raises `UnknownSession`,
    `NotOffered`, `SessionFinished`, `InvalidScore`, and `Conflict` for an id that is taken.
    """
    session = need_session(db, tenant_id, session_id, lock=True)
    responses = rows.list_session_responses(db, tenant_id, session_id)
    test = read_test(db, session)
    stored = next((row for row in responses if row.id == response.id), None)
    if stored is not None:
        return _repeat_outcome(test, response, stored)
    offered = _need_offer(session, response.received_at)
    offer = _match_offer(test, offered, response, lookahead)
    row = rows.SessionResponseRow(
        tenant_id=tenant_id,
        session_id=session_id,
        id=response.id,
        position=session.position + 1,
        course_id=session.course_id,
        item_id=response.item,
        score=_resolve_session_score(test, response),
        occurred_at=response.occurred_at,
        received_at=response.received_at,
        duration_ms=response.duration_ms,
        offer=offer,
        outcome="",
    )
    state = _replay_test(test, [*responses, row])
    decision = _select_next_item(test, state, response.received_at, _known_assembly(test, offered), assemble_first)
    outcome = _encode_outcome(test, state, decision, row)
    rows.insert_session_response(db, row._replace(outcome=outcome.decode()))
    values = {
        "position": row.position,
        "offer": _to_offer(test.pool, decision),
        "stop": decision.stop,
        "active_at": response.received_at,
    }
    rows.update_session(db, tenant_id, session_id, values)
    if session.learner_id is not None and decode_agreement(session.plan).updates_mastery and offer["scored"]:
        _record_in_practice(db, session.learner_id, response, row)
    return RecordedResponse("created", outcome)


def _match_offer(test: _AdaptiveTest, offer: Json, response: NewSessionResponse, lookahead: Sequence[str]) -> Json:
    """Return the offer that an answer was given to, as it is stored with it. Raises `NotOffered`."""
    if response.item != offer["item"]:
        if response.item not in lookahead:
            raise NotOffered(
                f"this session offers the item {offer['item']}; answer that one",
                [Fault("/item", "is not the one offered")],
            )
        offer = _lookahead_offer(test, response.item)
    return _as_answered(offer, skipped=response.skipped)


def _as_answered(offer: Json, *, skipped: bool) -> Json:
    """Return an offer as it is stored with its answer: without the assembly, which serves the next choice only."""
    answered = {name: value for name, value in offer.items() if name != ASSEMBLY}
    return {**answered, **SKIPPED} if skipped else answered


def _lookahead_offer(test: _AdaptiveTest, item: str) -> Json:
    """Return the offer of an item that was answered ahead, and that might not have been chosen any more."""
    scored = test.pool.index_by_id[item] not in test.plan.unscored
    return {"item": item, "kind": AHEAD, "scored": scored, "propensity": None, "relaxed": [], "terms": {}}


def _select_next_item(
    test: _AdaptiveTest, state: ExamineeState, moment: int, known: tuple[int, ...], assemble: Assemble
) -> NextItem:
    """Select what follows the answers so far, at a moment in µs; `known` is the assembly of the choice before."""
    elapsed = max(moment - test.started_at, 0) / SECOND_US
    return next_item(test.pool.pool, test.plan, state, test.seed, elapsed, test.excluded, known, assemble)


def _known_assembly(test: _AdaptiveTest, offer: Json) -> tuple[int, ...]:
    """Return the assembly that an offer was chosen from."""
    return tuple(pool_indices(test.pool.index_by_id, offer.get(ASSEMBLY, ())))


def _encode_outcome(
    test: _AdaptiveTest, state: ExamineeState, decision: NextItem, row: rows.SessionResponseRow
) -> bytes:
    """Encode the outcome of an answer as JSON; `summary` is the session after it."""
    summary = _describe_state(test, state, _to_offer(test.pool, decision), decision.stop, row.position)
    return to_json({"response": _describe_response(row), **summary})


def _describe_response(row: rows.SessionResponseRow) -> Json:
    """Describe a stored answer."""
    return {
        "id": row.id,
        "item": row.item_id,
        "score": row.score,
        "scored": row.offer["scored"],
        "occurred_at": to_text(row.occurred_at),
        "position": row.position,
    }


def _repeat_outcome(
    test: _AdaptiveTest, response: NewSessionResponse, row: rows.SessionResponseRow
) -> RecordedResponse:
    """Return the first outcome again if the content is the same. Raises `Conflict` if not."""
    same = (response.item, response.duration_ms) == (row.item_id, row.duration_ms)
    if (
        not same
        or _resolve_session_score(test, response) != row.score
        or (response.has_timestamp and response.occurred_at != row.occurred_at)
    ):
        raise Conflict("this id was used for a different answer; use a new id", [Fault("/id", "is taken")])
    return RecordedResponse("duplicate", row.outcome.encode())


def _record_in_practice(
    db: Connection, learner: str, response: NewSessionResponse, row: rows.SessionResponseRow
) -> None:
    """Record an answer of the test as an answer of the learner in the course too."""
    name = hashlib.blake2b(f"{row.session_id}\0{row.id}".encode(), digest_size=12).hexdigest()
    in_practice = NewResponse(
        tenant_id=row.tenant_id,
        course_id=row.course_id,
        id=f"t-{name}",
        learner=learner,
        item=row.item_id,
        score=row.score,
        correct=None,
        occurred_at=row.occurred_at,
        has_timestamp=response.has_timestamp,
        received_at=row.received_at,
        duration_ms=row.duration_ms,
        recommendation=None,
    )
    [result] = record(db, [in_practice])
    if isinstance(result, ProximaError):
        raise result


def end_session(db: Connection, tenant_id: int, session_id: str, now: int) -> Json:
    """End a session before its time and return its state; ending it again changes nothing."""
    session = need_session(db, tenant_id, session_id, lock=True)
    if session.stop is None:
        rows.update_session(db, tenant_id, session_id, {"offer": None, "stop": ENDED, "active_at": now})
    return describe_session(db, tenant_id, session_id, now)


def describe_session(db: Connection, tenant_id: int, session_id: str, now: int) -> Json:
    """Return a session as a whole."""
    session = need_session(db, tenant_id, session_id)
    test = read_test(db, session)
    responses = rows.list_session_responses(db, tenant_id, session_id)
    state, steps = start_test(test.pool.pool, test.plan), []
    for row in responses:
        state = _apply_response(test, state, row)
        steps.append({**_describe_response(row), **_describe_abilities(test, state)})
    summary = _describe_state(test, state, session.offer, session.stop, session.position)
    return {
        "id": session.id,
        "course": session.course_id,
        "learner": session.learner_id,
        **summary,
        "status": _session_status(session, now),
        "seed": session.seed,
        "calibration": calibration_id(session.calibration),
        "revision": session.revision,
        "started_at": to_text(session.started_at),
        "expires_at": to_text(expires_at(session)),
        "responses": steps,
        "mastery": _session_mastery(db, session, responses),
    }


def page_of_sessions(db: Connection, tenant_id: int, course_id: str, after: str, limit: int, now: int) -> list[Json]:
    """Return sessions of a course by id. Raises `UnknownCourse`."""
    need_course(db, tenant_id, course_id)
    return [
        {
            "id": row.id,
            "learner": row.learner_id,
            "status": _session_status(row, now),
            "position": row.position,
            "started_at": to_text(row.started_at),
        }
        for row in rows.page_sessions(db, tenant_id, course_id, after, limit)
    ]


def list_lookahead_items(db: Connection, session: rows.SessionRow, limit: int) -> list[str]:
    """Return up to `limit` items that would come next if no answer changed the estimate, the offered one first."""
    if session.offer is None:
        return []
    test = read_test(db, session)
    responses = rows.list_session_responses(db, session.tenant_id, session.id)
    state = _replay_test(test, responses)
    known = _known_assembly(test, session.offer)
    lookahead = look_ahead(test.pool.pool, test.plan, state, test.seed, limit, test.excluded, known, assemble_first)
    return [test.pool.item_ids[item] for item in lookahead]


def need_session(db: Connection, tenant_id: int, session_id: str, *, lock: bool = False) -> rows.SessionRow:
    """Return the row of a session. Raises `UnknownSession`."""
    session = rows.find_session(db, tenant_id, session_id, lock=lock)
    if session is None:
        raise UnknownSession("there is no such session")
    return session


def _need_offer(session: rows.SessionRow, now: int) -> Json:
    """Return what a session offers. Raises `SessionFinished` for one that takes no answer any more."""
    if session.stop is not None or session.offer is None:
        raise SessionFinished(f"this session is over: {_stop_text(FALLBACK, session.stop or ENDED)}")
    if now > expires_at(session):
        raise SessionFinished("this session was left alone for longer than its lifetime_s; begin another")
    return session.offer


def _session_status(session: rows.SessionRow, now: int) -> str:
    """Return whether a session is open, finished or expired."""
    if session.stop is not None:
        return "finished"
    return "expired" if now > expires_at(session) else "open"


def expires_at(session: rows.SessionRow) -> int:
    """Return when a session takes no more answers."""
    return int(session.active_at + session.lifetime_s * SECOND_US)


def read_test(db: Connection, session: rows.SessionRow) -> _AdaptiveTest:
    """Read all that determines a session but for its answers."""
    agreement = decode_agreement(session.plan)
    pool = read_pool(db, session.tenant_id, session.course_id, session.revision, agreement)
    plan = to_engine_plan(agreement, pool.index_by_id)
    scales = tuple(scale.id for scale in agreement.scales or ())
    excluded = _exclusion_vector(pool, session.excluded_items)
    language = agreement.language or FALLBACK
    return _AdaptiveTest(pool, plan, scales, session.seed, excluded, session.started_at, language)


def _replay_test(test: _AdaptiveTest, responses: Sequence[rows.SessionResponseRow]) -> ExamineeState:
    """Return the state of the examinee after some answers."""
    state = start_test(test.pool.pool, test.plan)
    for row in responses:
        state = _apply_response(test, state, row)
    return state


def _apply_response(test: _AdaptiveTest, state: ExamineeState, row: rows.SessionResponseRow) -> ExamineeState:
    """Return the state of the examinee after one more answer."""
    item = test.pool.index_by_id[row.item_id]
    if row.offer.get("skipped"):
        return add_unscored(state, item)
    return update_state(test.pool.pool, test.plan, state, item, _category_of_score(test, item, row.score))


def _category_of_score(test: _AdaptiveTest, item: int, score: float) -> int:
    """Return the category of a score; of an unscored item, any."""
    if item in test.plan.unscored:
        return 0
    return round(score / test.pool.max_scores[item] * int(test.pool.pool.max_category[item]))


def _resolve_session_score(test: _AdaptiveTest, response: NewSessionResponse) -> float:
    """Return the score of an answer. Raises `InvalidScore` for one that the item cannot have or no category has."""
    item = test.pool.index_by_id.get(response.item)
    highest = 1.0 if item is None else test.pool.max_scores[item]
    score = highest * bool(response.correct) if response.score is None else response.score
    score = check_score(score, highest, 0)
    if item is not None and item not in test.plan.unscored:
        max_category = int(test.pool.pool.max_category[item])
        category = _category_of_score(test, item, score)
        if abs(score * max_category / highest - category) > ROUNDING * max_category:
            allowed = "0 or its maximum" if max_category == 1 else "a whole number"
            raise InvalidScore(
                f"in a test the score of this item is {allowed}", [Fault("/score", f"must be {allowed}")]
            )
    return score


def _to_offer(pool: ItemPool, decision: NextItem) -> Json | None:
    """Return an offer as it is stored; None at the end."""
    if decision.item < 0:
        return None
    assembly = [pool.item_ids[item] for item in decision.assembly]
    return {
        "item": pool.item_ids[decision.item],
        "kind": decision.kind,
        "scored": decision.kind != "pilot",
        "propensity": round(decision.propensity, DIGITS),
        "relaxed": list(decision.relaxed),
        "terms": {name: round(float(value), DIGITS) + 0.0 for name, value in decision.terms.items()},
        **({ASSEMBLY: assembly} if assembly else {}),
    }


def _describe_state(
    test: _AdaptiveTest, state: ExamineeState, offer: Json | None, stop: str | None, position: int
) -> Json:
    """Describe the state of a session."""
    summary: Json = {
        "status": "open" if stop is None else "finished",
        "position": position,
        **_describe_abilities(test, state),
        "next": None if offer is None else _describe_next_item(test, state, offer),
        "stop": None if stop is None else {"code": stop, "text": _stop_text(test.language, stop)},
    }
    if test.plan.classification is not None:
        summary["classification"] = _describe_classification(test, state)
    return summary


def _describe_next_item(test: _AdaptiveTest, state: ExamineeState, offer: Json) -> Json:
    """Describe the item that is offered, and why."""
    item = test.pool.index_by_id[offer["item"]]
    code = test.plan.rule if offer["kind"] == "selected" else f"{offer['kind']}_item"
    candidates = int(offer["terms"].get("candidates", 0))
    p = (
        None
        if item in test.plan.unscored
        else expected_score(test.pool.pool, item, state.ability[int(test.pool.pool.scale[item])])
    )
    return {
        "item": offer["item"],
        "skill": test.pool.skills[item],
        "scored": offer["scored"],
        "p_correct": None if p is None else round(p, DIGITS),
        "propensity": offer["propensity"],
        "reason": {
            "code": code,
            "text": _reason_text(test.language, code, candidates, offer["terms"]["ability"]),
            "terms": offer["terms"],
            **({"relaxed": offer["relaxed"]} if offer["relaxed"] else {}),
        },
    }


def _stop_text(language: str, code: str) -> str:
    """Return why a test ended, as a sentence."""
    return say(language, f"session.stop.{code}")


def _reason_text(language: str, code: str, candidates: int, ability: float) -> str:
    """Return why an item was chosen, as a sentence."""
    return say(
        language,
        f"session.reason.{code}",
        candidates=say(language, f"session.items.{'one' if candidates == 1 else 'many'}", number=str(candidates)),
        theta=f"{ability:.2f}".replace(".", say(language, "decimal_mark")),
    )


def _describe_abilities(test: _AdaptiveTest, state: ExamineeState) -> Json:
    """Describe the ability, or those of several scales."""
    estimates = [
        {
            "theta": round(theta, DIGITS) + 0.0,
            "standard_error": round(error, DIGITS),
            **({"at_bound": True} if at_bound else {}),
        }
        for theta, error, at_bound in zip(state.ability, state.standard_error, state.at_bound, strict=True)
    ]
    if not test.scales:
        return {"ability": estimates[0]}
    several = [{"scale": name, **estimate} for name, estimate in zip(test.scales, estimates, strict=True)]
    return {"ability": None, "abilities": several}


def _describe_classification(test: _AdaptiveTest, state: ExamineeState) -> list[Json]:
    """Return on which side of each cut score every ability lies: as the rule decided, else by the estimate."""
    rule = test.plan.classification
    if rule is None:
        return []
    verdicts = []
    for scale, (theta, error) in enumerate(zip(state.ability, state.standard_error, strict=True)):
        for cut, side in zip(rule.cuts[scale], decide_cuts(rule, state, scale), strict=True):
            verdicts.append(
                {
                    **({"scale": test.scales[scale]} if test.scales else {}),
                    "cut": cut,
                    "above": theta > cut if side is None else side,
                    "probability": round(float(ndtr((theta - cut) / error)), DIGITS),
                    "decided": side is not None,
                }
            )
    return verdicts


def find_session_differences(db: Connection, session: rows.SessionRow) -> Iterator[str]:
    """Yield, in words, what is stored of a session and does not follow from its answers."""
    test = read_test(db, session)
    state = start_test(test.pool.pool, test.plan)
    decision = _select_next_item(test, state, session.started_at, (), assemble_shadow_test)
    for row in rows.list_session_responses(db, session.tenant_id, session.id):
        if _expected_offer(test, decision, row) != row.offer or row.offer["item"] != row.item_id:
            yield f"session {session.id}: another item follows from the answers before the one at {row.position}"
        state = _apply_response(test, state, row)
        decision = _select_next_item(test, state, row.received_at, decision.assembly, assemble_shadow_test)
        if _encode_outcome(test, state, decision, row) != row.outcome.encode():
            yield f"session {session.id}: another outcome follows from the answer at {row.position}"
    replayed = (len(state.items), _to_offer(test.pool, decision), decision.stop)
    if session.stop != ENDED and replayed != (session.position, session.offer, session.stop):
        yield f"session {session.id}: where it stands does not follow from its answers"


def _expected_offer(test: _AdaptiveTest, decision: NextItem, row: rows.SessionResponseRow) -> Json:
    """Return the offer that an answer must have been given to, if `decision` follows from those before."""
    offer = _lookahead_offer(test, row.item_id) if row.offer["kind"] == AHEAD else _to_offer(test.pool, decision) or {}
    return _as_answered(offer, skipped=bool(row.offer.get("skipped")))


def _session_mastery(
    db: Connection, session: rows.SessionRow, responses: Sequence[rows.SessionResponseRow]
) -> list[Json]:
    """Return the mastery of skills by the answers that count: one replay by the course's engine, from its prior."""
    scored = [row for row in responses if row.offer["scored"]]
    if not scored:
        return []
    course_model = course_model_at(
        db, session.tenant_id, session.course_id, session.revision, session.calibration, SESSION_MODELS
    )
    states, learner = initial_states(course_model.parameters, 1), np.zeros(1, dtype=np.int64)
    for row in scored:
        item = np.array([course_model.item_numbers[row.item_id]])
        score = as_fractions(course_model, item, [(row.score, None)])
        states, _ = update_states(course_model.parameters, states, item, score, np.array([to_days(row.occurred_at)]))
    skills = np.flatnonzero(states.responses[0] > 0)
    return mastery_rows(course_model, states, np.repeat(learner, len(skills)), skills)
