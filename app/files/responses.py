"""The files of `proxima import` and `proxima evaluate`: learners' answers and catalogues, read row by row.

A file that is not what it claims to be raises `InvalidFile`. A row that breaks a rule becomes a `Rejection` with
its line number and the reading goes on: one bad row never costs the others.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from importlib import import_module
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from app.core.errors import InvalidFile
from app.core.ids import check_id
from app.core.times import UNDATED_US

REQUIRED = ("learner_id", "item_id", "skill_ids", "correct")
COLUMNS = (*REQUIRED, "order", "attempted_at", "split", "response_id", "duration_ms", "max_score")
LONGEST_LINE = 1 << 20
ROWS_BETWEEN_REPORTS = 1 << 12

# Half of the second decimal and a little: fractions with denominators below 10 are more than twice as far apart.
ROUNDING_TOLERANCE = 0.006
# Of a maximum: what sums of parts may be off by.
ROUNDING = 1e-9
# As most files have them, and nothing to look at.
PLAIN_SCORES = frozenset(("0", "1", "0.0", "1.0"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
INSTANTS = range((datetime(2201, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND)
LAST_SECOND = INSTANTS[-1] // 1_000_000
WHOLE_NUMBERS = range(-(1 << 63), 1 << 63)

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"([+-]?\d{1,19})(\.0*)?", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?(?P<offset>[Zz]|[+-]\d\d:\d\d)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
PER_CENT = re.compile(r"[+-]?\d+([.,]\d+)?\s*%", re.ASCII)
WITHOUT_SECONDS = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
CR_ALONE = "a line ends with CR alone; save the file with LF or CRLF"
A_TIME = "write 2026-11-22T10:00:00+01:00, or the seconds since 1970"
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
BOM = "\ufeff"
TRUTH = {"true": "1", "false": "0"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """One answer of one learner; `occurred_at` is in microseconds since 1970, UTC."""

    line: int
    learner: str
    item: str
    skills: tuple[str, ...]
    score: float
    order: int | None
    occurred_at: int | None
    split: str | None
    response_id: str | None
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot be used: where it begins, why, and what it says."""

    line: int
    reason: str
    row: str


class _UnusableValue(ValueError):
    """Why a row is rejected."""


class _OffScale(InvalidFile):
    """A score above what the file says it is out of: then all of them may be points."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What the numbers of a file mean.

    `correct` is out of `max_score` where a row has no `max_score` of its own. `orders` are all values of `order`,
    ascending, if they are too large for moments: only their ranks count then.
    """

    max_score: float = 1.0
    orders: Sequence[int] | None = None


_ReportPosition = Callable[[int], object]
# A row: its line; its values, or why it has none; how it stands in the file.
_Row = tuple[int, Sequence[object] | str, Sequence[object] | str]
_Cells = tuple[int, list[str] | str, str]


class _ResponseReader(Iterator[ResponseRecord | Rejection]):
    """The rows of a file, one by one; `position` of its `size` bytes on the disk have been read."""

    def __init__(self, path: Path, columns: Sequence[str], scales: Scales) -> None:
        self.size = _size(path)
        self.position = 0
        rows = _READERS[_file_type(path, _READERS)](path, columns, self._report_position)
        first = next(rows, None)  # a file that is no good says so now, before anything is done with it
        self._results = map(partial(_parse_row, scales), rows if first is None else chain([first], rows))

    def __next__(self) -> ResponseRecord | Rejection:
        return next(self._results)

    def _report_position(self, position: int) -> None:
        self.position = position


def read_responses(path: Path, scales: Scales, split_column: str = "split") -> _ResponseReader:
    """Read CSV, NDJSON (either also `.gz`) or Parquet: every row is an `ResponseRecord` or a `Rejection`.

    `split` is read from the column `split_column`, if the file has it. `scales` are those of `read_scales`.
    """
    return _ResponseReader(path, [split_column if name == "split" else name for name in COLUMNS], scales)


def read_scales(path: Path, max_score: float | None, progress: Callable[[int, int], object]) -> Scales:
    """Look at all scores and orders of a file before anything is done with it.

    Raises `InvalidFile` if a score is higher than it can be: leaving out such rows would leave out the best answers.
    `progress` takes the bytes read and the size of the file.
    """
    scales, size, orders = Scales(1.0 if max_score is None else max_score), _size(path), set[int]()
    rows = _READERS[_file_type(path, _READERS)](path, ("correct", "max_score", "order"), lambda at: progress(at, size))
    for line, values, _ in rows:
        if isinstance(values, str):
            continue
        score, highest, order = values
        with suppress(_UnusableValue):
            if score not in PLAIN_SCORES or highest:
                try:
                    _score(score, highest, scales)
                except _OffScale as found:
                    raise InvalidFile(f"{path.name}, line {line}: {found}") from None
            if order and (number := _whole_number("order", order)) is not None:
                orders.add(number)
    if orders and (min(orders) < 0 or max(orders) >= UNDATED_US):
        return Scales(scales.max_score, sorted(orders))
    return scales


def read_new_items(
    path: Path, scales: Scales, known: Container[str], progress: Callable[[int, int], object]
) -> Iterator[ResponseRecord]:
    """The first good row of every item but the `known` ones; no other row is judged, which takes most of the time.

    `progress` takes the bytes read and the size of the file.
    """
    size, seen_items, item_column = _size(path), set[object](), COLUMNS.index("item_id")
    for row in _READERS[_file_type(path, _READERS)](path, COLUMNS, lambda read: progress(read, size)):
        values = row[1]
        if isinstance(values, str) or (
            isinstance(item := values[item_column], str) and (item in known or item in seen_items)
        ):
            continue
        record = _parse_row(scales, row)
        if isinstance(record, ResponseRecord):
            seen_items.add(record.item)
            yield record


def may_have_duplicates(path: Path, progress: Callable[[int, int], object]) -> bool:
    """Whether a learner has two rows of one item with the same moment or id, or in a row with different skills.

    Rows are not judged, only compared as they stand in the file. `progress` takes the bytes read and the size.
    """
    size, keys, previous = _size(path), array("q"), dict[object, tuple[object, object]]()
    columns = ("learner_id", "item_id", "skill_ids", "order", "attempted_at", "response_id")
    for _, values, _ in _READERS[_file_type(path, _READERS)](path, columns, lambda read: progress(read, size)):
        if isinstance(values, str):
            continue
        learner, item, skills, order, time, response = values
        try:
            before = previous.get(learner)
            if before is not None and before[0] == item and before[1] != skills:
                return True
            previous[learner] = item, skills
            if order or time or response or order == 0 or time == 0:
                keys.append(hash((learner, item, order, time, response)))
        except TypeError:  # a list or an object: no identifier, so the row will be rejected
            continue
    return len(np.unique(np.array(keys))) < len(keys)


def hash_file(path: Path) -> str:
    """SHA-256 of the bytes of the file, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def write_rejections(path: Path, rejections: Iterable[Rejection]) -> int:
    """Append `line,reason,row` as CSV that no spreadsheet takes for formulas; returns how many were written."""
    written = 0
    with open(path, "a", encoding="utf-8", errors="backslashreplace", newline="", opener=_open_for_owner) as file:
        table = csv.writer(file)
        if not file.tell():
            table.writerow(("line", "reason", "row"))
        for rejection in rejections:
            table.writerow((rejection.line, _escape_formula(rejection.reason), _escape_formula(rejection.row)))
            written += 1
    return written


def _open_for_owner(path: str, flags: int) -> int:
    """Open a file that only its owner may read: rows say how learners did."""
    return os.open(path, flags, 0o600)


def read_catalogue_file(path: Path) -> dict[str, Any]:
    """The body of `PUT /v1/courses/{course}/catalogue` from JSON, or from CSV or NDJSON with one item a line.

    Columns of items: `id, skills (;)[, title, kind, tags (;), url, max_score]`; the skills are those the items name.
    Whether it is a sound catalogue is for the schema to say.
    """
    kind = _file_type(path, (".json", *_CATALOGUES))
    if kind == ".json":
        return _document(path)
    items = [_item(path, line, record) for line, record in _CATALOGUES[kind](path)]
    skills = dict.fromkeys(skill for item in items for skill in item["skills"])
    return {"skills": [{"id": skill} for skill in skills], "items": items}


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a whole CSV file (also `.gz`), each with its line; raises `InvalidFile` at the first broken one."""
    _file_type(path, (".csv",))
    names, rows = _table(path, (), _ignore_position)
    if len(set(names)) < len(names):
        raise InvalidFile(f"{path.name} has two columns of one name.")
    table = []
    for line, row, _ in rows:
        if isinstance(row, str):
            raise InvalidFile(f"{path.name}, line {line}: {row}.")
        table.append((line, dict(zip(names, row, strict=True))))
    return table


# Rows of each format


def _csv(path: Path, columns: Sequence[str], report_position: _ReportPosition) -> Iterator[_Row]:
    names, rows = _table(path, REQUIRED, report_position, columns)
    pick = itemgetter(*(names.index(name) if name in names else -1 for name in columns))
    for line, row, source in rows:
        if isinstance(row, list):
            yield line, pick([*row, None]), source
        else:
            yield line, row, source


def _ndjson(path: Path, columns: Sequence[str], report_position: _ReportPosition) -> Iterator[_Row]:
    for line, record, text in _json_records(path, report_position):
        yield line, record if isinstance(record, str) else [record.get(name) for name in columns], text


def _parquet(path: Path, columns: Sequence[str], report_position: _ReportPosition) -> Iterator[_Row]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidFile(f"{path.name}: reading Parquet needs pyarrow: install `proxima[parquet]`.") from error
    size, line = _size(path), 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names, REQUIRED, columns)
            present = [name for name in dict.fromkeys(columns) if name in names]
            for batch in file.iter_batches(ROWS_BETWEEN_REPORTS, columns=present):
                cells = [_column(arrow, batch, name) if name in present else repeat(None) for name in columns]
                for values in zip(*cells, strict=False):
                    line += 1
                    yield line, values, values
                report_position(size * line // file.metadata.num_rows)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path.name} is not a readable Parquet file: {error}") from error
    report_position(size)


def _column(arrow: Any, batch: Any, name: str) -> list[object]:
    column = batch.column(name)
    if arrow.types.is_timestamp(column.type):
        column = column.cast(arrow.timestamp("us", column.type.tz), safe=False)
    values: list[object] = column.to_pylist()
    return values


_READERS = {".csv": _csv, ".ndjson": _ndjson, ".jsonl": _ndjson, ".parquet": _parquet}


def _table(
    path: Path, required: Sequence[str], report_position: _ReportPosition, known: Sequence[str] = COLUMNS
) -> tuple[list[str], Iterator[_Cells]]:
    """The names in the header, and the rows that have a value for each of them (or the reason why not)."""
    rows = _csv_rows(path, report_position)
    _, header, _ = next(rows, (0, "no header", ""))
    if isinstance(header, str):
        raise InvalidFile(f"{path.name} does not begin with a line of column names: {header}.")
    names = [name.strip() for name in header]
    _check_columns(path, names, required, known)
    return names, map(partial(_check_width, len(names)), rows)


def _check_width(width: int, row: _Cells) -> _Cells:
    line, values, source = row
    if isinstance(values, str) or len(values) == width:
        return row
    return line, f"{len(values)} values where the header names {width}", source


def _csv_rows(path: Path, report_position: _ReportPosition) -> Iterator[_Cells]:
    consumed: list[str] = []
    rows = csv.reader(_record_lines(_lines(path, report_position), consumed), strict=True)
    while True:
        line = rows.line_num + 1
        consumed.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # The sentence of Python's own speaks of a program that opens the file.
            lone = "new-line character" in str(error)
            reason = CR_ALONE if lone else f"not valid CSV: {error}"
            yield line, reason, "".join(consumed)
        else:
            if row:
                yield line, row, "".join(consumed)


def _record_lines(lines: Iterator[str], consumed: list[str]) -> Iterator[str]:
    for line in lines:
        consumed.append(line)
        yield line


def _json_records(path: Path, report_position: _ReportPosition) -> Iterator[tuple[int, dict[str, object] | str, str]]:
    for line, text in enumerate(_lines(path, report_position), 1):
        if text.isspace():
            continue
        try:
            record = _JSON.decode(text)
        except (ValueError, RecursionError) as error:
            lone = "\r" in text.rstrip("\r\n")
            reason = CR_ALONE if lone else f"not valid JSON: {getattr(error, 'msg', error)}"
            yield line, reason, text
        else:
            yield line, record if isinstance(record, dict) else "not a JSON object", text


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name is given twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_no_constant)


# Bytes and lines


@contextmanager
def _open_file(path: Path) -> Iterator[tuple[io.FileIO, IO[bytes]]]:
    """The file itself, whose place is the progress, and its bytes after decompression."""
    try:
        with path.open("rb", buffering=0) as raw, io.BufferedReader(raw, 1 << 18) as stream:
            if path.suffix.lower() != ".gz":
                yield raw, stream
                return
            with gzip.GzipFile(fileobj=stream) as packed, io.BufferedReader(packed, 1 << 18) as plain:
                yield raw, plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidFile(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _lines(path: Path, report_position: _ReportPosition) -> Iterator[str]:
    byte_offset = 0
    with _open_file(path) as (raw, stream):
        for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), 1):
            text = _text(path, line, byte_offset, number) if byte_offset else _text(path, line, 0, 1).removeprefix(BOM)
            byte_offset += len(line)
            if not number % ROWS_BETWEEN_REPORTS:
                report_position(raw.tell())
            yield text
        report_position(raw.tell())
    if not byte_offset:
        raise InvalidFile(f"{path.name} is empty.")


def _text(path: Path, line: bytes, byte_offset: int, number: int) -> str:
    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
        raise InvalidFile(f"{path.name}: line {number} is longer than {LONGEST_LINE:,} bytes.")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        where = f"byte {byte_offset + error.start + 1:,}, on line {number}"
        raise InvalidFile(f"{path.name} is not UTF-8: {error.reason} at {where}. Save it as UTF-8.") from error


def _file_type(path: Path, known: Iterable[str]) -> str:
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if kind in SPREADSHEETS:
        raise InvalidFile(f"{path.name} is a spreadsheet; save it as CSV in UTF-8, with commas between the values.")
    if kind not in known or name.endswith(".parquet.gz"):
        raise InvalidFile(f"{path.name}: the name must end in {', '.join(known)} (all but .parquet also with .gz).")
    return kind


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InvalidFile:
    return InvalidFile(f"{path.name} cannot be read: {error.strerror or error}.")


def _check_columns(path: Path, names: Sequence[str], required: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing and len(names) == 1 and (separator := next((one for one in SEPARATORS if one in names[0]), None)):
        raise InvalidFile(
            f"{path.name} is separated by {SEPARATORS[separator]}; save it with commas between the values."
        )
    if missing:
        raise InvalidFile(f"{path.name} has no column {', '.join(missing)}; its columns are {', '.join(names)}.")
    twice = [name for name in names if name in known and names.count(name) > 1]
    if twice:
        raise InvalidFile(f"{path.name} has the column {twice[0]} more than once.")


# The rules of a row


def _parse_row(scales: Scales, row: _Row) -> ResponseRecord | Rejection:
    line, values, source = row
    if isinstance(values, str):
        return Rejection(line, values, _row_text(source))
    try:
        learner, item, skills, score, order, attempted_at, split, response, duration, max_score = values
        number = _whole_number("order", order)
        return ResponseRecord(
            line,
            _identifier("learner_id", learner),
            _identifier("item_id", item),
            _skills("skill_ids", skills),
            _score(score, max_score, scales),
            number if number is None or scales.orders is None else bisect_left(scales.orders, number),
            _instant(attempted_at),
            _optional("split", split),
            _optional("response_id", response),
            _duration(duration),
        )
    except _UnusableValue as fault:
        return Rejection(line, str(fault), _row_text(source))


def _identifier(column: str, value: object) -> str:
    if isinstance(value, str):
        return _checked_identifier(column, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _checked_identifier(column, str(value))
    raise _UnusableValue(f"{column} is missing" if value is None else f"{column} is neither text nor a whole number")


@lru_cache(1 << 16)
def _checked_identifier(column: str, text: str) -> str:
    try:
        return check_id(text)
    except ValueError as fault:
        raise _UnusableValue(f"{column} {fault}") from None


def _optional(column: str, value: object) -> str | None:
    return None if value is None or value == "" else _identifier(column, value)


def _skills(column: str, value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return _split(column, value)
    if isinstance(value, list):
        return tuple(dict.fromkeys(_identifier(column, skill) for skill in value))
    return (_identifier(column, value),)


@lru_cache(1 << 12)
def _split(column: str, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_checked_identifier(column, skill) for skill in text.split(";")))


def _score(value: object, own_max_score: object, scales: Scales) -> float:
    """The fraction that a score is of its maximum."""
    if isinstance(value, str):
        text = value.strip().lower()
        if not (text in TRUTH or NUMBER.match(text) or text == ""):
            raise _UnusableValue("correct is not a number; write 1 or true, 0 or false, or a fraction")
        score = _number("correct", TRUTH.get(text, text))
    else:
        score = _number("correct", int(value) if isinstance(value, bool) else value)
    if score is None:
        raise _UnusableValue("correct is missing")
    max_score = _number("max_score", own_max_score)
    if max_score is not None and max_score <= 0:
        raise _UnusableValue("max_score is not above 0")
    highest = scales.max_score if max_score is None else max_score
    if score < 0:
        raise _UnusableValue("correct is below 0")
    if score > highest * (1 + ROUNDING):
        raise _OffScale(
            f"correct is {score:g}, more than {highest:g}. If these are points, say what they are out of, with "
            "--max-score or in a column max_score; nothing was loaded."
        )
    return min(score / highest, 1.0)


def nearest_step(score: float, steps: int) -> float:
    """Return k / `steps` for a fraction that is so, rounded to two decimals or better; any other as it is."""
    step = round(score * steps) / steps
    return step if abs(step - score) <= ROUNDING_TOLERANCE else score


def _number(column: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if not NUMBER.fullmatch(value.strip()):
            raise _UnusableValue(f"{column} {_fault_in_number(value.strip())}")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnusableValue(f"{column} is not a number")
    if isinstance(value, int) and value not in WHOLE_NUMBERS:
        raise _UnusableValue(f"{column} is too large")
    if not math.isfinite(value):
        raise _UnusableValue(f"{column} is not finite")
    return float(value)


def _fault_in_number(text: str) -> str:
    """Why a text is no number."""
    if PER_CENT.fullmatch(text):
        return "is in per cent; write a fraction, such as 0.75 for 75 %"
    if DECIMAL_COMMA.fullmatch(text):
        return "has a decimal comma; write a point, such as 0.75"
    return "is not a number"


def _whole_number(column: str, value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and (match := WHOLE.fullmatch(value.strip())):
        value = int(match[1])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value not in WHOLE_NUMBERS:
        raise _UnusableValue(f"{column} is not a whole number")
    return value


def _duration(value: object) -> int | None:
    duration = _whole_number("duration_ms", value)
    if duration is not None and duration < 0:
        raise _UnusableValue("duration_ms is negative")
    return duration


def _instant(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        instant = _since_epoch(value)
    elif isinstance(value, str) and (match := MOMENT.fullmatch(value.strip())):
        instant = _since_epoch(_moment(match))
    elif isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        without = WITHOUT_SECONDS.fullmatch(value.strip())
        raise _UnusableValue(f"attempted_at {'lacks seconds' if without else 'is not a time'}; {A_TIME}")
    else:
        seconds = _number("attempted_at", value)
        instant = -1 if seconds is None or seconds > LAST_SECOND else round(seconds * 1_000_000)
    if instant not in INSTANTS:
        raise _UnusableValue("attempted_at is not in the years 1970 to 2200 (a number counts seconds since 1970)")
    return instant


def _moment(match: re.Match[str]) -> datetime:
    try:
        return datetime.fromisoformat(match[0].upper())
    except ValueError as error:
        raise _UnusableValue(f"attempted_at is not a time: {error}") from None


def _since_epoch(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise _UnusableValue("attempted_at has no offset from UTC; add Z for UTC, or +01:00 and the like")
    return (moment - EPOCH) // MICROSECOND


def _row_text(source: Sequence[object] | str) -> str:
    """The row as text, to be found again in the file."""
    if isinstance(source, str):
        return source.rstrip("\r\n")
    buffer = io.StringIO()
    csv.writer(buffer).writerow(source)
    return buffer.getvalue().removesuffix("\r\n")


def _escape_formula(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


# Catalogues


def _ignore_position(_position: int) -> None:
    """A catalogue is read too fast for a progress bar."""


def _document(path: Path) -> dict[str, Any]:
    with _open_file(path) as (_, stream):
        content = stream.read()
    try:
        document = _JSON.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path.name} is not strict JSON in UTF-8: {error}") from error
    if not isinstance(document, dict):
        raise InvalidFile(f"{path.name} must hold one JSON object.")
    return document


def _csv_items(path: Path) -> Iterator[tuple[int, dict[str, object] | str]]:
    names, rows = _table(path, ("id", "skills"), _ignore_position)
    for line, row, _ in rows:
        yield line, row if isinstance(row, str) else dict(zip(names, row, strict=True))


def _ndjson_items(path: Path) -> Iterator[tuple[int, dict[str, object] | str]]:
    for line, record, _ in _json_records(path, _ignore_position):
        yield line, record


_CATALOGUES = {".csv": _csv_items, ".ndjson": _ndjson_items, ".jsonl": _ndjson_items}


def _item(path: Path, line: int, record: dict[str, object] | str) -> dict[str, Any]:
    if isinstance(record, str):
        raise InvalidFile(f"{path.name}, line {line}: {record}.")
    try:
        optional = {
            "title": record.get("title") or None,
            "kind": _optional("kind", record.get("kind")),
            "tags": list(_skills("tags", record.get("tags"))),
            "url": record.get("url") or None,
            "max_score": _number("max_score", record.get("max_score")),
        }
        item = {"id": _identifier("id", record.get("id")), "skills": list(_skills("skills", record.get("skills")))}
    except _UnusableValue as fault:
        raise InvalidFile(f"{path.name}, line {line}: {fault}.") from fault
    return item | {name: value for name, value in optional.items() if value not in (None, [])}
