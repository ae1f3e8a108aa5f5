"""Replies from engine values: mastery rows, recommendations and their reasons."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.adaptive.arrays import Integers, Seeds
from app.adaptive.practice.branches import CODES, SelectionCriteria, open_skills
from app.adaptive.practice.choose import Choice, Choices
from app.adaptive.practice.explain import EXPLANATION_CODES, explain
from app.adaptive.practice.forecast import forecast
from app.adaptive.practice.skills import judge_skills
from app.adaptive.state import States
from app.adaptive.tracing import mastery as rules
from app.adaptive.tracing.filter import is_at_bound
from app.adaptive.tracing.state_codec import ENGINE
from app.adaptive.tracing.uncertainty import standard_error
from app.services.course_model import CourseModel
from app.services.options import (
    NO_OPTIONS,
    RecommendationOptions,
    ResolvedOptions,
    filter_masks,
    first_exhausting_filter,
)
from app.texts import say

DIGITS = 6
# How often outcomes were changed beside the engine. Raise it with each change of words, codes, rounding or seeds.
REWORDINGS = 3
# What outcomes and recommendations are stored with, and verified by: only equal versions give equal bytes. Snapshots
# and checkpoints are bound to ENGINE alone, so they are not replayed for the sake of a word.
OUTCOME_VERSION = ENGINE + REWORDINGS
# Half a skill's worth of need further on: worth a word in the reason.
UNLOCKS_MENTIONED = 1.5
# From which chance of success an exercise is called easy, and below which it is called hard.
EASY, HARD = 0.8, 0.45
# The terms of a reason, in the order in which they are written.
TERMS = ("need", "unlocks", "p_learn", "difficulty_match", "diagnosticity", "delay", "prerequisites")
Json = dict[str, Any]


def mastery_rows(
    course: CourseModel, states: States, learners: Integers, skills: Integers, before: States | None = None
) -> list[Json]:
    """Return a row for each pair of learner (a row of `states`) and skill, with `change` if earlier states are given.

    `stuck` only where practice makes no progress. Both faded to the moment of the reply.
    """
    mastery, responses = states.mastery[learners, skills], states.responses[learners, skills]
    parameters = course.parameters
    low, high = rules.mastery_interval(
        mastery, responses, parameters.skills.has_prerequisites[skills], parameters.overlap[skills]
    )
    statuses = rules.mastery_status(
        mastery, responses, states.attained[learners, skills], states.mastered[learners, skills]
    )
    rows: list[Json] = [
        {
            "skill": course.skill_ids[skill],
            "mastery": round(q, DIGITS),
            "interval": [round(a, DIGITS), round(b, DIGITS)],
            "responses": count,
            "status": rules.STATUSES[word],
        }
        for skill, q, a, b, count, word in zip(
            skills.tolist(),
            mastery.tolist(),
            low.tolist(),
            high.tolist(),
            responses.tolist(),
            statuses.tolist(),
            strict=True,
        )
    ]
    for number in np.flatnonzero(rules.is_stuck(states)[learners, skills]):
        rows[number]["stuck"] = True
    if before is not None:
        changes = mastery - before.mastery[learners, skills]
        for row, change in zip(rows, changes.tolist(), strict=True):
            row["change"] = round(change, DIGITS)
    return rows


def all_mastery(course: CourseModel, states: States, learner: int) -> list[Json]:
    """Return the rows of one learner for every skill of the course."""
    skills = np.arange(len(course.skill_ids))
    return mastery_rows(course, states, np.full(len(skills), learner), skills)


def ability_rows(course: CourseModel, states: States) -> list[Json]:
    """Return θ of each learner with its standard error; `at_bound` only where the scale ended."""
    errors = standard_error(course.parameters, states)
    rows: list[Json] = [
        {"theta": round(theta, DIGITS), "standard_error": round(error, DIGITS)}
        for theta, error in zip(states.ability.tolist(), errors.tolist(), strict=True)
    ]
    for learner in np.flatnonzero(is_at_bound(states)):
        rows[learner]["at_bound"] = True
    return rows


def calibration_id(number: int | None) -> str | None:
    """Return the public name of a calibration."""
    return None if number is None else f"c-{number}"


def recommendation_reply(
    course: CourseModel,
    states: States,
    choice: Choice,
    learner: int,
    id_: str,
    options: RecommendationOptions = NO_OPTIONS,
) -> Json | None:
    """Return what was chosen for one learner (a row of `states`), with its reason; None if there is nothing."""
    if choice.item < 0:
        return None
    return {
        "id": id_,
        "item": course.item_ids[choice.item],
        "skill": course.skill_ids[choice.skill] if choice.skill >= 0 else None,
        "p_correct": round(choice.p, DIGITS),
        "reason": {
            "code": CODES[choice.code],
            "text": _reason_text(course, states, choice, learner, options),
            "terms": reason_terms(choice),
        },
    }


def reason_terms(choice: Choice) -> dict[str, float]:
    """Return the terms of the reason as the policy weighed them; without a skill there is only the difficulty."""
    names = TERMS if choice.skill >= 0 else ("difficulty_match",)
    return {name: round(getattr(choice, name), DIGITS) for name in names}


def _reason_text(
    course: CourseModel, states: States, choice: Choice, learner: int, options: RecommendationOptions
) -> str:
    """Return the reason in one plain sentence."""
    skill, code = choice.skill, CODES[choice.code]
    language = options.language
    # A skill that the goal does not name is practised for those that it does.
    for_goal = code == "practice_skill" and options.goal and course.skill_ids[skill] not in options.goal
    return say(
        language,
        f"{code}.goal" if for_goal else code,
        skill=_quoted_title(course, skill, language) if skill >= 0 else "",
        mastery=_percent_text(states.mastery[learner, skill], language) if skill >= 0 else "",
        ready=say(language, "ready") if skill >= 0 and course.parameters.skills.has_prerequisites[skill] else "",
        opens=say(language, "unlocks") if choice.unlocks >= UNLOCKS_MENTIONED else "",
        rests=_names_of_resting(course, states, learner, language) if code == "rest_skill" else "",
        stalled=str(states.stalled[learner, skill]) if skill >= 0 else "",
        match=say(language, _match_key(choice.p), chance=_percent_text(choice.p, language)),
        chance=_percent_text(choice.p, language),
    )


def _names_of_resting(course: CourseModel, states: States, learner: int, language: str) -> str:
    """Return the skills that rest because practice made no progress: of the last item, else all that do."""
    status = judge_skills(course.parameters, states[learner : learner + 1])
    rests = status.resting & status.just_practised
    skills = np.flatnonzero(rests if rests.any() else status.resting)
    return _join_names([_quoted_title(course, skill, language) for skill in skills.tolist()], language)


def _match_key(p: float) -> str:
    """Return the key of what is said of an exercise with this chance of success."""
    if p >= EASY:
        return "match.easy"
    return "match.hard" if p < HARD else "match.right"


def _quoted_title(course: CourseModel, skill: int, language: str) -> str:
    """Return the title of a skill within a sentence."""
    return say(language, "quoted", text=course.skill_titles[skill])


def _percent_text(share: "float | np.float64", language: str) -> str:
    """Format a probability as a percentage, never quite 0 or 100."""
    return say(language, "percent", number=str(min(max(round(100 * float(share)), 1), 99)))


def no_recommendation_reason(
    course: CourseModel, states: States, choice: Choice, learner: int, resolved: ResolvedOptions | None = None
) -> Json:
    """Return why there is no recommendation; `filter` names the option that left no item, if one did."""
    code = CODES[choice.code]
    options = NO_OPTIONS if resolved is None else resolved.options
    reason: Json = {"code": code, "text": ""}
    key = code
    if not course.item_ids:
        key = f"{code}.course"
    elif code == "all_mastered" and (options.skill or options.tag or options.kind):
        key = f"{code}.asked"
    elif code == "nothing_eligible" and resolved is not None:
        name = _blocking_filter(course, states[learner : learner + 1], resolved)
        if name is not None:
            reason["filter"], key = name, f"{code}.{name}"
    reason["text"] = say(options.language, key, target=_percent_text(options.target, options.language))
    return reason


def _blocking_filter(course: CourseModel, states: States, resolved: ResolvedOptions) -> str | None:
    """Return the filter that left one learner no item, after those before it."""
    parameters, criteria, masks = (
        course.parameters,
        resolved.criteria or SelectionCriteria(),
        filter_masks(course, resolved),
    )
    item_skills = parameters.items.skills
    everything = np.asarray((item_skills >= 0).any(axis=1))
    if not everything.any():
        return first_exhausting_filter(~everything, masks if criteria.goal is None else {**masks, "goal": everything})
    skills = open_skills(parameters, states, judge_skills(parameters, states), replace(criteria, skills=None))
    in_question = (skills.doable | skills.unfinished | skills.fading)[0]
    worth_it = np.asarray((in_question[item_skills] & (item_skills >= 0)).any(axis=1))
    if criteria.goal is None:
        return first_exhausting_filter(worth_it, masks)
    labelled = {name: mask for name, mask in masks.items() if name in {"skill", "tag", "kind"}}
    return first_exhausting_filter(everything, {**labelled, "goal": worth_it, **masks})


def forecast_reply(course: CourseModel, states: States, resolved: ResolvedOptions) -> Json | None:
    """Return how many exercises one learner has left to the goal, or to mastery of everything; None if that is open."""
    named = None if resolved.criteria is None else resolved.criteria.goal
    goal = np.flatnonzero(course.parameters.item_counts) if named is None else named
    remaining = forecast(course.parameters, states, goal, resolved.options.target) if goal.size else None
    if remaining is None:
        return None
    return {"exercises": round(remaining.mean, 1), "interval": [math.floor(remaining.low), math.ceil(remaining.high)]}


def explanations(
    course: CourseModel,
    states: States,
    seeds: Seeds,
    choices: Choices,
    resolved: ResolvedOptions,
    recommended: Collection[str],
) -> list[Json]:
    """Return why each of the items asked about was not chosen for one learner; `recommended` were."""
    return [
        _explanation(course, states, seeds, choices, resolved, item, recommended) for item in resolved.options.why_not
    ]


def _explanation(
    course: CourseModel,
    states: States,
    seeds: Seeds,
    choices: Choices,
    resolved: ResolvedOptions,
    item: str,
    recommended: Collection[str],
) -> Json:
    """Return why one item was not chosen."""
    language = resolved.options.language
    number = course.item_numbers.get(item)
    if number is None or item in recommended:
        code = "unknown_item" if number is None else "recommended"
        return {"item": item, "reason": {"code": code, "text": say(language, f"why_not.{code}")}}
    for name, lets_through in filter_masks(course, resolved).items():
        if not lets_through[number]:
            text = say(language, f"why_not.excluded.{name}")
            return {"item": item, "reason": {"code": "excluded", "text": text, "filter": name}}
    explained = explain(
        course.parameters, states, seeds, resolved.avoid, resolved.criteria or SelectionCriteria(), choices, number
    )
    [weighed] = explained.item.each()
    skill, code = weighed.skill, EXPLANATION_CODES[explained.code]
    reason: Json = {
        "code": code,
        "text": say(
            language,
            f"why_not.{code}",
            skill=_quoted_title(course, skill, language) if skill >= 0 else "",
            chance=_percent_text(weighed.p, language),
            rank=str(explained.rank),
            of=str(explained.of),
            prerequisites=_join_names(
                [_quoted_title(course, missing, language) for missing in explained.missing.tolist()], language
            ),
        ),
        "terms": reason_terms(weighed),
    }
    if explained.rank:
        reason |= {"rank": explained.rank, "of": explained.of}
    return {
        "item": item,
        "skill": course.skill_ids[skill] if skill >= 0 else None,
        "p_correct": round(weighed.p, DIGITS),
        "reason": reason,
    }


def _join_names(names: Sequence[str], language: str) -> str:
    """Join names in a sentence."""
    if len(names) < 2:  # noqa: PLR2004 (two are joined)
        return "".join(names)
    return say(language, "list_and", first=", ".join(names[:-1]), last=names[-1])


def item_skill_pairs(course: CourseModel, items: Sequence[int] | Integers) -> tuple[Integers, Integers]:
    """Return all (row, skill) pairs of some items, in the caller's order of skills."""
    item_skills = course.parameters.items.skills[np.asarray(items, dtype=np.int64)]
    rows, columns = np.nonzero(item_skills >= 0)
    return rows, item_skills[rows, columns]
