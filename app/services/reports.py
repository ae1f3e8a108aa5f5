"""What the engine knows, in the words of the contract: mastery rows, recommendations and their reasons."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.adaptive import mastery as rules
from app.adaptive.filter import at_bound
from app.adaptive.forecast import forecast
from app.adaptive.objections import OBJECTIONS, object_to
from app.adaptive.policy import CODES, Aim, Choice, Choices, open_skills, stand
from app.adaptive.types import Integers, Seeds, States
from app.adaptive.uncertainty import standard_error
from app.services.banks import Bank
from app.services.wishes import NO_WISHES, Wanted, Wishes, filters, first_to_leave_nothing
from app.texts import say

DIGITS = 6
# Half a skill's worth of doubt further on: worth a word in the reason.
OPENS_UP = 1.5
TERMS = ("doubt", "opens_up", "learn", "challenge", "tells", "prerequisites")
Json = dict[str, Any]


def mastery_rows(
    bank: Bank, states: States, learners: Integers, skills: Integers, before: States | None = None
) -> list[Json]:
    """One row for each pair of learner (a row of `states`) and skill; with `change` if the states before are given.

    Both as they are at the moment of telling.
    """
    mastery, evidence = states.mastery[learners, skills], states.evidence[learners, skills]
    parameters = bank.parameters
    low, high = rules.interval(mastery, evidence, parameters.skills.built_on[skills], parameters.shared[skills])
    words = rules.status(mastery, evidence, states.attained[learners, skills])
    rows: list[Json] = [
        {
            "skill": bank.skill_ids[skill],
            "mastery": round(q, DIGITS),
            "interval": [round(a, DIGITS), round(b, DIGITS)],
            "evidence": count,
            "status": rules.STATUSES[word],
        }
        for skill, q, a, b, count, word in zip(
            skills.tolist(),
            mastery.tolist(),
            low.tolist(),
            high.tolist(),
            evidence.tolist(),
            words.tolist(),
            strict=True,
        )
    ]
    if before is not None:
        changes = mastery - before.mastery[learners, skills]
        for row, change in zip(rows, changes.tolist(), strict=True):
            row["change"] = round(change, DIGITS)
    return rows


def all_mastery(bank: Bank, states: States, learner: int) -> list[Json]:
    """The rows of one learner for every skill of the course."""
    skills = np.arange(len(bank.skill_ids))
    return mastery_rows(bank, states, np.full(len(skills), learner), skills)


def abilities(bank: Bank, states: States) -> list[Json]:
    """θ of each learner with its standard error; `at_bound` only where the scale ended."""
    errors = standard_error(bank.parameters, states)
    told: list[Json] = [
        {"theta": round(theta, DIGITS), "standard_error": round(error, DIGITS)}
        for theta, error in zip(states.ability.tolist(), errors.tolist(), strict=True)
    ]
    for learner in np.flatnonzero(at_bound(states)):
        told[learner]["at_bound"] = True
    return told


def calibration_id(number: int | None) -> str | None:
    """The public name of a calibration."""
    return None if number is None else f"c-{number}"


def recommendation(
    bank: Bank, states: States, choice: Choice, learner: int, id_: str, wishes: Wishes = NO_WISHES
) -> Json | None:
    """What was chosen for one learner (a row of `states`), with its reason; none if there was nothing to choose."""
    if choice.item < 0:
        return None
    return {
        "id": id_,
        "item": bank.item_ids[choice.item],
        "skill": bank.skill_ids[choice.skill] if choice.skill >= 0 else None,
        "p_correct": round(choice.p, DIGITS),
        "reason": {
            "code": CODES[choice.code],
            "text": sentence(bank, states, choice, learner, wishes),
            "terms": terms(choice),
        },
    }


def terms(choice: Choice) -> dict[str, float]:
    """The terms of the reason as the policy weighed them."""
    names = TERMS if choice.skill >= 0 else ("challenge",)
    return {name: round(getattr(choice, name), DIGITS) for name in names}


def sentence(bank: Bank, states: States, choice: Choice, learner: int, wishes: Wishes) -> str:
    """The reason in one plain sentence."""
    skill, code = choice.skill, CODES[choice.code]
    language = wishes.language
    # A skill that the goal does not name is practised for those that it does.
    for_goal = code == "practice_skill" and wishes.goal and bank.skill_ids[skill] not in wishes.goal
    return say(
        language,
        f"{code}.goal" if for_goal else code,
        skill=title(bank, skill, language) if skill >= 0 else "",
        mastery=percent(states.mastery[learner, skill], language) if skill >= 0 else "",
        opens=say(language, "opens_up") if choice.opens_up >= OPENS_UP else "",
        chance=percent(choice.p, language),
    )


def title(bank: Bank, skill: int, language: str) -> str:
    """The title of a skill within a sentence."""
    return say(language, "quoted", text=bank.skill_titles[skill])


def percent(share: "float | np.float64", language: str) -> str:
    """A probability as people say it, never quite 0 or 100."""
    return say(language, "percent", number=str(min(max(round(100 * float(share)), 1), 99)))


def nothing_to_offer(bank: Bank, states: States, choice: Choice, learner: int, wanted: Wanted | None = None) -> Json:
    """Why there is no recommendation; `filter` names the wish that left nothing, if one did."""
    code = CODES[choice.code]
    wishes = NO_WISHES if wanted is None else wanted.wishes
    told: Json = {"code": code, "text": ""}
    key = code
    if not bank.item_ids:
        key = f"{code}.course"
    elif code == "all_mastered" and (wishes.skill or wishes.tag or wishes.kind):
        key = f"{code}.asked"
    elif code == "nothing_eligible" and wanted is not None:
        blamed = blame(bank, states[learner : learner + 1], wanted)
        if blamed is not None:
            told["filter"], key = blamed, f"{code}.{blamed}"
    told["text"] = say(wishes.language, key, target=percent(wishes.target, wishes.language))
    return told


def blame(bank: Bank, states: States, wanted: Wanted) -> str | None:
    """Which filter left one learner nothing, after those before it."""
    parameters, aim, masks = bank.parameters, wanted.aim or Aim(), filters(bank, wanted)
    asked = parameters.items.skills
    everything = np.asarray((asked >= 0).any(axis=1))
    if not everything.any():
        return first_to_leave_nothing(~everything, masks if aim.goal is None else {**masks, "goal": everything})
    in_question = np.logical_or(*open_skills(parameters, states, stand(parameters, states), replace(aim, skills=None)))
    worth_it = np.asarray((in_question[asked] & (asked >= 0)).any(axis=1))
    if aim.goal is None:
        return first_to_leave_nothing(worth_it, masks)
    labelled = {name: mask for name, mask in masks.items() if name in {"skill", "tag", "kind"}}
    return first_to_leave_nothing(everything, {**labelled, "goal": worth_it, **masks})


def foreseen(bank: Bank, states: States, wanted: Wanted) -> Json | None:
    """How many exercises one learner has left to the goal, or to the mastery of everything; none if that is open."""
    named = None if wanted.aim is None else wanted.aim.goal
    goal = np.flatnonzero(bank.parameters.item_counts) if named is None else named
    left = forecast(bank.parameters, states, goal, wanted.wishes.target) if goal.size else None
    if left is None:
        return None
    return {"exercises": round(left.mean, 1), "interval": [math.floor(left.low), math.ceil(left.high)]}


def not_chosen(
    bank: Bank, states: States, seeds: Seeds, choices: Choices, wanted: Wanted, told: Collection[str]
) -> list[Json]:
    """Why each of the items asked about was not chosen for one learner; `told` are those that are recommended."""
    return [objection(bank, states, seeds, choices, wanted, item, told) for item in wanted.wishes.why_not]


def objection(
    bank: Bank, states: States, seeds: Seeds, choices: Choices, wanted: Wanted, item: str, told: Collection[str]
) -> Json:
    """Why one item was not chosen."""
    language = wanted.wishes.language
    number = bank.item_numbers.get(item)
    if number is None or item in told:
        code = "unknown_item" if number is None else "recommended"
        return {"item": item, "reason": {"code": code, "text": say(language, f"why_not.{code}")}}
    for name, lets_through in filters(bank, wanted).items():
        if not lets_through[number]:
            text = say(language, f"why_not.excluded.{name}")
            return {"item": item, "reason": {"code": "excluded", "text": text, "filter": name}}
    found = object_to(bank.parameters, states, seeds, wanted.avoid, wanted.aim or Aim(), choices, number)
    [weighed] = found.item.each()
    skill, code = weighed.skill, OBJECTIONS[found.code]
    reason: Json = {
        "code": code,
        "text": say(
            language,
            f"why_not.{code}",
            skill=title(bank, skill, language) if skill >= 0 else "",
            chance=percent(weighed.p, language),
            rank=str(found.rank),
            of=str(found.of),
            prerequisites=listed([title(bank, missing, language) for missing in found.missing.tolist()], language),
        ),
        "terms": terms(weighed),
    }
    if found.rank:
        reason |= {"rank": found.rank, "of": found.of}
    return {
        "item": item,
        "skill": bank.skill_ids[skill] if skill >= 0 else None,
        "p_correct": round(weighed.p, DIGITS),
        "reason": reason,
    }


def listed(names: Sequence[str], language: str) -> str:
    """Some names in a sentence."""
    if len(names) < 2:  # noqa: PLR2004 (two are joined)
        return "".join(names)
    return say(language, "list_and", first=", ".join(names[:-1]), last=names[-1])


def skills_of(bank: Bank, items: Sequence[int] | Integers) -> tuple[Integers, Integers]:
    """All (row, skill) pairs of some items, in the caller's order of skills."""
    asked = bank.parameters.items.skills[np.asarray(items, dtype=np.int64)]
    rows, places = np.nonzero(asked >= 0)
    return rows, asked[rows, places]
