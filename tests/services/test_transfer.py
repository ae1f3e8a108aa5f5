"""A tenant moves from one database to the other and is the same; a file that is not whole is never taken."""

import asyncio
import gzip
import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from app.core.database import Database, open_database
from app.core.errors import InvalidFile, ProximaError
from app.core.migrate import head_revision, run_exclusively
from app.core.security import parse_key
from app.files import backup_format
from app.files.backup_format import BackupReader, BackupWriter, Contents, Header, Table, Tally, decode_rows, encode_rows
from app.models import Base
from app.queries import transfer as queries
from app.queries.keys import list_tenants
from app.services import calibrations, transfer
from app.services.keys import create_key
from tests.gate.examples import examples
from tests.migrations.test_migrations import fill
from tests.tenants import (
    MakeUrl,
    databases,
    error_line,
    output_of,
    populate_tenant,
    read_database,
    rewrite_backup,
    run_cli,
    run_with_database,
)

T = TypeVar("T")
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}


@pytest.fixture(autouse=True)
def _small_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)


@pytest.fixture
def make(postgres_server: str, tmp_path: Path, templates: dict[str, str]) -> Iterator[MakeUrl]:
    """Makes databases of either kind."""
    with databases(postgres_server, tmp_path, templates) as maker:
        yield maker


@pytest.fixture(scope="module")
def populated(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory, templates: dict[str, str]
) -> Iterator[Callable[[str], str]]:
    """The URL of a database of either kind with a populated tenant that is not the first; it is only copied."""
    with databases(postgres_server, tmp_path_factory.mktemp("populated"), templates) as maker:

        @cache
        def populate_one(kind: str) -> str:
            url = maker(kind)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(calibrations, "MIN_RESPONSES", 1)
                assert run_with_database(url, second_tenant) == 2
            return url

        yield populate_one


@pytest.fixture
def make_school(make: MakeUrl, populated: Callable[[str], str]) -> Callable[[str], str]:
    """Makes databases with that tenant."""
    return lambda kind: make(kind, like=populated(kind))


def quiet(*_: object) -> None:
    """A progress that nobody looks at."""


async def second_tenant(database: Database) -> int:
    """A populated tenant that is not the first of its database."""
    await database.write(create_key, "first", ["admin"], 1)
    return await populate_tenant(database)


def export(url: str, path: Path, tenant: str = "school") -> Contents:
    """Export a tenant; what the file says it holds."""
    told = output_of(run_cli(url, "export", "--tenant", tenant, path, "--overwrite"))
    contents = backup_format.check_backup(path, quiet)[1]
    assert f"state {contents.state}" in told
    return contents


def verified(url: str) -> tuple[int, str]:
    """How `replay --verify` ends, and what it says."""
    result = run_cli(url, "replay", "--verify")
    return result.exit_code, result.stdout


def counted(db: Connection) -> dict[str, int]:
    """The rows of every table that can be moved."""
    return {table.name: queries.count_rows(db, table, None) for table in queries.list_tables(db)}


# Nothing is forgotten


def accounted_and_existing_tables(db: Connection) -> tuple[set[str], set[str]]:
    """The tables a backup holds with those it leaves out, and all there are."""
    moved = {table.name for table in queries.list_tables(db)}
    assert not moved & queries.EXCLUDED_TABLES.keys()
    return moved | queries.EXCLUDED_TABLES.keys(), {*queries.list_table_names(db)} - {"alembic_version"}


@pytest.mark.anyio
async def test_backup_holds_every_table_or_excludes_it_for_a_reason(database: Database) -> None:
    kept, there = await database.read(accounted_and_existing_tables)
    assert kept == there == set(Base.metadata.tables)
    assert all(queries.EXCLUDED_TABLES.values())
    await database.write(lambda db: db.execute(text("CREATE TABLE forgotten (id INTEGER)")))
    assert await database.read(accounted_and_existing_tables) == (kept, there | {"forgotten"})


def rows_of(db: Connection) -> dict[str, list[bytes]]:
    """All rows that can be moved, as lines."""
    return {
        table.name: sorted(line for rows in queries.stream_rows(db, table, None) for line in encode_rows(table, rows))
        for table in queries.list_tables(db)
    }


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_restore_returns_a_row_of_every_table(engine_name: str, target: str, make: MakeUrl, tmp_path: Path) -> None:
    source, path = make(engine_name), tmp_path / "all.gz"
    run_with_database(source, lambda database: database.write(fill))
    output_of(run_cli(source, "backup", path))
    restored = make(target, migrated=False)
    output_of(run_cli(restored, "restore", path))
    before = read_database(source, rows_of)
    assert all(before.values())
    assert read_database(restored, rows_of) == before
    assert read_database(restored, lambda db: db.scalar(text("SELECT count(*) FROM quota_use"))) == 0


# Moves


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_tenant_is_unchanged_by_export_and_import_between_databases(
    kind: str, make: MakeUrl, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    urls = [make_school(kind), make(OTHER[kind]), make(kind)]
    key = run_with_database(urls[0], lambda database: database.write(create_key, "school", ["admin"], 1))
    for url in urls[1:]:
        output_of(run_cli(url, "key", "create", "--tenant", "elsewhere", "--scope", "admin"))
    path = tmp_path / "school.gz"
    contents = [export(urls[0], path)]
    for url in urls[1:]:
        told = output_of(run_cli(url, "import", "tenant", path))
        assert told.startswith("tenant school imported: 1 tenant, 2 courses, 20 learners, ")
        contents.append(export(url, path))
    assert contents[0].rows["response"] == 184
    assert contents[0].rows["correction"] == 6
    assert {(each.state, tuple(each.rows.items())) for each in contents} == {
        (contents[0].state, tuple(contents[0].rows.items()))
    }
    for url in urls:
        code, said = verified(url)
        assert code == 0, said
        assert said.count("school/arithmetic: 10 learners, 92 answers, ") == 1
        assert " 0 snapshots to be rebuilt" not in said
        assert read_database(url, lambda db: queries.find_namesake(db, 2, "")) == (2, "school")
        assert parse_key(key.text) is not None
        assert key.id in output_of(run_cli(url, "key", "list", "--tenant", "school"))
        assert (
            run_with_database(url, lambda database: database.write(create_key, "next", ["admin"], 1)).text.split("_")[1]
            not in "12"
        )


def test_export_holds_only_the_named_tenant(
    engine_name: str, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    url, path = make_school(engine_name), tmp_path / "one.gz"
    run_with_database(url, lambda database: populate_tenant(database, "third"))
    assert export(url, path).rows["response"] == 184
    assert b"third" not in gzip.decompress(path.read_bytes())
    assert error_line(run_cli(url, "export", tmp_path / "x.gz")) == "say --tenant with one of: first, school, third"
    assert error_line(run_cli(url, "export", "--tenant", "fourth", tmp_path / "x.gz")).startswith("say --tenant")


def test_state_hash_differs_for_different_databases(
    engine_name: str, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    url, path = make_school(engine_name), tmp_path / "school.gz"
    seen = {export(url, path).state}
    for change in (
        "UPDATE learner SET theta = theta + 1e-15 WHERE id = '🦊'",
        "UPDATE response SET outcome = outcome || ' ' WHERE id = 'r-1-1' AND course_id = 'arithmetic'",
        "DELETE FROM correction WHERE score = 0.5",
    ):
        run_with_database(url, lambda database, change=change: database.write(lambda db: db.execute(text(change))))  # type: ignore[misc]
        seen.add(export(url, path).state)
    assert len(seen) == 4


def test_import_of_a_tenant_whose_number_or_name_is_taken_is_refused(
    engine_name: str, make: MakeUrl, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    source, path = make_school("sqlite"), tmp_path / "school.gz"
    export(source, path)
    for names, said in (
        (["a", "b"], "there is a tenant 2, b; a tenant keeps its number and its name"),
        (["school"], "there is a tenant 1, school; a tenant keeps its number and its name"),
    ):
        url = make(engine_name)
        for name in names:
            output_of(run_cli(url, "key", "create", "--tenant", name, "--scope", "admin"))
        before = read_database(url, counted)
        told = error_line(run_cli(url, "import", "tenant", path))
        assert told == f"the file holds tenant 2, school, and {said}"
        assert read_database(url, counted) == before


def test_imported_tenant_is_not_imported_again(
    engine_name: str, make: MakeUrl, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    source, path = make_school("sqlite"), tmp_path / "school.gz"
    export(source, path)
    url = make(engine_name)
    output_of(run_cli(url, "import", "tenant", path))
    before = read_database(url, rows_of)
    assert "there is a tenant 2, school" in error_line(run_cli(url, "import", "tenant", path))
    assert read_database(url, rows_of) == before


def resealed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy whose rows somebody changed who knows how to make the closing line."""

    def again(plain: bytes) -> bytes:
        lines = change(plain).splitlines(keepends=True)[:-1] if b"\r" not in plain else []
        tally, table, digest = Tally(), None, hashlib.sha256()
        for line in lines:
            digest.update(line)
            if line.startswith(b'{"table"'):
                told = json.loads(line)
                table = Table(told["table"], told["columns"])
                tally.add(table, [])
            elif table:
                tally.add(table, [line[:-1]])
        contents = Contents(tally.rows, tally.state, digest.hexdigest())
        return b"".join(lines) + backup_format._closing_line(contents) + b"\n"

    return rewrite_backup(path, again)


def renumbered(plain: bytes) -> bytes:
    """The tenant as number 7 instead of 2."""
    lines = plain.split(b"\n")
    table: dict[str, Any] = {}
    for place, line in enumerate(lines[:-2]):
        if line.startswith(b'{"proxima"'):
            lines[place] = line.replace(b'"tenant_id":2', b'"tenant_id":7')
        elif line.startswith(b"{"):
            table = json.loads(line)
        else:
            values = json.loads(line)
            owner = "id" if table["table"] == "tenant" else "tenant_id"
            values[list(table["columns"]).index(owner)] = 7
            lines[place] = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return b"\n".join(lines)


@pytest.mark.controls
def test_verification_notices_a_tenant_under_another_number(
    engine_name: str, make: MakeUrl, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    """The control of all verifications here: ids and chance derive from the number, so it must not change."""
    source, path, url = make_school("sqlite"), tmp_path / "school.gz", make(engine_name)
    export(source, path)
    output_of(run_cli(url, "import", "tenant", resealed(path, renumbered)))
    code, said = verified(url)
    assert code == 1
    assert re.search(r", [1-9]\d* differences", said), said


def test_import_refuses_rows_of_another_tenant(
    engine_name: str, make: MakeUrl, make_school: Callable[[str], str], tmp_path: Path
) -> None:
    source, path, url = make_school("sqlite"), tmp_path / "school.gz", make(engine_name)
    export(source, path)
    forged = resealed(path, lambda plain: plain.replace(b'"tenant_id":2', b'"tenant_id":7', 1))
    before = read_database(url, counted)
    assert "rows of another tenant" in error_line(run_cli(url, "import", "tenant", forged))
    assert read_database(url, counted) == before


# Files that are not whole


class Undo(Exception):
    """Takes an import back."""


@pytest.fixture
def import_and_undo(database_url: str) -> Iterator[Callable[[Path], Contents]]:
    """Import a file, look at what is there, and undo it."""
    with asyncio.Runner() as runner:
        database = open_database(database_url)

        def attempt(path: Path) -> Contents:
            header, contents = backup_format.check_backup(path, quiet)

            def work(db: Connection) -> None:
                transfer.import_tenant(db, path, contents, quiet)
                raise Undo(sum(counted(db).values()))

            with pytest.raises(Undo) as undone:
                runner.run(database.write(work))
            assert undone.value.args == (contents.total,)
            assert header.tenant is not None
            return contents

        yield attempt
        assert not any(runner.run(database.read(counted)).values())
        runner.run(database.close())


@pytest.fixture(scope="module")
def school(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small tenant."""
    folder = tmp_path_factory.mktemp("school")
    (folder / "school.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{folder / 'school.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrations, "MIN_RESPONSES", 1)
        run_with_database(url, populate_tenant)
    export(url, folder / "school.gz")
    return folder / "school.gz"


damage = examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
ImportAndUndo = Callable[[Path], Contents]


@damage
@given(data=st.data())
def test_import_of_a_file_with_a_changed_byte_is_refused_or_the_same(
    import_and_undo: ImportAndUndo, school: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """What gzip itself does not look at, as the time in its header, may be different, and nothing else."""
    whole = school.read_bytes()
    place = data.draw(
        st.integers(0, 11) | st.integers(0, len(whole) - 1) | st.integers(len(whole) - 12, len(whole) - 1)
    )
    changed = tmp_path / "changed.gz"
    changed.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    try:
        assert import_and_undo(changed) == backup_format.check_backup(school, quiet)[1]
    except InvalidFile:
        return
    assert gzip.decompress(changed.read_bytes()) == gzip.decompress(whole)


@damage
@given(data=st.data())
def test_import_of_a_cut_file_is_refused(
    import_and_undo: ImportAndUndo, school: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = school.read_bytes()
    end = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 300, len(whole) - 1))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(whole[:end])
    with pytest.raises(InvalidFile):
        import_and_undo(cut)


@damage
@given(data=st.data())
def test_import_of_a_file_with_changed_text_is_refused(
    import_and_undo: ImportAndUndo, school: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Unpacked, changed and packed again: gzip is content, the hashes are not."""
    plain = gzip.decompress(school.read_bytes())
    closing = plain.rindex(b"\n", 0, -1)
    place = data.draw(st.integers(0, len(plain) - 1) | st.integers(closing, len(plain) - 1))
    how = data.draw(st.sampled_from(["flip", "drop", "double", "cut"]))
    changed = bytearray(plain)
    if how == "flip":
        changed[place] ^= data.draw(st.integers(1, 255))
    elif how == "drop":
        del changed[place]
    elif how == "double":
        changed.insert(place, changed[place])
    else:
        del changed[place:]
    path = tmp_path / "changed.gz"
    path.write_bytes(gzip.compress(bytes(changed), 1))
    if bytes(changed) == plain:
        return
    with pytest.raises(InvalidFile):
        import_and_undo(path)


@damage
@given(data=st.data())
def test_import_of_a_file_with_lines_dropped_added_or_moved_is_refused(
    import_and_undo: ImportAndUndo, school: Path, tmp_path: Path, data: st.DataObject
) -> None:
    lines = gzip.decompress(school.read_bytes()).splitlines(keepends=True)
    one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    how = data.draw(st.sampled_from(["drop", "double", "swap", "append"]))
    changed = [*lines]
    if how == "drop":
        del changed[one]
    elif how == "double":
        changed.insert(other, lines[one])
    elif how == "swap":
        changed[one], changed[other] = lines[other], lines[one]
    else:
        changed.append(lines[one])
    if changed == lines:
        return
    path = tmp_path / "changed.gz"
    path.write_bytes(gzip.compress(b"".join(changed), 1))
    with pytest.raises(InvalidFile):
        import_and_undo(path)


@pytest.mark.controls
def test_import_without_the_check_of_the_closing_line_takes_a_changed_file(
    import_and_undo: ImportAndUndo, school: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: only the proof at the end tells that an answer is missing."""

    def without_one(plain: bytes) -> bytes:
        lines = plain.splitlines(keepends=True)
        [first, *_] = [place for place, line in enumerate(lines) if b'"correction"' in line]
        return b"".join([*lines[: first + 1], *lines[first + 2 :]])

    path = rewrite_backup(school, without_one)
    with pytest.raises(InvalidFile):
        import_and_undo(path)

    def believe(self: BackupReader, _: bytes) -> None:
        self.contents = Contents(self._tally.rows, self._tally.state, "")

    monkeypatch.setattr(BackupReader, "_check_end", believe)
    assert import_and_undo(path).total == import_and_undo(school).total - 1


def test_import_of_a_file_that_is_no_backup_is_refused_in_one_line(
    engine_name: str, make: MakeUrl, school: Path
) -> None:
    url = make(engine_name)
    plain = school.with_name("plain.gz")
    for content in (b"", b"x" * 100, gzip.compress(b""), gzip.compress(b"[]\n"), gzip.compress(b'{"a":1}\n{"b":2}\n')):
        plain.write_bytes(content)
        assert "plain.gz cannot be used" in error_line(run_cli(url, "import", "tenant", plain))
        assert "plain.gz cannot be used" in error_line(run_cli(url, "restore", plain))
    deep = rewrite_backup(school, lambda whole: b"[" * 100_000 + whole)
    assert "cannot be used" in error_line(run_cli(url, "restore", deep))
    assert not any(read_database(url, counted).values())


def with_header(**changes: Any) -> Callable[[bytes], bytes]:
    """A change of the header."""

    def change(plain: bytes) -> bytes:
        first, rest = plain.split(b"\n", 1)
        return json.dumps({**json.loads(first), **changes}, separators=(",", ":")).encode() + b"\n" + rest

    return change


@pytest.mark.parametrize("command", [("restore",), ("import", "tenant")])
def test_import_of_a_file_of_a_newer_program_is_refused(
    command: tuple[str, ...], engine_name: str, make: MakeUrl, school: Path
) -> None:
    url = make(engine_name)
    for changes, said in (
        ({"schema": "9999"}, "schema 9999, engine"),
        ({"engine": 99}, "engine 99"),
        ({"format": 2}, "has the format 2, and this program knows 1"),
    ):
        newer = resealed(school, with_header(**changes))
        assert said in error_line(run_cli(url, *command, newer))
    assert not any(read_database(url, counted).values())


def test_import_of_a_backup_refers_to_restore_and_restore_takes_a_tenant(
    engine_name: str, make: MakeUrl, school: Path, tmp_path: Path
) -> None:
    source = make(engine_name)
    output_of(run_cli(source, "import", "tenant", school))
    output_of(run_cli(source, "backup", tmp_path / "backup.gz"))
    url = make(engine_name)
    assert "`proxima restore` takes it" in error_line(run_cli(url, "import", "tenant", tmp_path / "backup.gz"))
    older = resealed(school, with_header(schema="0002"))
    assert "`proxima restore` it into an empty database" in error_line(run_cli(url, "import", "tenant", older))
    output_of(run_cli(url, "restore", school))
    assert read_database(url, rows_of) == read_database(source, rows_of)
    assert [id_ for id_, _ in read_database(url, list_tenants)] == [1]


# Values


TABLE = Table("t", {"a": "real", "b": "text", "c": "bytes", "d": "json", "e": "integer", "f": "boolean"})
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
reals = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 1e-300, 5e-324, 1e16, 1.5, 1e308])
integers = st.integers(-(1 << 63), (1 << 63) - 1)
documents = st.recursive(
    st.none() | st.booleans() | integers | reals | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def rounded(value: Any) -> Any:
    """A value with its large numbers as floats: in JSON such a float is a whole number from then on."""
    if isinstance(value, dict):
        return {name: rounded(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(child) for child in value]
    return float(value) if isinstance(value, int) and abs(value) >= backup_format.LARGE else value


@given(rows=st.lists(st.tuples(reals, texts, st.binary(max_size=9), documents, integers, st.booleans())))
def test_rows_are_unchanged_by_encoding_and_decoding(rows: list[tuple[Any, ...]]) -> None:
    lines = encode_rows(TABLE, rows)
    assert not any(b"\n" in line for line in lines)
    back = [tuple(row.values()) for row in decode_rows(TABLE, lines)]
    assert [rounded(row) for row in back] == [rounded(row) for row in rows]
    assert encode_rows(TABLE, back) == lines
    nothing = [(None,) * 6]
    assert [tuple(row.values()) for row in decode_rows(TABLE, encode_rows(TABLE, nothing))] == nothing


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=st.dictionaries(texts, documents, max_size=3), real=reals, packed=st.binary(max_size=9), id_=texts)
def test_rows_are_encoded_as_they_were_given_to_the_database(
    stored: Callable[[str, dict[str, Any]], None], value: Any, real: float, packed: bytes, id_: str
) -> None:
    """The same line for the same row, whatever the database does to JSON and to the sign of zero."""
    row = {"number": 1, "report": value, "parameters": packed, "error": id_, "status": "x", "attempt": 1, "revision": 1}
    times = dict.fromkeys(("requested_at", "leased_until", "finished_at", "activated_at", "compared_with"), 1)
    stored("calibration", {**row, **times})
    places = {"position": 1, "revision": 1, "engine": 1, "calibration": None, "last_occurred_at": None}
    learner = {"id": id_, "theta": real, "standard_error": -real, "state": packed, "last_response_id": None, **places}
    stored("learner", learner)


@pytest.fixture
def stored(database_url: str) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Store a row of a course, read it back as a line, see that it is the line of what was given, and undo it."""
    with asyncio.Runner() as runner:
        database = open_database(database_url)
        runner.run(database.write(create_key, "school", ["admin"], 1))
        runner.run(
            database.write(lambda db: db.execute(text("INSERT INTO course VALUES (1, 'c', NULL, 1, 1, NULL, 1)")))
        )

        def check(name: str, row: dict[str, Any]) -> None:
            def work(db: Connection) -> None:
                [table] = [table for table in queries.list_tables(db) if table.name == name]
                full = {"tenant_id": 1, "course_id": "c", **row}
                queries.insert_table_rows(db, table, [full])
                [[found]] = queries.stream_rows(db, table, 1)
                [given] = encode_rows(table, [[full[column] for column in table.columns]])
                assert encode_rows(table, [found]) == [given]
                raise Undo

            with pytest.raises(Undo):
                runner.run(database.write(work))

        yield check
        runner.run(database.close())


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b'["1.0","","",{},1,true]',
        b'[NaN,"","",{},1,true]',
        b'[1.0,"","",{},1.0,true]',
        b'[1.0,"","",{},true,true]',
        b'[1.0,"","?",{},1,true]',
        b'[1.0,"","",{},1,1]',
        b"{}",
        b"[1.0",
        b"\xff",
    ],
)
def test_decoding_refuses_a_row_that_the_table_cannot_have(line: bytes) -> None:
    decode_rows(TABLE, [b'[1.0,"","",{},1,true]'])
    with pytest.raises(InvalidFile):
        decode_rows(TABLE, [line])


def test_encoding_refuses_numbers_that_are_not_finite() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ProximaError, match="not finite"):
            encode_rows(TABLE, [(value, None, None, None, None, None)])


# Memory


def peak(work: Callable[[], object]) -> int:
    """The most memory that Python held for something, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def filled(url: str, answers: int) -> str:
    """A database with so many answers of few learners."""

    def work(db: Connection) -> None:
        fill(db)
        [table] = [table for table in queries.list_tables(db) if table.name == "response"]
        [[row]] = queries.stream_rows(db, table, None)
        rows = [
            {**dict(zip(table.columns, row, strict=True)), "id": f"r-{n}", "outcome": f"{n} " * 20}
            for n in range(answers)
        ]
        queries.insert_table_rows(db, table, rows)

    run_with_database(url, lambda database: database.write(work))
    return url


def test_backup_memory_does_not_grow_with_the_log(
    engine_name: str, make: MakeUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {many: tmp_path / f"{many}.gz" for many in (2_400, 9_600)}
    sources = {many: filled(make(engine_name), many) for many in paths}

    def dumped(many: int) -> int:
        with paths[many].open("wb") as file:
            return peak(
                lambda: run_with_database(
                    sources[many], lambda database: database.read(transfer.dump_database, file, 1, quiet)
                )
            )

    def restored(many: int) -> int:
        target = make(engine_name, migrated=False)
        contents = backup_format.check_backup(paths[many], quiet)[1]
        return peak(lambda: run_exclusively(target, lambda db: transfer.restore(db, paths[many], contents, quiet)))

    few, lots = paths
    dumped(few)  # what is loaded once
    dumps = [dumped(few), dumped(lots)]
    restored(few)
    restores = [restored(few), restored(lots)]
    stream = queries.stream_rows

    def at_once(db: Connection, table: Table, tenant_id: int | None) -> Iterator[Any]:
        yield [row for rows in stream(db, table, tenant_id) for row in rows]

    monkeypatch.setattr(queries, "stream_rows", at_once)
    held = [dumped(few), dumped(lots)]
    assert dumps[1] < 1.5 * dumps[0], dumps
    assert restores[1] < 1.5 * restores[0], restores
    assert held[1] > 2 * held[0], held


def test_backup_writer_reports_the_contents_that_a_reader_finds(tmp_path: Path) -> None:
    path, header = tmp_path / "t.gz", Header("0001", 1, "0", "now", 3, "Zoë")
    rows: list[tuple[Any, ...]] = [(n / 7, str(n), b"\n" * n, {"n": n}, n, n % 2 == 0) for n in range(2500)]
    with path.open("wb") as file:
        writer = BackupWriter(file, header)
        writer.begin(TABLE)
        writer.add(TABLE, encode_rows(TABLE, rows))
        contents = writer.close()
    with backup_format.open_backup(path) as found:
        assert found.header == header
        back = [row for table, lines in found for row in decode_rows(table, lines)]
        assert (found.contents, found.position) == (contents, found.size)
    assert [tuple(row.values()) for row in back] == rows
    assert (contents.rows, contents.total) == ({"t": 2500}, 2500)
    with (
        suppress(ProximaError),
        backup_format.replace_atomically(tmp_path / "no" / "t.gz", overwrite=False, progress=quiet),
    ):
        pytest.fail("a folder that is not there")
    assert head_revision() is not None
