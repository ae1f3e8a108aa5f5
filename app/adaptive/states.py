"""States as bytes: the compact form in which a learner's snapshot is kept. Skills at their prior take no room."""

from collections.abc import Sequence

import numpy as np

from app.adaptive.filter import initial
from app.adaptive.habits import DECAYS, REMEMBERED
from app.adaptive.types import Habits, Head, Parameters, States

# To be raised with every change of the engine that changes a result: older snapshots are then folded again.
ENGINE = 3

HEAD = np.dtype(
    [
        ("ability", "<f8"),
        ("ability_variance", "<f8"),
        ("form", "<f8"),
        ("form_variance", "<f8"),
        ("answers", "<i4"),
        ("last_item", "<i4"),
        ("seen_at", "<f8"),
    ]
)
SKILL = np.dtype(
    [
        ("offset", "<f8"),
        ("offset_variance", "<f8"),
        ("mastery", "<f8"),
        ("bump", "<f8"),
        ("practised_at", "<f8"),
        ("successes", "<f8"),
        ("evidence", "<i4"),
        ("practised", "<i4"),
        ("skill", "<i4"),
        ("attained", "<i4"),
    ]
)
OF_SKILLS = [name for name in SKILL.names or () if name != "skill"]


REMEMBERED_ITEM = np.dtype([("items", "<i4"), ("tries", "<i4"), ("scores", "<f8"), ("solved", "<i4")])


def habit_record(factors: int) -> "np.dtype[np.void]":
    """What is kept of habits beside the remembered items, which follow it."""
    return np.dtype(
        [
            ("trait", "<f8", (factors,)),
            ("trait_variance", "<f8", (factors,)),
            ("surprises", "<f8", (len(DECAYS),)),
            ("tokens", "<i4"),
            ("episodes", "<i4"),
            ("run", "<i4"),
            ("right", "<i4"),
            ("met", "<i4"),
        ]
    )


def pack(parameters: Parameters, states: States) -> list[bytes]:
    """One bytes object for each learner: the head, habits if any, and a record for every skill that left its prior."""
    heads = np.empty(states.count, dtype=HEAD)
    for name in HEAD.names or ():
        heads[name] = getattr(states, name)
    touched = (states.evidence > 0) | (states.practised_at > 0) | (states.mastery != parameters.skills.prior)
    rows, skills = np.nonzero(touched)
    records = np.zeros(len(rows), dtype=SKILL)
    records["skill"] = skills
    for name in OF_SKILLS:
        records[name] = getattr(states, name)[rows, skills]
    ends = np.cumsum(np.bincount(rows, minlength=states.count)).tolist()
    starts = [0, *ends][:-1]
    habits = [b""] * states.count if parameters.head is None else pack_habits(parameters.head, states.habits)
    return [
        heads[i].tobytes() + habits[i] + records[a:b].tobytes()
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def pack_habits(head: Head, habits: Habits) -> list[bytes]:
    """The habits of each learner."""
    dtype = habit_record(head.factors)
    fixed = np.empty(len(habits.run), dtype=dtype)
    for name in dtype.names or ():
        fixed[name] = getattr(habits, name)
    remembered = np.empty(habits.items.shape, dtype=REMEMBERED_ITEM)
    for name in REMEMBERED_ITEM.names or ():
        remembered[name] = getattr(habits, name)
    kept = np.minimum(habits.met, REMEMBERED).tolist()
    return [fixed[i].tobytes() + remembered[i, :count].tobytes() for i, count in enumerate(kept)]


def unpack(parameters: Parameters, packed: Sequence[bytes]) -> States:
    """The states of `pack`; an empty bytes object is a learner of whom nothing is known.

    Raises ValueError if the bytes do not fit the parameters (a skill number beyond S, a torn record).
    """
    states = initial(parameters, len(packed))
    known = [i for i, data in enumerate(packed) if data]
    if not known:
        return states
    if any(len(packed[i]) < HEAD.itemsize for i in known):
        raise ValueError("a state is torn")
    heads = np.frombuffer(b"".join(packed[i][: HEAD.itemsize] for i in known), dtype=HEAD)
    for name in HEAD.names or ():
        getattr(states, name)[known] = heads[name]
    rest = [packed[i][HEAD.itemsize :] for i in known]
    if parameters.head is not None:
        rest = unpack_habits(parameters.head, states, known, rest)
    if any(len(data) % SKILL.itemsize for data in rest):
        raise ValueError("a state is torn")
    records = np.frombuffer(b"".join(rest), dtype=SKILL)
    rows, skills = np.repeat(known, [len(data) // SKILL.itemsize for data in rest]), records["skill"]
    if skills.size and skills.max() >= parameters.skills.count:
        raise ValueError("the state knows more skills than the parameters")
    for name in OF_SKILLS:
        getattr(states, name)[rows, skills] = records[name]
    return states


def unpack_habits(head: Head, states: States, known: Sequence[int], packed: Sequence[bytes]) -> list[bytes]:
    """Read the habits of learners into `states`; what is left of each."""
    habits, dtype = states.habits, habit_record(head.factors)
    if any(len(data) < dtype.itemsize for data in packed):
        raise ValueError("a state is torn")
    fixed = np.frombuffer(b"".join(data[: dtype.itemsize] for data in packed), dtype=dtype)
    for name in dtype.names or ():
        getattr(habits, name)[known] = fixed[name]
    habits.last_item[known] = states.last_item[known]
    kept = np.minimum(fixed["met"], REMEMBERED)
    ends = dtype.itemsize + kept * REMEMBERED_ITEM.itemsize
    if any(len(data) < end for data, end in zip(packed, ends.tolist(), strict=True)):
        raise ValueError("a state is torn")
    parts = [data[dtype.itemsize : end] for data, end in zip(packed, ends.tolist(), strict=True)]
    remembered = np.frombuffer(b"".join(parts), dtype=REMEMBERED_ITEM)
    rows, places = np.nonzero(np.arange(REMEMBERED) < kept[:, None])
    for name in REMEMBERED_ITEM.names or ():
        getattr(habits, name)[np.asarray(known)[rows], places] = remembered[name]
    return [data[end:] for data, end in zip(packed, ends.tolist(), strict=True)]
