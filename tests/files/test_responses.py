"""Files of answers and catalogues: what is read, what is rejected and on which line."""

import csv
import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import sample
from app.core.errors import InvalidFile
from app.core.ids import ID_PATTERN
from app.core.times import UNDATED_US
from app.files.responses import (
    COLUMNS,
    LONGEST_LINE,
    Rejection,
    ResponseRecord,
    Scales,
    hash_file,
    read_catalogue_file,
    read_new_items,
    read_responses,
    read_scales,
    write_rejections,
)

FORMATS = ["a.csv", "a.csv.gz", "A.CSV", "a.ndjson", "a.ndjson.gz", "a.jsonl", "a.parquet"]
TYPES = [pa.string(), pa.string(), pa.list_(pa.string()), pa.float64(), pa.int64(), pa.string(), pa.string()]
# Not all files have a maximum for each row.
WRITTEN = COLUMNS[:-1]
SCHEMA = pa.schema(list(zip(WRITTEN, [*TYPES, pa.string(), pa.int64()], strict=True)))
FULL = ["ann", "i,7", ["a", "b"], 1.0, 3, "2026-11-22T10:00:00.25+01:00", "train", "r-1", 1500]
BARE = ['bo "x",z', "ü", [], 0.5, None, None, None, None, None]
MOMENT = int(datetime(2026, 11, 22, 9, tzinfo=UTC).timestamp()) * 1_000_000

short = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=";")
identifiers = st.text(short, min_size=1, max_size=200).filter(re.compile(ID_PATTERN).fullmatch)
rows = st.tuples(
    identifiers,
    identifiers,
    st.lists(identifiers, unique=True, max_size=3),
    st.floats(0, 1),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none(),
    st.none() | identifiers,
    st.none() | identifiers,
    st.none() | st.integers(0, 2**63 - 1),
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def save(folder: Path, name: str, table: list[Any]) -> Path:
    """The same answers in the format the name asks for."""
    records = [dict(zip(WRITTEN, row, strict=True)) for row in table]
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records, SCHEMA), folder / name)
        return folder / name
    if "csv" not in name.lower():
        return write(folder, name, "".join(json.dumps(record) + "\n" for record in records))
    text = io.StringIO()
    cells = [[";".join(cell) if isinstance(cell, list) else cell for cell in row] for row in table]
    csv.writer(text).writerows([WRITTEN, *cells])
    return write(folder, name, text.getvalue())


def answers(path: Path) -> list[ResponseRecord]:
    read = list(read_responses(path, Scales()))
    assert [row for row in read if isinstance(row, Rejection)] == []
    return [row for row in read if isinstance(row, ResponseRecord)]


def values(answer: ResponseRecord) -> tuple[Any, ...]:
    return tuple(getattr(answer, name) for name in ResponseRecord.__slots__ if name != "line")


def one_row(folder: Path, **cells: Any) -> ResponseRecord | Rejection:
    """What becomes of one good row after these cells were changed, read from NDJSON."""
    record = {"learner_id": "ann", "item_id": "i", "skill_ids": ["a"], "correct": 1} | cells
    (row,) = read_responses(write(folder, "one.ndjson", json.dumps(record)), Scales())
    return row


def one_csv_row(folder: Path, **cells: str) -> ResponseRecord | Rejection:
    record = {"learner_id": "ann", "item_id": "i", "skill_ids": "a", "correct": "1"} | cells
    text = io.StringIO()
    csv.writer(text).writerows([record.keys(), record.values()])
    (row,) = read_responses(write(folder, "one.csv", text.getvalue()), Scales())
    return row


# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_answers_are_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    full, bare = answers(save(tmp_path, name, [FULL, BARE]))
    assert values(full) == ("ann", "i,7", ("a", "b"), 1.0, 3, MOMENT + 250_000, "train", "r-1", 1500)
    assert values(bare) == ('bo "x",z', "ü", (), 0.5, None, None, None, None, None)


@given(table=st.lists(rows, min_size=1, max_size=4))
def test_hostile_text_is_read_unchanged_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, table: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    expected = [(row[0], row[1], tuple(row[2]), *row[3:]) for row in table]
    for name in ("a.csv", "a.ndjson.gz", "a.parquet"):
        assert [values(answer) for answer in answers(save(folder, name, table))] == expected


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.csv.gz", "a.parquet"])
def test_file_of_any_bytes_is_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    with suppress(InvalidFile):
        assert all(isinstance(row, ResponseRecord | Rejection) for row in read_responses(path, Scales()))


@given(row=st.lists(st.text("ab\"',;\r\n=", max_size=6), min_size=4, max_size=4))
def test_file_that_is_nearly_csv_is_read_or_rejected_whole(
    tmp_path_factory: pytest.TempPathFactory, row: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("csv"), "a.csv", "learner_id,item_id,skill_ids,correct\n" + ",".join(row))
    assert all(isinstance(result, ResponseRecord | Rejection) for result in read_responses(path, Scales()))


def test_byte_order_mark_and_carriage_returns_are_tolerated(tmp_path: Path) -> None:
    text = "\ufefflearner_id, item_id,skill_ids,correct,colour\r\nann,i,a;b,true,red\r\n\r\nbo,j,,False,\r\n"
    first, second = answers(write(tmp_path, "a.csv", text))
    assert (first.line, first.learner, first.skills, first.score) == (2, "ann", ("a", "b"), 1.0)
    assert (second.line, second.item, second.skills, second.score) == (4, "j", (), 0.0)


def test_sample_is_read_without_rejections() -> None:
    read = answers(sample.responses())
    assert len(read) == 10_720
    assert [read[0].line, read[-1].line] == [2, 10_721]
    assert sum(answer.score for answer in read) == 5_723


def test_parquet_may_hold_numbers_and_times(tmp_path: Path) -> None:
    instants = pa.array([MOMENT * 1000 + 1], pa.timestamp("ns", "Europe/Berlin"))
    columns = {"learner_id": [7], "item_id": pa.array(["i"]).dictionary_encode(), "skill_ids": [3], "correct": [True]}
    pq.write_table(pa.table(columns | {"attempted_at": instants}), tmp_path / "a.parquet")
    (answer,) = answers(tmp_path / "a.parquet")
    assert values(answer) == ("7", "i", ("3",), 1.0, None, MOMENT, None, None, None)


def test_parquet_times_without_a_zone_are_rejected(tmp_path: Path) -> None:
    columns = {name: ["1"] for name in ("learner_id", "item_id", "skill_ids", "correct")}
    pq.write_table(pa.table(columns | {"attempted_at": pa.array([0], pa.timestamp("us"))}), tmp_path / "a.parquet")
    (rejection,) = read_responses(tmp_path / "a.parquet", Scales())
    assert isinstance(rejection, Rejection)
    assert rejection.reason.startswith("attempted_at has no offset from UTC")


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
def test_new_items_are_those_of_the_first_good_rows(name: str, tmp_path: Path) -> None:
    rows = [("i1", -2), ("i1", 1), ("i2", 1), (7, 1), ("i1", 0), (7, 0), ("i3", -9), ("", 1), ("i2", 1), ("i4", 1)]
    if name == "a.csv":
        text = "learner_id,item_id,skill_ids,correct\n" + "".join(f"ann,{item},s,{score}\n" for item, score in rows)
    else:
        keys = {"learner_id": "ann", "skill_ids": "s"}
        text = "".join(json.dumps({**keys, "item_id": item, "correct": score}) + "\n" for item, score in rows)
    path, told = write(tmp_path, name, text), []
    new = list(read_new_items(path, Scales(), {"i2"}, lambda *read: told.append(read)))
    first = {row.item: row for row in reversed(list(read_responses(path, Scales()))) if isinstance(row, ResponseRecord)}
    assert {row.item: row for row in reversed(new)} == {item: row for item, row in first.items() if item != "i2"}
    assert [row.line - (name == "a.csv") for row in new if row.item == "i1"] == [2]
    assert told[-1] == (path.stat().st_size,) * 2


# Rules of a row


@pytest.mark.parametrize("column", ["learner_id", "item_id", "response_id", "split", "skill_ids"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \t", "blank"),
        ("x" * 256, "at most 255"),
        ("a\0b", "NUL"),
        ("a\ud800", "surrogate"),
        (True, "neither"),
        ("..", "clients remove"),
        ("a ", "white space"),
        ("\ufeffa", "white space"),
    ],
)
def test_identifiers_are_bounded_visible_and_storable(tmp_path: Path, column: str, text: object, reason: str) -> None:
    rejection = one_row(tmp_path, **{column: [text] if column == "skill_ids" else text})
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason
    assert rejection.reason.startswith(column)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"learner_id": None}, "learner_id is missing"),
        ({"learner_id": ""}, "learner_id must not be blank"),
        ({"learner_id": 1.5}, "learner_id is neither text nor a whole number"),
        ({"item_id": {"a": 1}}, "item_id is neither text nor a whole number"),
        ({"skill_ids": "a;;b"}, "skill_ids must not be blank"),
        ({"skill_ids": [["a"]]}, "skill_ids is neither text nor a whole number"),
        ({"correct": None}, "correct is missing"),
        ({"correct": ""}, "correct is missing"),
        ({"correct": "yes"}, "correct is not a number; write 1 or true, 0 or false"),
        ({"correct": "0,5"}, "correct has a decimal comma; write a point"),
        ({"correct": "50%"}, "correct is in per cent; write a fraction"),
        ({"correct": "50,00 %"}, "correct is in per cent; write a fraction"),
        ({"correct": "1_0"}, "correct is not a number"),
        ({"correct": "nan"}, "correct is not a number"),
        ({"correct": "1e999"}, "correct is not finite"),
        ({"correct": 10**400}, "correct is too large"),
        ({"correct": "-0.1"}, "correct is below 0"),
        ({"correct": 1, "max_score": 0}, "max_score is not above 0"),
        ({"correct": 1, "max_score": "all"}, "max_score is not a number"),
        ({"order": 1.5}, "order is not a whole number"),
        ({"order": "1e3"}, "order is not a whole number"),
        ({"order": True}, "order is not a whole number"),
        ({"order": 2**63}, "order is not a whole number"),
        ({"order": "٣"}, "order is not a whole number"),
        ({"duration_ms": -1}, "duration_ms is negative"),
        ({"attempted_at": "2026-11-22T10:00:00"}, "attempted_at has no offset from UTC; add Z"),
        ({"attempted_at": "2026-02-30T10:00:00Z"}, "attempted_at is not a time"),
        ({"attempted_at": "yesterday"}, "attempted_at is not a time; write 2026-11-22T10:00:00+01:00, or the seconds"),
        ({"attempted_at": "08.09.2023 11:53"}, "attempted_at is not a time; write"),
        ({"attempted_at": "2026-01-01 08:00"}, "attempted_at lacks seconds; write"),
        ({"attempted_at": "2026-01-01T08:00Z"}, "attempted_at lacks seconds; write"),
        ({"attempted_at": "2026-01-01"}, "attempted_at lacks seconds; write"),
        ({"attempted_at": "1969-12-31T23:59:59Z"}, "attempted_at is not in the years 1970 to 2200"),
        ({"attempted_at": "2201-01-01T00:00:00Z"}, "attempted_at is not in the years 1970 to 2200"),
        ({"attempted_at": -1}, "attempted_at is not in the years 1970 to 2200"),
        ({"attempted_at": 1_795_338_000_000}, "attempted_at is not in the years 1970 to 2200"),
        ({"attempted_at": 1e308}, "attempted_at is not in the years 1970 to 2200"),
    ],
)
def test_rejection_names_the_broken_rule(tmp_path: Path, cells: dict[str, Any], reason: str) -> None:
    rejection = one_row(tmp_path, **cells)
    assert isinstance(rejection, Rejection)
    assert rejection.reason.startswith(reason)
    if all(isinstance(value, str) for value in cells.values()):
        from_csv = one_csv_row(tmp_path, **cells)
        assert isinstance(from_csv, Rejection)
        assert (from_csv.line, from_csv.reason) == (2, rejection.reason)


@pytest.mark.parametrize(
    ("text", "score"), [("0", 0), ("1", 1), ("1.0", 1), (" 0.5 ", 0.5), ("TRUE", 1), ("false", 0), ("5e-1", 0.5)]
)
def test_scores_are_read_as_people_write_them(tmp_path: Path, text: str, score: float) -> None:
    answer = one_csv_row(tmp_path, correct=text)
    assert isinstance(answer, ResponseRecord)
    assert answer.score == score


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-22T10:00:00+01:00", MOMENT),
        ("2026-11-22t09:00:00.000001z", MOMENT + 1),
        ("2026-11-22 09:00:00Z", MOMENT),
        ("11622", 11_622_000_000),
        ("0", 0),
        ("1.25", 1_250_000),
        ("2200-12-31T23:59:59.999999Z", 7_289_654_399_999_999),
    ],
)
def test_times_are_read_as_microseconds_in_utc(tmp_path: Path, text: str, instant: int) -> None:
    answer = one_csv_row(tmp_path, attempted_at=text)
    assert isinstance(answer, ResponseRecord)
    assert answer.occurred_at == instant


@pytest.mark.parametrize(
    ("text", "order"), [("12", 12), ("-1", -1), ("12.0", 12), ("", None), ("9007199254740993", 9_007_199_254_740_993)]
)
def test_whole_numbers_are_read_exactly(tmp_path: Path, text: str, order: int | None) -> None:
    answer = one_csv_row(tmp_path, order=text)
    assert isinstance(answer, ResponseRecord)
    assert answer.order == order


def test_skill_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    answer = one_csv_row(tmp_path, skill_ids="b;a;b")
    assert isinstance(answer, ResponseRecord)
    assert answer.skills == ("b", "a")


def test_rejections_name_their_line_and_reading_continues(tmp_path: Path) -> None:
    text = (
        "learner_id,item_id,skill_ids,correct\n"  # 1
        'ann,i,a,"1\n\n"\n'  # 2 to 4
        "ann,i,a,-2\n"  # 5
        "\n"  # 6
        "ann,i,a\n"  # 7
        'ann,"i"x,a,1\n'  # 8
        '"bo\nbo",i,a,-7\n'  # 9 to 10
        "cy,i,a,0\n"  # 11
        'cy,"i,a,0\ncy,i,a,0\n'  # 12 to 13, never closed
    )
    read = list(read_responses(write(tmp_path, "a.csv", text), Scales()))
    assert [(row.line, type(row)) for row in read] == [
        (2, ResponseRecord),
        (5, Rejection),
        (7, Rejection),
        (8, Rejection),
        (9, Rejection),
        (11, ResponseRecord),
        (12, Rejection),
    ]
    rejected = [row for row in read if isinstance(row, Rejection)]
    assert rejected[0] == Rejection(5, "correct is below 0", "ann,i,a,-2")
    assert rejected[1].reason == "3 values where the header names 4"
    assert rejected[2].row == 'ann,"i"x,a,1'
    assert rejected[3].row == '"bo\nbo",i,a,-7'
    assert rejected[4].row == 'cy,"i,a,0\ncy,i,a,0'


def silent(*_: int) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "max_score", "scores"),
    [
        ("0\n0.5\n1\n", None, [0, 0.5, 1]),
        ("0\n1\n2\n", 2.0, [0, 0.5, 1]),
        ("0\n1\n3.0000000000000004\n", 3.0, [0, 1 / 3, 1]),
    ],
)
def test_scores_are_fractions_of_the_maximum_of_the_file(
    tmp_path: Path, text: str, max_score: float | None, scores: list[float]
) -> None:
    rows = "".join(f"ann,i,a,{score}\n" for score in text.split())
    path = write(tmp_path, "a.csv", "learner_id,item_id,skill_ids,correct\n" + rows)
    read = read_responses(path, read_scales(path, max_score, silent))
    assert [row.score for row in read if isinstance(row, ResponseRecord)] == pytest.approx(scores)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.csv.gz"])
def test_scores_off_the_scale_stop_the_file_and_name_the_cure(tmp_path: Path, name: str) -> None:
    """Left out row by row, the best answers would be missing."""
    records = [{"learner_id": "ann", "item_id": "i", "skill_ids": "a", "correct": n % 5} for n in range(50)]
    lines = ["learner_id,item_id,skill_ids,correct", *(",".join(map(str, record.values())) for record in records)]
    text = "\n".join(map(json.dumps, records) if "json" in name else lines)
    path = write(tmp_path, name, text + "\n")
    with pytest.raises(InvalidFile, match=r"line [34]: correct is 2, more than 1\..*--max-score.*column max_score"):
        read_scales(path, None, silent)
    assert read_scales(path, 4.0, silent) == Scales(4.0)


def test_rows_may_say_what_they_are_out_of(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.csv", "learner_id,item_id,skill_ids,correct,max_score\na,i,,3,4\na,j,,1,\na,k,,10,10\na,l,,1,-1\n"
    )
    *good, bad = read_responses(path, read_scales(path, None, silent))
    assert [row.score for row in good if isinstance(row, ResponseRecord)] == [0.75, 1, 1]
    assert isinstance(bad, Rejection)
    assert bad.reason == "max_score is not above 0"


@given(
    st.lists(st.integers(-(1 << 62), 1 << 62) | st.integers(20260901080000, 20260902080000), min_size=1, max_size=30)
)
def test_orders_count_by_their_ranks_where_they_are_no_small_numbers(
    tmp_path_factory: pytest.TempPathFactory, orders: list[int]
) -> None:
    path = write(
        tmp_path_factory.mktemp("orders"),
        "a.csv",
        "learner_id,item_id,skill_ids,correct,order\n" + "".join(f"a,i,,1,{order}\n" for order in orders),
    )
    read = [
        row.order for row in read_responses(path, read_scales(path, None, silent)) if isinstance(row, ResponseRecord)
    ]
    given_orders = [order for order in read if order is not None]
    assert len(given_orders) == len(orders)
    assert all(0 <= order < UNDATED_US for order in given_orders)
    for one, other in pairwise(range(len(orders))):
        assert (orders[one] < orders[other]) == (given_orders[one] < given_orders[other])
        assert (orders[one] == orders[other]) == (given_orders[one] == given_orders[other])


def test_lines_that_end_with_a_carriage_return_alone_are_named(tmp_path: Path) -> None:
    for name, text in (("a.ndjson", "{}\r{}\r"), ("a.csv", "learner_id,item_id,skill_ids,correct\na,b,c,1\rd,e,f,1\r")):
        [rejected] = read_responses(write(tmp_path, name, text), Scales())
        assert isinstance(rejected, Rejection)
        assert rejected.reason == "a line ends with CR alone; save the file with LF or CRLF"


def test_ndjson_lines_must_be_strict_json_objects(tmp_path: Path) -> None:
    good = '{"learner_id": "ann", "item_id": 7, "skill_ids": "a;b", "correct": true, "other": [{}]}'
    lines = [good, "", "[1]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, good]
    read = list(read_responses(write(tmp_path, "a.ndjson", "\n".join(lines)), Scales()))
    assert [(row.line, type(row)) for row in read] == [
        (1, ResponseRecord),
        *((n, Rejection) for n in range(3, 8)),
        (8, ResponseRecord),
    ]
    assert [row.reason for row in read if isinstance(row, Rejection)][:4] == [
        "not a JSON object",
        "not valid JSON: Expecting property name enclosed in double quotes",
        "not valid JSON: NaN is not a number",
        "not valid JSON: a name is given twice",
    ]


# Files that are no good


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv.gz", b"", "a.csv.gz is empty"),
        ("a.ndjson", b"", "a.ndjson is empty"),
        ("a.csv", b"\n\n", "a.csv does not begin with a line of column names"),
        (
            "a.csv",
            b"learner_id,skill_ids,x\n",
            "has no column item_id, correct; its columns are learner_id, skill_ids, x",
        ),
        ("a.csv", b"learner_id,item_id,skill_ids,correct,correct\n", "the column correct more than once"),
        ("a.csv", b"learner_id,item_id,skill_ids,correct\nann,i,a,1\nb\xff", "byte 49, on line 3"),
        ("a.csv", b"\xef\xbb\xbfl\xff", "byte 5, on line 1"),
        ("a.csv", b"\xff\xfel\0", "byte 1, on line 1. Save it as UTF-8"),
        ("a.ndjson", b" " * (LONGEST_LINE + 1), "line 1 is longer than 1,048,576 bytes"),
        ("a.parquet", b"PAR1 no", "a.parquet is not a readable Parquet file"),
        ("a.csv", b"learner_id;item_id;skill_ids;correct\n", "a.csv is separated by semicolons; save it with commas"),
        ("a.csv", b"Sch\xc3\xbcler\tAufgabe\n", "a.csv is separated by tabs; save it with commas"),
        (
            "a.csv",
            b"learner_id,item_id\ra,b\r",
            "column names: a line ends with CR alone; save the file with LF or CRLF",
        ),
        ("a.xlsx", b"x", "a.xlsx is a spreadsheet; save it as CSV in UTF-8, with commas"),
        ("a.txt", b"x", "a.txt: the name must end in .csv, .ndjson, .jsonl, .parquet"),
        ("a.parquet.gz", b"x", "the name must end in"),
        ("noname", b"x", "the name must end in"),
    ],
)
def test_unusable_file_is_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(InvalidFile) as caught:
        list(read_responses(path, Scales()))
    assert sentence in caught.value.detail


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"ann,i", lambda data: data[:40] + b"??" * 99])
def test_broken_gzip_is_refused(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(damage(sample.responses().read_bytes()))
    with pytest.raises(InvalidFile, match="not a whole gzip file"):
        list(read_responses(path, Scales()))


def test_parquet_without_required_columns_is_refused_with_their_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"learner_id": ["a"], "correct": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidFile, match="no column item_id, skill_ids; its columns are learner_id, correct"):
        read_responses(tmp_path / "a.parquet", Scales())


def test_parquet_without_pyarrow_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, "a.parquet", [FULL])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InvalidFile, match=r"install `proxima\[parquet\]`"):
        read_responses(path, Scales())


def test_absent_file_and_folder_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="No such file"):
        read_responses(tmp_path / "a.csv", Scales())
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(InvalidFile, match="directory"):
        read_responses(tmp_path / "b.csv", Scales())


# Progress, digest, rejected rows


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson.gz", "a.parquet"])
def test_position_grows_from_0_to_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, name, [[f"learner-{hash((n, 1))}", *FULL[1:]] for n in range(30_000)])
    reading = read_responses(path, Scales())
    positions = [reading.position for _ in reading]
    assert reading.size == path.stat().st_size
    assert positions == sorted(positions)
    assert positions[0] < reading.size / 2
    assert len(set(positions)) > 2
    assert reading.position == reading.size


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "abc")
    assert hash_file(path) == hashlib.sha256(b"abc").hexdigest()


def test_rejected_rows_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    write_rejections(tmp_path / "rejected.csv", [Rejection(2, "correct is missing", "ann,i,,")])
    assert (tmp_path / "rejected.csv").stat().st_mode & 0o777 == 0o600


def test_rejected_rows_are_harmless_in_a_spreadsheet(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "ann,=1", 'a"\n\ud800']
    path = tmp_path / "r.csv"
    assert write_rejections(path, (Rejection(n, "why", text) for n, text in enumerate(texts))) == len(texts)
    with path.open(encoding="utf-8", newline="") as file:
        header, *written = csv.reader(file)
    assert header == ["line", "reason", "row"]
    assert [row for _, _, row in written] == [f"'{text}" for text in texts[:6]] + ["ann,=1", 'a"\n\\ud800']


# Catalogues


def test_catalogue_in_json_is_read_unchanged(tmp_path: Path) -> None:
    body = json.dumps(sample.catalogue(), ensure_ascii=False)
    assert read_catalogue_file(write(tmp_path, "c.json.gz", "\ufeff" + body)) == sample.catalogue()


def test_catalogue_from_csv_and_from_ndjson_is_the_same(tmp_path: Path) -> None:
    text = "id,skills,title,kind,tags,url,max_score,x\ni1,b;a,1 + 1,short,t;u,https://example.org/1,2,?\ni2,a,,,,,,\n"
    first: dict[str, Any] = {"id": "i1", "skills": ["b", "a"], "title": "1 + 1", "kind": "short", "tags": ["t", "u"]}
    first |= {"url": "https://example.org/1", "max_score": 2.0}
    expected: dict[str, Any] = {"skills": [{"id": "b"}, {"id": "a"}], "items": [first, {"id": "i2", "skills": ["a"]}]}
    assert read_catalogue_file(write(tmp_path, "c.csv", text)) == expected
    lines = "".join(json.dumps(item) + "\n" for item in expected["items"])
    assert read_catalogue_file(write(tmp_path, "c.ndjson.gz", lines)) == expected


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.json", "[]", "must hold one JSON object"),
        ("c.json", '{"a": 1, "a": 2}', "a name is given twice"),
        ("c.json", "", "not strict JSON"),
        ("c.json", b"\xff", "not strict JSON in UTF-8"),
        ("c.csv", "id,title\n1,a\n", "has no column skills"),
        ("c.csv", "id,skills\na,b\n ,b\n", "line 3: id must not be blank"),
        ("c.csv", "id,skills\na\n", "line 2: 1 values where the header names 2"),
        ("c.csv", "id,skills,max_score\na,b,lots\n", "line 2: max_score is not a number"),
        ("c.ndjson", "{}\n", "line 1: id is missing"),
        ("c.parquet", "", "the name must end in .json, .csv, .ndjson, .jsonl"),
    ],
)
def test_unusable_catalogue_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(InvalidFile) as caught:
        read_catalogue_file(path)
    assert sentence in caught.value.detail


# The sample course


def test_sample_catalogue_and_answers_agree() -> None:
    items = {item["id"]: tuple(item["skills"]) for item in sample.catalogue()["items"]}
    read = answers(sample.responses())
    assert {answer.item: answer.skills for answer in read} == items
    assert Counter(answer.item for answer in read) == dict.fromkeys(items, 536)
    assert len({(answer.learner, answer.item) for answer in read}) == 10_720


def test_sample_prerequisites_have_no_cycle() -> None:
    skills = {skill["id"]: set(skill.get("prerequisites", [])) for skill in sample.catalogue()["skills"]}
    assert len(skills) == 8
    while skills:
        free = {skill for skill, needs in skills.items() if not needs & skills.keys()}
        assert free, f"a cycle among {sorted(skills)}"
        skills = {skill: needs for skill, needs in skills.items() if skill not in free}


def test_sample_answers_are_packed_reproducibly() -> None:
    assert sample.responses().read_bytes()[4:8] == bytes(4)  # the time in the header of gzip
