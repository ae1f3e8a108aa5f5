"""QTI usage data (versions 2.1 to 3.0): item parameters from the statistics of an item bank, on any scale.

A document type declaration is refused, so there are no entities to expand and nothing to fetch. Elements are read in
one pass without a tree, and all but statistics are skipped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn
from xml.parsers import expat

from app.core.errors import Fault, Invalid

ROOT = "usageData"
STATISTICS = ("ordinaryStatistic", "categorizedStatistic")
# Names are not a closed list; case and everything but letters is passed over.
ALIASES = {
    "aparm": "a",
    "a": "a",
    "discrimination": "a",
    "bparm": "b",
    "b": "b",
    "difficulty": "b",
    "cparm": "c",
    "c": "c",
    "guessing": "c",
    "dparm": "thresholds",
    "d": "thresholds",
    "thresholds": "thresholds",
}
POINTER = "/qtiUsagedata"


@dataclass
class _Statistic:
    """One statistic: its name and context, its items, its value and its categories."""

    name: str
    context: str
    items: list[str] = field(default_factory=list)
    value: str = ""
    categories: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class UsageScale:
    """How to read the numbers: those of one `context`, where a reported θ is slope · θ + intercept; D is 1 or 1.7."""

    context: str | None = None
    slope: float = 1.0
    intercept: float = 0.0
    d: float = 1.0


def read_statistics(xml: bytes) -> list[_Statistic]:
    """Return all statistics of a document. Raises `Invalid` for what is not usage data."""
    statistics: list[_Statistic] = []
    text: list[str] = []
    path: list[str] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition("}")[2]
        if not path and local != ROOT:
            _reject_usage_data(f"its root is not {ROOT}")
        parent = path[-1] if path else ""
        path.append(local)
        text.clear()
        if local in STATISTICS:
            statistics.append(_Statistic(attributes.get("name", ""), attributes.get("context", "")))
        elif local == "targetObject" and parent in STATISTICS:
            statistics[-1].items.append(attributes.get("identifier", ""))
        elif local == "mapEntry" and parent == "mapping" and statistics:
            statistics[-1].categories.append((attributes.get("mapKey", ""), attributes.get("mappedValue", "")))

    def end(_name: str) -> None:
        local = path.pop()
        if local == "value" and path and path[-1] in STATISTICS:
            statistics[-1].value = "".join(text)

    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartDoctypeDeclHandler = lambda *_: _reject_usage_data("it has a document type declaration; leave that out")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(xml, True)  # noqa: FBT003 (the last piece)
    except (expat.ExpatError, ValueError, LookupError):
        _reject_usage_data("it is not well-formed XML")
    return statistics


def _reject_usage_data(reason: str) -> NoReturn:
    raise Invalid(f"the usage data cannot be read: {reason}", [Fault(POINTER, reason)])


def extract_items(statistics: Sequence[_Statistic], scale: UsageScale) -> list[dict[str, Any]]:
    """Return the items with a known difficulty: a, b, c and thresholds in logits, in the order of first mention.

    Raises `Invalid` where it is not clear which context is meant, or an item has two values of one kind.
    """
    classified = [(_parameter_kind(statistic), statistic) for statistic in statistics]
    relevant = [
        (kind, statistic) for kind, statistic in classified if kind and scale.context in (None, statistic.context)
    ]
    if len({statistic.context for _, statistic in relevant}) > 1:
        raise Invalid(
            "the usage data has several contexts; say in the configuration which one counts: usage.context",
            [Fault(POINTER, "has several contexts")],
        )
    by_item: dict[str, dict[str, Any]] = {}
    for kind, statistic in relevant:
        value = _convert_value(kind, statistic, scale)
        for id_ in statistic.items if value is not None else ():
            if by_item.setdefault(id_, {}).setdefault(kind, value) != value:
                raise Invalid("an item has two values of one kind in the usage data", [Fault(POINTER, "is ambiguous")])
    return [
        _build_item(id_, parameters)
        for id_, parameters in by_item.items()
        if id_ and ("b" in parameters or "thresholds" in parameters)
    ]


def _parameter_kind(statistic: _Statistic) -> str:
    """Return `a`, `b`, `c` or `thresholds`; an empty text for any other statistic."""
    kind = ALIASES.get("".join(character for character in statistic.name.lower() if character.isalpha()), "")
    return kind if (kind == "thresholds") == bool(statistic.categories) else ""


def _convert_value(kind: str, statistic: _Statistic, scale: UsageScale) -> float | list[float] | None:
    """Return the value on the logistic scale of θ; None if it is no number."""
    if kind == "thresholds":
        steps = [_as_number(value) for _, value in sorted(statistic.categories, key=_category_order)]
        classified = [(step - scale.intercept) / scale.slope for step in steps if step is not None]
        return classified if len(classified) == len(steps) else None
    number = _as_number(statistic.value)
    if number is None or kind == "c":
        return number
    return number * scale.slope * scale.d if kind == "a" else (number - scale.intercept) / scale.slope


def _category_order(category: tuple[str, str]) -> tuple[int, str]:
    """Return a sort key that orders categories by the number in their name: d2 before d10."""
    digits = "".join(character for character in category[0] if character in "0123456789")
    return (int(digits[:9] or "0"), category[0])


def _as_number(text: str) -> float | None:
    """Return a finite number; None for anything else, as some statistics are words."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _build_item(id_: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with the parameters that belong together; thresholds, if there are any, take the place of b."""
    names = ("a", "thresholds") if "thresholds" in parameters else ("a", "b", "c")
    item = {"id": id_, **{name: parameters[name] for name in names if name in parameters}}
    return {**item, "model": _polytomous_model(item["thresholds"])} if "thresholds" in item else item


def _polytomous_model(thresholds: Sequence[float]) -> str:
    """Return the model of thresholds: boundaries between categories increase, the difficulties of steps need not."""
    return "graded" if all(low < high for low, high in pairwise(thresholds)) else "GPCM"
