"""The course model, ready for the engine: one calibration over one revision of the catalogue."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Generic, TypeVar

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.fit import default_rates
from app.adaptive.irt.item_models import ITEM_MODELS
from app.adaptive.numerics import pad_numbers
from app.adaptive.parameters import Items, Parameters, Population, Skills, to_intercept
from app.queries.calibrations import find_parameters
from app.services.calibration_codec import CalibratedValues, decode_calibration
from app.services.catalogue import Catalogue, catalogue_at, need_course, read_catalogue

CACHED_MODELS = 64
PARTIAL_CREDIT = {model.catalogue_name for model in ITEM_MODELS if model.partial_credit}

CacheKey = tuple[str, int, str, int, Hashable]
T = TypeVar("T")


@dataclass(frozen=True)
class CourseModel:
    """A course as the engine sees it. Immutable, so threads may share it and it never expires.

    `replay_revision` is the oldest revision under which a learner's snapshot is still good. `known` (I,) marks the
    items whose parameters came with the catalogue. Nobody thinks about an item in less than `rapid_below` (I,) ms; 0
    where that is not known. `reviewed` (I,) are items that count even if they are suspect. `tags` and `kinds` list the
    items that have each. `watched`: some webhook subscribes to the course.
    """

    tenant_id: int
    course_id: str
    revision: int
    replay_revision: int
    calibration: int | None
    skill_ids: tuple[str, ...]
    skill_titles: tuple[str, ...]
    skill_numbers: dict[str, int]
    item_ids: tuple[str, ...]
    item_numbers: dict[str, int]
    max_scores: Floats
    known: Booleans
    rapid_below: Integers
    reviewed: Booleans
    tags: dict[str, Integers]
    kinds: dict[str, Integers]
    parameters: Parameters
    watched: bool = False


class LruCache(Generic[T]):
    """A cache by key of course models, or what is made from a course; the least recently used leave first."""

    def __init__(self, capacity: int | None = None) -> None:
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        self._capacity = CACHED_MODELS if capacity is None else capacity

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Store a value."""
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)


COURSE_MODELS: LruCache[CourseModel] = LruCache()


def read_course_model(db: Connection, tenant_id: int, course_id: str) -> CourseModel:
    """Return the active course model. Raises `UnknownCourse`."""
    row = need_course(db, tenant_id, course_id)
    key = (str(db.engine.url), tenant_id, course_id, row.revision, row.calibration)
    course_model = COURSE_MODELS.get(key)
    if course_model is None:
        values = read_calibrated_values(db, tenant_id, course_id, row.calibration)
        catalogue = read_catalogue(db, tenant_id, course_id)
        course_model = build_course_model(
            tenant_id, course_id, catalogue, values, (row.revision, row.replay_revision, row.calibration)
        )
        COURSE_MODELS.put(key, course_model)
    return replace(course_model, watched=True) if row.watched else course_model


def course_model_at(
    db: Connection,
    tenant_id: int,
    course_id: str,
    revision: int,
    calibration: int | None,
    cache: LruCache[CourseModel] | None = None,
) -> CourseModel:
    """Return the course model under an older revision or calibration: what a past decision was made with.

    A caller that needs many of them passes a cache of its own.
    """
    key = (str(db.engine.url), tenant_id, course_id, revision, calibration)
    course_model = None if cache is None else cache.get(key)
    if course_model is None:
        values = read_calibrated_values(db, tenant_id, course_id, calibration)
        catalogue = catalogue_at(db, tenant_id, course_id, revision)
        course_model = build_course_model(tenant_id, course_id, catalogue, values, (revision, revision, calibration))
        if cache is not None:
            cache.put(key, course_model)
    return course_model


def read_calibrated_values(
    db: Connection, tenant_id: int, course_id: str, number: int | None, *, trained: bool = False
) -> CalibratedValues | None:
    """Return the values of a calibration; None for the defaults."""
    encoded = None if number is None else find_parameters(db, tenant_id, course_id, number)
    return None if encoded is None else decode_calibration(encoded, trained=trained)


def build_course_model(
    tenant_id: int,
    course_id: str,
    catalogue: Catalogue,
    values: CalibratedValues | None,
    version: tuple[int, int, int | None],
) -> CourseModel:
    """Build the arrays from a catalogue and calibrated values."""
    skill_ids, item_ids = tuple(catalogue.skills), tuple(catalogue.items)
    skills = _build_skills(catalogue, values)
    items, known = build_items(catalogue, values)
    revision, replay_revision, calibration = version
    return CourseModel(
        tenant_id=tenant_id,
        course_id=course_id,
        revision=revision,
        replay_revision=replay_revision,
        calibration=calibration,
        skill_ids=skill_ids,
        skill_titles=tuple(skill["title"] or skill_id for skill_id, skill in catalogue.skills.items()),
        skill_numbers={skill_id: number for number, skill_id in enumerate(skill_ids)},
        item_ids=item_ids,
        item_numbers={item_id: number for number, item_id in enumerate(item_ids)},
        max_scores=np.array([item["max_score"] for item in catalogue.items.values()]),
        known=known,
        rapid_below=_first_values(values.rapid_below if values else np.empty(0, dtype=np.int64), len(item_ids)),
        reviewed=_find_reviewed(catalogue),
        tags=_items_by_label([item["tags"] for item in catalogue.items.values()]),
        kinds=_items_by_label([[item["kind"]] if item["kind"] else [] for item in catalogue.items.values()]),
        parameters=Parameters(
            values.population if values else Population(), skills, items, values.behaviour if values else None
        ),
    )


def _first_values(values: Integers, count: int) -> Integers:
    """Return the first values as so many numbers, 0 for items that are newer."""
    result = np.zeros(count, dtype=np.int64)
    result[: len(values)] = values[:count]
    return result


def _find_reviewed(catalogue: Catalogue) -> Booleans:
    """Return which items somebody has looked at; (I,)."""
    return np.array([item["reviewed"] for item in catalogue.items.values()], dtype=np.bool_)


def ignored_items(suspect: Booleans, reviewed: Booleans) -> Booleans | None:
    """Return which items a calibration suspects and nobody has looked at, (I,); None if there is none."""
    ignored = (_first_values(suspect.astype(np.int64), len(reviewed)) > 0) & ~reviewed
    return ignored if ignored.any() else None


def _items_by_label(labels: Sequence[Sequence[str]]) -> dict[str, Integers]:
    """Return the numbers of the items that have each label."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for item, names in enumerate(labels):
        for name in names:
            by_label[name].append(item)
    return {name: np.array(items, dtype=np.int64) for name, items in by_label.items()}


def _build_skills(catalogue: Catalogue, values: CalibratedValues | None) -> Skills:
    """Build the skills with the rates of the calibration; a skill it did not know has the defaults."""
    numbers = {skill_id: number for number, skill_id in enumerate(catalogue.skills)}
    prerequisites = [[numbers[p] for p in skill["prerequisites"]] for skill in catalogue.skills.values()]
    empty = np.empty(len(numbers))
    skills = default_rates(Skills(empty, empty, empty, pad_numbers(prerequisites)))
    if values is not None:
        count = min(len(values.prior), len(numbers))
        for name in ("prior", "p_learn", "p_forget"):
            getattr(skills, name)[:count] = getattr(values, name)[:count]
    return skills


def build_items(catalogue: Catalogue, values: CalibratedValues | None) -> tuple[Items, Booleans]:
    """Build the items: known parameters from the catalogue, calibrated intercepts, else the mean of its skills."""
    numbers = {skill_id: number for number, skill_id in enumerate(catalogue.skills)}
    records = list(catalogue.items.values())
    item_parameters = [item["parameters"] or {} for item in records]
    known = np.array([bool(p) for p in item_parameters], dtype=np.bool_)
    discrimination = np.array([p.get("a") or 1.0 for p in item_parameters])
    # Partial credit in practice: a score is so much of a success, of an item as difficult as its steps on the average.
    has_steps = [p.get("model") in PARTIAL_CREDIT for p in item_parameters]
    thresholds = [
        [] if steps else p.get("thresholds") or [] for p, steps in zip(item_parameters, has_steps, strict=True)
    ]
    skills = pad_numbers([[numbers[s] for s in item["skills"]] for item in records])
    difficulty = [
        fmean(p["thresholds"]) if steps else p.get("b") or 0.0
        for p, steps in zip(item_parameters, has_steps, strict=True)
    ]
    intercept, fitted = to_intercept(np.array(difficulty), discrimination), np.zeros(len(records), dtype=np.bool_)
    if values is not None:
        count = min(len(values.intercept), len(records))
        fitted[:count] = True
        fitted &= ~known
        intercept[fitted] = values.intercept[:count][fitted[:count]]
        unseen = ~fitted & ~known
        intercept[unseen] = _mean_intercepts(intercept, skills, fitted)[unseen]
    undeclared = np.array([not (item["parameters"] or item["choices"]) for item in records], dtype=np.bool_)
    guessing = np.array([_guessing(item) for item in records])
    guessing[undeclared] = values.population.guessing if values else Population.guessing
    items = Items(
        intercept=intercept,
        discrimination=discrimination,
        guessing=guessing,
        upper=np.array([1.0 if p.get("d") is None else p["d"] for p in item_parameters]),
        thresholds=discrimination[:, None] * _pad_thresholds(thresholds),
        skills=skills,
        measured=known | fitted,
        ignored=ignored_items(values.suspect, _find_reviewed(catalogue)) if values else None,
        undeclared=undeclared,
    )
    return items, known


def _guessing(item: Mapping[str, Any]) -> float:
    """Return the guessing of an item, by its parameters, else by how many options it has."""
    if item["parameters"]:
        return float(item["parameters"].get("c") or 0.0)
    return 1 / item["choices"] if item["choices"] else 0.0


def _mean_intercepts(intercept: Floats, skills: Integers, fitted: Booleans) -> Floats:
    """Return the expected intercept of items that no calibration has seen: the mean of their skills' fitted items."""
    overall = float(intercept[fitted].mean()) if fitted.any() else 0.0
    has_skill = (skills >= 0) & fitted[:, None]
    rows = np.nonzero(has_skill)[0]
    size = int(skills.max(initial=0)) + 1
    total = np.bincount(skills[has_skill], intercept[rows], size) + overall
    mean = total / (np.bincount(skills[has_skill], minlength=size) + 1)
    skill_counts = (skills >= 0).sum(axis=1)
    sums = np.where(skills >= 0, mean[skills], 0.0).sum(axis=1)
    return np.where(skill_counts > 0, sums / np.maximum(skill_counts, 1), overall)


def _pad_thresholds(lists: Sequence[Sequence[float]]) -> Floats:
    """Return rows of different length as one array, filled up with infinity."""
    width = max((len(row) for row in lists), default=0)
    rows = [[*row, *[np.inf] * (width - len(row))] for row in lists]
    return np.array(rows, dtype=np.float64).reshape(len(lists), width)
