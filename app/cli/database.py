"""The configured database, opened for one command."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from app.core.database import Database, open_database
from app.core.errors import NotMigrated
from app.core.migrate import is_current, need_supported_server
from app.core.settings import read_settings

T = TypeVar("T")

LONGEST_STATEMENT_S = 600


def with_database(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the configured database, which must be migrated."""

    async def run(database: Database) -> T:
        await need_migrated(database)
        return await work(database)

    return with_any_database(run)


def with_any_database(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the configured database, of whatever schema it is."""

    async def run() -> T:
        database = open_database(read_settings().database_url, pool_size=2, statement_timeout_s=LONGEST_STATEMENT_S)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


async def need_migrated(database: Database) -> None:
    """Raises `NotMigrated` if the tables are not those of this program, `InvalidSetting` if the server is too old."""
    await database.read(need_supported_server)
    if not await database.read(is_current):
        raise NotMigrated("the database is not at the version of this program; run `proxima migrate`")
