"""`proxima replay --verify`."""

import click

from app.cli.database import with_database
from app.cli.progress import progress_bar
from app.core.database import Database
from app.jobs.verify import verify_course
from app.queries.catalogue import list_courses
from app.queries.keys import list_tenants


def verify_all() -> bool:
    """Recompute what is stored of every course from its log and name the differences; whether there are none."""

    async def run(database: Database) -> list[str]:
        differences: list[str] = []
        for tenant_id, name in await database.read(list_tenants):
            for course in await database.read(list_courses, tenant_id):
                with progress_bar() as progress:
                    total = await verify_course(
                        database,
                        tenant_id,
                        course,
                        lambda part: progress(f"{part.responses:,} answers", 0, 1),
                    )
                click.echo(
                    f"{name}/{course}: {total.learners:,} learners, {total.responses:,} answers, "
                    f"{total.recommendations:,} recommendations, {total.sessions:,} sessions, "
                    f"{total.stale:,} snapshots to be rebuilt, "
                    f"{total.other_version:,} of another version, "
                    f"{len(total.differences)} differences"
                )
                differences += total.differences
        return differences

    differences = with_database(run)
    for difference in differences[:20]:
        click.echo(difference, err=True)
    return not differences
