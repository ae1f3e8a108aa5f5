"""The options of a recommendation, and what they mean for one learner in one course model.

The same options, under the same names, are parameters of a recommendation, `next` of a response, and stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Booleans, Integers
from app.adaptive.practice.branches import SelectionCriteria
from app.adaptive.tracing.mastery import MASTERY_LINE
from app.core.times import DAY_US
from app.queries.responses import Entry, read_recent
from app.services.course_model import CourseModel
from app.texts import FALLBACK


@dataclass(frozen=True, slots=True)
class RecommendationOptions:
    """What a caller asks of the next exercise; by default nothing.

    Only exercises that ask for one of the skills `skill`, with one of the tags `tag`, of one of the kinds `kind`; none
    of `avoid`, of the last `repeat_after` answers, or answered in the last `repeat_after_days`. `goal` are skills to
    bring to the mastery `target`. After `switch_after` answers in a row on a skill another one comes first. With the
    chance `explore` any exercise is drawn, with the chance `review` a decayed skill comes first. An offer holds for
    `expires_in`. The others are about extras of the reply.
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
    expires_in: int | None = None


NO_OPTIONS = RecommendationOptions()
# What is shown beside the exercise, how it is worded and how long it holds: which one it is does not depend on these.
_EXTRAS = frozenset({"prefetch", "forecast", "why_not", "language", "expires_in"})


def select_equally(one: RecommendationOptions, other: RecommendationOptions) -> bool:
    """Return whether options ask for the same exercises; the order of a list says nothing."""
    return all(
        frozenset(ours) == frozenset(theirs) if isinstance(ours, tuple) else ours == theirs
        for ours, theirs in (
            (getattr(one, field.name), getattr(other, field.name))
            for field in fields(RecommendationOptions)
            if field.name not in _EXTRAS
        )
    )


def options_to_row(options: RecommendationOptions | None) -> dict[str, Any] | None:
    """Return the options as they are stored: those that differ from the default."""
    if options is None:
        return None
    row: dict[str, Any] = {}
    for field in fields(RecommendationOptions):
        value = getattr(options, field.name)
        if value != field.default:
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return row


def options_from_row(row: Mapping[str, Any] | None) -> RecommendationOptions | None:
    """Return the options that were stored."""
    if row is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return RecommendationOptions(**values)


@dataclass(frozen=True)
class ResolvedOptions:
    """Options for one choice: the selection criteria, and the items that they exclude.

    `log` are the answers of the learner that matter, in the order of their sort keys, up to `moment` (µs).
    """

    options: RecommendationOptions
    log: Sequence[Entry]
    moment: int
    criteria: SelectionCriteria | None
    avoid: Integers


def resolve_options(
    course: CourseModel,
    options: RecommendationOptions,
    log: Sequence[Entry],
    moment: int,
    avoid: Sequence[str] | None = None,
) -> ResolvedOptions:
    """Resolve options for a learner who has given the responses of `log`; `avoid` overrides theirs."""
    excluded = options.avoid if avoid is None else avoid
    numbers = {course.item_numbers[item] for item in excluded if item in course.item_numbers}
    numbers |= _recent_items(course, options, log, moment)
    return ResolvedOptions(
        options, log, moment, _to_criteria(course, options, log), np.array(sorted(numbers), dtype=np.int64)
    )


def read_entries_for_options(
    db: Connection, course: CourseModel, learner: str, options: RecommendationOptions, moment: int
) -> list[Entry]:
    """Read the responses of a learner that the options ask about, in the order of their sort keys."""
    count = max(options.switch_after or 0, options.repeat_after or 0)
    since = None if options.repeat_after_days is None else _moment_before(options.repeat_after_days, moment)
    if not count and since is None:
        return []
    return read_recent(db, course.tenant_id, course.course_id, learner, count, since)


def _moment_before(days: float, moment: int) -> int:
    """Return the moment so many days before another."""
    return moment - round(days * DAY_US)


def _recent_items(course: CourseModel, options: RecommendationOptions, log: Sequence[Entry], moment: int) -> set[int]:
    """Return the items that were answered too short a while ago."""
    recent = list(log[-options.repeat_after :]) if options.repeat_after else []
    if options.repeat_after_days is not None:
        since = _moment_before(options.repeat_after_days, moment)
        recent += [entry for entry in log if entry.occurred_at > since]
    return {course.item_numbers[entry.item_id] for entry in recent}


def _to_criteria(course: CourseModel, options: RecommendationOptions, log: Sequence[Entry]) -> SelectionCriteria | None:
    """Return the selection criteria; None if the options ask for nothing in particular."""
    resting = _resting_skills(course, options.switch_after, log)
    steered = options.skill or options.tag or options.kind or options.goal or options.review or options.explore
    if not steered and resting is None:
        return None
    labelled = [_label_mask(course.tags, options.tag, course), _label_mask(course.kinds, options.kind, course)]
    items = [mask for mask in labelled if mask is not None]
    return SelectionCriteria(
        skills=_skill_mask(course, options.skill) if options.skill else None,
        items=np.logical_and.reduce(items) if items else None,
        goal=_skill_numbers(course, options.goal) if options.goal else None,
        target=options.target,
        resting=resting,
        review=options.review,
        explore=options.explore,
    )


def _skill_numbers(course: CourseModel, names: Sequence[str]) -> Integers:
    """Return the numbers of the named skills that the course has."""
    known = [course.skill_numbers[name] for name in names if name in course.skill_numbers]
    return np.array(sorted(set(known)), dtype=np.int64)


def _skill_mask(course: CourseModel, names: Sequence[str]) -> Booleans:
    """Return which skills are named; (S,)."""
    mask = np.zeros(len(course.skill_ids), dtype=np.bool_)
    mask[_skill_numbers(course, names)] = True
    return mask


def _label_mask(labelled: Mapping[str, Integers], names: Sequence[str], course: CourseModel) -> Booleans | None:
    """Return which items have one of the labels, (I,); None if no label is named."""
    if not names:
        return None
    mask = np.zeros(len(course.item_ids), dtype=np.bool_)
    for name in names:
        mask[labelled.get(name, [])] = True
    return mask


def _resting_skills(course: CourseModel, switch_after: int | None, log: Sequence[Entry]) -> Integers | None:
    """Return the skills that all of the last `switch_after` items asked for."""
    if switch_after is None or len(log) < switch_after:
        return None
    items = [course.item_numbers[entry.item_id] for entry in log[-switch_after:]]
    item_skills = [{skill for skill in row if skill >= 0} for row in course.parameters.items.skills[items].tolist()]
    common = sorted(set.intersection(*item_skills))
    return np.array(common, dtype=np.int64) if common else None


def filter_masks(course: CourseModel, resolved: ResolvedOptions) -> dict[str, Booleans]:
    """Return the items that each filter by itself allows, each (I,); only filters in use, in a fixed order."""
    options, count = resolved.options, len(course.item_ids)
    result: dict[str, Booleans] = {}
    if options.skill:
        item_skills = course.parameters.items.skills
        result["skill"] = np.asarray((_skill_mask(course, options.skill)[item_skills] & (item_skills >= 0)).any(axis=1))
    for name, labelled, names in (("tag", course.tags, options.tag), ("kind", course.kinds, options.kind)):
        mask = _label_mask(labelled, names, course)
        if mask is not None:
            result[name] = mask
    for name, part in (
        ("avoid", RecommendationOptions(avoid=options.avoid)),
        ("repeat_after", RecommendationOptions(repeat_after=options.repeat_after)),
        ("repeat_after_days", RecommendationOptions(repeat_after_days=options.repeat_after_days)),
    ):
        if part != NO_OPTIONS:
            result[name] = np.ones(count, dtype=np.bool_)
            result[name][resolve_options(course, part, resolved.log, resolved.moment).avoid] = False
    return result


def first_exhausting_filter(allowed: Booleans, masks: Mapping[str, Booleans]) -> str | None:
    """Return which of the filters, applied in order, left no item; None if some are left."""
    remaining = accumulate(masks.values(), np.logical_and, initial=allowed)
    next(remaining)
    return next((name for name, items in zip(masks, remaining, strict=True) if not items.any()), None)
