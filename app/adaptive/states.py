"""States as bytes: the compact form in which a learner's snapshot is kept. Skills at their prior take no room."""

from collections.abc import Sequence

import numpy as np

from app.adaptive.filter import initial
from app.adaptive.types import Parameters, States

# To be raised with every change of the engine that changes a result: older snapshots are then folded again.
ENGINE = 1

HEAD = np.dtype(
    [
        ("ability", "<f8"),
        ("ability_variance", "<f8"),
        ("form", "<f8"),
        ("form_variance", "<f8"),
        ("answers", "<i4"),
        ("last_item", "<i4"),
    ]
)
SKILL = np.dtype(
    [
        ("offset", "<f8"),
        ("offset_variance", "<f8"),
        ("mastery", "<f8"),
        ("bump", "<f8"),
        ("evidence", "<i4"),
        ("practised", "<i4"),
        ("skill", "<i4"),
        ("attained", "<i4"),
    ]
)


def pack(parameters: Parameters, states: States) -> list[bytes]:
    """One bytes object for each learner: the head, then a record for every skill that left its prior."""
    heads = np.empty(states.count, dtype=HEAD)
    for name in HEAD.names or ():
        heads[name] = getattr(states, name)
    rows, skills = np.nonzero((states.evidence > 0) | (states.mastery != parameters.skills.prior))
    records = np.zeros(len(rows), dtype=SKILL)
    records["skill"] = skills
    for name in ("offset", "offset_variance", "mastery", "bump", "evidence", "practised", "attained"):
        records[name] = getattr(states, name)[rows, skills]
    ends = np.cumsum(np.bincount(rows, minlength=states.count)).tolist()
    starts = [0, *ends[:-1]]
    return [heads[i].tobytes() + records[a:b].tobytes() for i, (a, b) in enumerate(zip(starts, ends, strict=True))]


def unpack(parameters: Parameters, packed: Sequence[bytes]) -> States:
    """The states of `pack`; an empty bytes object is a learner of whom nothing is known.

    Raises ValueError if the bytes do not fit the parameters (a skill number beyond S, a torn record).
    """
    states = initial(parameters, len(packed))
    known = [i for i, data in enumerate(packed) if data]
    if not known:
        return states
    if any(len(packed[i]) < HEAD.itemsize or (len(packed[i]) - HEAD.itemsize) % SKILL.itemsize for i in known):
        raise ValueError("a state is torn")
    heads = np.frombuffer(b"".join(packed[i][: HEAD.itemsize] for i in known), dtype=HEAD)
    records = np.frombuffer(b"".join(packed[i][HEAD.itemsize :] for i in known), dtype=SKILL)
    sizes = [(len(packed[i]) - HEAD.itemsize) // SKILL.itemsize for i in known]
    rows, skills = np.repeat(known, sizes), records["skill"]
    if skills.size and skills.max() >= parameters.skills.count:
        raise ValueError("the state knows more skills than the parameters")
    for name in HEAD.names or ():
        getattr(states, name)[known] = heads[name]
    for name in ("offset", "offset_variance", "mastery", "bump", "evidence", "practised", "attained"):
        getattr(states, name)[rows, skills] = records[name]
    return states
