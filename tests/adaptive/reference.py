"""The filter and the policy once more, slow and obvious: plain Python, one learner, one number at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.adaptive.parameters import Parameters
from app.adaptive.state import States

LIMIT = 6.0


def sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


@dataclass
class Item:
    """One item."""

    intercept: float
    a: float
    c: float
    d: float
    thresholds: list[float]
    skills: list[int]

    def expected(self, x: float) -> float:
        if self.thresholds:
            p = sum(sigmoid(x - t) for t in self.thresholds) / len(self.thresholds)
        else:
            p = self.c + (self.d - self.c) * sigmoid(x)
        return clip(p, 1e-9, 1 - 1e-9)

    def category(self, x: float, score: float) -> float:
        """P(this category) of the graded response model."""
        k = round(score * len(self.thresholds))
        above = 1.0 if k == 0 else sigmoid(x - self.thresholds[k - 1])
        below = 0.0 if k == len(self.thresholds) else sigmoid(x - self.thresholds[k])
        return above - below

    def likelihood(self, x: float, score: float) -> float:
        if self.thresholds:
            return max(self.category(x, score), 1e-9)
        p = self.expected(x)
        return max(math.pow(p, score) * math.pow(1 - p, 1 - score), 1e-9)

    def gradient(self, x: float, score: float) -> float:
        """d/dx log p(y | x)."""
        if self.thresholds:
            k = round(score * len(self.thresholds))
            above = 1.0 if k == 0 else sigmoid(x - self.thresholds[k - 1])
            below = 0.0 if k == len(self.thresholds) else sigmoid(x - self.thresholds[k])
            return (above * (1 - above) - below * (1 - below)) / max(above - below, 1e-9)
        s, p = sigmoid(x), self.expected(x)
        if self.c == 0 and self.d == 1:
            return score - s
        return (score - p) * (self.d - self.c) * s * (1 - s) / (p * (1 - p))

    def information(self, x: float) -> float:
        """Fisher: Σ over the categories of P'² / P."""
        if self.thresholds:
            edges = [1.0, *(sigmoid(x - t) for t in self.thresholds), 0.0]
            slopes = [e * (1 - e) for e in edges]
            return sum(
                (slopes[k] - slopes[k + 1]) ** 2 / max(edges[k] - edges[k + 1], 1e-9) for k in range(len(edges) - 1)
            )
        s, p = sigmoid(x), self.expected(x)
        if self.c == 0 and self.d == 1:
            return s * (1 - s)
        return ((self.d - self.c) * s * (1 - s)) ** 2 / (p * (1 - p))


def item_of(parameters: Parameters, number: int) -> Item:
    """The item with this number."""
    items = parameters.items
    return Item(
        float(items.intercept[number]),
        float(items.discrimination[number]),
        float(items.guessing[number]),
        float(items.upper[number]),
        [float(t) for t in items.thresholds[number] if math.isfinite(t)],
        [int(s) for s in items.skills[number] if s >= 0],
    )


@dataclass
class Learner:
    """One learner of a course."""

    parameters: Parameters
    ability: float = 0.0
    daily_effect: float = 0.0
    total_responses: int = 0
    last: int = -1
    seen_at: float = 0.0
    now: float = 0.0
    v: float = field(init=False)
    v_f: float = field(init=False)
    skill_effect: list[float] = field(init=False)
    v_s: list[float] = field(init=False)
    q: list[float] = field(init=False)
    learning_gain: list[float] = field(init=False)
    responses: list[int] = field(init=False)
    practised: list[int] = field(init=False)
    practised_at: list[float] = field(init=False)
    mastered: list[bool] = field(init=False)
    stalled: list[int] = field(init=False)
    answered: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        population, count = self.parameters.population, self.parameters.skills.count
        self.v, self.v_f = population.ability_variance, population.daily_effect_variance
        self.skill_effect, self.v_s = [0.0] * count, [population.skill_variance] * count
        self.q, self.learning_gain = [float(q) for q in self.parameters.skills.prior], [0.0] * count
        self.responses, self.practised, self.practised_at = [0] * count, [0] * count, [0.0] * count
        self.mastered, self.stalled = [False] * count, [0] * count

    def prerequisites(self, skill: int) -> list[int]:
        return [int(r) for r in self.parameters.skills.prerequisites[skill] if r >= 0]

    def look(self, item: Item) -> tuple[float, float, float, float, float]:
        """η, V, Q and the two logits."""
        share = 1 / len(item.skills) if item.skills else 0.0
        eta = item.intercept + item.a * (
            self.ability + self.daily_effect + sum(share * self.skill_effect[s] for s in item.skills)
        )
        variance = item.a**2 * (self.v + self.v_f + sum(share**2 * self.v_s[s] for s in item.skills))
        q = math.prod(self.q[s] for s in item.skills) if item.skills else 0.0
        kappa = (1 + math.pi * variance / 8) ** -0.5
        high, low = self.shifts(item)
        return eta, variance, q, kappa * (eta + high), kappa * (eta + low)

    def shifts(self, item: Item) -> tuple[float, float]:
        population = self.parameters.population
        return (population.known_shift, population.unknown_shift) if item.skills else (0.0, 0.0)

    def wait(self, number: int, now: float) -> None:
        """Until somebody answers an item."""
        population, self.now = self.parameters.population, now
        if self.seen_at > 0 and now > 0:
            days = max(now - self.seen_at - 1 / 24, 0.0)
            self.v = min(self.v + population.daily_drift * days, population.ability_variance)
        self.seen_at = max(self.seen_at, now) if now > 0 else 0.0
        for s in item_of(self.parameters, number).skills:
            self.fade(s)

    def fade(self, s: int) -> None:
        """What is known of a skill fades towards the prior by a power of the days since."""
        since, prior = self.practised_at[s], float(self.parameters.skills.prior[s])
        if since > 0 and self.now > 0 and self.q[s] > prior:
            days = max(self.now - since - 1 / 24, 0.0)
            self.q[s] = prior + (self.q[s] - prior) * (1 + days) ** -self.parameters.population.fading
        self.practised_at[s] = max(since, self.now) if self.now > 0 else 0.0

    def predict(self, number: int) -> float:
        item = item_of(self.parameters, number)
        _, _, q, known, unknown = self.look(item)
        return q * item.expected(known) + (1 - q) * item.expected(unknown)

    def answer(self, number: int, score: float) -> None:
        item, population = item_of(self.parameters, number), self.parameters.population
        eta, variance, q, known, unknown = self.look(item)
        l1, l0 = item.likelihood(known, score), item.likelihood(unknown, score)
        r = q * l1 / (q * l1 + (1 - q) * l0)
        modes = []
        for shift in self.shifts(item):
            x = eta
            for _ in range(3):
                curvature = item.information(x + shift) + 1 / variance
                step = (item.gradient(x + shift, score) - (x - eta) / variance) / curvature
                x += clip(step, -1.5, 1.5)
            modes.append((x, 1 / (item.information(x + shift) + 1 / variance)))
        (x_h, h_h), (x_l, h_l) = modes
        x = r * x_h + (1 - r) * x_l
        spread = r * (h_h + (x_h - x) ** 2) + (1 - r) * (h_l + (x_l - x) ** 2)
        g, c = (x - eta) / variance, max(variance - spread, 0.0) / variance**2

        gain = item.a * self.v
        self.ability = clip(self.ability + gain * g, -LIMIT, LIMIT)
        self.v = min(self.v - gain**2 * c + population.ability_drift, population.ability_variance)
        gain, rho = item.a * self.v_f, population.daily_effect_retention
        self.daily_effect = rho * clip(self.daily_effect + gain * g, -LIMIT, LIMIT)
        self.v_f = rho**2 * (self.v_f - gain**2 * c) + (1 - rho**2) * population.daily_effect_variance
        self.total_responses, self.last = self.total_responses + 1, number
        self.answered[number] = self.total_responses
        before = list(self.q)
        for s in item.skills:
            others = math.prod(before[o] for o in item.skills if o != s)
            l_s = others * l1 + (1 - others) * l0
            posterior = self.q[s] * l_s / (self.q[s] * l_s + (1 - self.q[s]) * l0)
            gain = item.a / len(item.skills) * self.v_s[s]
            self.skill_effect[s] = clip(self.skill_effect[s] + gain * g, -LIMIT, LIMIT)
            self.v_s[s] = min(self.v_s[s] - gain**2 * c + population.skill_drift, max(2.0, population.skill_variance))
            for p in self.prerequisites(s):
                if p not in item.skills:
                    self.inform(s, p, posterior, 1 / len(item.skills))
            self.master(s, posterior, score)

    def inform(self, s: int, p: int, posterior: float, share: float) -> None:
        """Noisy AND: P(s | p) is five times P(s | not p); P(p) follows the change of P(s) by Jeffrey's rule."""
        self.fade(p)
        with_it = min(self.q[s] / (self.q[p] + 0.2 * (1 - self.q[p])), 1.0)
        mean = clip(with_it * (self.q[p] + 0.2 * (1 - self.q[p])), 1e-9, 1 - 1e-9)
        if_known, if_not = self.q[p] * with_it / mean, self.q[p] * (1 - with_it) / (1 - mean)
        lasting = posterior * (1 - float(self.parameters.skills.p_forget[s]))
        if lasting > self.q[s]:
            self.q[p] += share * max(if_known - self.q[p], 0) * (lasting - self.q[s]) / (1 - self.q[s])
        elif posterior < self.q[s]:
            self.q[p] -= share * max(self.q[p] - if_not, 0) * (self.q[s] - posterior) / self.q[s]

    def master(self, s: int, posterior: float, score: float) -> None:
        p_learn, p_forget = float(self.parameters.skills.p_learn[s]) * score, float(self.parameters.skills.p_forget[s])
        p_learn *= 1.05 * posterior / (posterior + 0.05)
        self.q[s] = posterior * (1 - p_forget) + (1 - posterior) * p_learn
        self.learning_gain[s] = max(self.q[s] - posterior, 0.0)
        self.responses[s] += 1
        self.practised[s] = self.total_responses
        self.stalled[s] = self.stalled[s] + 1 if self.q[s] < 0.5 else 0


def learner_of(parameters: Parameters, states: States, row: int) -> Learner:
    """A row of States as a Learner."""
    learner = Learner(parameters)
    learner.ability, learner.v = float(states.ability[row]), float(states.ability_variance[row])
    learner.daily_effect, learner.v_f = float(states.daily_effect[row]), float(states.daily_effect_variance[row])
    learner.total_responses, learner.last = int(states.total_responses[row]), int(states.last_item[row])
    learner.skill_effect, learner.v_s = states.skill_effect[row].tolist(), states.skill_effect_variance[row].tolist()
    learner.q, learner.learning_gain = states.mastery[row].tolist(), states.learning_gain[row].tolist()
    learner.responses, learner.practised = states.responses[row].tolist(), states.practised[row].tolist()
    learner.mastered, learner.stalled = states.mastered[row].tolist(), states.stalled[row].tolist()
    recent = states.recent
    learner.answered = {
        int(i): int(at) for i, at in zip(recent.items[row], recent.answered_at[row], strict=True) if i >= 0
    }
    learner.seen_at, learner.practised_at = float(states.seen_at[row]), states.practised_at[row].tolist()
    return learner


@dataclass
class Policy:
    """The practice policy for one learner, term by term."""

    learner: Learner
    avoid: set[int]

    def __post_init__(self) -> None:
        self.skills = range(self.learner.parameters.skills.count)
        self.items = [item_of(self.learner.parameters, i) for i in range(self.learner.parameters.items.count)]

    def discounted_mastery(self, s: int) -> float:
        practice = self.learner.responses[s] * max(self.p_learn(s), 0.15)
        return clip(self.learner.q[s], 0, 1) * (1 - 0.5 * math.exp(-practice))

    def needs(self, s: int, p: int) -> bool:
        """Whether s needs p, directly or not."""
        return any(r == p or self.needs(r, p) for r in self.learner.prerequisites(s))

    def unlocks(self, s: int) -> float:
        return 1 + sum(1 - self.discounted_mastery(d) for d in self.skills if self.needs(d, s))

    def p_learn(self, s: int) -> float:
        return float(self.learner.parameters.skills.p_learn[s])

    def need(self, s: int) -> float:
        learner, p_forget = self.learner, float(self.learner.parameters.skills.p_forget[s])
        idle = learner.total_responses - learner.practised[s] if learner.responses[s] else 0
        return 1 - self.discounted_mastery(s) * math.exp(-0.2 * p_forget * idle)

    def line(self, s: int) -> float:
        return min(0.8, 0.85 * self.p_learn(s) / (self.p_learn(s) + float(self.learner.parameters.skills.p_forget[s])))

    def level(self, s: int) -> int:
        return max((1 + self.level(r) for r in self.learner.prerequisites(s)), default=0)

    def items_of(self, s: int) -> list[int]:
        return [i for i, item in enumerate(self.items) if s in item.skills]

    def secured(self, s: int) -> bool:
        return self.discounted_mastery(s) >= self.line(s)

    def is_ready(self, s: int) -> bool:
        return all(self.secured(r) or not self.items_of(r) for r in self.learner.prerequisites(s))

    def is_open(self, s: int) -> bool:
        return not self.secured(s) and self.is_ready(s)

    def is_stuck(self, s: int) -> bool:
        return self.learner.stalled[s] >= 8

    def tired(self, s: int) -> int:
        """0, or for a stuck skill how much of its rest is left, 1 to 6."""
        since = self.learner.total_responses - self.learner.practised[s]
        return 6 - since if self.is_stuck(s) and since < 5 else 0

    def just_practised(self, s: int) -> bool:
        return self.learner.last >= 0 and s in self.items[self.learner.last].skills

    def order(self, s: int) -> tuple[int, int, float]:
        return (self.just_practised(s) - 2 * self.tired(s), -self.level(s), self.unlocks(s))

    def urgency(self, s: int) -> float:
        return self.need(s) - (not self.is_ready(s)) - 2 * self.tired(s)

    def mastered(self, s: int) -> bool:
        return self.learner.mastered[s] and self.learner.q[s] >= 0.7

    def skill(self, avoid: set[int]) -> tuple[str, int]:
        if not any(item.skills for item in self.items):
            return "practice_item", -1
        available = [s for s in self.skills if set(self.items_of(s)) - avoid]
        opened = [s for s in available if self.is_open(s)]
        unmastered = [s for s in available if not self.mastered(s)]
        finished = [s for s in available if self.mastered(s) and (unmastered or self.learner.q[s] < 0.9)]
        groups: list[tuple[str, list[int], Callable[[int], Any]]] = [
            ("practice_skill", [s for s in opened if not self.tired(s)], self.order),
            ("strengthen_skill", [s for s in unmastered if not self.tired(s)], self.urgency),
            ("rest_skill" if unmastered else "upkeep_skill", finished, self.need),
            ("practice_skill", opened, self.order),
            ("strengthen_skill", unmastered, self.urgency),
        ]
        for code, group, value in groups:
            if group:
                return self.progress(code, max(group, key=value))
        done = all(self.mastered(s) for s in self.skills if self.items_of(s))
        return ("all_mastered" if done else "nothing_eligible"), -1

    def progress(self, code: str, s: int) -> tuple[str, int]:
        if self.is_stuck(s):
            return "retry_skill", s
        return ("rest_skill" if any(self.tired(r) and self.just_practised(r) for r in self.skills) else code), s

    def choose(self, uniform: list[float]) -> tuple[str, int, int]:
        """Code, skill and item; `uniform` has the random number of every item."""
        last = {self.learner.last} - {-1}
        code, skill, item = self.attempt(self.avoid | last, uniform)
        return self.attempt(self.avoid, uniform) if code == "nothing_eligible" else (code, skill, item)

    def attempt(self, avoid: set[int], uniform: list[float]) -> tuple[str, int, int]:
        code, skill = self.skill(avoid)
        if code in {"all_mastered", "nothing_eligible"}:
            return code, -1, -1
        pool = range(len(self.items)) if skill < 0 else self.items_of(skill)
        candidates = [i for i in pool if i not in avoid]
        if not candidates:
            return "nothing_eligible", -1, -1
        return (
            code,
            skill,
            min(candidates, key=lambda i: self.score(i, skill) - 0.2 * uniform[i]),
        )

    def score(self, i: int, skill: int) -> float:
        return self.distance(i) - 2 * self.diagnosticity(i, skill) + self.delay(i, skill)

    def delay(self, i: int, skill: int) -> float:
        """For an item that was seen, and for its other skills that are new, stuck or without prerequisites."""
        learner, result = self.learner, 0.0
        if i in learner.answered:
            result = 1.5 + 0.5 * (1 - min(learner.total_responses - learner.answered[i], 64) / 64)
        for s in self.items[i].skills:
            if s == skill or learner.q[s] >= 0.8:
                continue
            result += 0.5 * (learner.responses[s] < 3)
            before = [r for r in learner.prerequisites(s) if r not in self.items[i].skills]
            result += self.is_stuck(s) or any(learner.q[r] < 0.8 for r in before)
        return result

    def distance(self, i: int) -> float:
        p = self.learner.predict(i)
        return abs(math.log(p / (1 - p)) - math.log(0.62 / 0.38))

    def diagnosticity(self, i: int, skill: int) -> float:
        item = item_of(self.learner.parameters, i)
        _, _, _, known, unknown = self.learner.look(item)
        others = math.prod(self.learner.q[s] for s in item.skills if s != skill) if skill in item.skills else 1.0
        return (item.expected(known) - item.expected(unknown)) * others


def chance(distance: list[float], i: int, points: int = 20000) -> float:
    """The chance that item i is drawn: a plain Riemann sum over its random number."""
    u = (np.arange(points) + 0.5) / points
    product = np.ones(points)
    for j, d in enumerate(distance):
        if j != i:
            product *= np.clip(u + (d - distance[i]) / 0.2, 0, 1)
    return float(product.mean())
