"""States as bytes: the compact form in which a learner's snapshot is stored. Skills at their prior take no room."""

from collections.abc import Sequence

import numpy as np

from app.adaptive.behaviour.model import DECAYS
from app.adaptive.parameters import BehaviourModel, Parameters
from app.adaptive.recent_items import REMEMBERED
from app.adaptive.state import BehaviourState, RecentItems, States
from app.adaptive.tracing.filter import initial_states

# To be raised with every change of the engine that changes a result: older snapshots are then rebuilt.
ENGINE = 4

FIXED = np.dtype(
    [
        ("ability", "<f8"),
        ("ability_variance", "<f8"),
        ("daily_effect", "<f8"),
        ("daily_effect_variance", "<f8"),
        ("total_responses", "<i4"),
        ("last_item", "<i4"),
        ("seen_at", "<f8"),
        ("met", "<i4"),
    ]
)
SKILL = np.dtype(
    [
        ("skill_effect", "<f8"),
        ("skill_effect_variance", "<f8"),
        ("mastery", "<f8"),
        ("learning_gain", "<f8"),
        ("cusum", "<f8"),
        ("practised_at", "<f8"),
        ("successes", "<f8"),
        ("responses", "<i4"),
        ("practised", "<i4"),
        ("skill", "<i4"),
        ("attained", "<i4"),
        ("mastered", "<i4"),
        ("stalled", "<i4"),
    ]
)
SKILL_FIELDS = [name for name in SKILL.names or () if name != "skill"]


REMEMBERED_ITEM = np.dtype(
    [("items", "<i4"), ("tries", "<i4"), ("scores", "<f8"), ("solved", "<i4"), ("answered_at", "<i4")]
)


def _behaviour_record(factors: int) -> "np.dtype[np.void]":
    """Return the record of a learner's behaviour."""
    return np.dtype(
        [
            ("trait", "<f8", (factors,)),
            ("trait_variance", "<f8", (factors,)),
            ("surprises", "<f8", (len(DECAYS),)),
            ("tokens", "<i4"),
            ("episodes", "<i4"),
            ("run", "<i4"),
            ("right", "<i4"),
        ]
    )


def encode_states(parameters: Parameters, states: States) -> list[bytes]:
    """Return bytes for each learner: the fixed part, recent items, behaviour if any, and a record per skill.

    Skills that have not left their prior have no record.
    """
    fixed_parts = np.empty(states.count, dtype=FIXED)
    for name in FIXED.names or ():
        fixed_parts[name] = states.recent.met if name == "met" else getattr(states, name)
    touched = (states.responses > 0) | (states.practised_at > 0) | (states.mastery != parameters.skills.prior)
    rows, skills = np.nonzero(touched)
    records = np.zeros(len(rows), dtype=SKILL)
    records["skill"] = skills
    for name in SKILL_FIELDS:
        records[name] = getattr(states, name)[rows, skills]
    ends = np.cumsum(np.bincount(rows, minlength=states.count)).tolist()
    starts = [0, *ends][:-1]
    recent, behaviour = _encode_recent(states.recent), _encode_behaviour(parameters.behaviour, states.behaviour)
    return [
        fixed_parts[i].tobytes() + recent[i] + behaviour[i] + records[a:b].tobytes()
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def _encode_recent(recent: RecentItems) -> list[bytes]:
    """Return the recent items of each learner as bytes."""
    remembered = np.empty(recent.items.shape, dtype=REMEMBERED_ITEM)
    for name in REMEMBERED_ITEM.names or ():
        remembered[name] = getattr(recent, name)
    return [remembered[i, :count].tobytes() for i, count in enumerate(np.minimum(recent.met, REMEMBERED).tolist())]


def _encode_behaviour(behaviour_model: BehaviourModel | None, behaviour_state: BehaviourState) -> list[bytes]:
    """Return the behaviour of each learner as bytes, none without a model."""
    count = len(behaviour_state.run)
    if behaviour_model is None:
        return [b""] * count
    fixed = np.empty(count, dtype=_behaviour_record(behaviour_model.factors))
    for name in fixed.dtype.names or ():
        fixed[name] = getattr(behaviour_state, name)
    return [fixed[i].tobytes() for i in range(count)]


def decode_states(parameters: Parameters, encoded: Sequence[bytes]) -> States:
    """Return the states of `encode_states`; an empty bytes object is a learner of whom nothing is known.

    Raises ValueError if the bytes do not fit the parameters (a skill number beyond S, a torn record).
    """
    states = initial_states(parameters, len(encoded))
    known = [i for i, data in enumerate(encoded) if data]
    if not known:
        return states
    parts, rest = _split_each([encoded[i] for i in known], [FIXED.itemsize] * len(known))
    fixed_parts = np.frombuffer(b"".join(parts), dtype=FIXED)
    for name in FIXED.names or ():
        (states.recent.met if name == "met" else getattr(states, name))[known] = fixed_parts[name]
    rest = _decode_recent(states.recent, known, rest)
    if parameters.behaviour is not None:
        rest = _decode_behaviour(parameters.behaviour, states, known, rest)
    if any(len(data) % SKILL.itemsize for data in rest):
        raise ValueError("a state is torn")
    records = np.frombuffer(b"".join(rest), dtype=SKILL)
    rows, skills = np.repeat(known, [len(data) // SKILL.itemsize for data in rest]), records["skill"]
    if skills.size and skills.max() >= parameters.skills.count:
        raise ValueError("the state knows more skills than the parameters")
    for name in SKILL_FIELDS:
        getattr(states, name)[rows, skills] = records[name]
    return states


def _split_each(encoded: Sequence[bytes], sizes: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
    """Cut each at its size. Raises ValueError where one is shorter."""
    if any(len(data) < size for data, size in zip(encoded, sizes, strict=True)):
        raise ValueError("a state is torn")
    return (
        [data[:size] for data, size in zip(encoded, sizes, strict=True)],
        [data[size:] for data, size in zip(encoded, sizes, strict=True)],
    )


def _decode_recent(recent: RecentItems, known: Sequence[int], encoded: Sequence[bytes]) -> list[bytes]:
    """Read the recent items of learners, whose number is there already; return the bytes that follow them."""
    counts = np.minimum(recent.met[known], REMEMBERED)
    parts, rest = _split_each(encoded, (counts * REMEMBERED_ITEM.itemsize).tolist())
    remembered = np.frombuffer(b"".join(parts), dtype=REMEMBERED_ITEM)
    rows, slots = np.nonzero(np.arange(REMEMBERED) < counts[:, None])
    for name in REMEMBERED_ITEM.names or ():
        getattr(recent, name)[np.asarray(known)[rows], slots] = remembered[name]
    return rest


def _decode_behaviour(
    behaviour_model: BehaviourModel, states: States, known: Sequence[int], encoded: Sequence[bytes]
) -> list[bytes]:
    """Read the behaviour of learners into `states`; return the bytes that follow it."""
    behaviour_state, dtype = states.behaviour, _behaviour_record(behaviour_model.factors)
    parts, rest = _split_each(encoded, [dtype.itemsize] * len(known))
    fixed = np.frombuffer(b"".join(parts), dtype=dtype)
    for name in dtype.names or ():
        getattr(behaviour_state, name)[known] = fixed[name]
    behaviour_state.last_item[known] = states.last_item[known]
    return rest
