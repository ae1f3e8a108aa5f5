"""The item bank of a course, ready for the engine: one calibration over one revision of the catalogue."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Generic, TypeVar

import numpy as np
from sqlalchemy import Connection

from app.adaptive.calibration import default_rates
from app.adaptive.types import Booleans, Floats, Integers, Items, Parameters, Population, Skills
from app.queries.calibrations import find_parameters
from app.services.catalogue import Catalogue, catalogue_at, need_course, read_catalogue
from app.services.packing import CalibratedValues, unpack_fit

BANKS_KEPT = 64
PARTIAL_CREDIT = ("GPCM", "PCM")

Key = tuple[str, int, str, int, int | str | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Bank:
    """A course as the engine sees it. Immutable, so it may be shared by all threads and kept for ever.

    `refold_revision` is the oldest revision under which a learner's snapshot is still good. `known` (I,) marks the
    items whose parameters came with the catalogue; `tags` and `kinds` list the items that have each;
    `watched` says that somebody wants to hear of the course.
    """

    tenant_id: int
    course_id: str
    revision: int
    refold_revision: int
    calibration: int | None
    skill_ids: tuple[str, ...]
    skill_titles: tuple[str, ...]
    skill_numbers: dict[str, int]
    item_ids: tuple[str, ...]
    item_numbers: dict[str, int]
    max_scores: Floats
    known: Booleans
    tags: dict[str, Integers]
    kinds: dict[str, Integers]
    parameters: Parameters
    watched: bool = False


class Shelf(Generic[T]):
    """Banks, or what else is made from a course, by key; the least recently used leave first."""

    def __init__(self, most: int | None = None) -> None:
        self._kept: OrderedDict[Key, T] = OrderedDict()
        self._lock = threading.Lock()
        self._most = BANKS_KEPT if most is None else most

    def get(self, key: Key) -> T | None:
        """What is kept under a key."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Key, value: T) -> None:
        """Keep something."""
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)


SHELF: Shelf[Bank] = Shelf()


def read_bank(db: Connection, tenant_id: int, course_id: str) -> Bank:
    """The bank in force. Raises `UnknownCourse`."""
    course = need_course(db, tenant_id, course_id)
    key = (str(db.engine.url), tenant_id, course_id, course.revision, course.calibration)
    bank = SHELF.get(key)
    if bank is None:
        values = read_values(db, tenant_id, course_id, course.calibration)
        catalogue = read_catalogue(db, tenant_id, course_id)
        bank = build_bank(
            tenant_id, course_id, catalogue, values, (course.revision, course.refold_revision, course.calibration)
        )
        SHELF.put(key, bank)
    return replace(bank, watched=True) if course.watched else bank


def bank_at(
    db: Connection,
    tenant_id: int,
    course_id: str,
    revision: int,
    calibration: int | None,
    shelf: Shelf[Bank] | None = None,
) -> Bank:
    """The bank as it was under an older revision or calibration: what a past decision was made with.

    Whoever needs many again and again brings a shelf for them.
    """
    key = (str(db.engine.url), tenant_id, course_id, revision, calibration)
    bank = None if shelf is None else shelf.get(key)
    if bank is None:
        values = read_values(db, tenant_id, course_id, calibration)
        catalogue = catalogue_at(db, tenant_id, course_id, revision)
        bank = build_bank(tenant_id, course_id, catalogue, values, (revision, revision, calibration))
        if shelf is not None:
            shelf.put(key, bank)
    return bank


def read_values(
    db: Connection, tenant_id: int, course_id: str, number: int | None, *, trained: bool = False
) -> CalibratedValues | None:
    """The values of a calibration; none for the defaults."""
    packed = None if number is None else find_parameters(db, tenant_id, course_id, number)
    return None if packed is None else unpack_fit(packed, trained=trained)


def build_bank(
    tenant_id: int,
    course_id: str,
    catalogue: Catalogue,
    values: CalibratedValues | None,
    version: tuple[int, int, int | None],
) -> Bank:
    """Turn a catalogue and calibrated values into arrays."""
    skill_ids, item_ids = tuple(catalogue.skills), tuple(catalogue.items)
    skills = build_skills(catalogue, values)
    items, known = build_items(catalogue, values)
    revision, refold_revision, calibration = version
    return Bank(
        tenant_id=tenant_id,
        course_id=course_id,
        revision=revision,
        refold_revision=refold_revision,
        calibration=calibration,
        skill_ids=skill_ids,
        skill_titles=tuple(skill["title"] or skill_id for skill_id, skill in catalogue.skills.items()),
        skill_numbers={skill_id: number for number, skill_id in enumerate(skill_ids)},
        item_ids=item_ids,
        item_numbers={item_id: number for number, item_id in enumerate(item_ids)},
        max_scores=np.array([item["max_score"] for item in catalogue.items.values()]),
        known=known,
        tags=items_by_label([item["tags"] for item in catalogue.items.values()]),
        kinds=items_by_label([[item["kind"]] if item["kind"] else [] for item in catalogue.items.values()]),
        parameters=Parameters(
            values.population if values else Population(), skills, items, values.head if values else None
        ),
    )


def items_by_label(labels: Sequence[Sequence[str]]) -> dict[str, Integers]:
    """The numbers of the items that have each label."""
    listed: dict[str, list[int]] = defaultdict(list)
    for item, names in enumerate(labels):
        for name in names:
            listed[name].append(item)
    return {name: np.array(items, dtype=np.int64) for name, items in listed.items()}


def build_skills(catalogue: Catalogue, values: CalibratedValues | None) -> Skills:
    """Rates from the calibration; a skill it did not know has the defaults."""
    numbers = {skill_id: number for number, skill_id in enumerate(catalogue.skills)}
    prerequisites = [[numbers[p] for p in skill["prerequisites"]] for skill in catalogue.skills.values()]
    empty = np.empty(len(numbers))
    skills = default_rates(Skills(empty, empty, empty, pad_numbers(prerequisites)))
    if values is not None:
        count = min(len(values.prior), len(numbers))
        for name in ("prior", "learn", "forget"):
            getattr(skills, name)[:count] = getattr(values, name)[:count]
    return skills


def build_items(catalogue: Catalogue, values: CalibratedValues | None) -> tuple[Items, Booleans]:
    """Known parameters from the catalogue, easiness from the calibration, and the mean of its skills for the rest."""
    numbers = {skill_id: number for number, skill_id in enumerate(catalogue.skills)}
    records = list(catalogue.items.values())
    given = [item["parameters"] or {} for item in records]
    known = np.array([bool(p) for p in given], dtype=np.bool_)
    discrimination = np.array([p.get("a") or 1.0 for p in given])
    # Partial credit in practice: a score is so much of a success, of an item as difficult as its steps on the average.
    stepped = [p.get("model") in PARTIAL_CREDIT for p in given]
    thresholds = [[] if steps else p.get("thresholds") or [] for p, steps in zip(given, stepped, strict=True)]
    skills = pad_numbers([[numbers[s] for s in item["skills"]] for item in records])
    difficulty = [
        fmean(p["thresholds"]) if steps else p.get("b") or 0.0 for p, steps in zip(given, stepped, strict=True)
    ]
    easiness = -discrimination * np.array(difficulty)
    if values is not None:
        count = min(len(values.easiness), len(records))
        fitted = np.zeros(len(records), dtype=np.bool_)
        fitted[:count] = True
        fitted &= ~known
        easiness[fitted] = values.easiness[:count][fitted[:count]]
        unseen = ~fitted & ~known
        easiness[unseen] = mean_of_skills(easiness, skills, fitted)[unseen]
    items = Items(
        easiness=easiness,
        discrimination=discrimination,
        guessing=np.array([p.get("c") or 0.0 for p in given]),
        upper=np.array([1.0 if p.get("d") is None else p["d"] for p in given]),
        thresholds=discrimination[:, None] * pad_thresholds(thresholds),
        skills=skills,
    )
    return items, known


def mean_of_skills(easiness: Floats, skills: Integers, fitted: Booleans) -> Floats:
    """What to expect of an item that no calibration has seen: the mean easiness of its skills' fitted items."""
    overall = float(easiness[fitted].mean()) if fitted.any() else 0.0
    held = (skills >= 0) & fitted[:, None]
    rows = np.nonzero(held)[0]
    size = int(skills.max(initial=0)) + 1
    total = np.bincount(skills[held], easiness[rows], size) + overall
    mean = total / (np.bincount(skills[held], minlength=size) + 1)
    counted = (skills >= 0).sum(axis=1)
    summed = np.where(skills >= 0, mean[skills], 0.0).sum(axis=1)
    return np.where(counted > 0, summed / np.maximum(counted, 1), overall)


def pad_numbers(lists: Sequence[Sequence[int]]) -> Integers:
    """Rows of different length as one array, filled up with -1."""
    width = longest(lists)
    rows = [[*row, *[-1] * (width - len(row))] for row in lists]
    return np.array(rows, dtype=np.int64).reshape(len(lists), width)


def pad_thresholds(lists: Sequence[Sequence[float]]) -> Floats:
    """Rows of different length as one array, filled up with infinity."""
    width = longest(lists)
    rows = [[*row, *[np.inf] * (width - len(row))] for row in lists]
    return np.array(rows, dtype=np.float64).reshape(len(lists), width)


def longest(lists: Sequence[Sequence[float]]) -> int:
    """The length of the longest row."""
    return max((len(row) for row in lists), default=0)
