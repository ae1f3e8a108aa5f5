"""The check of commit messages lets good ones pass and finds each fault."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commits import faults, without_comments

ROOT = Path(__file__).parents[2]
GOOD = [
    "Add `proxima migrate --to REVISION`",
    "Need a key for metrics\n\nOthers could read them.",
    "Rename shelf to information_index",
    "Merge branch 'main' of a clone with a long name into another branch with a longer name",
]
BAD = {
    "Say" + " more" * 14: "73 characters",
    "Fix the lease of calibrations.": "full stop",
    "Fix the lease; measure it again": "semicolon",
    "fix the lease": "capital letter",
    "An import notes its line without a wrapper": "'An'",
    "Fixed the lease": "'Fixed'",
    "Fix the lease\nof calibrations": "empty line",
}


@pytest.mark.parametrize("message", GOOD)
def test_commit_message_in_good_form_passes(message: str) -> None:
    assert list(faults(message)) == []


@pytest.mark.parametrize("message", BAD)
def test_commit_message_with_a_fault_is_refused(message: str) -> None:
    [fault] = faults(message)
    assert BAD[message] in fault


def test_comments_of_a_commit_message_are_not_checked() -> None:
    message = "Fix the lease\n# what Git says; in the editor\n# ------------------------ >8 ---\ndiff --git"
    assert without_comments(message) == "Fix the lease"


def test_commit_message_hook_refuses_a_file(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text("Fixed it\n")
    command = [sys.executable, "-m", "tests.commits", "--message", str(message)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "'Fixed'" in done.stdout) == (1, True)
