"""`proxima doctor`: everything the service needs, checked."""

import shutil
from collections.abc import Callable
from pathlib import Path

import click

from app.cli.database import need_migrated, with_database
from app.core.database import Database
from app.core.errors import Invalid, ProximaError
from app.core.settings import read_settings
from app.core.times import now
from app.queries.catalogue import list_courses
from app.queries.durability import connections_allowed, durability_faults
from app.queries.keys import list_tenants
from app.services.keys import choose_tenant, list_keys
from app.services.replay import count_stale
from app.services.screening import ScreenedCourse, describe_suspect_items, read_course_log, screen_course


def check_all(course: str | None = None, tenant: str | None = None) -> bool:
    """Print a line for each check, of a course as well if one is named; whether all is well."""
    findings = [(name, *_run_check(check)) for name, check in CHECKS]
    if course is not None:
        findings += _check_course(course, tenant)
    for name, passed, message in findings:
        click.echo(f"{'ok  ' if passed else 'FAIL'}  {name}: {message}")
    return all(passed for _, passed, _ in findings)


def _run_check(check: Callable[[], str]) -> tuple[bool, str]:
    """Whether a check went well, and what it says."""
    try:
        return True, check()
    except ProximaError as error:
        return False, error.detail


def _check_settings() -> str:
    """The settings can be read."""
    return f"{read_settings().database_url.split('://')[0]}, log level {read_settings().log_level}"


def _check_schema() -> str:
    """The database answers and is migrated."""
    with_database(need_migrated)
    return "the tables are those of this program"


def _check_durability() -> str:
    """An acknowledged answer survives a crash."""
    faults = with_database(lambda database: database.read(durability_faults))
    if faults:
        raise Invalid("; ".join(faults))
    return "every commit is synced to the disk"


def _check_connections() -> str:
    """The database has a connection for each one that a worker may ask for."""
    size, allowed = read_settings().pool_size, with_database(lambda database: database.read(connections_allowed))
    if allowed is None:
        return "SQLite needs none"
    if allowed < size:
        raise Invalid(f"a worker may ask for {size}, and the database has {allowed}; lower PROXIMA_POOL_SIZE")
    return f"{size} a worker, and the database has {allowed}: enough for {allowed // size}"


def _check_disk() -> str:
    """There is room where SQLite writes."""
    url = read_settings().database_url
    folder = Path(url.removeprefix("sqlite:///")).resolve().parent if url.startswith("sqlite") else Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < 1 << 28:
        raise Invalid(f"only {free >> 20} MiB are free; make room")
    return f"{free >> 30} GiB free"


def _check_keys() -> str:
    """Somebody can call."""

    async def count(database: Database) -> int:
        tenants = await database.read(list_tenants)
        rows = [row for _, name in tenants for row in await database.read(list_keys, name)]
        return sum(row.revoked_at is None for row in rows)

    keys = with_database(count)
    if not keys:
        raise Invalid("no key is in force; make one with `proxima key create`")
    return f"{keys} in force"


def _check_snapshots() -> str:
    """How many snapshots are stale."""

    async def count(database: Database) -> int:
        total = 0
        for tenant_id, _ in await database.read(list_tenants):
            for course in await database.read(list_courses, tenant_id):
                total += await database.read(count_stale, tenant_id, course)
        return total

    return f"{with_database(count):,} to be rebuilt when they are next read"


def _check_course(course: str, tenant: str | None) -> list[tuple[str, bool, str]]:
    """Whether the items of a course measure what the others measure, and its learners try."""

    async def screen(database: Database) -> ScreenedCourse:
        tenant_id = await database.write(choose_tenant, tenant, now())
        return screen_course(*await database.read(read_course_log, tenant_id, course))

    try:
        screened = with_database(screen)
    except ProximaError as error:
        return [("course", False, error.detail)]
    items, persons = screened.report["suspect_items"], screened.report["person_fit"]
    wrong = {warning["code"]: warning["detail"] for warning in screened.warnings}
    unfit = f"{persons['misfitting']:,} of {persons['judged']:,} with enough answers do not fit; a few never do"
    return [
        ("items", not items["count"], wrong.get("suspect_items", f"{items['judged']:,} judged, none is suspect")),
        *(("items", False, line) for line in describe_suspect_items(items["items"])),
        ("learners", not persons["many"], wrong.get("misfitting_learners", unfit)),
    ]


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("settings", _check_settings),
    ("database", _check_schema),
    ("durability", _check_durability),
    ("connections", _check_connections),
    ("disk", _check_disk),
    ("keys", _check_keys),
    ("snapshots", _check_snapshots),
)
