"""Rate limits as arithmetic: what one worker may let through, of a quota that all workers share.

A quota holds for a window. A counter in the database says how much of it has been given out; a worker fetches a slice
of it and spends that from memory. So what all workers let through is at most the quota, and the `credit` that each
may spend before it has fetched anything. A worker measures the window with its own steady clock, from before it asked
the database how much of the window is left: its window never ends later than the database's, whatever its wall clock
says.
"""

import math
from typing import NamedTuple


class Policy(NamedTuple):
    """A quota for each window. `slice` is fetched at a time; `credit` may be spent in a window before that."""

    name: str
    quota: int
    window_s: int
    slice: int
    credit: int

    @property
    def text(self) -> str:
        """An item of the header `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11)."""
        return f'"{self.name}";q={self.quota};w={self.window_s}'


class CounterReading(NamedTuple):
    """What the counter in the database said: the window by its end, and what was given out in it, this included."""

    window: int
    remaining_s: float
    used: int


def sliced_policy(name: str, quota: int, window_s: int) -> Policy:
    """A policy for what happens often: a write for each twentieth of the quota; each worker is trusted with 1/200."""
    return Policy(name, quota, window_s, slice=max(1, quota // 20), credit=quota // 200)


def exact_policy(name: str, quota: int, window_s: int) -> Policy:
    """A policy for what is rare or expensive: each time the counter is asked."""
    return Policy(name, quota, window_s, slice=1, credit=0)


class Bucket:
    """What one worker knows of one caller's quota. All times are of the worker's steady clock, in seconds."""

    __slots__ = (
        "_granted",
        "_used",
        "_window",
        "ends",
        "exhausted",
        "policy",
        "policy_text",
        "spent",
        "subject",
        "tenant_id",
    )

    def __init__(self, policy: Policy, tenant_id: int, subject: str, now: float) -> None:
        self.policy, self.tenant_id, self.subject = policy, tenant_id, subject
        self.policy_text = policy.text
        self._begin(None, now + policy.window_s)

    def _begin(self, window: int | None, ends: float) -> None:
        self._window = window
        self.ends = ends
        self._granted = self._used = self.spent = 0
        # Nothing more is to be had in this window.
        self.exhausted = False

    @property
    def _allowed(self) -> int:
        return max(self._granted, self.policy.credit)

    def spend(self, cost: int, now: float) -> bool:
        """Let through what costs so much, if it may be."""
        if now >= self.ends:
            windows = (now - self.ends) // self.policy.window_s + 1
            self._begin(None, self.ends + windows * self.policy.window_s)
        if self.spent + cost > self._allowed:
            return False
        self.spent += cost
        return True

    def amount_to_fetch(self, cost: int) -> int:
        """How much has to be fetched before something that costs so much can pass."""
        return max(self.policy.slice, self.spent + cost - self._granted)

    @property
    def runs_low(self) -> bool:
        """Whether more should be fetched now, before anybody has to wait for it."""
        return not self.exhausted and 2 * (self._allowed - self.spent) < self.policy.credit

    def add_grant(self, amount: int, reading: CounterReading, asked_at: float, now: float) -> None:
        """Apply the counter's answer to a request for more quota."""
        ends = asked_at + reading.remaining_s
        if ends <= now:
            return
        if self._window not in (None, reading.window) or now >= self.ends:
            self._begin(None, ends)
        self._window, self.ends = reading.window, ends
        granted = min(amount, max(0, self.policy.quota - reading.used + amount))
        self._granted += granted
        self._used = reading.used
        self.exhausted = granted < amount

    def header(self, now: float) -> str:
        """An item of the header `RateLimit`: what is left as far as this worker knows, and for how long."""
        left = max(0, self.policy.quota - self._used) + self._granted - self.spent
        return f'"{self.policy.name}";r={max(0, left)};t={self.seconds_left(now)}'

    def seconds_left(self, now: float) -> int:
        """Until the window ends: at least one."""
        return max(1, math.ceil(self.ends - now))
