"""Banks of items with their parameters, and the bounds of a test, from CSV: what `proxima simulate test` reads.

What an item is follows from its model, never from how many numbers it has: a graded item read as 3PL is another item.
The model is the column `model`; a file without one must have columns that belong to a single model.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.adaptive.cat import Bound, Pool, make_pool
from app.adaptive.irt.item_models import BY_FILE_NAME, BY_NAME, Model
from app.core.errors import InvalidFile
from app.files.responses import NUMBER, read_table

IDS = ("item_id", "id", "item")
NAMES = {"discrimination": "a", "alphaj": "a", "difficulty": "b", "guessing": "c", "asymptote": "c", "upper": "d"}
# Numbered columns: thresholds or steps of any model; those of one model; and parameters by place.
NUMBERED = re.compile(r"(b|cb|betaj|deltaj|par|v)([1-9]\d?)", re.ASCII)
GRADED, STEPS, POSITIONAL = ("cb", "betaj"), ("deltaj",), ("par", "v")
NOMINAL = {"a1", "a2", "c1", "c2"}
MISSING = ("", "na", "nan")


@dataclass(frozen=True)
class ItemFile:
    """A pool and what else the file says: an id of every item, and the columns that are no parameters ('' if empty)."""

    name: str
    pool: Pool
    ids: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Constraints:
    """What a test must keep: `bounds` on the groups of a pool, its length, and the ids of what is `left_out`."""

    bounds: tuple[Bound, ...]
    min_items: int
    max_items: int | None
    left_out: tuple[str, ...]


class _ParameterRow(NamedTuple):
    """One item as its file has it."""

    model: Model
    a: float
    steps: tuple[float, ...]
    c: float
    d: float


class _UnusableRow(ValueError):
    """Why a row is no item, or no bound."""


def read_item_file(path: Path, scaling: float = 1.0) -> ItemFile:
    """Items of any models from a CSV file; discriminations are multiplied by `scaling`, the D of the file.

    Raises `InvalidFile`, with the line, for a file that holds no items, and for parameters that are no item's.
    """
    rows = [(line, {name.lower(): value.strip() for name, value in row.items()}) for line, row in read_table(path)]
    if not rows:
        raise InvalidFile(f"{path.name} has no items.")
    columns = tuple(rows[0][1])
    named = next((name for name in IDS if name in columns), None)
    try:
        read = _row_reader(columns)
    except _UnusableRow as error:
        raise InvalidFile(f"{path.name}: {error}.") from error
    items = []
    for line, row in rows:
        try:
            item = read(row)
            items.append(item._replace(a=item.a * scaling))
            _pool_from_rows(items[-1:])
        except ValueError as error:
            raise InvalidFile(f"{path.name}, line {line}: {error}.") from error
    ids = tuple(row[named] if named else str(line) for line, row in rows)
    twice, many = Counter(ids).most_common(1)[0]
    if many > 1:
        raise InvalidFile(f"{path.name} has the item {twice!r} more than once.")
    others = [name for name in columns if name not in (named, "model", "cat") and not _is_parameter_column(name)]
    return ItemFile(
        path.name, _pool_from_rows(items), ids, {name: tuple(row[name] for _, row in rows) for name in others}
    )


def _pool_from_rows(items: Sequence[_ParameterRow]) -> Pool:
    """The pool of these items; raises ValueError."""
    most = max(len(item.steps) for item in items)
    return make_pool(
        [item.model for item in items],
        np.array([item.a for item in items]),
        np.array([[*item.steps, *[0.0] * (most - len(item.steps))] for item in items]),
        max_category=np.array([len(item.steps) for item in items]),
        guessing=np.array([item.c for item in items]),
        upper=np.array([item.d for item in items]),
    )


def _is_parameter_column(name: str) -> bool:
    """Whether a column holds a parameter."""
    return NAMES.get(name, name) in ("a", "b", "c", "d") or NUMBERED.fullmatch(name) is not None


def _row_reader(columns: Sequence[str]) -> Callable[[Mapping[str, str]], _ParameterRow]:
    """How rows of these columns are read."""
    series: dict[str, list[str]] = {}
    for name in columns:
        found = NUMBERED.fullmatch(name)
        if found:
            series.setdefault(found[1], []).append(name)
    series = {prefix: sorted(names, key=lambda name: int(re.sub(r"\D", "", name))) for prefix, names in series.items()}
    letters = {NAMES.get(name, name): name for name in columns if NAMES.get(name, name) in ("a", "b", "c", "d")}
    model = _model_reader(columns, series, letters)
    positional = next((series[prefix] for prefix in POSITIONAL if prefix in series), None)
    steps = next((names for prefix, names in series.items() if prefix not in POSITIONAL), [])

    def read_by_position(row: Mapping[str, str]) -> _ParameterRow:
        return _parse_parameters(model(row), [row[name] for name in positional or ()])

    def read_by_name(row: Mapping[str, str]) -> _ParameterRow:
        kind = model(row)
        order = BY_NAME[kind].parameters
        expected = [row[letters[each]] if each in letters else "" for each in order if each != "thresholds"]
        step_values = (steps or [letters[each] for each in "b" if each in letters]) if "thresholds" in order else []
        return _parse_parameters(kind, [*expected, *(row[name] for name in step_values)])

    return read_by_name if positional is None else read_by_position


def _model_reader(
    columns: Sequence[str], series: Mapping[str, Sequence[str]], letters: Mapping[str, str]
) -> Callable[[Mapping[str, str]], Model]:
    """The model of a row; raises `_UnusableRow` where the columns do not tell."""
    if "model" in columns:
        return lambda row: _parse_model(row["model"])
    if set(columns) >= NOMINAL:
        raise _UnusableRow(
            "these are items of the nominal response model, whose categories have no order; it is not known here"
        )
    if "cat" in columns and "v" in series:
        return lambda row: "3pl" if row["cat"] == "2" else "gpcm"
    only: Model | None = None
    if any(prefix in series for prefix in GRADED):
        only = "graded"
    elif any(prefix in series for prefix in STEPS):
        only = "gpcm" if "a" in letters else "pcm"
    elif "b" in letters and not series:
        only = "4pl" if "d" in letters else "3pl" if "c" in letters else "2pl" if "a" in letters else "rasch"
    if only is None:
        raise _UnusableRow(
            "there are no item parameters that tell their model: give a column model "
            "(1PL, 2PL, 3PL, 4PL, GR, GPC or PC) beside a, b, c, d, b1, b2, …"
        )
    found: Model = only
    return lambda _: found


def _parse_model(name: str) -> Model:
    """A model by any of its usual names."""
    model = BY_FILE_NAME.get(name.lower())
    if model is None:
        raise _UnusableRow(f"the model {name!r} is none of {', '.join(BY_FILE_NAME)}")
    return model.name


def _parse_parameters(model: Model, values: Sequence[str]) -> _ParameterRow:
    """The item whose parameters, in the order of its model, are these; what follows them must be empty."""
    numbers = [None if value.lower() in MISSING else _parse_number(value) for value in values]
    while numbers and numbers[-1] is None:
        numbers.pop()
    found = [each for each in numbers if each is not None]
    order = BY_NAME[model].parameters
    has_steps = "thresholds" in order
    if len(found) < len(numbers) or len(found) < len(order) or (not has_steps and len(found) > len(order)):
        expected = " and ".join(order).replace("thresholds", "thresholds or steps") if has_steps else ", ".join(order)
        raise _UnusableRow(f"a {model} item has the parameters {expected}, not {len(found)} numbers")
    a = found.pop(0) if "a" in order else 1.0
    if has_steps:
        return _ParameterRow(model, a, tuple(found), 0.0, 1.0)
    b, c, d = [*found, *(0.0, 1.0)[len(found) - 1 :]]
    return _ParameterRow(model, a, (b,), c, d)


def _parse_number(text: str) -> float:
    """A finite number."""
    if not NUMBER.fullmatch(text) or not np.isfinite(value := float(text)):
        raise _UnusableRow(f"{text!r} is not a number")
    return value


# Bounds

TERM = re.compile(r"(\w[\w.]*) *(==|!=|>=|<=|>|<) *(\"[^\"]*\"|[\w.+-]+)", re.ASCII)
WITHIN = re.compile(r"(\w[\w.]*) +%in% +c\(([^()]*)\)", re.ASCII)
PRESENT = re.compile(r"!is\.na\((\w[\w.]*)\)", re.ASCII)
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda x, y: x >= y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    "<": lambda x, y: x < y,
}


def read_constraints(path: Path, item_file: ItemFile) -> tuple[ItemFile, Constraints]:
    """The bank with groups to count and enemies to part, and the bounds, as the R package TestDesign writes them.

    Columns `TYPE, WHAT, CONDITION, LB, UB` and if need be `CONSTRAINT_ID, ONOFF` (Choi, Lim & van der Linden 2022). Of
    items, `Number` without a condition is the length of a test, with one a bound; `Include` and `Exclude` are bounds
    too; `Enemy` parts items. A condition joins by `&` terms like `DOK >= 2`, `TYPE == "MC"`, `LEVEL %in% c(3, 4)`,
    `!is.na(FACIT)`; a column alone bounds each of its values. What else such files may ask for is left out, and named.
    Raises `InvalidFile`.
    """
    groups: list[list[int]] = []
    bounds: list[Bound] = []
    enemies: list[list[int]] = []
    left_out: list[str] = []
    shortest, longest = 0, None
    for line, cells in read_table(path):
        row = {name.lower(): value.strip() for name, value in cells.items()}
        kind, condition = row.get("type", "").lower(), row.get("condition", "")
        if row.get("onoff", "").upper() == "OFF":
            continue
        if row.get("what", "").lower() != "item" or kind not in ("number", "enemy", "include", "exclude"):
            left_out.append(f"{row.get('constraint_id') or line} ({row.get('type')} {row.get('what')})")
            continue
        try:
            if kind == "number" and not condition:
                shortest, longest = _parse_bounds(row)
                continue
            groups_of_column = _groups_by_value(item_file, condition) if kind == "number" else None
            for items in [_matching_items(item_file, condition)] if groups_of_column is None else groups_of_column:
                if kind == "enemy":
                    enemies.append(items)
                    continue
                least, most = (
                    _parse_bounds(row) if kind == "number" else (0, 0) if kind == "exclude" else (len(items),) * 2
                )
                bounds.append(Bound(len(groups), least, most))
                groups.append(items)
        except _UnusableRow as error:
            if "per stimulus" in condition.lower():
                left_out.append(f"{row.get('constraint_id') or line} ({condition})")
                continue
            raise InvalidFile(f"{path.name}, line {line}: {error}.") from error
    pool = replace(
        item_file.pool,
        groups=tuple(np.array(group, dtype=np.int64) for group in groups),
        enemies=tuple(np.array(group, dtype=np.int64) for group in enemies if group),
    )
    return replace(item_file, pool=pool), Constraints(tuple(bounds), shortest, longest, tuple(left_out))


def _parse_bounds(row: Mapping[str, str]) -> tuple[int, int]:
    """The least and the most of a bound."""
    least, most = (_parse_number(row.get(name, "")) for name in ("lb", "ub"))
    if not 0 <= least <= most or least % 1 or most % 1:
        raise _UnusableRow("LB and UB are whole numbers, 0 <= LB <= UB")
    return int(least), int(most)


def _groups_by_value(item_file: ItemFile, condition: str) -> list[list[int]] | None:
    """The items of each value of a column, if the condition is just its name."""
    values = item_file.attributes.get(condition.lower())
    if values is None:
        return None
    named = sorted({value for value in values if value.lower() not in MISSING})
    return [[item for item, value in enumerate(values) if value == each] for each in named]


def _matching_items(item_file: ItemFile, condition: str) -> list[int]:
    """The items that satisfy every term of a condition."""
    terms = [_parse_term(item_file, term.strip()) for term in condition.split("&")]
    return [item for item in range(item_file.pool.count) if all(term(item) for term in terms)]


def _parse_term(item_file: ItemFile, term: str) -> Callable[[int], bool]:
    """Whether an item satisfies one term."""
    if found := PRESENT.fullmatch(term):
        values = _find_column(item_file, found[1])
        return lambda item: values[item].lower() not in MISSING
    if found := WITHIN.fullmatch(term):
        values, among = _find_column(item_file, found[1]), [each.strip() for each in found[2].split(",")]
        return lambda item: any(_cell_matches(values[item], each) for each in among)
    found = TERM.fullmatch(term)
    if not found:
        raise _UnusableRow(f"the condition {term!r} is not understood")
    values, sign, expected = _find_column(item_file, found[1]), found[2], found[3]
    if sign in ("==", "!="):
        return lambda item: _cell_matches(values[item], expected) is (sign == "==")
    limit = _parse_number(expected)
    return lambda item: values[item].lower() not in MISSING and COMPARE[sign](_parse_number(values[item]), limit)


def _find_column(item_file: ItemFile, name: str) -> tuple[str, ...]:
    """The values of a column, or the ids."""
    values = item_file.ids if name.lower() in IDS else item_file.attributes.get(name.lower())
    if values is None:
        raise _UnusableRow(f"{item_file.name} has no column {name}")
    return values


def _cell_matches(value: str, expected: str) -> bool:
    """Whether a cell holds what a condition names: a text in quotes, or a number however it is written."""
    if expected.startswith('"') or not NUMBER.fullmatch(expected) or not NUMBER.fullmatch(value):
        return value == expected.strip('"')
    return float(value) == float(expected)
