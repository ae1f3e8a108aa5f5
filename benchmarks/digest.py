"""A digest of everything the engine computes, from the outside: `python -m benchmarks.digest [FILE]`.

Two versions of the program that print the same lines compute the same numbers, bit for bit. The sample course, or a
file for `proxima import responses`, is loaded into a new database, calibrated and activated; then learners answer over
HTTP, with and without options for the next item. Only the command line, the interface and the tables are used.
"""

import hashlib
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np

from app import sample

COURSE = "digest"
LEARNERS, RESPONSES = 40, 25
START_S = 60
# 2026-01-05T00:00:00Z: a later answer than all those of the files.
FIRST_MINUTE = 1_767_571_200 // 60
OPTIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"repeat_after": 3, "switch_after": 2},
    {"explore": 0.5},
    {"review": 0.5, "prefetch": True},
)
TABLES = {
    "states": "SELECT state FROM learner ORDER BY id",
    "abilities": "SELECT theta, standard_error FROM learner ORDER BY id",
    "checkpoints": "SELECT state FROM checkpoint ORDER BY learner_id, occurred_at, response_id",
    "predictions": "SELECT p_correct FROM response ORDER BY learner_id, position",
    "choices": (
        "SELECT item_id, skill_id, code, p_correct, propensity, seed FROM recommendation ORDER BY learner_id, id"
    ),
}


def main() -> None:
    """Print a line for each kind of number."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else sample.responses()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "digest.db"
        os.environ["PROXIMA_DATABASE_URL"] = f"sqlite:///{database}"
        _proxima("migrate")
        key = _proxima("key", "create", "--tenant", "digest", "--scope", "admin").strip()
        if len(sys.argv) == 1:
            catalogue = Path(folder) / f"{COURSE}.json"
            catalogue.write_text(json.dumps(sample.catalogue()))
            _proxima("import", "catalogue", str(catalogue))
        _proxima("import", "responses", str(file), "--course", COURSE)
        _proxima("calibrate", "--course", COURSE, "--activate", "--force")
        with _service(key) as client:
            _respond(client)
        with closing(sqlite3.connect(database)) as db:
            for name, count, digest in _digests(db):
                sys.stdout.write(f"{name:12} {count:>7,} rows  {digest}\n")


def _proxima(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _service(key: str) -> Iterator[httpx.Client]:
    """A client of a service that runs meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "app", "serve", "--port", str(port)])
    base = f"http://127.0.0.1:{port}/v1/courses/{COURSE}/"
    try:
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            _wait(client)
            yield client
    finally:
        process.terminate()
        process.wait()


def _wait(client: httpx.Client) -> None:
    """Wait until the service replies."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if client.get("items").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise TimeoutError("the service does not start")


def _respond(client: httpx.Client) -> None:
    """Send responses of new learners, in rounds of one each, always the same."""
    items = sorted(item["id"] for item in client.get("items?limit=500").raise_for_status().json()["data"])
    random = Random(1)
    for number in range(RESPONSES):
        responses = [
            {
                "id": f"r-{learner}-{number}",
                "learner": f"new-{learner:02}",
                "item": random.choice(items),
                "correct": random.random() < learner / LEARNERS,
                "occurred_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(60 * (FIRST_MINUTE + 7 * number))),
            }
            | ({} if OPTIONS[learner % 4] is None else {"next": OPTIONS[learner % 4]})
            for learner in range(LEARNERS)
        ]
        client.post("./responses:batch", json={"responses": responses}).raise_for_status()


def _digests(db: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
    """The name, the number of rows and the digest of each kind of number."""
    arrays: list[bytes] = []
    for (packed,) in db.execute("SELECT parameters FROM calibration ORDER BY number"):
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays += [archive[name].tobytes() for name in archive.files]
    yield "calibration", len(arrays), _digest(arrays)
    for name, statement in TABLES.items():
        rows = [repr(row).encode() for row in db.execute(statement)]
        yield name, len(rows), _digest(rows)


def _digest(parts: Iterable[bytes]) -> str:
    """A short hash of all parts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
