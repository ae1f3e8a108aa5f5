"""Replay whole logs: the t-th answer of every learner at once, so that it is fast without a compiler."""

from dataclasses import fields

import numpy as np

from app.adaptive.arrays import Booleans, Integers
from app.adaptive.parameters import Parameters
from app.adaptive.response_log import Log
from app.adaptive.state import Prediction, States
from app.adaptive.tracing.filter import advance_states, initial_states

LARGEST_BATCH = 4096
PREDICTED = tuple(field.name for field in fields(Prediction))
# Values a block of states may hold: keeps the working set of a course with very many skills within memory.
LARGEST_BLOCK = 1 << 21


def replay(parameters: Parameters, log: Log, before: States | None = None) -> tuple[States, Prediction]:
    """Replay a log: the states of its L learners after their last answers, and the N predictions in the log's order.

    Starts from `before` (L learners), else from the prior. The same arithmetic as `step`, bit for bit.
    """
    states, predicted, _ = replay_marked(parameters, log, np.zeros(len(log.items), dtype=np.bool_), before)
    return states, predicted


def replay_marked(
    parameters: Parameters, log: Log, marks: Booleans, before: States | None = None
) -> tuple[States, Prediction, States]:
    """`replay`, and the states as they were after each of the marked answers (N,), in the log's order."""
    states = initial_states(parameters, log.learners) if before is None else before.copy()
    count = len(log.items)
    others = np.empty((count, parameters.items.skills.shape[1]))
    predicted = Prediction(**{name: np.empty(count) for name in PREDICTED if name != "others"}, others=others)
    states_at_marks = initial_states(parameters, int(marks.sum()))
    lengths = np.diff(log.starts)
    order = np.argsort(-lengths, kind="stable")
    width = max(1, min(LARGEST_BATCH, LARGEST_BLOCK // max(parameters.skills.count, 1)))
    for first in range(0, log.learners, width):
        block = order[first : first + width]
        _replay_block(parameters, log, marks, block, states, predicted, states_at_marks)
    return states, predicted, states_at_marks


def _replay_block(
    parameters: Parameters,
    log: Log,
    marks: Booleans,
    block: Integers,
    states: States,
    predicted: Prediction,
    states_at_marks: States,
) -> None:
    """Replay the learners of one block, sorted from the longest log to the shortest."""
    lengths = np.diff(log.starts)[block]
    working = states[block]
    starts = log.starts[block]
    rows = np.cumsum(marks) - 1
    active_states = working
    longest = int(lengths[0]) if len(block) else 0
    for t, active in enumerate(np.searchsorted(-lengths, -np.arange(longest), side="left").tolist()):
        if active < active_states.count:
            active_states = working[:active]
        # Of one learner a part of the log is a view.
        positions: Integers | slice = starts[:active] + t if active > 1 else slice(starts[0] + t, starts[0] + t + 1)
        prediction = advance_states(
            parameters,
            active_states,
            log.items[positions],
            log.scores[positions],
            log.times[positions],
            None if log.rapid is None else log.rapid[positions],
        )
        for name in PREDICTED:
            getattr(predicted, name)[positions] = getattr(prediction, name)
        marked = marks[positions].nonzero()[0]
        if marked.size:
            states_at_marks.put(rows[positions][marked], working[marked])
    states.put(block, working)
