"""The catalogue as rows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from app.models import CatalogueChange, Course, Item, ItemSkill, Prerequisite, Skill
from app.queries.matching import matches_any
from app.queries.statistics import refresh_statistics
from app.queries.webhooks import IS_WATCHED

# From here on a foreign key to items is looked up often enough to mind how.
MANY = 1000
ITEM_COLUMNS = ("title", "kind", "tags", "url", "max_score", "parameters", "exposure", "choices", "reviewed")
ITEM = (Item.id, *(getattr(Item, column) for column in ITEM_COLUMNS))

Record = Mapping[str, Any]


class _SkillRow(NamedTuple):
    """A skill as it is stored."""

    id: str
    number: int
    title: str | None


class CourseRow(NamedTuple):
    """The few values of a course that every request needs."""

    title: str | None
    revision: int
    replay_revision: int
    calibration: int | None
    watched: bool


COURSE_BY_ID = select(Course.title, Course.revision, Course.replay_revision, Course.calibration, IS_WATCHED).where(
    Course.tenant_id == bindparam("tenant_id"), Course.id == bindparam("course_id")
)


def find_course(db: Connection, tenant_id: int, course_id: str, *, lock: bool = False) -> CourseRow | None:
    """The course, if it is the tenant's; `lock` holds it until the transaction ends."""
    statement = COURSE_BY_ID.with_for_update(key_share=True) if lock else COURSE_BY_ID
    row = db.execute(statement, {"tenant_id": tenant_id, "course_id": course_id}).one_or_none()
    return None if row is None else CourseRow(*row)


def insert_course(db: Connection, tenant_id: int, course_id: str, now: int) -> None:
    """A new, empty course at revision 0."""
    db.execute(
        insert(Course),
        {
            "tenant_id": tenant_id,
            "id": course_id,
            "title": None,
            "revision": 0,
            "replay_revision": 0,
            "calibration": None,
            "created_at": now,
        },
    )


def update_course(db: Connection, tenant_id: int, course_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a course."""
    db.execute(update(Course).where(Course.tenant_id == tenant_id, Course.id == course_id).values(**values))


def list_skills(db: Connection, tenant_id: int, course_id: str) -> list[_SkillRow]:
    """All skills by number."""
    statement = (
        select(Skill.id, Skill.number, Skill.title)
        .where(Skill.tenant_id == tenant_id, Skill.course_id == course_id)
        .order_by(Skill.number)
    )
    return [_SkillRow(*row) for row in db.execute(statement)]


def list_prerequisites(db: Connection, tenant_id: int, course_id: str) -> dict[str, list[str]]:
    """The direct prerequisites of every skill that has any."""
    statement = (
        select(Prerequisite.skill_id, Prerequisite.prerequisite_id)
        .where(Prerequisite.tenant_id == tenant_id, Prerequisite.course_id == course_id)
        .order_by(Prerequisite.skill_id, Prerequisite.prerequisite_id)
    )
    result: dict[str, list[str]] = {}
    for skill_id, prerequisite_id in db.execute(statement):
        result.setdefault(skill_id, []).append(prerequisite_id)
    return result


def list_items(db: Connection, tenant_id: int, course_id: str) -> list[dict[str, Any]]:
    """All items by number, each with the list of its skills."""
    statement = (
        select(Item.number, *ITEM).where(Item.tenant_id == tenant_id, Item.course_id == course_id).order_by(Item.number)
    )
    skills = _list_item_skills(db, tenant_id, course_id)
    return [{**row, "skills": skills.get(row["id"], [])} for row in db.execute(statement).mappings()]


def find_existing_items(db: Connection, tenant_id: int, course_id: str, ids: Collection[str]) -> set[str]:
    """Those of the ids that items of the course have."""
    statement = select(Item.id).where(
        Item.tenant_id == tenant_id, Item.course_id == course_id, matches_any(db, Item.id, ids)
    )
    return set(db.scalars(statement)) if ids else set()


def find_existing_skills(db: Connection, tenant_id: int, course_id: str, ids: Collection[str]) -> set[str]:
    """Those of the ids that skills of the course have."""
    statement = select(Skill.id).where(
        Skill.tenant_id == tenant_id, Skill.course_id == course_id, matches_any(db, Skill.id, ids)
    )
    return set(db.scalars(statement)) if ids else set()


def _list_item_skills(db: Connection, tenant_id: int, course_id: str) -> dict[str, list[str]]:
    """The skills of every item, in the caller's order."""
    statement = (
        select(ItemSkill.item_id, ItemSkill.skill_id)
        .where(ItemSkill.tenant_id == tenant_id, ItemSkill.course_id == course_id)
        .order_by(ItemSkill.item_id, ItemSkill.position)
    )
    result: dict[str, list[str]] = {}
    for item_id, skill_id in db.execute(statement):
        result.setdefault(item_id, []).append(skill_id)
    return result


def save_skills(
    db: Connection, tenant_id: int, course_id: str, new: Sequence[Record], changed: Sequence[Record]
) -> None:
    """Add the new skills and rewrite the titles of the changed ones."""
    key = {"tenant_id": tenant_id, "course_id": course_id}
    columns = ("id", "number", "title")
    _insert_many(db, Skill, ({**key, **{c: row[c] for c in columns}} for row in new))
    if changed:
        statement = update(Skill).where(
            Skill.tenant_id == tenant_id, Skill.course_id == course_id, Skill.id == bindparam("key")
        )
        db.execute(statement.values(title=bindparam("title")), [{"key": r["id"], "title": r["title"]} for r in changed])


def save_prerequisites(db: Connection, tenant_id: int, course_id: str, edges: Mapping[str, list[str]]) -> None:
    """Replace the prerequisites of the named skills."""
    if not edges:
        return
    statement = delete(Prerequisite).where(
        Prerequisite.tenant_id == tenant_id,
        Prerequisite.course_id == course_id,
        Prerequisite.skill_id == bindparam("key"),
    )
    db.execute(statement, [{"key": skill_id} for skill_id in edges])
    key = {"tenant_id": tenant_id, "course_id": course_id}
    rows = (
        {**key, "skill_id": skill_id, "prerequisite_id": prerequisite_id}
        for skill_id, prerequisites in edges.items()
        for prerequisite_id in prerequisites
    )
    _insert_many(db, Prerequisite, rows)


def save_items(
    db: Connection, tenant_id: int, course_id: str, new: Sequence[Record], changed: Sequence[Record]
) -> None:
    """Add the new items and rewrite the changed ones, with their skills."""
    key = {"tenant_id": tenant_id, "course_id": course_id}
    _insert_many(db, Item, ({**key, "id": r["id"], "number": r["number"], **_item_columns(r)} for r in new))
    if len(new) >= MANY:
        refresh_statistics(db)
    if changed:
        mine = (Item.tenant_id == tenant_id, Item.course_id == course_id, Item.id == bindparam("key"))
        statement = update(Item).where(*mine).values({column: bindparam(column) for column in ITEM_COLUMNS})
        db.execute(statement, [{"key": row["id"], **_item_columns(row)} for row in changed])
        old = delete(ItemSkill).where(
            ItemSkill.tenant_id == tenant_id, ItemSkill.course_id == course_id, ItemSkill.item_id == bindparam("key")
        )
        db.execute(old, [{"key": row["id"]} for row in changed])
    rows = (
        {**key, "item_id": row["id"], "skill_id": skill_id, "position": index}
        for row in (*new, *changed)
        for index, skill_id in enumerate(row["skills"])
    )
    _insert_many(db, ItemSkill, rows)


def _item_columns(item: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an item that an upsert may change."""
    return {column: item[column] for column in ITEM_COLUMNS}


def _insert_many(db: Connection, table: type[Any], rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows that carry their own tenant_id."""
    by_id = list(rows)
    if by_id:
        db.execute(insert(table), by_id)


def insert_change(
    db: Connection, tenant_id: int, course_id: str, revision: int, body: dict[str, Any], now: int
) -> None:
    """Keep an upsert as it was applied."""
    row = {"tenant_id": tenant_id, "course_id": course_id, "revision": revision, "body": body, "changed_at": now}
    db.execute(insert(CatalogueChange), row)


def list_changes(db: Connection, tenant_id: int, course_id: str, until: int) -> list[dict[str, Any]]:
    """The upserts of a course up to a revision, oldest first."""
    statement = (
        select(CatalogueChange.body)
        .where(
            CatalogueChange.tenant_id == tenant_id,
            CatalogueChange.course_id == course_id,
            CatalogueChange.revision <= until,
        )
        .order_by(CatalogueChange.revision)
    )
    return list(db.execute(statement).scalars())


def page_skills(db: Connection, tenant_id: int, course_id: str, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` skills after the id `after`, by id, each with its prerequisites."""
    statement = (
        select(Skill.id, Skill.title)
        .where(Skill.tenant_id == tenant_id, Skill.course_id == course_id, Skill.id > (after or ""))
        .order_by(Skill.id)
        .limit(limit)
    )
    rows = list(db.execute(statement))
    if not rows:
        return []
    edges = (
        select(Prerequisite.skill_id, Prerequisite.prerequisite_id)
        .where(
            Prerequisite.tenant_id == tenant_id,
            Prerequisite.course_id == course_id,
            Prerequisite.skill_id.between(rows[0].id, rows[-1].id),
        )
        .order_by(Prerequisite.skill_id, Prerequisite.prerequisite_id)
    )
    by_id: dict[str, list[str]] = {}
    for skill_id, prerequisite_id in db.execute(edges):
        by_id.setdefault(skill_id, []).append(prerequisite_id)
    return [{"id": row.id, "title": row.title, "prerequisites": by_id.get(row.id, [])} for row in rows]


def page_items(db: Connection, tenant_id: int, course_id: str, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` items after the id `after`, by id, each with its skills."""
    statement = (
        select(*ITEM)
        .where(Item.tenant_id == tenant_id, Item.course_id == course_id, Item.id > (after or ""))
        .order_by(Item.id)
        .limit(limit)
    )
    rows = list(db.execute(statement).mappings())
    if not rows:
        return []
    tags = (
        select(ItemSkill.item_id, ItemSkill.skill_id)
        .where(
            ItemSkill.tenant_id == tenant_id,
            ItemSkill.course_id == course_id,
            ItemSkill.item_id.between(rows[0]["id"], rows[-1]["id"]),
        )
        .order_by(ItemSkill.item_id, ItemSkill.position)
    )
    by_id: dict[str, list[str]] = {}
    for item_id, skill_id in db.execute(tags):
        by_id.setdefault(item_id, []).append(skill_id)
    return [{**row, "skills": by_id.get(row["id"], [])} for row in rows]


def list_courses(db: Connection, tenant_id: int) -> list[str]:
    """The ids of a tenant's courses."""
    return list(db.execute(select(Course.id).where(Course.tenant_id == tenant_id).order_by(Course.id)).scalars())
