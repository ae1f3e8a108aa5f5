"""`PYBKT=PYTHON python -m benchmarks.bkt`: fitting 50 skills to 1.6 million answers, beside pyBKT in the same run.

PYTHON is an interpreter into whose environment pyBKT was built from its source package, with scikit-learn below 1.8.
Both fit on one core, in turn; medians of the rounds, lowest and highest beside them. Equal accuracy is shown by the
log likelihood of both results, computed by the same function.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from app.adaptive.arrays import Floats, Integers
from app.adaptive.bkt import (
    Rates,
    Setup,
    build_tree,
    em_step,
    encode_responses,
    fit_bkt,
    shared_prior,
)
from app.adaptive.response_log import Log
from app.adaptive.skill_chains import link_skill_chains

ROUNDS = int(os.environ.get("ROUNDS", "5"))
LEARNERS, SKILLS, MEAN_LENGTH, LONGEST = 3200, 50, 10, 200
# `fit` is what a user calls, on a data frame, with one start; `EM_fit` is the compiled part alone, on arrays prepared
# before, from our start. It stops early because its log likelihood is truncated to a whole number: hence the third.
PEER = """
import json, sys, time
import numpy as np, pandas as pd
from pyBKT.fit import EM_fit
from pyBKT.generate import random_model_uni
from pyBKT.models import Model

log = np.load(sys.argv[1])
frame = pd.DataFrame({"order_id": np.arange(len(log["learner"])), "user_id": log["learner"],
                      "skill_name": log["skill"], "correct": log["score"].astype(int)})
begun = time.perf_counter()
model = Model(seed=0, num_fits=1, parallel=False)
model.fit(data=frame)
whole = time.perf_counter() - begun
names = ("prior", "learns", "guesses", "slips")
rates = [[float(np.ravel(model.coef_[str(s)][name])[0]) for name in names] for s in range(log["skill"].max() + 1)]
told = {"fit": [whole, rates]}
for name, stop in {"EM_fit": {}, "EM_fit, 40 steps": {"tol": -1, "maxiter": 40}}.items():
    kernel, alone = 0.0, []
    for s in range(log["skill"].max() + 1):
        of = log["skill"] == s
        lengths = np.unique(log["learner"][of], return_counts=True)[1].astype(np.int64)
        data = {"data": (log["score"][of] + 1).astype(np.int32)[None], "lengths": lengths,
                "starts": np.concatenate([[1], 1 + np.cumsum(lengths)[:-1]]),
                "resources": np.ones(of.sum(), dtype=np.int64)}
        start = random_model_uni.random_model_uni(1, 1, rand=np.random.RandomState(0))
        start.update(prior=.4, learns=np.array([.15]), forgets=np.zeros(1))
        start.update(guesses=np.array([.2]), slips=np.array([.1]), pi_0=np.array([[.6], [.4]]))
        start["As"] = np.array([[[.85, 0.], [.15, 1.]]])
        begun = time.perf_counter()
        found, _ = EM_fit.EM_fit(start, data, parallel=False, **stop)
        kernel += time.perf_counter() - begun
        alone.append([float(np.ravel(found[rate])[0]) for rate in names])
    told[name] = [kernel, alone]
print(json.dumps(told))
"""


def main() -> None:
    """Measure and print."""
    peer = os.environ.get("PYBKT")
    log, skills = simulate(0)
    seconds: dict[str, list[float]] = defaultdict(list)
    likelihoods: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="proxima-bench-bkt-") as folder:
        file = Path(folder) / "log.npz"
        learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
        np.savez(file, learner=learner, skill=log.items, score=log.scores)
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
            begun = time.perf_counter()
            fitted = fit_bkt(skills, log, Setup(pseudo=0.0), np.random.default_rng(0))
            seconds["Proxima"].append(time.perf_counter() - begun)
            likelihoods["Proxima"] = log_likelihood(skills, log, fitted.rates)
            if peer:
                for name, (took, rates) in ask(peer, file).items():
                    seconds[f"pyBKT {name}"].append(took)
                    likelihoods[f"pyBKT {name}"] = log_likelihood(skills, log, as_rates(rates))
    print(f"{len(log.items):,} answers, {SKILLS} skills, {LEARNERS:,} learners\n")
    print("| | seconds | range | times ours | log likelihood |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["Proxima"], strict=True))
        middle, spread = statistics.median(values), f"{min(values):.2f}–{max(values):.2f}"
        print(f"| {name} | {middle:.2f} | {spread} | {ratio:.1f} | {likelihoods[name]:,.2f} |")


def ask(peer: str, file: Path) -> dict[str, tuple[float, list[list[float]]]]:
    """What the peer needed, in its own process and on one core, for a file, and the rates it found."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([peer, "-c", PEER, str(file)], env=os.environ | one, capture_output=True, check=True)
    reply: dict[str, tuple[float, list[list[float]]]] = json.loads(done.stdout)
    return reply


def as_rates(rows: list[list[float]]) -> Rates:
    """Rows of P(L0), P(T), P(G), P(S) as rates, without zeros and ones."""
    prior, learn, guess, slip = np.clip(np.array(rows, dtype=np.float64).T, 1e-9, 1 - 1e-9)
    return Rates(prior, learn, np.zeros_like(prior), guess, slip)


def log_likelihood(skills: Integers, log: Log, rates: Rates) -> float:
    """That of a log under given rates."""
    chains = link_skill_chains(skills, log)
    codes, code = encode_responses(skills, skills, log, chains)
    tree, _ = build_tree(chains, codes, code, SKILLS)
    _, value = em_step(tree, codes, shared_prior(SKILLS, Setup(pseudo=0.0)), rates, Setup(pseudo=0.0))
    return float(value.log_likelihood.sum())


def simulate(seed: int) -> tuple[Log, Integers]:
    """Learners who give a geometric number of answers on every skill, and learn as the model says."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / MEAN_LENGTH, LEARNERS * SKILLS), LONGEST)
    skill = np.tile(np.arange(SKILLS), LEARNERS)
    prior, learn, guess, slip = rng.uniform([[0.1], [0.05], [0.1], [0.05]], [[0.6], [0.3], [0.3], [0.2]], (4, SKILLS))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    scores: Floats = np.empty(starts[-1])
    known = rng.random(len(skill)) < prior[skill]
    for t in range(int(lengths.max())):
        now = np.flatnonzero(lengths > t)
        of = skill[now]
        scores[starts[now] + t] = rng.random(len(now)) < np.where(known[now], 1 - slip[of], guess[of])
        known[now] |= rng.random(len(now)) < learn[of]
    return Log(starts[::SKILLS], np.repeat(skill, lengths), scores, np.zeros(len(scores))), np.arange(SKILLS)[:, None]


if __name__ == "__main__":
    main()
