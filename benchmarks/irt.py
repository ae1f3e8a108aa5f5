"""`python -m benchmarks.irt`: calibration of item banks: speed beside girth, recovery beside mirt, coverage, memory.

Run it with one thread (OPENBLAS_NUM_THREADS=1) and girth installed beside NumPy and SciPy; without girth that part is
left out. REFERENCE_DATA names the folder whose `reference` holds the sets that mirt has estimated. Times are
medians of ROUNDS interleaved runs, ours with standard errors (girth computes none). REPEATS banks for the coverage.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt import FLAT, ItemBank, ItemCalibration, ItemResponses, Model, Priors, calibrate_items
from app.adaptive.irt.curves import log_probabilities
from app.adaptive.irt.design import build_matrices, expected_counts
from app.adaptive.irt.marginal import grid

ROUNDS = int(os.environ.get("ROUNDS", "5"))
REPEATS = int(os.environ.get("REPEATS", "50"))
POLYTOMOUS = ("graded", "gpcm", "pcm")
WITH_ASYMPTOTES = ("3pl", "4pl")
T = TypeVar("T")
LARGE = (100_000, 10_000, 100)


def main() -> None:
    """Measure and print everything, or the parts that are named: speed, large, recovery, coverage."""
    parts = {
        "speed": ("Speed, medians in seconds", speed),
        "large": ("10,000,000 answers, 10,000 items, 100,000 learners, 2PL", run_in_subprocess),
        "recovery": ("Recovery beside mirt, RMSE", recovery),
        "coverage": ("Coverage of 95 % intervals", coverage),
    }
    if sys.argv[1:] == ["alone"]:
        print("\n".join(large()))
        return
    for name in sys.argv[1:] or parts:
        title, part = parts[name]
        print(f"\n{title}\n")
        for line in part():
            print(line, flush=True)


def run_in_subprocess() -> Iterator[str]:
    """The large bank, alone in a process."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.irt", "alone"], capture_output=True, text=True, check=True)
    yield done.stdout.rstrip()


def random_bank(model: Model, items: int, rng: np.random.Generator) -> ItemBank:
    """Parameters as the literature finds them; asymptotes from the default priors."""
    steps = 4 if model in POLYTOMOUS else 1
    difficulty = np.sort(rng.normal(0, 1, (items, steps)), axis=1) + 0.25 * np.arange(steps)
    return ItemBank(
        model,
        np.full(items, steps),
        np.ones(items) if model in ("rasch", "pcm") else np.exp(rng.normal(0, 0.3, items)),
        difficulty - difficulty.mean() * (steps > 1),
        rng.beta(5, 23, items) if model in WITH_ASYMPTOTES else np.zeros(items),
        rng.beta(20, 2, items) if model == "4pl" else np.ones(items),
    )


def draw_categories(bank: ItemBank, learners: int, rng: np.random.Generator) -> Integers:
    """Categories (learners, items) of learners from N(0, 1)."""
    p = np.exp(log_probabilities(bank, rng.normal(0, 1, learners)))
    return np.asarray((rng.random((bank.count, 1, learners)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1).T)


def long_form(matrix: Integers) -> ItemResponses:
    """Every answer that is not -1."""
    rows, items = np.nonzero(matrix >= 0)
    starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return ItemResponses(starts.astype(np.int64), items.astype(np.int64), matrix[rows, items].astype(np.int64))


def log_likelihood(bank: ItemBank, answers: ItemResponses) -> float:
    """The marginal log-likelihood of anybody's estimates."""
    nodes, weights = grid(61)
    return expected_counts(
        build_matrices(answers, bank.count, bank.steps + 1), log_probabilities(bank, nodes), weights
    )[0]


def speed() -> Iterator[str]:
    """Two banks, ours and girth's in turn; equal accuracy shows in the RMSE and in the likelihood."""
    try:
        girth = importlib.import_module("girth")
    except ImportError:
        yield "girth is not installed"
        return
    yield "| bank | ours | girth | ratio | RMSE a, b ours | girth | log-likelihood ours | girth |"
    yield "|---|---|---|---|---|---|---|---|"
    peers: list[tuple[str, Model, int, int, Callable[[Any], Any]]] = [
        ("2PL 10,000 × 100", "2pl", 10_000, 100, girth.twopl_mml),
        ("graded 10,000 × 20, 5 categories", "graded", 10_000, 20, girth.grm_mml),
    ]
    for name, model, learners, items, peer in peers:
        rng = np.random.default_rng(1)
        truth = random_bank(model, items, rng)
        matrix = draw_categories(truth, learners, rng)
        answers, theirs = long_form(matrix), matrix.T + (model == "graded")
        runs = [
            (timed(partial(calibrate_items, answers, truth.max_category, model, FLAT)), timed(partial(peer, theirs)))
            for _ in range(ROUNDS)
        ]
        (_, found), (_, reply) = runs[-1]
        b = np.asarray(reply["Difficulty"]).reshape(items, -1)
        peers_bank = ItemBank(
            model, truth.max_category, np.asarray(reply["Discrimination"]), b, truth.guessing, truth.upper
        )
        ours, girths = (statistics.median(run[side][0] for run in runs) for side in (0, 1))
        yield (
            f"| {name} | {ours:.3f} | {girths:.3f} | {girths / ours:.1f} × | {rmses(found.item_bank, truth)}"
            f" | {rmses(peers_bank, truth)} | {found.log_likelihood:.3f} | {log_likelihood(peers_bank, answers):.3f} |"
        )


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """How long it took, and what came out."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def rmses(found: ItemBank, truth: ItemBank) -> str:
    """RMSE of a and b."""
    return f"{rmse(found.discrimination, truth.discrimination):.4f}, {rmse(found.difficulty, truth.difficulty):.4f}"


def rmse(found: Floats, truth: Floats) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def large() -> Iterator[str]:
    """100,000 learners, each with 100 of 10,000 items; with standard errors."""
    learners, items, each = LARGE
    rng = np.random.default_rng(2)
    truth = random_bank("2pl", items, rng)
    ability = rng.normal(0, 1, learners)
    # One item of each of `each` shelves: nobody meets an item twice.
    met = rng.integers(0, items // each, (learners, each)) + np.arange(each) * (items // each)
    p = 1 / (1 + np.exp(-truth.discrimination[met] * (ability[:, None] - truth.difficulty[met, 0])))
    right = (rng.random(met.shape) < p).astype(np.int64).reshape(-1)
    answers = ItemResponses(np.arange(learners + 1) * each, met.reshape(-1), right)
    took, found = timed(partial(calibrate_items, answers, truth.max_category, "2pl"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    covered = [
        np.mean(
            np.abs(getattr(found.item_bank, name) - getattr(truth, name)) < 1.96 * getattr(found.standard_errors, name)
        )
        for name in ("discrimination", "difficulty")
    ]
    yield f"{took:.1f} s with standard errors, {found.iterations} iterations, converged: {found.converged}"
    yield f"peak memory of the process {peak:.0f} MiB, the answers included"
    errors = rmses(found.item_bank, truth)
    yield f"RMSE a, b {errors}; coverage of 95 % intervals a, b {covered[0]:.3f}, {covered[1]:.3f}"


def recovery() -> Iterator[str]:
    """The simulated sets that mirt has estimated; `gb`: mirt with Beta(5, 23) on c, ours with the default priors."""
    given = os.environ.get("REFERENCE_DATA")
    if given is None:
        yield "REFERENCE_DATA is not set"
        return
    folder = Path(given) / "reference"
    yield "| set | s ours | mirt's CPU s | a ours | mirt | b ours | mirt | c ours | mirt | largest Δa, Δb | ΔlogL |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    models: dict[str, Model] = {"2PL": "2pl", "3PL": "3pl", "Rasch": "rasch", "graded": "graded"}
    for file in sorted(folder.glob("*.mirt.json")):
        reference = json.loads(file.read_text())
        if not reference["converged"]:
            continue
        truth = np.load(folder / f"{reference['name']}.npz")
        answers = long_form(truth["responses"].astype(np.int64).T)
        highest = int(truth["responses"].max())
        priors = Priors() if reference["prior"] == "gb" else FLAT
        max_category = np.full(len(truth["a"]), highest)
        took, found = timed(partial(calibrate_items, answers, max_category, models[reference["model"]], priors))
        yield (
            f"| {file.name.removesuffix('.mirt.json')} | {took:.2f} | {reference['fit_cpu_s']:.2f} | "
            + compare_with_mirt(found, reference, truth)
        )


def compare_with_mirt(found: ItemCalibration, reference: Any, truth: Any) -> str:
    """One row of the table of recovery."""
    columns = ["b"] if "b" in truth else [f"b{k}" for k in range(1, truth["bs"].shape[1] + 1)]
    a = np.array([item["a"] for item in reference["items"]])
    b = np.array([[item[column] for column in columns] for item in reference["items"]])
    c = np.array([item.get("g", 0) for item in reference["items"]])
    true_b = truth["bs"] if "bs" in truth else truth["b"][:, None]
    true_c = truth["c"] if "c" in truth else np.zeros(len(a))
    bank = found.item_bank
    pairs = [(bank.discrimination, a, truth["a"]), (bank.difficulty, b, true_b), (bank.guessing, c, true_c)]
    cells = [f"{rmse(value, true):.4f}" for ours, theirs, true in pairs for value in (ours, theirs)]
    apart = f"{np.abs(bank.discrimination - a).max():.4f}, {np.abs(bank.difficulty - b).max():.4f}"
    return " | ".join([*cells, apart, f"{found.log_likelihood - reference['logLik']:+.4f} |"])


def coverage() -> Iterator[str]:
    """How often the intervals hold the truth, with the default priors and with none."""
    yield "| model | learners × items | prior | a | b | c | d | variance |"
    yield "|---|---|---|---|---|---|---|---|"
    for model in get_args(Model):
        for priors in (None,) if model in WITH_ASYMPTOTES else (None, FLAT):
            yield covered(model, 1000, 20, priors)


def covered(model: Model, learners: int, items: int, priors: Priors | None) -> str:
    """One row of the table of coverage."""
    rng = np.random.default_rng(3)
    inside: dict[str, list[Floats]] = {name: [] for name in ("discrimination", "difficulty", "guessing", "upper")}
    spread = []
    for _ in range(REPEATS):
        truth = random_bank(model, items, rng)
        found = calibrate_items(long_form(draw_categories(truth, learners, rng)), truth.max_category, model, priors)
        spread.append(abs(found.ability_variance - 1) < 1.96 * found.ability_variance_error)
        for name, hits in inside.items():
            error = getattr(found.standard_errors, name)
            hit = np.abs(getattr(found.item_bank, name) - getattr(truth, name)) < 1.96 * error
            hits.append(hit[(error > 0) & (found.calibrated if error.ndim == 1 else found.calibrated[:, None])])
    shares = [np.concatenate(hits) for hits in inside.values()]
    cells = [f"{share.mean():.3f}" if share.size else "" for share in shares]
    cells.append(f"{np.mean(spread):.2f}" if model in ("rasch", "pcm") else "")
    return (
        f"| {model} | {learners:,} × {items} | {'none' if priors is FLAT else 'default'} | " + " | ".join(cells) + " |"
    )


if __name__ == "__main__":
    main()
