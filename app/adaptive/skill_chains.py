"""The answers of each learner on each skill, in order: what the E-steps of knowledge tracing run along."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.adaptive.arrays import Integers
from app.adaptive.response_log import Log


@dataclass(frozen=True)
class SkillChains:
    """The answers of one learner on one skill, in order: C chains, from the longest to the shortest.

    `starts` and `lengths` are (C,) positions in `answer`, which names the answers of the log; `skill` is (C,). `column`
    says which of its item's skills an entry of `answer` is about.
    """

    starts: Integers
    lengths: Integers
    skill: Integers
    answer: Integers
    column: Integers

    @cached_property
    def active(self) -> Integers:
        """(T,): how many chains have a t-th answer."""
        longest = int(self.lengths.max(initial=0))
        return np.asarray(np.searchsorted(-self.lengths, -np.arange(longest), side="left"), dtype=np.int64)

    def positions_at(self, t: int) -> Integers:
        """Where the t-th answers stand, of the chains that have one."""
        return self.starts[: self.active[t]] + t


def link_skill_chains(skills: Integers, log: Log) -> SkillChains:
    """Sort a log into chains; `skills` (I, K) are the skills of each item, padded with -1."""
    asked = skills[log.items]
    answer, column = np.nonzero(asked >= 0)
    skill = asked[answer, column]
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    # Learners stand together and in order: a stable sort by skill keeps that, and is linear for sixteen bits.
    short = skill.max(initial=0) <= np.iinfo(np.uint16).max
    order = np.argsort(skill.astype(np.uint16) if short else skill, kind="stable")
    answer, column, skill = answer[order], column[order], skill[order]
    whose = learner[answer]
    begins = np.ones(len(answer), dtype=np.bool_)
    begins[1:] = (whose[1:] != whose[:-1]) | (skill[1:] != skill[:-1])
    first = np.flatnonzero(begins)
    lengths = np.diff(first, append=len(answer))
    longest = np.argsort(-lengths, kind="stable")
    return SkillChains(first[longest], lengths[longest], skill[first[longest]], answer, column)
