"""Present a decision: the outcome of each response as JSON, the bytes that are stored and sent. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json

from app.adaptive.practice.choose import Choice
from app.core.times import to_text
from app.queries.responses import RecommendationRow
from app.services.course_model import CourseModel
from app.services.present import (
    DIGITS,
    ability_rows,
    calibration_id,
    item_skill_pairs,
    mastery_rows,
    no_recommendation_reason,
    recommendation_reply,
)
from app.services.recommendations import recommendation_with_extras, reply_extras
from app.services.responses.types import DecidedRound, Decision, NewResponse


def build_outcomes(decision: Decision) -> dict[str, bytes]:
    """The outcome of each response, by its id."""
    return {
        accepted.response.id: to_json(outcome)
        for decided in decision.rounds
        for accepted, outcome in zip(decided.responses, _round_outcomes(decision.course, decided), strict=True)
    }


def _round_outcomes(course: CourseModel, decided: DecidedRound) -> Iterator[dict[str, Any]]:
    """The outcomes of a round, in the order of its responses."""
    rows, skills = item_skill_pairs(course, [accepted.item for accepted in decided.responses])
    mastery: list[list[dict[str, Any]]] = [[] for _ in decided.responses]
    for number, row in zip(rows.tolist(), mastery_rows(course, decided.now, rows, skills, decided.before), strict=True):
        mastery[number].append(row)
    ability = ability_rows(course, decided.now)
    for number, (accepted, offer, choice) in enumerate(
        zip(decided.responses, decided.offers, decided.choices.each(), strict=True)
    ):
        response = accepted.response
        following = _following(course, decided, number, choice)
        outcome: dict[str, Any] = {
            "response": {
                "id": response.id,
                "learner": response.learner,
                "item": response.item,
                "score": accepted.score,
                "occurred_at": to_text(response.occurred_at),
                "position": offer.position,
            },
            "p_correct": round(float(decided.p[number]), DIGITS),
            "ability": ability[number],
            "mastery": mastery[number],
            "next": following,
            "calibration": calibration_id(course.calibration),
        }
        if decided.rapid is not None and decided.rapid[number]:
            outcome["rapid"] = True
        if course.parameters.items.ignored is not None and course.parameters.items.ignored[accepted.item]:
            outcome["suspect"] = True
        if accepted.offered is not None:
            outcome["offer"] = _compare_with_offer(accepted.offered, response)
        if following is None:
            outcome["reason"] = no_recommendation_reason(course, decided.now, choice, number, decided.resolved[number])
        yield outcome | _extras(course, decided, number, following)


def _following(course: CourseModel, decided: DecidedRound, number: int, choice: Choice) -> dict[str, Any] | None:
    """The recommendation after a response; none if no item could be chosen."""
    offer, options = decided.offers[number], decided.resolved[number]
    if options is None:
        return recommendation_reply(course, decided.now, choice, number, offer.id)
    states = decided.after, decided.now
    return recommendation_with_extras(course, states, choice, number, offer.id, options, offer.expires_at)


def _compare_with_offer(offered: RecommendationRow, response: NewResponse) -> dict[str, bool]:
    """Whether a response answers the recommendation it names, and whether that had expired when it was given."""
    expired = offered.expires_at is not None and response.occurred_at > offered.expires_at
    return {"matches": offered.item_id == response.item, "expired": expired}


def _extras(
    course: CourseModel, decided: DecidedRound, number: int, following: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The forecast and the explanations that the options of a response ask for."""
    options = decided.resolved[number]
    if options is None:
        return {}
    single, seeds = slice(number, number + 1), np.array([decided.offers[number].seed], dtype=np.uint64)
    items = () if following is None else (following["item"],)
    return reply_extras(course, decided.now[single], seeds, decided.choices[single], options, items)
