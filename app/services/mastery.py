"""What is known of learners: one at any time, or a whole cohort."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.state import States
from app.core.errors import UnknownLearner, UnknownSkill
from app.queries.learners import LearnerRow, find_learners
from app.services.course_model import CourseModel, read_course_model
from app.services.present import ability_rows, all_mastery, calibration_id, mastery_rows
from app.services.replay import load_states, read_states_page, replay_from_checkpoints, states_at

# A page reads at least so many learners at a time: of most, few skills may have been met.
MIN_LEARNERS_READ = 16


def learner_mastery(
    db: Connection, tenant_id: int, course_id: str, learner: str, as_of: int | None, now: int
) -> dict[str, Any]:
    """Return ability and the mastery of every skill now, or at `as_of` by the answers until then (both µs)."""
    course = read_course_model(db, tenant_id, course_id)
    row = _need_learner(db, course, learner)
    if as_of is None:
        return mastery_report(course, states_at(course, load_states(db, course, [row]), now), learner, row.position)
    states = replay_from_checkpoints(db, course, {learner: (as_of + 1, "")}, as_of).states
    return mastery_report(course, states_at(course, states, as_of), learner, row.position)


def _need_learner(db: Connection, course: CourseModel, learner: str) -> LearnerRow:
    """Return the learner's row. Raises `UnknownLearner`."""
    rows = find_learners(db, course.tenant_id, course.course_id, [learner])
    if learner not in rows:
        raise UnknownLearner("the course has no such learner; one is known from the first answer or offer on")
    return rows[learner]


def mastery_report(course: CourseModel, states: States, learner: str, position: int) -> dict[str, Any]:
    """Return one learner's mastery as a reply."""
    return {
        "learner": learner,
        "position": position,
        "ability": ability_rows(course, states)[0],
        "mastery": all_mastery(course, states, 0),
        "calibration": calibration_id(course.calibration),
    }


def cohort_mastery(
    db: Connection,
    tenant_id: int,
    course_id: str,
    skill: str | None,
    after: tuple[str, str] | None,
    limit: int,
    now: int,
) -> list[dict[str, Any]]:
    """Return up to `limit` rows after the pair `after`, one for each learner and skill met, by learner and skill id."""
    course = read_course_model(db, tenant_id, course_id)
    if skill is not None and skill not in course.skill_ids:
        raise UnknownSkill("the course has no such skill")
    result: list[dict[str, Any]] = []
    # How many rows a learner can have at most.
    max_rows_per_learner = max(1, len(course.skill_ids)) if skill is None else 1
    last = None if after is None else after[0]
    if after is not None:
        result.extend(row for row in _rows_of_learner(db, course, after[0], skill, now) if row["skill"] > after[1])
    while len(result) < limit:
        rows, states = read_states_page(
            db, course, last, max(MIN_LEARNERS_READ, -(-(limit - len(result)) // max_rows_per_learner))
        )
        if not rows:
            break
        last = rows[-1].id
        result.extend(_cohort_rows(course, [row.id for row in rows], states_at(course, states, now), skill))
    return result[:limit]


def _rows_of_learner(
    db: Connection, course: CourseModel, learner: str, skill: str | None, now: int
) -> Iterator[dict[str, Any]]:
    """Return the cohort rows of one learner."""
    row = _need_learner(db, course, learner)
    yield from _cohort_rows(course, [learner], states_at(course, load_states(db, course, [row]), now), skill)


def _cohort_rows(course: CourseModel, learners: list[str], states: States, skill: str | None) -> list[dict[str, Any]]:
    """Return the rows of some learners, each sorted by skill id; only skills with responses."""
    order = np.array(sorted(range(len(course.skill_ids)), key=course.skill_ids.__getitem__), dtype=np.int64)
    if skill is not None:
        order = np.array([course.skill_ids.index(skill)])
    rows, columns = np.nonzero(states.responses[:, order] > 0)
    masteries = mastery_rows(course, states, rows, order[columns])
    return [{"learner": learners[number], **row} for number, row in zip(rows.tolist(), masteries, strict=True)]
