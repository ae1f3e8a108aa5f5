"""What a caller may want of the next exercise, and what that means for one learner in one bank.

The same wishes, under the same names, are parameters of a recommendation, `next` of an answer, and what is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.mastery import MASTERY_LINE
from app.adaptive.policy import Aim
from app.adaptive.types import Booleans, Integers
from app.queries.responses import Entry, read_recent
from app.services.banks import Bank
from app.texts import FALLBACK
from app.times import DAY_US


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted of the next exercise; by default nothing.

    Only exercises that ask for one of the skills `skill`, with one of the tags `tag`, of one of the kinds `kind`; none
    of `avoid`, of the last `repeat_after` answers, or answered in the last `repeat_after_days`. `goal` are skills to
    bring to the mastery `target`. After `switch_after` answers in a row on a skill another one comes first. With the
    chance `explore` any exercise is drawn, with the chance `review` a decayed skill comes first. An offer holds for
    `lease_s`. The others are about what is told beside it.
    """

    skill: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    repeat_after: int | None = None
    repeat_after_days: float | None = None
    goal: tuple[str, ...] = ()
    target: float = MASTERY_LINE
    switch_after: int | None = None
    review: float = 0.0
    explore: float = 0.0
    prefetch: bool = False
    forecast: bool = False
    why_not: tuple[str, ...] = ()
    language: str = FALLBACK
    lease_s: int | None = None


NO_WISHES = Wishes()


def to_row(wishes: Wishes | None) -> dict[str, Any] | None:
    """The wishes as they are stored: what differs from the default."""
    if wishes is None:
        return None
    row: dict[str, Any] = {}
    for field in fields(Wishes):
        value = getattr(wishes, field.name)
        if value != field.default:
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return row


def from_row(row: Mapping[str, Any] | None) -> Wishes | None:
    """The wishes that were stored."""
    if row is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Wishes(**values)


@dataclass(frozen=True)
class Wanted:
    """Wishes for one choice: what they are aimed at, and which items they exclude.

    `log` are the answers of the learner that matter, in the order of the fold, up to `moment` (µs).
    """

    wishes: Wishes
    log: Sequence[Entry]
    moment: int
    aim: Aim | None
    avoid: Integers


def want(bank: Bank, wishes: Wishes, log: Sequence[Entry], moment: int, avoid: Sequence[str] | None = None) -> Wanted:
    """What wishes mean for a learner who has given the answers of `log`; `avoid` if it is not that of the wishes."""
    shunned = wishes.avoid if avoid is None else avoid
    numbers = {bank.item_numbers[item] for item in shunned if item in bank.item_numbers}
    numbers |= recent_items(bank, wishes, log, moment)
    return Wanted(wishes, log, moment, aim_of(bank, wishes, log), np.array(sorted(numbers), dtype=np.int64))


def read_needed(db: Connection, bank: Bank, learner: str, wishes: Wishes, moment: int) -> list[Entry]:
    """The answers of a learner that the wishes ask about, in the order of the fold."""
    count = max(wishes.switch_after or 0, wishes.repeat_after or 0)
    since = None if wishes.repeat_after_days is None else since_when(wishes.repeat_after_days, moment)
    if not count and since is None:
        return []
    return read_recent(db, bank.tenant_id, bank.course_id, learner, count, since)


def since_when(days: float, moment: int) -> int:
    """The moment so many days before another."""
    return moment - round(days * DAY_US)


def recent_items(bank: Bank, wishes: Wishes, log: Sequence[Entry], moment: int) -> set[int]:
    """The items that were answered too short a while ago."""
    recent = list(log[-wishes.repeat_after :]) if wishes.repeat_after else []
    if wishes.repeat_after_days is not None:
        since = since_when(wishes.repeat_after_days, moment)
        recent += [entry for entry in log if entry.occurred_at > since]
    return {bank.item_numbers[entry.item_id] for entry in recent}


def aim_of(bank: Bank, wishes: Wishes, log: Sequence[Entry]) -> Aim | None:
    """What the choice is to be aimed at; none for nothing in particular."""
    resting = resting_skills(bank, wishes.switch_after, log)
    steered = wishes.skill or wishes.tag or wishes.kind or wishes.goal or wishes.review or wishes.explore
    if not steered and resting is None:
        return None
    labelled = [labels(bank.tags, wishes.tag, bank), labels(bank.kinds, wishes.kind, bank)]
    items = [mask for mask in labelled if mask is not None]
    return Aim(
        skills=skill_mask(bank, wishes.skill) if wishes.skill else None,
        items=np.logical_and.reduce(items) if items else None,
        goal=skill_numbers(bank, wishes.goal) if wishes.goal else None,
        target=wishes.target,
        resting=resting,
        review=wishes.review,
        explore=wishes.explore,
    )


def skill_numbers(bank: Bank, names: Sequence[str]) -> Integers:
    """The numbers of the skills that the course has; others are nobody's."""
    known = [bank.skill_numbers[name] for name in names if name in bank.skill_numbers]
    return np.array(sorted(set(known)), dtype=np.int64)


def skill_mask(bank: Bank, names: Sequence[str]) -> Booleans:
    """Which skills are named; (S,)."""
    mask = np.zeros(len(bank.skill_ids), dtype=np.bool_)
    mask[skill_numbers(bank, names)] = True
    return mask


def labels(labelled: Mapping[str, Integers], names: Sequence[str], bank: Bank) -> Booleans | None:
    """Which items have one of the labels, (I,); none if no label is named."""
    if not names:
        return None
    mask = np.zeros(len(bank.item_ids), dtype=np.bool_)
    for name in names:
        mask[labelled.get(name, [])] = True
    return mask


def resting_skills(bank: Bank, switch_after: int | None, log: Sequence[Entry]) -> Integers | None:
    """The skills that all of the last `switch_after` items asked for."""
    if switch_after is None or len(log) < switch_after:
        return None
    items = [bank.item_numbers[entry.item_id] for entry in log[-switch_after:]]
    asked = [{skill for skill in row if skill >= 0} for row in bank.parameters.items.skills[items].tolist()]
    common = sorted(set.intersection(*asked))
    return np.array(common, dtype=np.int64) if common else None


def filters(bank: Bank, wanted: Wanted) -> dict[str, Booleans]:
    """The items that each filter by itself lets through, each (I,); only those that are in use, in a fixed order."""
    wishes, count = wanted.wishes, len(bank.item_ids)
    result: dict[str, Booleans] = {}
    if wishes.skill:
        asked = bank.parameters.items.skills
        result["skill"] = np.asarray((skill_mask(bank, wishes.skill)[asked] & (asked >= 0)).any(axis=1))
    for name, labelled, names in (("tag", bank.tags, wishes.tag), ("kind", bank.kinds, wishes.kind)):
        mask = labels(labelled, names, bank)
        if mask is not None:
            result[name] = mask
    for name, part in (
        ("avoid", Wishes(avoid=wishes.avoid)),
        ("repeat_after", Wishes(repeat_after=wishes.repeat_after)),
        ("repeat_after_days", Wishes(repeat_after_days=wishes.repeat_after_days)),
    ):
        if part != NO_WISHES:
            result[name] = np.ones(count, dtype=np.bool_)
            result[name][want(bank, part, wanted.log, wanted.moment).avoid] = False
    return result


def first_to_leave_nothing(allowed: Booleans, masks: Mapping[str, Booleans]) -> str | None:
    """Which of the filters, one after the other, left none of the items; none if some are left."""
    left = accumulate(masks.values(), np.logical_and, initial=allowed)
    next(left)
    return next((name for name, items in zip(masks, left, strict=True) if not items.any()), None)
