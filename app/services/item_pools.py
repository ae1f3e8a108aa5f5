"""From a course and what a session agreed on to what the engine tests with: a pool of items and a plan.

A pool is made once for each revision and each way to cut the course; it is immutable, so it is shared and kept.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.cat import Bound, Classification, Plan, Pool, make_pool
from app.adaptive.irt.items import Model
from app.core.errors import Fault, Invalid
from app.services.catalogue import Catalogue, catalogue_at, need_course, read_catalogue
from app.services.course_model import LruCache

MODELS: dict[str, Model] = {
    "1PL": "rasch",
    "2PL": "2pl",
    "3PL": "3pl",
    "4PL": "4pl",
    "graded": "graded",
    "GPCM": "gpcm",
    "PCM": "pcm",
}
# Tables of a large pool take a hundred megabytes.
POOLS_KEPT = 8
MAX_FAULTS = 20
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


POOLS: LruCache[ItemPool] = LruCache(POOLS_KEPT)


def read_pool(db: Connection, tenant_id: int, course_id: str, revision: int, plan: Json) -> ItemPool:
    """The pool of a session. Raises `Invalid` where the plan names what the course does not have."""
    selection = plan["selection"]
    pool_key = {
        "pool": plan["pool"],
        "scales": plan.get("scales"),
        "content": group_keys(selection.get("content")),
        "constraints": group_keys(selection.get("constraints")),
        "enemies": selection.get("enemies"),
        "pilot": (selection.get("pilot") or {}).get("items"),
    }
    key = (str(db.engine.url), tenant_id, course_id, revision, json.dumps(pool_key, sort_keys=True))
    pool = POOLS.get(key)
    if pool is None:
        course = need_course(db, tenant_id, course_id)
        current = course.revision == revision
        catalogue = (
            read_catalogue(db, tenant_id, course_id) if current else catalogue_at(db, tenant_id, course_id, revision)
        )
        check_names(catalogue, plan)
        pool = build_pool(catalogue, plan)
        POOLS.put(key, pool)
    return pool


def group_keys(groups: Sequence[Json] | None) -> list[tuple[str, str]]:
    """What the groups are, whatever is asked of them."""
    return [group_key(group) for group in groups or ()]


def group_key(group: Json) -> tuple[str, str]:
    """`skill`, `tag` or `kind`, and its name."""
    return next((name, group[name]) for name in ("skill", "tag", "kind") if group.get(name) is not None)


def is_in_group(item: Json, group: tuple[str, str]) -> bool:
    """Whether an item of the catalogue belongs to a group."""
    kind, name = group
    if kind == "kind":
        return bool(item["kind"] == name)
    return name in item["skills" if kind == "skill" else "tags"]


def check_names(catalogue: Catalogue, plan: Json) -> None:
    """Raise `Invalid` for items and skills that the course does not have."""
    selection, pool = plan["selection"], plan["pool"]
    named_items = [
        ("/pool/items", pool.get("items")),
        ("/selection/first", selection.get("first")),
        ("/selection/pilot/items", (selection.get("pilot") or {}).get("items")),
        *((f"/selection/enemies/{index}", items) for index, items in enumerate(selection.get("enemies") or ())),
    ]
    named_groups = [
        ("/scales", plan.get("scales")),
        ("/selection/content", selection.get("content")),
        ("/selection/constraints", selection.get("constraints")),
    ]
    faults = [
        Fault(f"{pointer}/{index}", "no such item in this course")
        for pointer, items in named_items
        for index, item in enumerate(items or ())
        if item not in catalogue.items
    ]
    faults += [
        Fault(f"{pointer}/{index}/skill", "no such skill in this course")
        for pointer, group_list in named_groups
        for index, group in enumerate(group_list or ())
        if group.get("skill") is not None and group["skill"] not in catalogue.skills
    ]
    faults += [
        Fault(f"/pool/skills/{index}", "no such skill in this course")
        for index, skill in enumerate(pool.get("skills") or ())
        if skill not in catalogue.skills
    ]
    if faults:
        raise Invalid("the test names items or skills that the course does not have", faults[:MAX_FAULTS])


def build_pool(catalogue: Catalogue, plan: Json) -> ItemPool:
    """The items with known parameters that fit, and those that are tried out, as arrays."""
    selection = plan["selection"]
    pilots = set((selection.get("pilot") or {}).get("items") or ())
    scales = group_keys(plan.get("scales"))
    fits = item_filter(plan["pool"])
    items = [
        item
        for item in catalogue.items.values()
        if item["id"] in pilots
        or (item["parameters"] and fits(item) and (not scales or any(is_in_group(item, group) for group in scales)))
    ]
    index_by_id = {item["id"]: number for number, item in enumerate(items)}
    parameters = [item["parameters"] or PLACEHOLDER_PARAMETERS for item in items]
    steps: list[list[float]] = [p.get("thresholds") or [p["b"]] for p in parameters]
    width = max(map(len, steps), default=1)
    difficulty = np.array([[*row, *[0.0] * (width - len(row))] for row in steps], dtype=np.float64)

    def group_index(group_list: Sequence[tuple[str, str]], item: Json, default: int) -> int:
        return next((index for index, group in enumerate(group_list) if is_in_group(item, group)), default)

    content = group_keys(selection.get("content"))
    pool = make_pool(
        [MODELS[p["model"]] for p in parameters],
        np.array([p.get("a") or 1.0 for p in parameters], dtype=np.float64),
        difficulty.reshape(len(items), width),
        max_category=np.array([len(row) for row in steps], dtype=np.int64),
        guessing=np.array([p.get("c") or 0.0 for p in parameters], dtype=np.float64),
        upper=np.array([1.0 if p.get("d") is None else p["d"] for p in parameters], dtype=np.float64),
        scale=np.array([group_index(scales, item, 0) for item in items], dtype=np.int64),
        content=np.array([group_index(content, item, -1) for item in items], dtype=np.int64),
        exposure=np.array([item["exposure"] or 1.0 for item in items], dtype=np.float64),
        enemies=[pool_indices(index_by_id, enemies) for enemies in selection.get("enemies") or ()],
        groups=[
            [index_by_id[item["id"]] for item in items if is_in_group(item, group)]
            for group in group_keys(selection.get("constraints"))
        ],
    )
    return ItemPool(
        pool,
        tuple(index_by_id),
        index_by_id,
        tuple(item["max_score"] for item in items),
        tuple(next(iter(item["skills"]), None) for item in items),
    )


def pool_indices(index_by_id: Mapping[str, int], ids: Iterable[str]) -> list[int]:
    """The places of those items that the pool has."""
    return [index_by_id[id_] for id_ in ids if id_ in index_by_id]


def item_filter(lists: Json) -> Callable[[Json], bool]:
    """Whether an item fits all the lists that were given."""
    allowed = {name: set(lists[name]) for name in ("items", "skills", "tags", "kinds") if lists.get(name) is not None}

    def fits(item: Json) -> bool:
        return (
            ("items" not in allowed or item["id"] in allowed["items"])
            and ("kinds" not in allowed or item["kind"] in allowed["kinds"])
            and ("skills" not in allowed or not allowed["skills"].isdisjoint(item["skills"]))
            and ("tags" not in allowed or not allowed["tags"].isdisjoint(item["tags"]))
        )

    return fits


def to_engine_plan(pool: ItemPool, plan: Json) -> Plan:
    """What the session agreed on, in the engine's terms."""
    selection, stop, prior = plan["selection"], plan["stop"], plan["prior"]
    scales = max(len(plan.get("scales") or ()), 1)
    pilot = selection.get("pilot") or {"items": (), "positions": ()}
    rule = stop.get("classification")
    cuts = () if rule is None else tuple(sorted(rule["cuts"]))
    return Plan(
        prior_mean=(prior["mean"],) * scales,
        prior_sd=(prior["sd"],) * scales,
        rule=selection["rule"],
        randomesque=selection["randomesque"],
        sympson_hetter=selection["exposure_control"],
        max_exposure=selection.get("max_exposure"),
        content_shares=tuple(part["share"] for part in selection.get("content") or ()),
        bounds=tuple(
            Bound(group, bound["min"], bound["max"]) for group, bound in enumerate(selection.get("constraints") or ())
        ),
        first=tuple(pool_indices(pool.index_by_id, selection.get("first") or ())),
        pilots=tuple(pool_indices(pool.index_by_id, pilot["items"])),
        pilot_positions=tuple(index - 1 for index in pilot["positions"]),
        standard_error=stop.get("standard_error"),
        standard_error_change=stop.get("standard_error_change"),
        classification=None
        if rule is None
        else Classification(
            (cuts,) * scales, rule["method"], rule["confidence"], rule["alpha"], rule["beta"], rule["delta"]
        ),
        max_items=stop.get("max_items"),
        min_items=stop["min_items"],
        max_seconds=stop.get("max_seconds"),
    )
