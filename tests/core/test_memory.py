"""The limit of memory is found in both versions of control groups, and says how many responses fit."""

from pathlib import Path

import pytest

from app.core.memory import memory_limit, responses_that_fit


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"memory.max": "536870912\n"}, 536_870_912),
        ("0::/", {"memory.max": "max\n"}, None),
        ("0::/a/b", {"a/memory.max": "400", "a/b/memory.max": "max"}, 400),
        ("0::/a/b", {"a/memory.max": "400", "a/b/memory.max": "300"}, 300),
        ("0::/../../up", {"memory.max": "500"}, 500),
        ("4:memory:/docker/x", {"memory/memory.limit_in_bytes": "600"}, 600),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_limit_is_that_of_the_control_group(tmp_path: Path, own: str, files: dict[str, str], limit: int | None) -> None:
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "own").write_text(own + "\n")
    assert memory_limit(root, tmp_path / "own") == limit
    assert memory_limit(tmp_path / "none", tmp_path / "neither") is None


def test_numbers_of_the_documents_are_those_of_the_program() -> None:
    assert responses_that_fit(1) == 0
    assert 80_000 <= responses_that_fit(512 << 20) < 90_000
    assert 750_000 <= responses_that_fit(2 << 30) < 800_000
