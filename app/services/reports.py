"""What the engine knows, in the words of the contract: mastery rows, recommendations and their reasons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.adaptive import mastery as rules
from app.adaptive.filter import at_bound
from app.adaptive.policy import CODES, Choices
from app.adaptive.types import Integers, States
from app.adaptive.uncertainty import standard_error
from app.services.banks import Bank

DIGITS = 6
# Half a skill's worth of doubt further on: worth a word in the reason.
OPENS_UP = 1.5
TERMS = ("doubt", "opens_up", "learn", "challenge", "prerequisites")
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


def recommendation(bank: Bank, states: States, choices: Choices, learner: int, id_: str) -> Json | None:
    """What was chosen for one learner, with its reason; none if there was nothing to choose."""
    item, skill = int(choices.item[learner]), int(choices.skill[learner])
    if item < 0:
        return None
    return {
        "id": id_,
        "item": bank.item_ids[item],
        "skill": bank.skill_ids[skill] if skill >= 0 else None,
        "p_correct": round(float(choices.p[learner]), DIGITS),
        "reason": {
            "code": CODES[choices.code[learner]],
            "text": sentence(bank, states, choices, learner),
            "terms": terms(choices, learner),
        },
    }


def terms(choices: Choices, learner: int) -> dict[str, float]:
    """The terms of the reason as the policy weighed them."""
    names = TERMS if choices.skill[learner] >= 0 else ("challenge",)
    return {name: round(float(getattr(choices, name)[learner]), DIGITS) for name in names}


def nothing_to_offer(choices: Choices, learner: int) -> Json:
    """Why there is no recommendation."""
    code = CODES[choices.code[learner]]
    return {"code": code, "text": NOTHING[code]}


NOTHING = {
    "all_mastered": "Every skill of this course is mastered.",
    "nothing_eligible": "No exercise of this course is left to offer.",
}

SENTENCES = {
    "practice_skill": "{skill} comes next: mastery is about {mastery} and everything it builds on is settled{opens}; "
    "this exercise is about right, with a {chance} chance of success.",
    "strengthen_skill": "{skill} is the skill in most doubt, with a mastery of about {mastery}{opens}; "
    "this exercise has a {chance} chance of success.",
    "practice_item": "This exercise suits your level, with a {chance} chance of success.",
}


def sentence(bank: Bank, states: States, choices: Choices, learner: int) -> str:
    """The reason in one plain sentence."""
    skill = int(choices.skill[learner])
    return SENTENCES[CODES[choices.code[learner]]].format(
        skill=f"“{bank.skill_titles[skill]}”" if skill >= 0 else "",
        mastery=percent(states.mastery[learner, skill]) if skill >= 0 else "",
        opens=", and it opens up further skills" if choices.opens_up[learner] >= OPENS_UP else "",
        chance=percent(choices.p[learner]),
    )


def percent(share: "float | np.float64") -> str:
    """A probability as people say it, never quite 0 or 100."""
    return f"{min(max(round(100 * float(share)), 1), 99)} %"


def skills_of(bank: Bank, items: Sequence[int] | Integers) -> tuple[Integers, Integers]:
    """All (row, skill) pairs of some items, in the caller's order of skills."""
    asked = bank.parameters.items.skills[np.asarray(items, dtype=np.int64)]
    rows, places = np.nonzero(asked >= 0)
    return rows, asked[rows, places]
