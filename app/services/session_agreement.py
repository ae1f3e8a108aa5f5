"""The agreement of a session: typed, as the JSON that is stored, and as a plan of the engine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from app.adaptive.cat import Bound, Classification, Method, Plan, PlanFault, Rule
from app.core.errors import Fault

Names = tuple[str, ...]

# The field of a caller for each field of the engine's plan.
POINTERS = {
    "prior_mean": "/prior/mean",
    "prior_sd": "/prior/sd",
    "rule": "/selection/rule",
    "randomesque": "/selection/randomesque",
    "sympson_hetter": "/selection/exposure_control",
    "max_exposure": "/selection/max_exposure",
    "content_shares": "/selection/content",
    "bounds": "/selection/constraints",
    "first": "/selection/first",
    "pilots": "/selection/pilot/items",
    "pilot_positions": "/selection/pilot/positions",
    "standard_error": "/stop/standard_error",
    "standard_error_change": "/stop/standard_error_change",
    "classification": "/stop/classification",
    "max_items": "/stop/max_items",
    "min_items": "/stop/min_items",
    "max_seconds": "/stop/max_seconds",
}
BOUND_MEMBERS = {"least": "min", "most": "max"}
UNUSABLE_PRIOR = "gives no prior that a test can use for this learner; leave it out, and give prior"


@dataclass(frozen=True, kw_only=True)
class _ItemGroup:
    """The items that ask for a skill, have a tag, or are of a kind: one of the three is given."""

    skill: str | None = None
    tag: str | None = None
    kind: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """`skill`, `tag` or `kind`, and its name."""
        named = (("skill", self.skill), ("tag", self.tag), ("kind", self.kind))
        return next((kind, name) for kind, name in named if name is not None)


@dataclass(frozen=True, kw_only=True)
class _Scale(_ItemGroup):
    """One of several abilities, and the items that measure it."""

    id: str


@dataclass(frozen=True, kw_only=True)
class _ContentShare(_ItemGroup):
    """The target share of a group of items, in any unit."""

    share: float


@dataclass(frozen=True, kw_only=True)
class _Constraint(_ItemGroup):
    """How many items of a group a test has, at least and at most."""

    min: int
    max: int


@dataclass(frozen=True)
class PilotItems:
    """Pilot items, one of which comes at each of the positions, counted from 1."""

    items: Names
    positions: tuple[int, ...]


@dataclass(frozen=True)
class _Selection:
    """How the next item is chosen."""

    rule: Rule
    randomesque: int
    exposure_control: bool
    max_exposure: float | None = None
    content: tuple[_ContentShare, ...] | None = None
    constraints: tuple[_Constraint, ...] | None = None
    enemies: tuple[Names, ...] | None = None
    first: Names | None = None
    pilot: PilotItems | None = None


@dataclass(frozen=True)
class AgreedPoolFilter:
    """Which items of the course the test draws on: those that fit all lists that are given."""

    items: Names | None = None
    skills: Names | None = None
    tags: Names | None = None
    kinds: Names | None = None


@dataclass(frozen=True)
class _ClassificationRule:
    """Cut scores, and the rule that decides on which side of each the ability lies."""

    cuts: tuple[float, ...]
    method: Method
    confidence: float
    alpha: float
    beta: float
    delta: float


@dataclass(frozen=True)
class AgreedStop:
    """When the test ends."""

    standard_error: float | None = None
    standard_error_change: float | None = None
    classification: _ClassificationRule | None = None
    max_items: int | None = None
    min_items: int = 1
    max_seconds: int | None = None


@dataclass(frozen=True)
class AgreedPrior:
    """The ability beforehand: a normal distribution, for every scale."""

    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SessionAgreement:
    """All that a session agreed on at its start; its answers decide the rest."""

    learner: str | None = None
    stop: AgreedStop
    selection: _Selection
    pool: AgreedPoolFilter
    scales: tuple[_Scale, ...] | None = None
    prior: AgreedPrior
    prior_from_practice: bool
    updates_mastery: bool
    seed: int | None = None
    lifetime_s: int
    language: str | None = None


AGREEMENT = TypeAdapter(SessionAgreement)


def decode_agreement(stored: Mapping[str, Any]) -> SessionAgreement:
    """Return an agreement from its JSON, also that of an earlier version."""
    return AGREEMENT.validate_python(stored)


def encode_agreement(agreement: SessionAgreement) -> dict[str, Any]:
    """Return an agreement as JSON, without what was not given."""
    stored: dict[str, Any] = AGREEMENT.dump_python(agreement, mode="json", exclude_none=True)
    return stored


def group_keys(groups: Sequence[_ItemGroup] | None) -> tuple[tuple[str, str], ...]:
    """Return the keys of groups of items, without what a test asks of them."""
    return tuple(group.key for group in groups or ())


def to_engine_plan(agreement: SessionAgreement, index_by_id: Mapping[str, int]) -> Plan:
    """Return the agreement as a plan of the engine; `index_by_id` are the items of the pool."""
    selection, stop = agreement.selection, agreement.stop
    scales = max(len(agreement.scales or ()), 1)
    pilot = selection.pilot or PilotItems((), ())
    return Plan(
        prior_mean=(agreement.prior.mean,) * scales,
        prior_sd=(agreement.prior.sd,) * scales,
        rule=selection.rule,
        randomesque=selection.randomesque,
        sympson_hetter=selection.exposure_control,
        max_exposure=selection.max_exposure,
        content_shares=tuple(part.share for part in selection.content or ()),
        bounds=tuple(
            Bound(group, constraint.min, constraint.max) for group, constraint in enumerate(selection.constraints or ())
        ),
        first=tuple(pool_indices(index_by_id, selection.first or ())),
        pilots=tuple(pool_indices(index_by_id, pilot.items)),
        pilot_positions=tuple(position - 1 for position in pilot.positions),
        standard_error=stop.standard_error,
        standard_error_change=stop.standard_error_change,
        classification=_to_engine_rule(stop.classification, scales),
        max_items=stop.max_items,
        min_items=stop.min_items,
        max_seconds=stop.max_seconds,
    )


def pool_indices(index_by_id: Mapping[str, int], ids: Iterable[str]) -> list[int]:
    """Return the positions of those items that the pool has."""
    return [index_by_id[id_] for id_ in ids if id_ in index_by_id]


def _to_engine_rule(rule: _ClassificationRule | None, scales: int) -> Classification | None:
    """Return a classification rule of the engine, with the same cut scores for every scale."""
    if rule is None:
        return None
    cuts = (tuple(sorted(rule.cuts)),) * scales
    return Classification(cuts, rule.method, rule.confidence, rule.alpha, rule.beta, rule.delta)


def find_agreement_faults(agreement: SessionAgreement, plan_faults: Iterable[PlanFault]) -> Iterator[Fault]:
    """Return what does not go together, by the fields of the caller; `plan_faults` are those of the engine."""
    if agreement.learner is None and (agreement.prior_from_practice or agreement.updates_mastery):
        yield Fault("/learner", "is required with prior_from_practice and with updates_mastery; give it")
    for fault in plan_faults:
        if agreement.prior_from_practice and fault.path[0] in {"prior_mean", "prior_sd"} and len(fault.path) > 1:
            yield Fault("/prior_from_practice", UNUSABLE_PRIOR)
        else:
            yield Fault(_to_pointer(fault.path), fault.sentence)


def _to_pointer(path: Sequence[str | int]) -> str:
    """Return the caller's field for a field of the engine's plan."""
    match path:
        case ("prior_mean" | "prior_sd",):
            return "/scales"
        case ("bounds", int(index), str(member)):
            return f"{POINTERS['bounds']}/{index}/{BOUND_MEMBERS[member]}"
        case ("content_shares", int(index)):
            return f"{POINTERS['content_shares']}/{index}/share"
        case ("classification", str(member), *_):
            return f"{POINTERS['classification']}/{member}"
    return POINTERS[str(path[0])]


def name_faults(agreement: SessionAgreement, known_items: set[str], known_skills: set[str]) -> Iterator[Fault]:
    """Return the items and skills that are named and not known in the course."""
    for pointer, ids in named_items(agreement):
        yield from (
            Fault(f"{pointer}/{index}", "no such item in this course")
            for index, item in enumerate(ids)
            if item not in known_items
        )
    for pointer, name in named_skills(agreement):
        if name not in known_skills:
            yield Fault(pointer, "no such skill in this course")


def named_items(agreement: SessionAgreement) -> Iterator[tuple[str, Names]]:
    """Return the lists of items that an agreement has, with their fields."""
    selection = agreement.selection
    yield "/pool/items", agreement.pool.items or ()
    yield "/selection/first", selection.first or ()
    if selection.pilot is not None:
        yield "/selection/pilot/items", selection.pilot.items
    for index, items in enumerate(selection.enemies or ()):
        yield f"/selection/enemies/{index}", items


def named_skills(agreement: SessionAgreement) -> Iterator[tuple[str, str]]:
    """Return the skills that an agreement names, with their fields."""
    groups: dict[str, Sequence[_ItemGroup]] = {
        "/scales": agreement.scales or (),
        "/selection/content": agreement.selection.content or (),
        "/selection/constraints": agreement.selection.constraints or (),
    }
    for pointer, members in groups.items():
        for index, group in enumerate(members):
            if group.skill is not None:
                yield f"{pointer}/{index}/skill", group.skill
    for index, skill in enumerate(agreement.pool.skills or ()):
        yield f"/pool/skills/{index}", skill
