"""wrk and what it saw: a closed loop of clients, each on one connection that stays open, each waiting for its reply."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("answers.lua")
TIMEOUT = "30s"


@dataclass(frozen=True)
class Load:
    """One run: answers told with a 2xx, and their latencies in milliseconds."""

    requests: int
    rate: float
    p50: float
    p99: float


def need_wrk() -> None:
    """Stop with one line if the load generator is not there."""
    if shutil.which("wrk") is None:
        sys.exit("benchmarks: wrk is missing; it is Debian's package wrk: apt-get install wrk")


def run(address: str, key: str, label: str, clients: int, seconds: int, shape: tuple[int, int]) -> Load:
    """Send answers of random learners to random items, `shape` of them, for some seconds.

    Raises RuntimeError if one of them was not stored.
    """
    learners, items = map(str, shape)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", TIMEOUT, "-s", str(SCRIPT), address]
    seed = str(sum(label.encode()) * 1009 + clients)
    completed = subprocess.run(
        [*command, "--", key, label, learners, items, seed], capture_output=True, text=True, check=True
    )
    result = json.loads(completed.stdout.rpartition("RESULT ")[2])
    if result["refused"] or result["broken"] or not result["requests"]:
        raise RuntimeError(f"{address}: {result}")
    return Load(result["requests"], result["requests"] / result["seconds"], result["p50_ms"], result["p99_ms"])
