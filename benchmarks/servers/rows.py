"""The rows that an answer leaves behind and the outcome that is told, without an engine: all but the ids is fixed.

Tables, column types, indexes and the size of everything are Proxima's own, as `tests/benchmarks/test_servers.py` shows.
The learners must exist.
"""

import gc
import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import Connection

from app.core.times import now, to_text
from app.queries.durability import durability_faults
from app.schemas.responses import ResponseIn

TENANT = 1

# An outcome as the service told it once.
REST: dict[str, Any] = {
    "p_correct": 0.837072,
    "ability": {"theta": 1.262665, "standard_error": 0.631313},
    "mastery": [
        {
            "skill": "skill-26",
            "mastery": 0.639866,
            "interval": [0.227968, 0.823305],
            "responses": 1,
            "status": "insufficient",
            "change": 0.279866,
        },
    ],
    "calibration": None,
}
TERMS = {
    "need": 0.713571,
    "unlocks": 27.580655,
    "p_learn": 0.4,
    "difficulty_match": 0.264953,
    "diagnosticity": 0.512204,
    "delay": 1.992188,
    "prerequisites": 1.0,
}
NEXT: dict[str, Any] = {
    "item": "item-1",
    "skill": "skill-1",
    "p_correct": 0.860296,
    "reason": {
        "code": "practice_skill",
        "text": "“skill-1” comes next: mastery is about 82 % and everything it builds on is secured, and it unlocks "
        "further skills; this exercise is about right, with a 86 % chance of success.",
        "terms": TERMS,
    },
}


class Answer(NamedTuple):
    """An answer as it came in."""

    id: str
    body: ResponseIn
    received_at: int


def received(body: ResponseIn) -> Answer:
    """An answer of this moment."""
    return Answer(body.id or f"r-{uuid.uuid4().hex}", body, now())


def next_id(answer: Answer) -> str:
    """The id of the recommendation that follows."""
    return f"n-{hashlib.blake2b(answer.id.encode(), digest_size=12).hexdigest()}"


def outcome(answer: Answer, position: int) -> dict[str, Any]:
    """What is told."""
    told = {
        "id": answer.id,
        "learner": answer.body.learner,
        "item": answer.body.item,
        "score": float(answer.body.correct or 0),
        "occurred_at": to_text(answer.received_at),
        "position": position,
    }
    return {"response": told, **REST, "next": {"id": next_id(answer), **NEXT}}


def outcome_text(answer: Answer, position: int) -> bytes:
    """What is told, as JSON."""
    return to_json(outcome(answer, position))


def response_row(course: str, answer: Answer, learner: Mapping[str, Any], told: str) -> dict[str, Any]:
    """The answer in the log; `learner` is the learner's row after it."""
    return {
        "tenant_id": TENANT,
        "course_id": course,
        "id": answer.id,
        "learner_id": answer.body.learner,
        "position": learner["position"],
        "item_id": answer.body.item,
        "score": float(answer.body.correct or 0),
        "max_score": 1.0,
        "occurred_at": answer.received_at,
        "has_timestamp": False,
        "received_at": answer.received_at,
        "duration_ms": answer.body.duration_ms,
        "recommendation_id": answer.body.recommendation,
        "options": None,
        "calibration": None,
        "revision": learner["revision"],
        "outcome_version": learner["engine"],
        "p_correct": 0.837071919544,
        "outcome": told,
    }


def recommendation_row(course: str, answer: Answer, learner: Mapping[str, Any]) -> dict[str, Any]:
    """What is offered next."""
    return {
        "tenant_id": TENANT,
        "course_id": course,
        "id": next_id(answer),
        "learner_id": answer.body.learner,
        "response_id": answer.id,
        "item_id": NEXT["item"],
        "skill_id": NEXT["skill"],
        "code": "practice_skill",
        "terms": TERMS,
        "p_correct": 0.860295826865,
        "propensity": 0.140538715548,
        "seed": 6225513102935465045,
        "avoided": [],
        "options": None,
        "position": learner["position"],
        "calibration": None,
        "revision": learner["revision"],
        "outcome_version": learner["engine"],
        "offered_at": answer.received_at,
        "expires_at": None,
    }


def advanced(learner: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """What changes of the learner: other bytes of the same length for the state."""
    state = bytes(learner["state"])
    return {
        "position": learner["position"] + 1,
        "theta": learner["theta"] + 0.001,
        "standard_error": learner["standard_error"] * 0.999,
        "state": state[:-1] + bytes([state[-1] ^ 1]),
        "last_occurred_at": answer.received_at,
        "last_response_id": answer.id,
        "calibration": None,
        "revision": learner["revision"],
        "engine": learner["engine"],
    }


def need_durable(db: Connection) -> None:
    """Raises RuntimeError unless every commit is on the disk when it returns."""
    faults = durability_faults(db)
    if faults:
        raise RuntimeError("; ".join(faults))


def settle() -> None:
    """The same rare garbage collection as in the service."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
