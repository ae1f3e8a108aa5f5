"""Fold whole logs: the t-th answer of every learner at once, so that it is fast without a compiler."""

from dataclasses import dataclass, fields

import numpy as np

from app.adaptive.filter import advance, initial
from app.adaptive.types import Floats, Integers, Parameters, Prediction, States

LARGEST_BATCH = 4096
# Values a block of states may hold: keeps the working set of a course with very many skills within memory.
LARGEST_BLOCK = 1 << 21


@dataclass(frozen=True)
class Log:
    """The answers of L learners, one learner after the other, each in the order of the fold.

    `starts` (L + 1,) says where each learner begins; `items`, `scores` (fractions of the maximum) and `times` (days
    since 1970; 0 where unknown, and then no time has passed) are (N,).
    """

    starts: Integers
    items: Integers
    scores: Floats
    times: Floats

    @property
    def learners(self) -> int:
        """L."""
        return len(self.starts) - 1


def replay(parameters: Parameters, log: Log, before: States | None = None) -> tuple[States, Prediction]:
    """Fold a log: the states of its L learners after their last answers, and the N predictions in the log's order.

    Starts from `before` (L learners), else from the prior. The same arithmetic as `step`, bit for bit.
    """
    states = initial(parameters, log.learners) if before is None else before.copy()
    predicted = Prediction(**{field.name: np.empty(len(log.items)) for field in fields(Prediction)})
    lengths = np.diff(log.starts)
    order = np.argsort(-lengths, kind="stable")
    width = max(1, min(LARGEST_BATCH, LARGEST_BLOCK // max(parameters.skills.count, 1)))
    for first in range(0, log.learners, width):
        block = order[first : first + width]
        replay_block(parameters, log, block, states, predicted)
    return states, predicted


def replay_block(parameters: Parameters, log: Log, block: Integers, states: States, predicted: Prediction) -> None:
    """Fold the learners of one block, sorted from the longest log to the shortest, into `states` and `predicted`."""
    lengths = np.diff(log.starts)[block]
    working = states[block]
    starts = log.starts[block]
    active = len(block)
    for t in range(int(lengths[0]) if active else 0):
        active = int(np.searchsorted(-lengths, -t, side="left"))
        places = starts[:active] + t
        prediction = advance(parameters, working[:active], log.items[places], log.scores[places], log.times[places])
        for field in fields(Prediction):
            getattr(predicted, field.name)[places] = getattr(prediction, field.name)
    states.put(block, working)
