"""QTI usage data (versions 2.1 to 3.0): item parameters out of the statistics of a bank, on whatever scale they are.

A document type declaration is refused, so there are no entities to expand and nothing to fetch. Nothing is nested here,
and no tree is built: what is not a statistic is passed over.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn
from xml.parsers import expat

from app.errors import Fault, Invalid

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
PLACE = "/qtiUsagedata"


@dataclass
class Statistic:
    """One statistic: its name and context, the items it is about, its value and its categories."""

    name: str
    context: str
    items: list[str] = field(default_factory=list)
    value: str = ""
    categories: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """How to read the numbers: those of one `context`, where a reported θ is slope · θ + intercept; D is 1 or 1.7."""

    context: str | None = None
    slope: float = 1.0
    intercept: float = 0.0
    d: float = 1.0


def read_statistics(xml: bytes) -> list[Statistic]:
    """All statistics of a document. Raises `Invalid` for what is not usage data."""
    found: list[Statistic] = []
    text: list[str] = []
    path: list[str] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition("}")[2]
        if not path and local != ROOT:
            refuse(f"its root is not {ROOT}")
        parent = path[-1] if path else ""
        path.append(local)
        text.clear()
        if local in STATISTICS:
            found.append(Statistic(attributes.get("name", ""), attributes.get("context", "")))
        elif local == "targetObject" and parent in STATISTICS:
            found[-1].items.append(attributes.get("identifier", ""))
        elif local == "mapEntry" and parent == "mapping" and found:
            found[-1].categories.append((attributes.get("mapKey", ""), attributes.get("mappedValue", "")))

    def end(_name: str) -> None:
        local = path.pop()
        if local == "value" and path and path[-1] in STATISTICS:
            found[-1].value = "".join(text)

    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartDoctypeDeclHandler = lambda *_: refuse("it has a document type declaration; leave that out")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(xml, True)  # noqa: FBT003 (the last piece)
    except (expat.ExpatError, ValueError, LookupError):
        refuse("it is not well-formed XML")
    return found


def refuse(reason: str) -> NoReturn:
    raise Invalid(f"the usage data cannot be read: {reason}", [Fault(PLACE, reason)])


def items_of(statistics: Sequence[Statistic], scale: Scale) -> list[dict[str, Any]]:
    """The items whose difficulty is told, with a, b, c and thresholds in logits, in the order they are first named.

    Raises `Invalid` where it is not clear which context is meant, or an item has two values of one kind.
    """
    known = [(kind_of(each), each) for each in statistics]
    told = [(kind, each) for kind, each in known if kind and scale.context in (None, each.context)]
    if len({each.context for _, each in told}) > 1:
        raise Invalid(
            "the usage data has several contexts; say in the configuration which one counts: usage.context",
            [Fault(PLACE, "has several contexts")],
        )
    found: dict[str, dict[str, Any]] = {}
    for kind, each in told:
        value = converted(kind, each, scale)
        for id_ in each.items if value is not None else ():
            if found.setdefault(id_, {}).setdefault(kind, value) != value:
                raise Invalid("an item has two values of one kind in the usage data", [Fault(PLACE, "is ambiguous")])
    return [settled(id_, given) for id_, given in found.items() if id_ and ("b" in given or "thresholds" in given)]


def kind_of(statistic: Statistic) -> str:
    """`a`, `b`, `c` or `thresholds`; empty for any other statistic."""
    kind = ALIASES.get("".join(sign for sign in statistic.name.lower() if sign.isalpha()), "")
    return kind if (kind == "thresholds") == bool(statistic.categories) else ""


def converted(kind: str, statistic: Statistic, scale: Scale) -> float | list[float] | None:
    """The value on the logistic scale of θ; none if it is no number."""
    if kind == "thresholds":
        steps = [as_number(value) for _, value in sorted(statistic.categories, key=by_number)]
        known = [(step - scale.intercept) / scale.slope for step in steps if step is not None]
        return known if len(known) == len(steps) else None
    number = as_number(statistic.value)
    if number is None or kind == "c":
        return number
    return number * scale.slope * scale.d if kind == "a" else (number - scale.intercept) / scale.slope


def by_number(category: tuple[str, str]) -> tuple[int, str]:
    """Categories in the order of the number in their key: d2 before d10."""
    digits = "".join(sign for sign in category[0] if sign in "0123456789")
    return (int(digits[:9] or "0"), category[0])


def as_number(text: str) -> float | None:
    """A finite number; none for anything else, as some statistics are words."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def settled(id_: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """An item with the parameters that belong together; where there are thresholds, they say what b would."""
    names = ("a", "thresholds") if "thresholds" in given else ("a", "b", "c")
    found = {"id": id_, **{name: given[name] for name in names if name in given}}
    return {**found, "model": ordered(found["thresholds"])} if "thresholds" in found else found


def ordered(thresholds: Sequence[float]) -> str:
    """The model that thresholds are of: boundaries between categories increase, the difficulties of steps need not."""
    return "graded" if all(low < high for low, high in pairwise(thresholds)) else "GPCM"
