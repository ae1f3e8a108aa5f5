"""Rows that repeat a response are found; attempts, however many, are not taken for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.files.duplicate_rows import (
    DuplicateRows,
    ResponseColumns,
    find_duplicate_rows,
    read_duplicate_rows,
    sort_key_of,
)
from app.files.responses import ResponseRecord, Scales, may_have_duplicates, read_responses

HEADER = "learner_id,item_id,skill_ids,correct,order,attempted_at,response_id,duration_ms"
SKILLS = {f"i{item}": ("a", "b", "c")[: item % 3 + 1] for item in range(9)}


def write(folder: Path, rows: Sequence[str]) -> Path:
    path = folder / "answers.csv"
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


def duplicates_of(folder: Path, rows: Sequence[str]) -> DuplicateRows:
    """What is found; the quick look at the rows must not have missed it."""
    path = write(folder, rows)
    columns = ResponseColumns()
    for response in read_responses(path, Scales()):
        assert isinstance(response, ResponseRecord), response
        columns.append(response)
    found = find_duplicate_rows(columns)
    again, lines = read_duplicate_rows(path, Scales(), lambda *_: None)
    assert sorted(lines) == (np.flatnonzero(found.repeats) + 2).tolist()
    assert replace(again, repeats=found.repeats) == found
    assert found.first_line == min(lines, default=0)
    return found


def attempts(seed: int, learners: int = 12, answers: int = 40) -> list[tuple[str, str, int]]:
    """Learner, item and score of an honest log: after half of the answers the same item is tried again at once."""
    rng = np.random.default_rng(seed)
    rows = []
    for learner in range(learners):
        item = 0
        for _ in range(answers):
            item = item if rng.random() < 0.5 else int(rng.integers(0, 9))
            rows.append((f"l{learner}", f"i{item}", int(rng.random() < 0.6)))
    return rows


CLOCKS: dict[str, Callable[[int], str]] = {
    "nothing": lambda _: ",",
    "an order": lambda n: f"{n},",
    "seconds": lambda n: f",{1_600_000_000 + n}",
    "minutes": lambda n: f",{1_600_000_000 + n // 5 * 60}",
    "one time for all": lambda _: ",0",
    "an order of sessions": lambda n: f"{n // 20},",
}


def whole(seed: int, clock: str, *, split: bool = False) -> list[str]:
    """The rows of a log: one for each answer, or one for each of its skills."""
    return [
        f"{learner},{item},{skill},{score},{CLOCKS[clock](n)},,"
        for n, (learner, item, score) in enumerate(attempts(seed))
        for skill in (SKILLS[item] if split else [";".join(SKILLS[item])])
    ]


@pytest.mark.parametrize("clock", CLOCKS)
def test_attempts_are_no_duplicates(tmp_path: Path, clock: str) -> None:
    """An honest log keeps every row, whatever its clock can tell apart."""
    for seed in range(5):
        found = duplicates_of(tmp_path, whole(seed, clock))
        assert (found.per_skill, found.exact, dict(found.skills)) == (0, 0, {})


@pytest.mark.parametrize("clock", ["nothing", "an order", "seconds"])
def test_one_row_per_skill_is_one_response(tmp_path: Path, clock: str) -> None:
    """What is left are the attempts, with all skills; immediate attempts with the same score are told apart."""
    for seed in range(5):
        rows = whole(seed, clock, split=True)
        found = duplicates_of(tmp_path, rows)
        left = [row.split(",")[:4] for row, repeat in zip(rows, found.repeats, strict=True) if not repeat]
        assert [(row[0], row[1], int(row[3])) for row in left] == attempts(seed)
        assert dict(found.skills) == {item: skills for item, skills in SKILLS.items() if len(skills) > 1}
        assert (found.per_skill, found.exact) == (len(rows) - len(left), 0)


def test_rows_per_skill_are_found_far_apart_if_the_file_says_when(tmp_path: Path) -> None:
    """As in exports that are sorted by skill."""
    rows = sorted(whole(1, "an order", split=True), key=lambda row: row.split(",")[2])
    found = duplicates_of(tmp_path, rows)
    assert len(rows) - found.per_skill == len(attempts(1))


def test_rows_written_twice_count_once_if_the_file_says_when(tmp_path: Path) -> None:
    for clock in ("an order", "seconds"):
        rows = whole(2, clock)
        found = duplicates_of(tmp_path, [*rows, *rows[:100]])
        assert (found.per_skill, found.exact, found.first_line) == (0, 100, len(rows) + 2)
        assert not found.repeats[: len(rows)].any()
    rows = whole(2, "nothing")
    assert duplicates_of(tmp_path, [*rows, *rows[-1:]]).exact == 0


@pytest.mark.parametrize(
    ("rows", "repeats"),
    [
        # Attempts with the same skills, and with other scores.
        (["l,i,a,1,,,,", "l,i,a,1,,,,"], 0),
        (["l,i,a,1,,,,", "l,i,b,0,,,,"], 0),
        (["l,i,a,1,,,,", "l,i,b,1,,,,"], 1),
        # Skills that the row before has, or none.
        (["l,i,a;b,1,,,,", "l,i,b;c,1,,,,"], 0),
        (["l,i,,1,,,,", "l,i,b,1,,,,"], 0),
        # Another answer between them; another learner.
        (["l,i,a,1,,,,", "l,j,a,1,,,,", "l,i,b,1,,,,"], 0),
        (["l,i,a,1,,,,", "m,i,b,1,,,,"], 0),
        (["l,i,a,1,,,,", "m,i,b,1,,,,", "l,i,b,1,,,,", "m,i,a,1,,,,"], 2),
        # Times, durations and ids that differ.
        (["l,i,a,1,,5,,", "l,i,b,1,,6,,"], 0),
        (["l,i,a,1,,5,,", "l,i,b,1,,5,,"], 1),
        (["l,i,a,1,,,,7", "l,i,b,1,,,,8"], 0),
        (["l,i,a,1,,,r,", "l,i,b,1,,,s,"], 0),
        (["l,i,a,1,,,r,", "l,i,b,1,,,,"], 0),
        (["l,i,a,1,,,r,", "l,i,b,1,,,r,"], 1),
        (["l,i,a,1,,5,r,", "l,j,a,1,,5,t,", "l,i,b,1,,5,r,"], 1),
        # Most answers to the item are in one row: the skills of the item were changed.
        (["l,i,a,1,,,,", "l,i,b,1,,,,", "m,i,b,1,,,,", "n,i,b,1,,,,"], 0),
        # Exact: the same moment, unless other items or other scores have it.
        (["l,i,a,1,,5,,", "l,i,a,1,,5,,"], 1),
        (["l,i,a,1,3,,,", "l,i,a,1,3,,,"], 1),
        (["l,i,a,1,3,,,", "l,i,a,1,4,,,"], 0),
        (["l,i,a,1,,5,,", "l,i,a,1,,5,,", "l,j,a,1,,5,,"], 0),
        (["l,i,a,1,,5,,", "l,i,a,1,,5,,", "m,i,a,1,,5,,", "m,i,a,0,,5,,"], 0),
        (["l,i,a,1,,5,,3", "l,i,a,1,,5,,4"], 0),
        (["l,i,a,1,,5,r,", "l,i,a,1,,5,s,"], 0),
        (["l,i,a,1,,5,r,", "l,i,a,1,,5,r,"], 1),
        (["l,i,a,1,,,r,", "l,i,a,1,,,r,"], 1),
        # An id with two contents is no repeat: it is refused elsewhere.
        (["l,i,a,1,,,r,", "l,i,a,0,,,r,"], 0),
    ],
)
def test_rows_are_judged_one_by_one(tmp_path: Path, rows: list[str], repeats: int) -> None:
    assert duplicates_of(tmp_path, rows).repeats.sum() == repeats


def test_rows_per_skill_with_ids_of_their_own_are_suspected(tmp_path: Path) -> None:
    """They stay, for ids say that they are responses; attempts with ids are not even suspected."""
    for split in (True, False):
        rows = [f"{row[:-1]}r{n}," for n, row in enumerate(whole(4, "seconds", split=split))]
        found = duplicates_of(tmp_path, rows)
        assert not found.repeats.any()
        assert found.suspected == len(rows) - len(attempts(4))


def test_quick_look_passes_honest_files(tmp_path: Path) -> None:
    """So an import reads them only twice; rows that cannot be used do not stop it."""
    for clock in ("nothing", "an order", "seconds"):
        assert not may_have_duplicates(write(tmp_path, [*whole(3, clock), "too,few"]), lambda *_: None)
        assert may_have_duplicates(write(tmp_path, whole(3, clock, split=True)), lambda *_: None)
    path = tmp_path / "odd.ndjson"
    path.write_text('{"learner_id": ["l"], "item_id": {}, "skill_ids": ["a"], "correct": 1, "order": []}\n' * 2)
    assert not may_have_duplicates(path, lambda *_: None)


def test_moments_out_of_range_stop_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, ["l,i,a,1,9223372036854775807,,,"] * 2 + ["l,i,a,1,1,,,"] * 2)
    assert read_duplicate_rows(path, Scales(), lambda *_: None)[1] == {5}


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 7), max_size=12))
def test_repeats_agree_with_an_earlier_row_and_ids_are_respected(rows: list[tuple[int, ...]]) -> None:
    """Whatever the rows: every repeat has an earlier row of the same learner, item and score that remains."""
    columns = ResponseColumns()
    records = [
        ResponseRecord(
            line=line,
            learner=f"l{learner % 2}",
            item=f"i{item % 2}",
            skills=((), ("a",), ("b", "c"))[skills],
            score=float(score % 2),
            order=(None, 4, line)[order],
            occurred_at=(None, 5, None)[when],
            split=None,
            response_id=(None, "r", f"r{line}")[named],
            duration_ms=None,
        )
        for line, (learner, item, skills, score, order, when, named) in enumerate(rows, 2)
    ]
    for record in records:
        columns.append(record)
    found = find_duplicate_rows(columns)
    for row, record in enumerate(records):
        remaining = [
            other
            for at, other in enumerate(records)
            if at != row
            and not found.repeats[at]
            and (other.learner, other.item, other.score, other.response_id)
            == (record.learner, record.item, record.score, record.response_id)
        ]
        assert not found.repeats[row] or remaining
    assert found.per_skill + found.exact == found.repeats.sum()


def test_moments_are_sorted_by_time_then_order_then_line() -> None:
    def key(order: int | None, when: int | None) -> int:
        return sort_key_of(ResponseRecord(9, "l", "i", (), 1.0, order, when, None, None, None))

    assert key(3, 17) == 17
    assert key(3, None) - key(None, None) == 3 - 9
