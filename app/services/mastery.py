"""What is known of learners: one at any time, or a whole cohort."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.types import States
from app.errors import UnknownSkill
from app.services.banks import Bank, read_bank
from app.services.folding import at, load_states, read_page, refold_from
from app.services.recommendations import find_learner
from app.services.reports import abilities, all_mastery, calibration_id, mastery_rows

# A page reads at least so many learners at a time: of most, few skills may have been met.
FEWEST = 16


def learner_mastery(
    db: Connection, tenant_id: int, course_id: str, learner: str, as_of: int | None, now: int
) -> dict[str, Any]:
    """Ability and the mastery of every skill now, or as it was at `as_of` by the answers given until then (both µs)."""
    bank = read_bank(db, tenant_id, course_id)
    row = find_learner(db, bank, learner)
    if as_of is None:
        return report(bank, at(bank, load_states(db, bank, [row]), now), learner, row.position)
    states = refold_from(db, bank, {learner: (as_of + 1, "")}, as_of).states
    return report(bank, at(bank, states, as_of), learner, row.position)


def report(bank: Bank, states: States, learner: str, position: int) -> dict[str, Any]:
    """One learner's mastery as it is told."""
    return {
        "learner": learner,
        "position": position,
        "ability": abilities(bank, states)[0],
        "mastery": all_mastery(bank, states, 0),
        "calibration": calibration_id(bank.calibration),
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
    """Up to `limit` rows, one for each learner and skill met, by learner and skill id, after the pair `after`."""
    bank = read_bank(db, tenant_id, course_id)
    if skill is not None and skill not in bank.skill_ids:
        raise UnknownSkill("the course has no such skill")
    result: list[dict[str, Any]] = []
    # How many rows a learner can have at most.
    most = max(1, len(bank.skill_ids)) if skill is None else 1
    last = None if after is None else after[0]
    if after is not None:
        result.extend(row for row in rows_of_learner(db, bank, after[0], skill, now) if row["skill"] > after[1])
    while len(result) < limit:
        rows, states = read_page(db, bank, last, max(FEWEST, -(-(limit - len(result)) // most)))
        if not rows:
            break
        last = rows[-1].id
        result.extend(cohort_rows(bank, [row.id for row in rows], at(bank, states, now), skill))
    return result[:limit]


def rows_of_learner(db: Connection, bank: Bank, learner: str, skill: str | None, now: int) -> Iterator[dict[str, Any]]:
    """The cohort rows of one learner."""
    row = find_learner(db, bank, learner)
    yield from cohort_rows(bank, [learner], at(bank, load_states(db, bank, [row]), now), skill)


def cohort_rows(bank: Bank, learners: list[str], states: States, skill: str | None) -> list[dict[str, Any]]:
    """The rows of some learners, each sorted by skill id; only skills with evidence."""
    order = np.array(sorted(range(len(bank.skill_ids)), key=bank.skill_ids.__getitem__), dtype=np.int64)
    if skill is not None:
        order = np.array([bank.skill_ids.index(skill)])
    rows, columns = np.nonzero(states.evidence[:, order] > 0)
    told = mastery_rows(bank, states, rows, order[columns])
    return [{"learner": learners[number], **row} for number, row in zip(rows.tolist(), told, strict=True)]
