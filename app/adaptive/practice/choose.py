"""Which item comes next, and every term of the reason: first the skill, then the item (docs/models-reference.md).

    discounted_s = mastery (1 - .5 exp(-n max(T_s, .15)))   n responses on s; P(T_s) n is how much practice that is
    need_s       = 1 - discounted_s exp(-.2 F_s Δt_s)       Δt_s in responses, not days
    fading: mastered, but mastery < .9;  stuck: 8 answers in a row left it below ½;  resting: stuck, < 5 others since
    secured: discounted ≥ .8;  open: not secured, all prerequisites secured or without items
    unlocks_s    = 1 + Σ over the skills that build on s of (1 - discounted)
    skill        = the last item's while it is open, else of the open skills of least depth the one of greatest unlocks
                   none open, or all of them resting → argmax need over the skills not mastered, ready ones first
                   all mastered → argmax need over the fading ones
    item         = of that skill, not the last: the least |logit p - logit .62| - 2 d + delay - .2 U(0, 1)
                   d = (p_known - p_unknown) P(the item's other skills are known)
                   delay for items seen of late, and for other skills that are new, unready or resting

The constants were frozen on simulated learners (docs/simulation.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.parameters import Parameters
from app.adaptive.practice.branches import (
    ALL_MASTERED,
    EXPLORE,
    NO_SKILL,
    NOTHING_ELIGIBLE,
    OpenSkills,
    SelectionCriteria,
    draw_branch,
    draw_item,
    item_propensity,
    most_valuable_skill,
    plan_branches,
    rank_skills,
)
from app.adaptive.practice.items import ItemScores, add_jitter, propensities, score_items, smallest_by_learner
from app.adaptive.practice.skills import SkillStatus, judge_skills
from app.adaptive.state import States
from app.adaptive.tracing.filter import predict_p_correct


class Choice(NamedTuple):
    """The exercise of one learner, as `Choices` has it for many, in plain numbers."""

    code: int
    skill: int
    item: int
    p: float
    propensity: float
    need: float
    unlocks: float
    p_learn: float
    difficulty_match: float
    diagnosticity: float
    delay: float
    prerequisites: float


@dataclass(frozen=True)
class Choices:
    """One exercise for each of B learners; `item` and `skill` are -1 where there is none, `code` says why.

    `propensity` is the probability of this item over all branches. The other arrays are the terms of the reason.
    """

    code: Integers
    skill: Integers
    item: Integers
    p: Floats
    propensity: Floats
    need: Floats
    unlocks: Floats
    p_learn: Floats
    difficulty_match: Floats
    diagnosticity: Floats
    delay: Floats
    prerequisites: Floats

    def __getitem__(self, rows: slice | Integers) -> "Choices":
        """Return those of the chosen learners."""
        return Choices(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    def each(self) -> list[Choice]:
        """Yield the choices one after the other."""
        return [*map(Choice._make, zip(*(getattr(self, name).tolist() for name in Choice._fields), strict=True))]


def choose_items(
    parameters: Parameters,
    states: States,
    seeds: Seeds,
    avoid: Sequence[Integers] | None = None,
    all_criteria: Sequence[SelectionCriteria | None] | None = None,
) -> Choices:
    """Choose the next exercise of each of B learners.

    `states` are those of the moment (see `fade_states`). `seeds` (B,) are the randomness: a seed gives one choice.
    `avoid` lists, for each learner, items not to offer; the last item is avoided too, unless nothing else is left.
    `all_criteria` are those of each learner, None without any.
    """
    excluded = np.empty((2, 0), dtype=np.int64) if avoid is None else _avoided_pairs(avoid)
    all_criteria = [None] * states.count if all_criteria is None else all_criteria
    seen = (states.last_item >= 0).nonzero()[0]
    last = np.array([seen, states.last_item[seen]])
    fresh = last if avoid is None else np.unique(np.concatenate([excluded, last], axis=1), axis=1)
    choices = _choose_items_once(parameters, states, seeds, fresh, all_criteria)
    stuck = np.flatnonzero(choices.code == NOTHING_ELIGIBLE)
    if stuck.size:
        some = [all_criteria[row] for row in stuck.tolist()]
        again = _choose_items_once(parameters, states[stuck], seeds[stuck], _select_pairs(excluded, stuck), some)
        _assign_choices(choices, stuck, again)
    return choices


def _avoided_pairs(avoid: Sequence[Integers]) -> Integers:
    """Return pairs of learner and avoided item, each once and in order; (2, M)."""
    learners = np.repeat(np.arange(len(avoid)), [len(items) for items in avoid])
    items = np.concatenate(avoid) if learners.size else learners
    return np.asarray(np.unique(np.array([learners, items], dtype=np.int64), axis=1))


def _select_pairs(pairs: Integers, rows: Integers) -> Integers:
    """Return the pairs of some learners, in order, with the learners renumbered; (2, M')."""
    index = np.searchsorted(rows, pairs[0])
    held = rows[np.minimum(index, len(rows) - 1)] == pairs[0] if len(rows) else np.zeros(len(index), dtype=np.bool_)
    return np.array([index[held], pairs[1, held]])


def _assign_choices(choices: Choices, rows: Integers, values: Choices) -> None:
    """Write the choices of some learners."""
    for name in Choices.__dataclass_fields__:
        getattr(choices, name)[rows] = getattr(values, name)


def _choose_items_once(
    parameters: Parameters,
    states: States,
    seeds: Seeds,
    avoid: Integers,
    all_criteria: Sequence[SelectionCriteria | None],
) -> Choices:
    """Choose with only the pairs `avoid` avoided: learners without criteria in one batch, the others one by one."""
    with_criteria = [row for row, criteria in enumerate(all_criteria) if criteria is not None]
    if not with_criteria:
        return _choose_without_criteria(parameters, states, seeds, avoid)
    plain = [row for row, criteria in enumerate(all_criteria) if criteria is None]
    rows = np.array(plain, dtype=np.int64)
    part = _choose_without_criteria(parameters, states[rows], seeds[rows], _select_pairs(avoid, rows))
    empty = {name: np.empty(states.count, getattr(part, name).dtype) for name in Choices.__dataclass_fields__}
    choices = Choices(**empty)
    _assign_choices(choices, rows, part)
    for row in with_criteria:
        only, criteria = slice(row, row + 1), all_criteria[row]
        if criteria is not None:
            found = _choose_with_criteria(parameters, states[only], seeds[only], avoid[1, avoid[0] == row], criteria)
            _assign_choices(choices, np.array([row]), found)
    return choices


def _choose_without_criteria(parameters: Parameters, states: States, seeds: Seeds, avoid: Integers) -> Choices:
    """Choose the skill of greatest value, and the item of least score, for each of B learners."""
    skill_status = judge_skills(parameters, states)
    available = _count_available(parameters, states.count, avoid)
    skill, code = _choose_skill(parameters, states, skill_status, available > 0)
    learners, candidates = _list_candidates(parameters, skill, code, avoid)
    item_scores = score_items(parameters, states, learners, candidates, skill[learners])
    score = item_scores.score
    chosen = smallest_by_learner(add_jitter(score, seeds[learners], candidates), learners, states.count)
    picked = chosen[chosen >= 0]
    code[(chosen < 0) & (code != ALL_MASTERED)] = NOTHING_ELIGIBLE
    item = np.full(states.count, -1, dtype=np.int64)
    item[chosen >= 0] = candidates[picked]
    propensity = propensities(score, learners, picked)
    return build_choices(
        parameters,
        states,
        skill_status,
        (code, np.where(chosen >= 0, skill, -1), item),
        item_scores[picked],
        propensity,
    )


def build_choices(
    parameters: Parameters,
    states: States,
    skill_status: SkillStatus,
    chosen: tuple[Integers, Integers, Integers],
    item_scores: ItemScores,
    propensity: Floats,
) -> Choices:
    """Build the choices with their terms. `chosen` are code, skill and item of each learner, -1 where there is none.

    `item_scores` and `propensity` are those of the learners who have an item.
    """
    code, skill, item = chosen
    has, named = np.flatnonzero(item >= 0), np.flatnonzero(skill >= 0)
    rows = skill[named]

    def of_skill(values: Floats) -> Floats:
        result = np.zeros(states.count)
        result[named] = values[named, rows]
        return result

    def of_item(values: Floats) -> Floats:
        result = np.zeros(states.count)
        result[has] = values
        return result

    return Choices(
        code=code,
        skill=skill,
        item=item,
        p=of_item(predict_p_correct(parameters, states, has, item[has])),
        propensity=of_item(propensity),
        need=of_skill(skill_status.need),
        unlocks=of_skill(skill_status.unlocks),
        p_learn=of_skill(np.broadcast_to(parameters.skills.p_learn, skill_status.need.shape)),
        difficulty_match=of_item(expm1(-item_scores.distance) + 1),
        diagnosticity=of_item(item_scores.diagnosticity),
        delay=of_item(item_scores.delay),
        prerequisites=of_skill(skill_status.ready),
    )


def _choose_with_criteria(
    parameters: Parameters, states: States, seeds: Seeds, avoid: Integers, criteria: SelectionCriteria
) -> Choices:
    """Choose the next exercise of one learner under its criteria."""
    skill_status = judge_skills(parameters, states)
    plan = plan_branches(parameters, states, skill_status, avoid, criteria)
    code, skill, item = np.array([plan.code]), np.array([-1]), np.array([-1])
    item_scores, propensity = ItemScores(*[np.empty(0)] * 3), np.empty(0)
    if plan.branches:
        branch = plan.branches[draw_branch(plan.branches, seeds)]
        code[0], skill[0] = branch.code, branch.skill
        item[0] = draw_item(parameters, states, seeds, branch)
        if branch.code == EXPLORE:
            skill[0] = most_valuable_skill(parameters, skill_status, plan.eligible, int(item[0]))
        item_scores = score_items(parameters, states, np.array([0]), item, skill)
        propensity = np.array([item_propensity(parameters, states, plan.branches, int(item[0]))])
    return build_choices(parameters, states, skill_status, (code, skill, item), item_scores, propensity)


def _count_available(parameters: Parameters, learners: int, avoid: Integers) -> Integers:
    """Count the items of each skill that each learner does not avoid; (B, S). `avoid` are pairs, (2, M)."""
    available = np.broadcast_to(parameters.item_counts, (learners, parameters.skills.count)).copy()
    rows, skills = avoid[0], parameters.items.skills[avoid[1]]
    for index in range(skills.shape[1]):
        held = (skills[:, index] >= 0).nonzero()[0]
        np.subtract.at(available, (rows[held], skills[held, index]), 1)
    return available


def _choose_skill(
    parameters: Parameters, states: States, skill_status: SkillStatus, available: Booleans
) -> tuple[Integers, Integers]:
    """Return the skill of each learner and the code of the reason; both (B,)."""
    count = states.count
    if not len(parameters.items.by_skill[1]):
        return np.full(count, -1), np.full(count, NO_SKILL)
    mastered = skill_status.mastered
    skills = OpenSkills(skill_status.open, ~mastered, mastered, skill_status.fading).limited_to(available)
    skill, code = rank_skills(skill_status, skills)
    practisable = parameters.item_counts > 0
    done = (skill < 0) & np.asarray((mastered | ~practisable).all(axis=1))
    return skill, np.where(done, ALL_MASTERED, code)


def _list_candidates(
    parameters: Parameters, skill: Integers, code: Integers, avoid: Integers
) -> tuple[Integers, Integers]:
    """Return all items of the chosen skills but the avoided pairs, as `(learner, item)` pairs sorted by learner."""
    starts, members = parameters.items.by_skill
    if (code == NO_SKILL).all():
        sizes = np.full(len(skill), parameters.items.count)
        first, members = np.zeros(len(skill), dtype=np.int64), np.arange(parameters.items.count)
    else:
        named = skill >= 0
        sizes = np.where(named, starts[skill + 1] - starts[skill], 0)
        first = np.where(named, starts[skill], 0)
    learners = np.repeat(np.arange(len(skill)), sizes)
    within = np.arange(len(learners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = members[np.repeat(first, sizes) + within]
    count = parameters.items.count
    pairs, avoided = learners * count + items, avoid[0] * count + avoid[1]
    keep = np.ones(len(pairs), dtype=np.bool_)
    if len(pairs):  # in order, so that what is avoided is found by halving
        found = pairs.searchsorted(avoided)
        keep[found[pairs.take(found, mode="clip") == avoided]] = False
    return learners[keep], items[keep]
