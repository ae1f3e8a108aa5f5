"""`proxima doctor`: everything the service needs, checked."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import click

from app.cli import UNUSABLE, say_error
from app.cli.database import with_database
from app.core.database import Database, explain, open_database, server_settings, sqlite_path
from app.core.errors import Invalid, ProximaError
from app.core.memory import memory_limit, responses_that_fit
from app.core.settings import read_settings
from app.core.times import now
from app.queries.calibrations import list_lapsed
from app.queries.catalogue import list_courses
from app.queries.clock import read_clock
from app.queries.durability import connections_allowed, durability_faults, missing_indexes, unmet_settings
from app.queries.keys import list_tenants
from app.queries.responses import has_more_responses
from app.services.keys import list_keys, need_tenant
from app.services.present import calibration_id
from app.services.replay import count_stale
from app.services.screening import ScreenedCourse, describe_suspect_items, read_course_log, screen_course

CLOCKS_APART_US = 5 * 1_000_000
ENOUGH = "enough to calibrate every course"
# A service that runs takes a calibration over long before.
LAPSED_US = 60 * 1_000_000
# Without these nothing else can be judged.
GROUND = ("settings", "database")


def check_all(course: str | None = None, tenant: str | None = None) -> bool:
    """Print a line for each check, of a course as well if one is named; whether all is well.

    Nothing is written. A check whose ground has failed is left out: there would be one cause and many lines.
    """
    all_passed = True
    for name, check in CHECKS:
        passed, message = _run_check(check)
        all_passed &= _print_finding(name, message, passed=passed)
        if not passed and name in GROUND:
            return False
    if course is not None:
        for name, passed, message in _check_course(course, tenant):
            all_passed &= _print_finding(name, message, passed=passed)
    return all_passed


def _print_finding(name: str, message: str, *, passed: bool) -> bool:
    """Print a line for a check; whether it passed."""
    click.echo(f"{'ok  ' if passed else 'FAIL'}  {name}: {message}")
    return passed


def _run_check(check: Callable[[], str]) -> tuple[bool, str]:
    """Whether a check went well, and what it says."""
    try:
        return True, check()
    except ProximaError as error:
        return False, say_error(error)
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        return False, f"{UNUSABLE}: {reason}"


def _check_settings() -> str:
    """The settings can be read."""
    return f"{read_settings().database_url.split('://')[0]}, log level {read_settings().log_level}"


def _check_schema() -> str:
    """The database answers and is migrated."""
    missing = with_database(lambda database: database.read(missing_indexes))
    if missing:
        raise Invalid(
            f"an index is missing, or was not built to its end: {', '.join(missing)}; make a backup, and restore it "
            "into a new database"
        )
    return "the tables are those of this program"


def _check_limits() -> str:
    """The limits that a worker asks for reach the server: a pooler between them may leave them out."""

    async def compare() -> list[str]:
        database = open_database(read_settings().database_url, pool_size=1)
        try:
            return await database.read(unmet_settings, server_settings())
        finally:
            await database.close()

    unmet = asyncio.run(compare())
    if unmet:
        raise Invalid(
            f"{'; '.join(unmet)}: what the service asks for does not reach the server. Behind a connection pooler, set "
            "it on the role: see PostgreSQL in docs/operate.md"
        )
    return "waits for locks, statements and idle transactions are bounded"


def _check_clock() -> str:
    """The clocks of this host and of the database agree, and are not behind what is stored."""

    async def compare(database: Database) -> tuple[int, int]:
        before = now()
        shared = await database.read(read_clock)
        tenants = await database.read(list_tenants)
        made = [row.created_at for _, name in tenants for row in await database.read(list_keys, name)]
        return before - shared, max(made, default=0) - shared

    ahead, younger = with_database(compare)
    if abs(ahead) > CLOCKS_APART_US:
        way = "ahead of" if ahead > 0 else "behind"
        raise Invalid(
            f"the clock of this host is {abs(ahead) // 1_000_000:,} s {way} that of the database; set both by NTP"
        )
    if younger > CLOCKS_APART_US:
        raise Invalid(f"a key was made {younger // 1_000_000:,} s after now; the clock is behind: set it by NTP")
    return "that of this host and that of the database agree"


def _check_calibrations() -> str:
    """No calibration waits for a process that is gone."""

    async def find(database: Database) -> list[str]:
        moment = await database.read(read_clock)
        lapsed = await database.read(list_lapsed, moment - LAPSED_US)
        names = dict(await database.read(list_tenants))
        return [f"{calibration_id(number)} of {names[tenant]}/{course}" for tenant, course, number in lapsed]

    lapsed = with_database(find)
    if lapsed:
        raise Invalid(
            f"nobody works any more at what is running: {', '.join(lapsed)}; a service that runs takes it over within "
            "seconds"
        )
    return "none waits for a process that is gone"


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
    folder = sqlite_path(url).resolve().parent if url.startswith("sqlite") else Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < 1 << 28:
        raise Invalid(f"only {free >> 20} MiB are free; make room")
    return f"{free >> 30} GiB free"


def _check_memory() -> str:
    """The limit of memory is enough to calibrate every course."""
    limit = memory_limit()
    if limit is None:
        return ENOUGH
    fit = responses_that_fit(limit)

    async def find(database: Database) -> list[str]:
        return [
            f"{tenant}/{course}"
            for tenant_id, tenant in await database.read(list_tenants)
            for course in await database.read(list_courses, tenant_id)
            if await database.read(has_more_responses, tenant_id, course, fit)
        ]

    large = with_database(find)
    if large:
        raise Invalid(
            f"the limit of {limit >> 20:,} MiB is enough to calibrate a course of {fit:,} responses, and "
            f"{', '.join(large)} has more; raise it (docs/container.md)"
        )
    return ENOUGH


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
        tenant_id = await database.read(need_tenant, tenant)
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
    ("limits", _check_limits),
    ("disk", _check_disk),
    ("memory", _check_memory),
    ("clock", _check_clock),
    ("keys", _check_keys),
    ("calibrations", _check_calibrations),
    ("snapshots", _check_snapshots),
)
