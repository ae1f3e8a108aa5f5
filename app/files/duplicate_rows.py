"""Duplicate rows of a file of responses: found and counted once, whether one row per skill or exact repeats.

Some exports write one row for each skill of the item, some write a row again. A model that has seen the first row of
such a response knows what the next ones say (Xiong, Zhao, Van Inwegen & Beck 2016 found both in ASSISTments 2009). A
row repeats the response of an earlier row of the same learner, item and score

- by their response id, if moment and duration agree too;
- as *exact repeats*, if no row has an id, all columns agree, and the file itself says when: `order` or a time. Not if
  the learner has other items at that moment, nor if the file has different scores of one learner and item at one
  moment in more than one of a hundred such cases: what is that coarse does not tell repeated attempts apart;
- as *one row per skill*, if they follow each other in the learner's log without ids, with the same duration, at the
  same time if there are times, and with skills that the rows before do not have, and if more than half of all responses
  to this item are in rows of this kind. Rows that follow each other with the same skills are attempts.

Rows that would be one row per skill but for ids of their own are counted as *suspected*, and stay.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from app.adaptive.arrays import Booleans, Integers
from app.core.times import UNDATED_EPOCH_US
from app.files.responses import INSTANTS, ResponseRecord, Scales, may_have_duplicates, read_responses

NEITHER, ORDER, TIME = range(3)
# Of the moments at which a learner answered one item more than once, at most this share may have different scores.
LARGEST_CONFLICT_SHARE = 0.01


def sort_key_of(response: ResponseRecord) -> int:
    """What the responses of a learner are sorted by, in microseconds: the time, else the order, else the line."""
    if response.occurred_at is not None:
        return response.occurred_at
    return UNDATED_EPOCH_US + (response.line if response.order is None else response.order)


def _numbers() -> "array[int]":
    return array("q")


@dataclass(frozen=True)
class ResponseColumns:
    """The N responses of a file in its order, as columns.

    Learners, items and sets of skills are numbered as they appear. A moment is that of `sort_key_of`, and its kind says
    whether the file has a time, an order, or neither. Without an id a response has "", without a duration -1.
    """

    learner_numbers: dict[str, int] = field(default_factory=dict)
    item_numbers: dict[str, int] = field(default_factory=dict)
    skill_set_numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    lines: "array[int]" = field(default_factory=_numbers)
    learners: "array[int]" = field(default_factory=_numbers)
    items: "array[int]" = field(default_factory=_numbers)
    skill_sets: "array[int]" = field(default_factory=_numbers)
    scores: "array[float]" = field(default_factory=lambda: array("d"))
    moments: "array[int]" = field(default_factory=_numbers)
    moment_kinds: "array[int]" = field(default_factory=lambda: array("b"))
    durations: "array[int]" = field(default_factory=_numbers)
    ids: list[str] = field(default_factory=list)

    def append(self, response: ResponseRecord) -> None:
        """Add one response."""
        self.lines.append(response.line)
        self.learners.append(self.learner_numbers.setdefault(response.learner, len(self.learner_numbers)))
        self.items.append(self.item_numbers.setdefault(response.item, len(self.item_numbers)))
        self.skill_sets.append(self.skill_set_numbers.setdefault(response.skills, len(self.skill_set_numbers)))
        self.scores.append(response.score)
        self.moments.append(sort_key_of(response))
        kind = TIME if response.occurred_at is not None else NEITHER if response.order is None else ORDER
        self.moment_kinds.append(kind)
        self.durations.append(-1 if response.duration_ms is None else response.duration_ms)
        self.ids.append(response.response_id or "")

    def number_ids(self) -> Integers:
        """The ids numbered as they sort, (N,); 0 where there is none."""
        if not any(self.ids):
            return np.zeros(len(self.ids), dtype=np.int64)
        found, index = np.unique(np.array(self.ids, dtype=object), return_inverse=True)
        return np.asarray(index + (found[0] != ""))


@dataclass(frozen=True)
class DuplicateRows:
    """Which rows (N,) repeat an earlier one, how many of each kind, and the line of the first; 0 if there is none.

    `suspected` rows have ids of their own, and no other sign of being a response of their own.
    `skills` are those of the items whose responses stand in one row per skill.
    """

    repeats: Booleans
    per_skill: int
    exact: int
    first_line: int
    suspected: int
    skills: Mapping[str, tuple[str, ...]]


def read_duplicate_rows(
    path: Path, scales: Scales, progress: Callable[[int, int], object]
) -> tuple[DuplicateRows, frozenset[int]]:
    """The duplicate rows of a file, as in `find_duplicate_rows`, and their lines.

    A file that cannot have any is read only once, without judging its rows. `progress` takes the bytes read and the
    size of the file.
    """
    columns = ResponseColumns()
    if may_have_duplicates(path, progress):
        for response in read_responses(path, scales):
            if isinstance(response, ResponseRecord) and sort_key_of(response) in INSTANTS:
                columns.append(response)
    found = find_duplicate_rows(columns)
    return found, frozenset(np.array(columns.lines, dtype=np.int64)[found.repeats].tolist())


def find_duplicate_rows(columns: ResponseColumns) -> DuplicateRows:
    """Find the rows of a file that repeat a response of an earlier row."""
    rows = _Rows.of(columns)
    first = np.arange(len(rows.learner))
    _link_by_id(rows, first)
    _link_exact(rows, first)
    without_ids = first.copy()
    _link_skills(rows, columns, first)
    if rows.id.any():
        _link_skills(replace(rows, id=np.zeros_like(rows.id)), columns, without_ids)
    else:
        without_ids = first
    repeats = first != np.arange(len(first))
    per_skill = repeats & (rows.skill_set != rows.skill_set[first])
    return DuplicateRows(
        repeats=repeats,
        per_skill=int(per_skill.sum()),
        exact=int((repeats & ~per_skill).sum()),
        first_line=int(rows.line[repeats].min(initial=rows.line.max(initial=0))) if repeats.any() else 0,
        suspected=int(((without_ids != np.arange(len(first))) & ~repeats).sum()),
        skills=_unite_skills(columns, np.flatnonzero(per_skill), first),
    )


@dataclass(frozen=True)
class _Rows:
    """The same columns as arrays, each (N,); `id` is 0 where there is none."""

    line: Integers
    learner: Integers
    item: Integers
    skill_set: Integers
    score: Integers
    moment: Integers
    kind: Integers
    duration: Integers
    id: Integers

    @classmethod
    def of(cls, columns: ResponseColumns) -> "_Rows":
        """Scores are numbered: only whether they are the same counts."""
        score = np.unique(np.array(columns.scores), return_inverse=True)[1]
        names = (columns.lines, columns.learners, columns.items, columns.skill_sets)
        line, learner, item, skill_set = (np.array(values, dtype=np.int64) for values in names)
        rest = (columns.moments, columns.moment_kinds, columns.durations)
        moment, kind, duration = (np.array(values, dtype=np.int64) for values in rest)
        return cls(line, learner, item, skill_set, score, moment, kind, duration, columns.number_ids())

    @property
    def content(self) -> tuple[Integers, ...]:
        """What two rows of one response agree in, beside skills and ids."""
        return self.learner, self.moment, self.item, self.score, self.duration


def _starts(*columns: Integers) -> Booleans:
    """Where any of the sorted columns (N,) differs from the row before; (N,)."""
    begins = np.zeros(len(columns[0]), dtype=np.bool_)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return begins


def _group_first(order: Integers, begins: Booleans) -> Integers:
    """The first row of the group of each of the sorted rows `order`."""
    return np.asarray(order[np.flatnonzero(begins)[np.cumsum(begins) - 1]])


def _link_by_id(rows: _Rows, first: Integers) -> None:
    """Rows with the id of an earlier row and its content are its repeats."""
    named = np.flatnonzero(rows.id)
    order = named[np.lexsort((rows.line[named], rows.id[named]))]
    earlier = _group_first(order, _starts(rows.id[order]))
    learner, moment, *rest = rows.content
    agree = (moment[order] == moment[earlier]) | ((rows.kind[order] == NEITHER) & (rows.kind[earlier] == NEITHER))
    for column in (learner, *rest):
        agree &= column[order] == column[earlier]
    first[order[agree]] = earlier[agree]


def _link_exact(rows: _Rows, first: Integers) -> None:
    """Rows without ids that agree in everything are repeats, where moments tell responses apart."""
    open_rows = np.flatnonzero((rows.id == 0) & (rows.kind != NEITHER))
    learner, moment, item, score, duration = rows.content
    keys = (rows.line, rows.skill_set, duration, score, item, moment, learner)
    order = open_rows[np.lexsort([key[open_rows] for key in keys])]
    if not len(order):
        return
    at_moment = _starts(learner[order], moment[order])
    item_begins = _starts(learner[order], moment[order], item[order])
    tried = np.cumsum(item_begins) - 1
    conflicts = np.bincount(tried, _starts(learner[order], moment[order], item[order], score[order])) > 1
    repeated = np.bincount(tried) > 1
    if conflicts.sum() > LARGEST_CONFLICT_SHARE * repeated.sum():
        return
    alone = np.bincount(np.cumsum(at_moment) - 1, item_begins) == 1
    certain = alone[np.cumsum(at_moment) - 1] & ~conflicts[tried]
    begins = _starts(*(column[order] for column in rows.content), rows.skill_set[order])
    first[order[certain]] = _group_first(order, begins)[certain]


def _link_skills(rows: _Rows, columns: ResponseColumns, first: Integers) -> None:
    """Rows that follow each other and ask for further skills are repeats, if most responses to the item are so."""
    order = np.flatnonzero(first == np.arange(len(first)))
    order = order[np.lexsort([key[order] for key in (rows.line, rows.item, rows.moment, rows.learner)])]
    begins = _starts(*(column[order] for column in (rows.learner, rows.item, rows.score, rows.duration)))
    begins |= rows.id[order] > 0
    begins[1:] |= rows.id[order][:-1] > 0
    timed = rows.kind[order] == TIME
    begins[1:] |= (timed[1:] != timed[:-1]) | (timed[1:] & (rows.moment[order][1:] != rows.moment[order][:-1]))
    starts = np.append(np.flatnonzero(begins), len(order))
    differs = _starts(rows.skill_set[order]) & ~begins
    runs = np.unique(np.searchsorted(starts, np.flatnonzero(differs), side="right") - 1)
    sets = [frozenset(names) for names in columns.skill_set_numbers]
    blocks = [
        block
        for run in runs.tolist()
        for block in _blocks(order[starts[run] : starts[run + 1]].tolist(), rows.skill_set, sets)
        if len(block) > 1
    ]
    _link_blocks(blocks, np.bincount(rows.item[order], minlength=1), rows.item, first)


def _blocks(run: list[int], skill_set: Integers, sets: list[frozenset[str]]) -> Iterator[list[int]]:
    """Cut a run of rows where one has no skill, or one that a row of its block has."""
    block, seen = [run[0]], sets[skill_set[run[0]]]
    for before, row in pairwise(run):
        skills = sets[skill_set[row]]
        if not skills or not sets[skill_set[before]] or skills & seen:
            yield block
            block, seen = [], frozenset()
        block.append(row)
        seen |= skills
    yield block


def _link_blocks(blocks: list[list[int]], item_rows: Integers, item: Integers, first: Integers) -> None:
    """Link the blocks of the items of which more than half of all responses are blocks; `item_rows` are counts (I,)."""
    found = Counter(int(item[block[0]]) for block in blocks)
    further = Counter[int]()
    for block in blocks:
        further[int(item[block[0]])] += len(block) - 1
    for block in blocks:
        number = int(item[block[0]])
        if 2 * found[number] > item_rows[number] - further[number]:
            first[block] = block[0]


def _unite_skills(columns: ResponseColumns, repeats: Integers, first: Integers) -> dict[str, tuple[str, ...]]:
    """The skills of every item with rows for further skills, in the order of the file."""
    sets, items = list(columns.skill_set_numbers), list(columns.item_numbers)
    united: dict[str, dict[str, None]] = {}
    for row in np.unique(np.concatenate([repeats, first[repeats]])).tolist():
        united.setdefault(items[columns.items[row]], {}).update(dict.fromkeys(sets[columns.skill_sets[row]]))
    return {item: tuple(skills) for item, skills in united.items()}
