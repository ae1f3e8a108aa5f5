"""Small courses, answers and learners to try the engine on."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from app.adaptive.arrays import Floats, Integers
from app.adaptive.behaviour.model import CONTEXTS, FEATURES, PAIR_OF_ITEMS, hash_item_contexts
from app.adaptive.hashing import hash_keys
from app.adaptive.parameters import BehaviourModel, Items, Parameters, Population, Skills
from app.adaptive.response_log import Log
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states
from app.adaptive.tracing.replay import replay

NOBODY = -1


def make_items(skills: list[list[int]], **given: Any) -> Items:
    """Items that ask for the given skills, plain and of middle difficulty but for what is given."""
    count, width = len(skills), max((len(row) for row in skills), default=0)
    padded = np.full((count, width), NOBODY, dtype=np.int64)
    for item, row in enumerate(skills):
        padded[item, : len(row)] = row
    values: dict[str, Any] = {
        "intercept": np.zeros(count),
        "discrimination": np.ones(count),
        "guessing": np.zeros(count),
        "upper": np.ones(count),
        "thresholds": np.full((count, 1), np.inf),
        "skills": padded,
    }
    values |= {name: np.asarray(value) for name, value in given.items()}
    return Items(**values)


def tree(prerequisites: list[list[int]], **given: Any) -> Skills:
    """Skills with the given direct prerequisites and the default rates but for what is given."""
    count, width = len(prerequisites), max((len(row) for row in prerequisites), default=0)
    padded = np.full((count, width), NOBODY, dtype=np.int64)
    for skill, row in enumerate(prerequisites):
        padded[skill, : len(row)] = row
    rates = {"prior": np.full(count, 0.41), "p_learn": np.full(count, 0.24), "p_forget": np.full(count, 0.03)}
    rates |= {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    return Skills(**rates, prerequisites=padded)


def course(skills: Skills, items: Items, **population: float) -> Parameters:
    """Parameters of these."""
    return Parameters(Population(**population), skills, items)


def random_course(seed: int, skills: int = 5, items: int = 12, kinds: str = "mixed") -> Parameters:
    """A course with one to three skills an item, some without, and edges from lower to higher numbers.

    `kinds` is "plain" or "mixed": a third has asymptotes, a third is graded.
    """
    rng = np.random.default_rng(seed)
    edges = [[int(p) for p in rng.permutation(s)[: rng.integers(0, 3)]] for s in range(skills)]
    asked = [[int(s) for s in rng.permutation(skills)[: rng.integers(0, 4)]] for _ in range(items)]
    chosen = make_items(asked, intercept=rng.normal(0, 1.2, items), discrimination=np.exp(rng.normal(0, 0.4, items)))
    if kinds == "mixed":
        kind = rng.integers(0, 3, items)
        thresholds = np.full((items, 3), np.inf)
        for item in np.flatnonzero(kind == 2):
            many = int(rng.integers(1, 4))
            thresholds[item, :many] = np.sort(rng.normal(0, 1, many))
        chosen = replace(
            chosen,
            guessing=np.where(kind == 1, rng.uniform(0, 0.5, items), 0.0),
            upper=np.where(kind == 1, rng.uniform(0.8, 1.0, items), 1.0),
            thresholds=thresholds,
        )
    rates = tree(
        edges,
        prior=rng.uniform(0.02, 0.98, skills),
        p_learn=rng.uniform(0.005, 0.6, skills),
        p_forget=rng.uniform(0.001, 0.06, skills),
    )
    return course(rates, chosen, skill_variance=float(rng.choice([0.0, 0.3])))


def random_behaviour_model(rng: np.random.Generator, items: int, factors: int = 2) -> BehaviourModel:
    """A head that has a say in everything: in the first answer to each item, and after each result."""
    first = hash_item_contexts(np.arange(items), np.zeros(items, dtype=np.int64))
    pairs = [hash_keys(PAIR_OF_ITEMS, 3 * np.full(items, i) + 2, np.arange(items)) for i in range(items)]
    crosses = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *pairs]))
    return BehaviourModel(
        item_contexts=np.sort(first),
        loadings=rng.normal(0, 0.5, (items, 1 + factors)),
        skill_sets=np.zeros(1, dtype=np.uint64),
        skill_set_loadings=np.zeros((1, 1 + factors)),
        context_loadings=rng.normal(0, 0.5, (8, 1 + factors)),
        context_slope=rng.normal(0, 0.2, 8),
        weights=rng.normal(0, 0.2, FEATURES),
        context_weights=rng.normal(0, 0.2, (CONTEXTS, 3)),
        crosses=crosses,
        cross_weights=rng.normal(0, 0.3, len(crosses)),
    )


def random_scores(parameters: Parameters, rng: np.random.Generator, items: Integers) -> Floats:
    """Right or wrong, a fraction now and then, and a category for graded items."""
    max_category = np.where(parameters.items.max_category[items] > 0, parameters.items.max_category[items], 1)
    scores = rng.integers(0, max_category + 1) / max_category
    partial = (parameters.items.max_category[items] == 0) & (rng.random(len(items)) < 0.2)
    return np.where(partial, rng.random(len(items)), scores)


def random_log(parameters: Parameters, seed: int, learners: int = 4, longest: int = 12, days: float = 30.0) -> Log:
    """Answers of learners, some of whom gave none, with pauses of up to about `days`; some moments are unknown."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, learners)
    items = rng.integers(0, parameters.items.count, lengths.sum())
    scores = random_scores(parameters, rng, items)
    times = 20_000 + np.cumsum(days * rng.random(len(items)) ** 6)
    times[rng.random(len(items)) < 0.1] = 0.0
    return Log(np.concatenate([[0], np.cumsum(lengths)]), items, scores, times if days else np.zeros(len(items)))


def log_of(rows: list[list[tuple[int, float]]]) -> Log:
    """The log of learners written as lists of (item, score)."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat = [answer for row in rows for answer in row]
    return Log(
        starts,
        np.array([item for item, _ in flat], dtype=np.int64),
        np.array([score for _, score in flat], dtype=np.float64),
        np.zeros(len(flat)),
    )


def random_states(parameters: Parameters, seed: int, learners: int = 4, longest: int = 12) -> States:
    """Learners after some answers."""
    if not parameters.items.count:
        return initial_states(parameters, learners)
    states, _ = replay(parameters, random_log(parameters, seed, learners, longest))
    return states


def simulate(parameters: Parameters, seed: int, learners: int, answers: int) -> Log:
    """Answers of learners who live as the filter believes: one ability each, skills known or not, learnt, forgotten.

    Without form and offsets. Every item has at most one skill.
    """
    rng = np.random.default_rng(seed)
    population, skills, items = parameters.population, parameters.skills, parameters.items
    ability = rng.normal(0, np.sqrt(population.ability_variance), learners)
    knows = rng.random((learners, skills.count)) < skills.prior
    everyone, asks = np.arange(learners), np.pad(items.skills, ((0, 0), (0, 1)), constant_values=NOBODY)[:, 0]
    asked = rng.integers(0, items.count, (answers, learners))
    scores = np.empty((answers, learners))
    for t, item in enumerate(asked):
        skill = asks[item]
        tagged = skill >= 0
        known = np.ones(learners, dtype=np.bool_)
        known[tagged] = knows[everyone[tagged], skill[tagged]]
        shift = np.where(known, population.known_shift, population.unknown_shift) * items.has_skills[item]
        x = items.intercept[item] + items.discrimination[item] * ability + shift
        p = items.guessing[item] + (items.upper[item] - items.guessing[item]) / (1 + np.exp(-x))
        scores[t] = rng.random(learners) < p
        luck, skill, known = rng.random(learners)[tagged], skill[tagged], known[tagged]
        p_learn = skills.p_learn[skill] * scores[t, tagged]
        knows[everyone[tagged], skill] = np.where(known, luck >= skills.p_forget[skill], luck < p_learn)
    return Log(np.arange(learners + 1) * answers, asked.T.reshape(-1), scores.T.reshape(-1), np.zeros(scores.size))


def arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Every array within a dataclass of ours."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, np.ndarray):
            yield inner
        elif hasattr(inner, "__dataclass_fields__"):
            yield from arrays(inner)


def same(one: Any, other: Any) -> bool:
    """Whether two dataclasses of arrays are equal bit for bit."""
    pairs = zip(arrays(one), arrays(other), strict=True)
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def frozen(value: Any) -> Any:
    """The same value, whose arrays refuse to be written to."""
    for array in arrays(value):
        array.setflags(write=False)
    return value
