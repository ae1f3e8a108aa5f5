"""The versions that a release supports, each with a fast part of the tests: `make test-matrix`.

Python 3.11 to 3.14 with the locked versions, and the oldest Python with the lowest versions that `pyproject.toml`
allows. No interpreter is fetched. For a Python that this machine does not have, two weaker things are checked: that the
locked packages have wheels for it, and that the types hold. The last line says which tests did not run.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NEWEST, LOWEST = "dev.lock", "lowest.lock"
# Both databases, the numbers of the engine, files, and the framework below the routes: what other versions may change.
PART = (
    "tests/adaptive/tracing/test_filter.py",
    "tests/adaptive/irt/test_golden.py",
    "tests/adaptive/tracing/test_states.py",
    "tests/adaptive/cat/test_golden.py",
    "tests/architecture/test_tables.py",
    "tests/http/test_json_body.py",
    "tests/routers/test_fast_path.py",
    "tests/http/test_problems.py",
    "tests/services/test_catalogue.py",
    "tests/files/test_responses.py",
)


@dataclass(frozen=True)
class Result:
    """What became of one combination."""

    name: str
    passed: bool
    tested: bool
    detail: str


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours, from the root of the repository."""
    variables = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never", **environment}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def find_interpreter(version: str) -> str | None:
    """The path of a Python of this version on this machine."""
    found = run(BIN / "uv", "python", "find", "--no-project", "--system", version)
    return found.stdout.strip() if found.returncode == 0 else None


def run_part(version: str, interpreter: str, lock: str) -> Result:
    """Install a lock into a new environment and run the part of the tests there."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="proxima-matrix-") as folder:
        python = Path(folder, "bin", "python")
        packages = ("--python", python, "--require-hashes", "-r", f"requirements/{lock}")
        steps: list[tuple[str | Path, ...]] = [
            (interpreter, "-m", "venv", "--without-pip", folder),
            (BIN / "uv", "pip", "install", "--quiet", *packages),
            (python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *PART),
        ]
        printed = ""
        for step in steps:
            done = run(*step)
            printed = (done.stdout + done.stderr).strip()
            if done.returncode:
                return Result(name_of(version, lock), passed=False, tested=True, detail=printed)
    summary = f"{printed.splitlines()[-1]}; {time.monotonic() - started:.0f} s with the installation"
    return Result(name_of(version, lock), passed=True, tested=True, detail=summary)


def look_from_outside(version: str, lock: str) -> Result:
    """Without an interpreter: whether all locked packages have wheels for it, and whether the types hold."""
    packages = ("--only-binary", ":all:", "--require-hashes", "-r", f"requirements/{lock}")
    target = Path(tempfile.gettempdir(), "proxima-matrix-nothing")
    install = ("pip", "install", "--quiet", "--dry-run", "--python-version", version, "--target", target)
    wheels = run(BIN / "uv", *install, *packages)
    types = run(BIN / "mypy", "--python-version", version, "--no-error-summary")
    wrong = [done.stdout + done.stderr for done in (wheels, types) if done.returncode]
    detail = "\n".join(wrong) or "tests NOT RUN, no interpreter; wheels of all locked packages exist, types hold"
    return Result(name_of(version, lock), passed=not wrong, tested=False, detail=detail)


def name_of(version: str, lock: str) -> str:
    """A combination, as it is printed."""
    return f"Python {version}, {'newest' if lock == NEWEST else 'lowest'} versions"


def run_all() -> Iterator[Result]:
    """Every combination: each Python with the newest versions, the oldest with the lowest."""
    for version, lock in [*((version, NEWEST) for version in PYTHONS), (PYTHONS[0], LOWEST)]:
        interpreter = find_interpreter(version)
        yield run_part(version, interpreter, lock) if interpreter else look_from_outside(version, lock)


def main() -> int:
    """Print a line for each combination, and return 1 if one of them fails."""
    results = []
    for result in run_all():
        results.append(result)
        sys.stdout.write(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {result.detail}\n")
        sys.stdout.flush()
    missing = [result.name for result in results if not result.tested]
    sys.stdout.write(f"tests ran on {len(results) - len(missing)} of {len(results)} combinations")
    sys.stdout.write(f"; NOT RUN: {'; '.join(missing)}\n" if missing else "\n")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
