"""`python -m benchmarks.cat_speed`: one step of an adaptive test, estimate and choose, beside catsim in the same run.

Needs catsim installed beside NumPy and SciPy; without it only ours is measured. ROUNDS tests of `STEPS` answers each
for every size of the bank, the two in turn; processor time a step, median, lowest and highest of the rounds; ratios are
taken within a round. Both choose by maximum information from a 3PL bank. catsim estimates by maximum likelihood and
sorts the bank, as its simulator does; ours has the posterior on 121 nodes, its mean and its standard deviation, and
tells reason and chance. After the clock every item of ours is compared with the greatest information of all items.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from app.adaptive.arrays import Floats, Integers
from app.adaptive.cat import Plan, Pool, make_pool, next_item, start_test, update_state
from app.adaptive.cat.pool import information_at
from benchmarks.report import paired_ratios, summarise, table

ROUNDS = int(os.environ.get("ROUNDS", "9"))
SIZES = (100, 1_000, 10_000, 100_000)
STEPS = 20
PLAN = Plan(max_items=STEPS)
# The items that were chosen, and the estimate each was chosen at.
TakenTest = tuple[list[int], list[float]]


def main() -> None:
    """Measure and print."""
    print("\n".join(report()))


def report() -> Iterator[str]:
    """The table, and how often the choice was the best."""
    rows, checked, wrong, built = [], 0, 0, []
    for size in SIZES:
        parameters = bank(size)
        started = time.thread_time()
        pool = make_pool(["3pl"] * size, parameters[0], parameters[1], guessing=parameters[2])
        run_ours(pool, np.zeros(size, dtype=np.int64))
        built.append(f"{size:,}: {time.thread_time() - started:.2f} s")
        contestants = (("catsim", catsim(parameters)), ("ours", run_ours))
        figures: dict[str, list[float]] = {"ours": [], "catsim": []}
        for number in range(ROUNDS):
            answers = draw_responses(parameters, number)
            for name, run_test in contestants:
                if run_test is None:
                    continue
                took, test = timed(run_test, pool, answers)
                figures[name].append(took)
                if name == "ours":
                    wrong += count_missed(pool, test)
                    checked += len(test[0])
        ratio = summarise(paired_ratios(figures["catsim"], figures["ours"])) if figures["catsim"] else ""
        milliseconds = [summarise(values) if values else "" for values in (figures["catsim"], figures["ours"])]
        rows.append([f"{size:,}", *milliseconds, ratio])
    yield table(["items", "catsim, ms a step", "Proxima, ms a step", "catsim / Proxima"], rows)
    yield ""
    yield f"{checked:,} choices compared with the information of every item left: {wrong} were not the greatest."
    yield f"Tables made once for a bank, with the first test: {'; '.join(built)}."


def bank(size: int) -> Floats:
    """(3, I): a, b and c of a 3PL bank."""
    rng = np.random.default_rng(size)
    return np.stack([np.exp(rng.normal(0.1, 0.3, size)), rng.normal(0, 1, size), rng.beta(5, 23, size)])


def draw_responses(parameters: Floats, number: int) -> Integers:
    """(I,): what one learner would answer to every item."""
    rng = np.random.default_rng(number)
    a, b, c = parameters
    p = c + (1 - c) / (1 + np.exp(-a * (rng.normal() - b)))
    return np.asarray(rng.random(p.shape) < p, dtype=np.int64)


def timed(run_test: Callable[[Pool, Integers], TakenTest], pool: Pool, answers: Integers) -> tuple[float, TakenTest]:
    """Milliseconds of processor time a step, and the test."""
    started = time.thread_time()
    test = run_test(pool, answers)
    return (time.thread_time() - started) * 1000 / STEPS, test


def run_ours(pool: Pool, answers: Integers) -> TakenTest:
    """A test as the service gives it."""
    state, items, abilities = start_test(pool, PLAN), [], []
    while (step := next_item(pool, PLAN, state, 1)).item >= 0:
        items.append(step.item)
        abilities.append(step.terms["ability"])
        state = update_state(pool, PLAN, state, step.item, int(answers[step.item]))
    return items, abilities


def catsim(parameters: Floats) -> Callable[[Pool, Integers], TakenTest] | None:
    """The same by catsim's objects, as its documentation calls them outside of a simulator; None without it."""
    try:
        estimation = importlib.import_module("catsim.estimation")
        selection = importlib.import_module("catsim.selection")
        banks = importlib.import_module("catsim.item_bank")
    except ImportError:
        return None
    items: Any = banks.ItemBank(np.column_stack([*parameters, np.ones(parameters.shape[1])]))
    selector, estimator = selection.MaxInfoSelector(), estimation.NumericalSearchEstimator()

    def run_test(_: Pool, answers: Integers) -> TakenTest:
        administered: list[int] = []
        right: list[bool] = []
        theta, path = 0.0, []
        for _step in range(STEPS):
            path.append(theta)
            item = int(selector.select(item_bank=items, administered_items=administered, est_theta=theta))
            administered.append(item)
            right.append(bool(answers[item]))
            theta = float(
                estimator.estimate(
                    item_bank=items, administered_items=administered, response_vector=right, est_theta=theta
                )
            )
        return administered, path

    return run_test


def count_missed(pool: Pool, test: TakenTest) -> int:
    """How many of the chosen items were not the most informative of all that were left."""
    everything, wrong = np.arange(pool.count), 0
    for step, (item, ability) in enumerate(zip(*test, strict=True)):
        values = information_at(pool, everything, ability)
        values[test[0][:step]] = -1.0
        wrong += int(values.argmax()) != item
    return wrong


if __name__ == "__main__":
    main()
