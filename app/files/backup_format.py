"""The file of `proxima backup` and `proxima export`: rows of tables, streamed, and the proof that they are all there.

    {"proxima": "backup", "format": 1, "schema": …}        the header
    {"table": "course", "columns": {"id": "text", …}}      each table, after those it refers to, and then its rows
    ["fractions", 1, …]
    {"rows": {"course": 1, …}, "sha256": …, "state": …}    the closing line

One gzip stream of such lines. `sha256` is that of all lines before; `state` is the sum of the SHA-256 of each row with
the name of its table, modulo 2^256: databases with the same rows have the same state, in whatever order they keep them.
"""

import binascii
import gzip
import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, TypeVar

from app.core.errors import Conflict, Invalid, InvalidFile

T = TypeVar("T")

FORMAT = 1
# Level 6 takes three times as long for a file a tenth smaller.
LEVEL = 1
# What tells zlib to write a gzip header and trailer, without a name or a time in them.
GZIP = 31
# A line is one row; the largest is a change of the catalogue or a calibration.
LONGEST_LINE = 1 << 28
BATCH_ROWS, BATCH_BYTES = 1000, 1 << 22
STATE_MODULUS = 1 << 256

ColumnKind = Literal["boolean", "bytes", "integer", "json", "real", "text"]
Progress = Callable[[str, float, float], None]
TYPES: dict[ColumnKind, type] = {"boolean": bool, "bytes": str, "integer": int, "real": float, "text": str}

# What PostgreSQL's JSON does not keep as it was: the sign of zero, and that a large whole number was a float.
UNSTABLE = re.compile(r"-0\.0(?![0-9])|e\+")
LARGE = 1e16


class _NotFinite(ValueError):
    """NaN or an infinity, which JSON does not have."""


def _refuse(constant: str) -> NoReturn:
    raise _NotFinite(constant)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
_DECODER = json.JSONDecoder(parse_constant=_refuse)


@dataclass(frozen=True)
class Header:
    """What a file holds: all tenants or one, under which schema, by which engine and program, from when."""

    schema: str
    engine: int
    version: str
    made_at: str
    tenant_id: int | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class Table:
    """A table by its name, and its columns with what they hold, sorted by their names."""

    name: str
    columns: dict[str, ColumnKind]


@dataclass(frozen=True)
class Contents:
    """What a file holds, as its closing line says it."""

    rows: dict[str, int]
    state: str
    sha256: str

    @property
    def total(self) -> int:
        """The rows of all tables."""
        return sum(self.rows.values())


class Tally:
    """Counts rows and sums their hashes as they pass."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._sum = 0

    def add(self, table: Table, lines: Sequence[bytes]) -> None:
        """Count rows in."""
        name = f"{table.name}\n".encode()
        self.rows[table.name] = self.rows.get(table.name, 0) + len(lines)
        self._sum += sum(int.from_bytes(hashlib.sha256(name + line).digest()) for line in lines)

    @property
    def state(self) -> str:
        """The sum so far, in hexadecimal."""
        return f"{self._sum % STATE_MODULUS:064x}"


class BackupWriter:
    """Writes an archive to a file: the header, for each table `add`, and `close`."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file = file
        self._gzip = zlib.compressobj(LEVEL, wbits=GZIP)
        self._hash = hashlib.sha256()
        self._tally = Tally()
        self._write_lines([_header_line(header)])

    def begin(self, table: Table) -> None:
        """The rows of this table follow."""
        self._tally.add(table, [])
        self._write_lines([_table_line(table)])

    def add(self, table: Table, lines: Sequence[bytes]) -> None:
        """Rows of the table, as `encode_rows` makes them."""
        self._tally.add(table, lines)
        self._write_lines(lines)

    def close(self) -> Contents:
        """Say what was written; the file is on the disk when this returns."""
        contents = Contents(self._tally.rows, self._tally.state, self._hash.hexdigest())
        self._write_lines([_closing_line(contents)], last=True)
        return contents

    def _write_lines(self, lines: Sequence[bytes], *, last: bool = False) -> None:
        data = b"".join(line + b"\n" for line in lines)
        self._hash.update(data)
        try:
            self._file.write(self._gzip.compress(data))
            if last:
                self._file.write(self._gzip.flush())
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(error) from error


class BackupReader:
    """The tables and rows of a file, batch by batch; `position` of its `size` bytes on the disk have been read.

    After the last batch the file is known to be whole: `contents` is what its closing line says, verified. Everything
    else raises `InvalidFile`.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.contents: Contents | None = None
        self._path, self._file = path, file
        self._zip = gzip.GzipFile(fileobj=file)
        self._hash = hashlib.sha256()
        self._tally = Tally()
        first = self._read_line()
        self.header = self._parse_line(first, _as_header)
        self._hash.update(first + b"\n")

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self._file.tell()

    def __iter__(self) -> Iterator[tuple[Table, list[bytes]]]:
        """Each table once without rows, then with its rows in batches."""
        table: Table | None = None
        batch: list[bytes] = []
        length = 0
        while not (line := self._read_line()).startswith(b'{"rows"'):
            self._hash.update(line + b"\n")
            starts = not line.startswith(b"[")
            if table and batch and (starts or len(batch) >= BATCH_ROWS or length > BATCH_BYTES):
                yield self._count(table, batch)
                batch, length = [], 0
            if starts:
                table = self._parse_line(line, _as_table)
                if table.name in self._tally.rows:
                    raise self._damaged_file("a table begins twice")
                yield self._count(table, [])
            else:
                batch.append(line)
                length += len(line)
        if batch:
            if table is None:
                raise self._damaged_file("rows without a table")
            yield self._count(table, batch)
        self._check_end(line)

    def _count(self, table: Table, lines: list[bytes]) -> tuple[Table, list[bytes]]:
        self._tally.add(table, lines)
        return table, lines

    def _check_end(self, line: bytes) -> None:
        contents = Contents(self._tally.rows, self._tally.state, self._hash.hexdigest())
        if line != _closing_line(contents):
            raise self._damaged_file("it is not what its closing line says")
        if self._has_more():
            raise self._damaged_file("it goes on behind its closing line")
        self.contents = contents

    def _read_line(self) -> bytes:
        line = self._read(lambda: self._zip.readline(LONGEST_LINE))
        if not line.endswith(b"\n"):
            raise self._damaged_file("it ends too early")
        return line[:-1]

    def _has_more(self) -> bool:
        return bool(self._read(lambda: self._zip.read(1)))

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except gzip.BadGzipFile as error:
            raise self._damaged_file("not a gzip file, or not a whole one") from error
        except (EOFError, zlib.error) as error:
            raise self._damaged_file("it ends too early, or was changed") from error
        except OSError as error:
            raise InvalidFile(f"{self._path.name} cannot be read: {error.strerror or error}") from error

    def _parse_line(self, line: bytes, read: Callable[[Any], T]) -> T:
        try:
            return read(_DECODER.decode(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged_file("it is not a backup or an export, or was changed") from error

    def _damaged_file(self, reason: str) -> InvalidFile:
        return InvalidFile(f"{self._path.name} cannot be used: {reason}")


@contextmanager
def open_backup(path: Path) -> Iterator[BackupReader]:
    """An archive, open for as long as it is read. Raises `InvalidFile`."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidFile(f"{path.name} cannot be read: {error.strerror or error}") from error
    with file:
        yield BackupReader(path, file)


def check_backup(path: Path, progress: Progress) -> tuple[Header, Contents]:
    """Read a file to its end without looking into its rows: what it is and what it holds. Raises `InvalidFile`."""
    with open_backup(path) as archive:
        for _ in archive:
            progress("checking the file", archive.position, archive.size)
        if archive.contents is None:
            raise AssertionError("unreachable: the end of the file sets it")
        return archive.header, archive.contents


@contextmanager
def replace_atomically(path: Path, *, overwrite: bool, progress: Progress) -> Iterator[IO[bytes]]:
    """A new file, for its owner's eyes, that is called `path` once it is whole and on the disk, and else is gone."""
    if path.exists() and not overwrite:
        raise Conflict(f"{path} is there already; say --overwrite if it is to be replaced")
    written = None
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        written = Path(name)
        with os.fdopen(number, "wb") as file:
            yield file
        check_backup(written, progress)
        written.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(error) from error
    finally:
        if written is not None:
            written.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name last."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def encode_rows(table: Table, rows: Iterable[Sequence[Any]]) -> list[bytes]:
    """Rows as lines. Equal rows have equal lines, on whichever database they were."""
    binary = [index for index, kind in enumerate(table.columns.values()) if kind == "bytes"]
    lines = []
    for row in rows:
        values = list(row)
        for index in binary:
            if values[index] is not None:
                values[index] = binascii.b2a_base64(values[index], newline=False).decode()
        lines.append(_row_line(table, values))
    return lines


def _row_line(table: Table, values: list[Any]) -> bytes:
    try:
        text = _ENCODER.encode(values)
        if UNSTABLE.search(text):
            kinds = table.columns.values()
            text = _ENCODER.encode([_normalised(value, kind) for value, kind in zip(values, kinds, strict=True)])
    except ValueError as error:
        raise Invalid(f"the table {table.name} holds a number that is not finite") from error
    return text.encode()


def _normalised(value: Any, kind: ColumnKind) -> Any:
    """A value in the one form that both databases give back."""
    if kind == "real" and value is not None:
        return value + 0.0  # SQLite and PostgreSQL's JSON know no negative zero
    return _normalised_json(value) if kind == "json" else value


def _normalised_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _normalised_json(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_normalised_json(child) for child in value]
    if isinstance(value, float):
        return int(Decimal(repr(value))) if abs(value) >= LARGE else value + 0.0
    return value


def decode_rows(table: Table, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Rows as values by column. Raises `InvalidFile` for what cannot be in such a table."""
    names, kinds = list(table.columns), list(table.columns.values())
    binary = [name for name, kind in table.columns.items() if kind == "bytes"]
    seen: set[tuple[type, ...]] = set()
    rows = []
    for line in lines:
        try:
            values = _DECODER.decode(line.decode())
            shape = tuple(map(type, values))
            if shape not in seen:
                _check_shape(shape, kinds)
                seen.add(shape)
            row = dict(zip(names, values, strict=True))
            for name in binary:
                if row[name] is not None:
                    row[name] = binascii.a2b_base64(row[name], strict_mode=True)
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"a row of the table {table.name} is not one it can have") from error
        rows.append(row)
    return rows


def _check_shape(shape: Sequence[type], kinds: Sequence[ColumnKind]) -> None:
    for actual, kind in zip(shape, kinds, strict=True):
        if kind != "json" and actual not in (TYPES[kind], type(None)):
            raise ValueError(f"{actual} is not of the kind {kind}")


def _header_line(header: Header) -> bytes:
    fields = {"proxima": "backup" if header.tenant_id is None else "tenant", "format": FORMAT, **asdict(header)}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _as_header(parsed: Any) -> Header:
    kind, number = parsed.pop("proxima"), parsed.pop("format")
    if number != FORMAT:
        raise InvalidFile(f"the file has the format {number}, and this program knows {FORMAT}: use a newer program")
    header = Header(**parsed)
    is_full = header.tenant_id is None
    if kind != ("backup" if is_full else "tenant") or {type(header.tenant_id), type(header.tenant)} != (
        {type(None)} if is_full else {int, str}
    ):
        raise ValueError("neither a backup nor a tenant")
    return header


def _table_line(table: Table) -> bytes:
    return json.dumps({"table": table.name, "columns": table.columns}, separators=(",", ":")).encode()


def _as_table(parsed: Any) -> Table:
    if not set(parsed["columns"].values()) <= {*TYPES, "json"} or not isinstance(parsed["table"], str):
        raise ValueError("unknown kinds of columns")
    return Table(parsed["table"], parsed["columns"])


def _closing_line(contents: Contents) -> bytes:
    fields = {"rows": contents.rows, "sha256": contents.sha256, "state": contents.state}
    return json.dumps(fields, separators=(",", ":")).encode()


def _unwritable(error: OSError) -> Invalid:
    return Invalid(f"the file cannot be written: {error.strerror or error}")
