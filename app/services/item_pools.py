"""Pools of the engine: the items of a course that a session draws on.

A pool is built once for each revision of the course and each agreement on its items; it is immutable, so it is cached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.cat import Pool, find_plan_faults, make_pool
from app.adaptive.irt.item_models import BY_CATALOGUE_NAME
from app.core.errors import Invalid
from app.queries.catalogue import find_existing_items, find_existing_skills
from app.services.catalogue import Catalogue, catalogue_at, need_course, read_catalogue
from app.services.course_model import LruCache
from app.services.session_agreement import (
    AgreedPoolFilter,
    SessionAgreement,
    find_agreement_faults,
    group_keys,
    name_faults,
    named_items,
    named_skills,
    pool_indices,
    to_engine_plan,
)

# Tables of a large pool take a hundred megabytes.
CACHED_POOLS = 8
# What a pilot item without parameters stands for: nothing is computed from it.
PLACEHOLDER_PARAMETERS: dict[str, Any] = {"model": "1PL", "b": 0.0}

Json = Mapping[str, Any]


@dataclass(frozen=True)
class ItemPool:
    """The items of a course that a test draws on; `index_by_id` are their places in the pool by id."""

    pool: Pool
    item_ids: tuple[str, ...]
    index_by_id: dict[str, int]
    max_scores: tuple[float, ...]
    skills: tuple[str | None, ...]


POOLS: LruCache[ItemPool] = LruCache(CACHED_POOLS)


def read_pool(db: Connection, tenant_id: int, course_id: str, revision: int, agreement: SessionAgreement) -> ItemPool:
    """Return the pool of a session."""
    selection = agreement.selection
    pool_key = (
        agreement.pool,
        agreement.scales,
        group_keys(selection.content),
        group_keys(selection.constraints),
        selection.enemies,
        selection.pilot and selection.pilot.items,
    )
    key = (str(db.engine.url), tenant_id, course_id, revision, pool_key)
    pool = POOLS.get(key)
    if pool is None:
        course = need_course(db, tenant_id, course_id)
        current = course.revision == revision
        catalogue = (
            read_catalogue(db, tenant_id, course_id) if current else catalogue_at(db, tenant_id, course_id, revision)
        )
        pool = _build_pool(catalogue, agreement)
        POOLS.put(key, pool)
    return pool


def _is_in_group(item: Json, group: tuple[str, str]) -> bool:
    """Return whether an item of the catalogue belongs to a group."""
    kind, name = group
    if kind == "kind":
        return bool(item["kind"] == name)
    return name in item["skills" if kind == "skill" else "tags"]


def check_agreement(
    db: Connection, tenant_id: int, course_id: str, agreement: SessionAgreement, pool: ItemPool
) -> None:
    """Raise `Invalid`, with every fault, for what no test of the course can keep."""
    found_items = find_existing_items(
        db, tenant_id, course_id, {id_ for _, ids in named_items(agreement) for id_ in ids}
    )
    found_skills = find_existing_skills(db, tenant_id, course_id, {name for _, name in named_skills(agreement)})
    names = list(name_faults(agreement, found_items, found_skills))
    plan_faults = find_plan_faults(pool.pool, to_engine_plan(agreement, pool.index_by_id))
    faults = list(dict.fromkeys([*names, *find_agreement_faults(agreement, plan_faults)]))
    if faults:
        missing = "the test names items or skills that the course does not have"
        raise Invalid(missing if names else "the test cannot be held; errors lists what to change", faults)


def _build_pool(catalogue: Catalogue, agreement: SessionAgreement) -> ItemPool:
    """Build the arrays of the items with known parameters that fit, and of the pilot items."""
    selection = agreement.selection
    pilots = set(selection.pilot.items if selection.pilot else ())
    scales = group_keys(agreement.scales)
    fits = _item_filter(agreement.pool)
    items = [
        item
        for item in catalogue.items.values()
        if item["id"] in pilots
        or (item["parameters"] and fits(item) and (not scales or any(_is_in_group(item, group) for group in scales)))
    ]
    index_by_id = {item["id"]: number for number, item in enumerate(items)}
    parameters = [item["parameters"] or PLACEHOLDER_PARAMETERS for item in items]
    steps: list[list[float]] = [p.get("thresholds") or [p["b"]] for p in parameters]
    width = max(map(len, steps), default=1)
    difficulty = np.array([[*row, *[0.0] * (width - len(row))] for row in steps], dtype=np.float64)

    def group_index(group_list: Sequence[tuple[str, str]], item: Json, default: int) -> int:
        return next((index for index, group in enumerate(group_list) if _is_in_group(item, group)), default)

    content = group_keys(selection.content)
    pool = make_pool(
        [BY_CATALOGUE_NAME[p["model"]].name for p in parameters],
        np.array([p.get("a") or 1.0 for p in parameters], dtype=np.float64),
        difficulty.reshape(len(items), width),
        max_category=np.array([len(row) for row in steps], dtype=np.int64),
        guessing=np.array([p.get("c") or 0.0 for p in parameters], dtype=np.float64),
        upper=np.array([1.0 if p.get("d") is None else p["d"] for p in parameters], dtype=np.float64),
        scale=np.array([group_index(scales, item, 0) for item in items], dtype=np.int64),
        content=np.array([group_index(content, item, -1) for item in items], dtype=np.int64),
        exposure=np.array([item["exposure"] or 1.0 for item in items], dtype=np.float64),
        enemies=[pool_indices(index_by_id, enemies) for enemies in selection.enemies or ()],
        groups=[
            [index_by_id[item["id"]] for item in items if _is_in_group(item, group)]
            for group in group_keys(selection.constraints)
        ],
    )
    return ItemPool(
        pool,
        tuple(index_by_id),
        index_by_id,
        tuple(item["max_score"] for item in items),
        tuple(next(iter(item["skills"]), None) for item in items),
    )


def _item_filter(lists: AgreedPoolFilter) -> Callable[[Json], bool]:
    """Return a function that says whether an item fits all the lists that were given."""
    allowed = {name: set(names) for name, names in vars(lists).items() if names is not None}

    def fits(item: Json) -> bool:
        return (
            ("items" not in allowed or item["id"] in allowed["items"])
            and ("kinds" not in allowed or item["kind"] in allowed["kinds"])
            and ("skills" not in allowed or not allowed["skills"].isdisjoint(item["skills"]))
            and ("tags" not in allowed or not allowed["tags"].isdisjoint(item["tags"]))
        )

    return fits
