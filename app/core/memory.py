"""How much memory there is: the limit that the system has set for this process and those beside it."""

from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# What a system without a limit says instead is larger.
LARGEST_LIMIT = 1 << 60
# Measured (docs/container.md): a worker, and a calibration without and with its responses.
WORKER_BYTES, CALIBRATION_BYTES, RESPONSE_BYTES = 200_000_000, 145_000_000, 2_300


def memory_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the bytes that the control group of this process may use; none if there is no limit, or no such group."""
    limits = [_read_limit(root / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    try:
        paths = [line.split(":", 2)[2].strip("/") for line in own.read_text().splitlines() if line.startswith("0:")]
    except OSError:
        paths = []
    for path in paths:
        folder = root / path
        while folder != root and root in folder.parents:
            limits.append(_read_limit(folder / "memory.max"))
            folder = folder.parent
    return min((limit for limit in limits if limit is not None), default=None)


def _read_limit(file: Path) -> int | None:
    """Return the number in a file, if it is a limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < LARGEST_LIMIT else None


def responses_that_fit(limit: int) -> int:
    """Return how many responses a course may have to be calibrated beside a worker under a limit of memory."""
    return max((limit - WORKER_BYTES - CALIBRATION_BYTES) // RESPONSE_BYTES, 0)
