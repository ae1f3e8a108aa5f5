"""Backups and moves: one transaction writes what it sees to a file; a database takes the whole file or nothing."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from sqlalchemy import Connection

from app import __version__
from app.adaptive.tracing.state_codec import ENGINE
from app.core.errors import Conflict, Invalid, InvalidFile, NotMigrated
from app.core.migrate import current_revision, revisions, upgrade
from app.core.times import to_text
from app.files.backup_format import (
    BackupReader,
    BackupWriter,
    Contents,
    Header,
    Progress,
    Table,
    Tally,
    decode_rows,
    encode_rows,
    open_backup,
)
from app.queries import transfer as queries
from app.queries.keys import list_tenants


def dump_database(db: Connection, file: IO[bytes], now: int, progress: Progress) -> Contents:
    """Write all tenants to a file, as this transaction sees them; a database of an older schema too."""
    return _write_backup(db, file, Header(_known_schema(db), ENGINE, __version__, to_text(now)), progress)


def export_tenant(db: Connection, file: IO[bytes], tenant: str | None, now: int, progress: Progress) -> Contents:
    """Write one tenant to a file, as this transaction sees it; the only tenant, if none is named."""
    tenants = {name: id_ for id_, name in list_tenants(db)}
    name = next(iter(tenants)) if tenant is None and len(tenants) == 1 else tenant
    if name is None or name not in tenants:
        raise Invalid(f"say --tenant with one of: {', '.join(tenants) or 'none yet'}")
    header = Header(_known_schema(db), ENGINE, __version__, to_text(now), tenants[name], name)
    return _write_backup(db, file, header, progress)


def _known_schema(db: Connection) -> str:
    """Return the revision of the database. Raises `NotMigrated` if this program does not know it."""
    revision = current_revision(db)
    if revision is None:
        raise NotMigrated("the database has no tables of this program; run `proxima migrate`")
    if revision not in revisions():
        raise NotMigrated(f"the database is at the version {revision} of a newer program; use that")
    return revision


def _write_backup(db: Connection, file: IO[bytes], header: Header, progress: Progress) -> Contents:
    """Write the header and the rows it announces, table by table."""
    # A transaction that is retried writes the file from its beginning.
    file.seek(0)
    file.truncate()
    tables = queries.list_tables(db)
    total = sum(queries.count_rows(db, table, header.tenant_id) for table in tables)
    writer, done = BackupWriter(file, header), 0
    for table in tables:
        writer.begin(table)
        for rows in queries.stream_rows(db, table, header.tenant_id):
            writer.add(table, encode_rows(table, rows))
            done += len(rows)
            progress("writing", done, total)
    return writer.close()


def restore(db: Connection, path: Path, contents: Contents, progress: Progress) -> None:
    """Fill an empty database with the rows of the file, and migrate it to the schema of this program.

    All in one transaction, which begins here if there is none: else each revision would open its own.
    """
    with nullcontext() if db.in_transaction() else db.begin(), open_backup(path) as archive:
        _check_known(archive.header)
        _make_empty(db)
        upgrade(db, archive.header.schema)
        _load_rows(db, archive, contents, progress)
        upgrade(db)


def _make_empty(db: Connection) -> None:
    """Drop all of our tables. Raises `Conflict` if that would lose a row."""
    if current_revision(db) is None:
        if queries.list_table_names(db):
            raise Conflict("the database holds tables of something else; restore into an empty one")
        return
    _known_schema(db)
    if any(queries.count_rows(db, table, None) for table in queries.list_tables(db)):
        raise Conflict("the database is not empty; restore into an empty one")
    queries.drop_tables(db)


def import_tenant(db: Connection, path: Path, contents: Contents, progress: Progress) -> None:
    """Add the tenant of a file under its own number, from which ids, seeds and keys derive."""
    with open_backup(path) as archive:
        header = archive.header
        if header.tenant_id is None or header.tenant is None:
            raise InvalidFile(f"{path.name} is a backup of all tenants: `proxima restore` takes it")
        _check_known(header)
        if header.schema != _known_schema(db):
            raise InvalidFile(
                f"{path.name} has the older schema {header.schema}: `proxima restore` it into an empty database, "
                "and export it from there"
            )
        namesake = queries.find_namesake(db, header.tenant_id, header.tenant)
        if namesake is not None:
            raise Conflict(
                f"the file holds tenant {header.tenant_id}, {header.tenant}, and there is a tenant {namesake[0]}, "
                f"{namesake[1]}; a tenant keeps its number and its name"
            )
        _load_rows(db, archive, contents, progress)


def _check_known(header: Header) -> None:
    """Raise `InvalidFile` for the file of a newer program."""
    if header.schema not in revisions() or header.engine > ENGINE:
        raise InvalidFile(
            f"a newer program made the file: {header.version}, schema {header.schema}, engine {header.engine}"
        )


def _load_rows(db: Connection, archive: BackupReader, contents: Contents, progress: Progress) -> None:
    """Store all rows of a file, and verify them by reading them back."""
    tenant_id = archive.header.tenant_id
    tables = queries.list_tables(db)
    known = {table.name: table for table in tables}
    done, before = 0, None
    for table, lines in archive:
        if known.get(table.name) != table:
            raise InvalidFile(f"the file has a table {table.name} that the schema {archive.header.schema} has not")
        if not lines and before is not None:
            queries.analyze(db, [before])
        if lines:
            rows = decode_rows(table, lines)
            owner = "id" if table.name == queries.OWNER else "tenant_id"
            if tenant_id is not None and any(row[owner] != tenant_id for row in rows):
                raise InvalidFile(f"the table {table.name} of the file has rows of another tenant")
            queries.insert_table_rows(db, table, rows)
        before, done = table, done + len(lines)
        progress("loading", done, contents.total)
    queries.finish_load(db, tables)
    if queries.count_dangling(db):
        raise InvalidFile("the file has rows that refer to nothing")
    _verify_restored(db, tables, tenant_id, contents, progress)


def _verify_restored(
    db: Connection, tables: Sequence[Table], tenant_id: int | None, contents: Contents, progress: Progress
) -> None:
    """Raise `InvalidFile` unless the database, read back, holds exactly the rows of the file."""
    tally, done = Tally(), 0
    for table in tables:
        tally.add(table, [])
        for rows in queries.stream_rows(db, table, tenant_id):
            tally.add(table, encode_rows(table, rows))
            done += len(rows)
            progress("reading back", done, contents.total)
    queries.close_streams(db)
    if (tally.rows, tally.state) != (contents.rows, contents.state):
        raise InvalidFile("the database does not give back what the file says; nothing was kept")
