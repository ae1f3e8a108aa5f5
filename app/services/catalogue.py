"""The catalogue of a course: upserts, checked as a whole and kept as a history."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sqlalchemy import Connection

from app.core.errors import Fault, Invalid, PrerequisiteCycle, UnknownCourse
from app.core.ids import check_id
from app.queries import catalogue as rows
from app.queries.responses import keep_max_scores

# What of an item decides what an answer says about its learner.
# What one course may hold; the last are pairs of a skill and one that it builds on.
MOST_SKILLS, MOST_ITEMS, MOST_FOUNDATIONS = 10_000, 200_000, 1_000_000

MEASUREMENT_FIELDS = ("skills", "max_score", "parameters", "choices", "reviewed")


@dataclass
class Catalogue:
    """All skills and items of a course by id; the order of insertion is the order of their numbers."""

    title: str | None = None
    skills: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class _CatalogueDiff:
    """What an upsert changes in a catalogue; `needs_rebuild` if it changes what stored answers say."""

    new_skills: list[dict[str, Any]] = field(default_factory=list)
    changed_skills: list[dict[str, Any]] = field(default_factory=list)
    prerequisites: dict[str, list[str]] = field(default_factory=dict)
    new_items: list[dict[str, Any]] = field(default_factory=list)
    changed_items: list[dict[str, Any]] = field(default_factory=list)
    max_scores_before: dict[str, float] = field(default_factory=dict)
    needs_rebuild: bool = False


@dataclass(frozen=True)
class _UpsertCounts:
    """The revision of an upsert, how many skills and items it created and changed, and how many the course has now."""

    revision: int
    skills_created: int
    skills_changed: int
    items_created: int
    items_changed: int
    skills: int
    items: int


def upsert(db: Connection, tenant_id: int, course_id: str, body: Mapping[str, Any], now: int) -> _UpsertCounts:
    """Add or replace the skills and items of `body`, leave the others, and create the course if it is new.

    Raises `Invalid` (an unknown skill is named, or the id of a new course is none) or `PrerequisiteCycle`; then nothing
    has changed.
    """
    course = rows.find_course(db, tenant_id, course_id, lock=True)
    if course is None:
        _check_new_course(course_id)
        rows.insert_course(db, tenant_id, course_id, now)
    catalogue = read_catalogue(db, tenant_id, course_id)
    difference = apply_change(catalogue, body)
    revision = (course.revision if course else 0) + 1
    rows.save_skills(db, tenant_id, course_id, difference.new_skills, difference.changed_skills)
    rows.save_prerequisites(db, tenant_id, course_id, difference.prerequisites)
    keep_max_scores(db, tenant_id, course_id, difference.max_scores_before)
    rows.save_items(db, tenant_id, course_id, difference.new_items, difference.changed_items)
    rows.insert_change(db, tenant_id, course_id, revision, dict(body), now)
    values: dict[str, Any] = {"revision": revision, "title": catalogue.title}
    if difference.needs_rebuild:
        values["replay_revision"] = revision
    rows.update_course(db, tenant_id, course_id, values)
    return _UpsertCounts(
        revision,
        len(difference.new_skills),
        len(difference.changed_skills),
        len(difference.new_items),
        len(difference.changed_items),
        len(catalogue.skills),
        len(catalogue.items),
    )


def _check_new_course(course_id: str) -> None:
    """Raise `Invalid` if a course may not be called that."""
    try:
        check_id(course_id)
    except ValueError as fault:
        raise Invalid(f"the id of a new course {fault}", [Fault("{course}", str(fault))]) from None


def read_catalogue(db: Connection, tenant_id: int, course_id: str) -> Catalogue:
    """Return the present catalogue."""
    course = rows.find_course(db, tenant_id, course_id)
    edges = rows.list_prerequisites(db, tenant_id, course_id)
    skills = {
        row.id: {"id": row.id, "title": row.title, "prerequisites": edges.get(row.id, [])}
        for row in rows.list_skills(db, tenant_id, course_id)
    }
    items = {item["id"]: item for item in rows.list_items(db, tenant_id, course_id)}
    return Catalogue(course.title if course else None, skills, items)


def catalogue_at(db: Connection, tenant_id: int, course_id: str, revision: int) -> Catalogue:
    """Return the catalogue at a revision, replayed from its history."""
    catalogue = Catalogue()
    for body in rows.list_changes(db, tenant_id, course_id, revision):
        apply_change(catalogue, body)
    return catalogue


def apply_change(catalogue: Catalogue, body: Mapping[str, Any]) -> _CatalogueDiff:
    """Apply an upsert to `catalogue` in place and return what it changed."""
    difference = _CatalogueDiff()
    if body.get("title") is not None:
        catalogue.title = body["title"]
    for skill in body.get("skills", []):
        _put_skill(catalogue, skill, difference)
    for item in body.get("items", []):
        _put_item(catalogue, item, difference)
    _check_references(catalogue, body)
    _check_acyclic(catalogue)
    _check_size(catalogue)
    return difference


def _put_skill(catalogue: Catalogue, submitted: Mapping[str, Any], difference: _CatalogueDiff) -> None:
    """Add or replace one skill."""
    skill = {
        "id": submitted["id"],
        "title": submitted.get("title"),
        "prerequisites": sorted(submitted.get("prerequisites") or []),
    }
    old = catalogue.skills.get(skill["id"])
    catalogue.skills[skill["id"]] = skill
    if old is None:
        difference.new_skills.append({**skill, "number": len(catalogue.skills) - 1})
    elif old != skill:
        difference.changed_skills.append(skill)
    if skill["prerequisites"] != (old["prerequisites"] if old else []):
        difference.prerequisites[skill["id"]] = skill["prerequisites"]
        difference.needs_rebuild |= old is not None


def _put_item(catalogue: Catalogue, submitted: Mapping[str, Any], difference: _CatalogueDiff) -> None:
    """Add or replace one item."""
    parameters = submitted.get("parameters")
    thresholds = (parameters or {}).get("thresholds")
    item = {
        "id": submitted["id"],
        "skills": list(submitted.get("skills") or []),
        "title": submitted.get("title"),
        "kind": submitted.get("kind"),
        "tags": list(submitted.get("tags") or []),
        "url": submitted.get("url"),
        "max_score": float(submitted.get("max_score") or (len(thresholds) if thresholds else 1)),
        "parameters": parameters,
        "exposure": submitted.get("exposure"),
        "choices": submitted.get("choices"),
        "reviewed": bool(submitted.get("reviewed")),
    }
    old = catalogue.items.get(item["id"])
    number = old["number"] if old else len(catalogue.items)
    catalogue.items[item["id"]] = {**item, "number": number}
    if old is None:
        difference.new_items.append({**item, "number": number})
    elif {**item, "number": number} != old:
        difference.changed_items.append(item)
        if item["max_score"] != old["max_score"]:
            difference.max_scores_before[item["id"]] = old["max_score"]
        difference.needs_rebuild |= any(item[name] != old[name] for name in MEASUREMENT_FIELDS)


def _check_references(catalogue: Catalogue, body: Mapping[str, Any]) -> None:
    """Raise `Invalid` for a skill that is named and exists neither in the body nor in the course."""
    faults = [
        Fault(f"/{kind}/{index}/{member}/{position}", "no such skill: list it under skills")
        for kind, member in (("skills", "prerequisites"), ("items", "skills"))
        for index, record in enumerate(body.get(kind, []))
        for position, skill_id in enumerate(record.get(member) or [])
        if skill_id not in catalogue.skills
    ]
    if faults:
        raise Invalid("the catalogue names skills that do not exist", faults[:20])


def _check_acyclic(catalogue: Catalogue) -> None:
    """Raise `PrerequisiteCycle` for a skill that needs itself, however indirectly: it could never be practised."""
    graph = {skill_id: skill["prerequisites"] for skill_id, skill in catalogue.skills.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        path = " → ".join(cycle)
        raise PrerequisiteCycle(f"these prerequisites form a cycle: {path}; remove one of them") from error


def _check_size(catalogue: Catalogue) -> None:
    """Raise `Invalid` if the course would have more skills, items or chains of prerequisites than can be served.

    What is kept of a chain of n skills grows with n²: each skill knows all that it builds on.
    """
    for name, count, most in (
        ("skills", len(catalogue.skills), MOST_SKILLS),
        ("items", len(catalogue.items), MOST_ITEMS),
        ("skills", _count_foundations(catalogue), MOST_FOUNDATIONS),
    ):
        if count > most:
            what = name if most != MOST_FOUNDATIONS else "pairs of a skill and one that it builds on, directly or not"
            fault = Fault(f"/{name}", f"{count:,} {what} in the whole course; at most {most:,}")
            raise Invalid(f"the course would have {count:,} {what}; at most {most:,} fit, so divide it", [fault])


def _count_foundations(catalogue: Catalogue) -> int:
    """Count the pairs of a skill and one that it builds on, directly or not; the prerequisites have no cycle."""
    graph = {skill_id: skill["prerequisites"] for skill_id, skill in catalogue.skills.items()}
    bits, foundations = {skill_id: 1 << number for number, skill_id in enumerate(graph)}, dict[str, int]()
    for skill_id in TopologicalSorter(graph).static_order():
        below = 0
        for prerequisite in graph[skill_id]:
            below |= foundations[prerequisite] | bits[prerequisite]
        foundations[skill_id] = below
    return sum(below.bit_count() for below in foundations.values())


def page_of_skills(
    db: Connection, tenant_id: int, course_id: str, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return skills by id. Raises `UnknownCourse`."""
    need_course(db, tenant_id, course_id)
    return rows.page_skills(db, tenant_id, course_id, after, limit)


def page_of_items(
    db: Connection, tenant_id: int, course_id: str, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return items by id. Raises `UnknownCourse`."""
    need_course(db, tenant_id, course_id)
    return rows.page_items(db, tenant_id, course_id, after, limit)


def need_course(db: Connection, tenant_id: int, course_id: str, *, lock: bool = False) -> rows.CourseRow:
    """Return the course's row. Raises `UnknownCourse`."""
    course = rows.find_course(db, tenant_id, course_id, lock=lock)
    if course is None:
        raise UnknownCourse("there is no such course; create it with PUT …/catalogue")
    return course
