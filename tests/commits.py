"""The form of commit messages: an imperative subject of at most 72 characters, for one change.

    python -m tests.commits                   check the commits since the last release, or since the rule began
    python -m tests.commits --since COMMIT    check the commits after this one
    python -m tests.commits --message FILE    check a message that Git is about to take: a commit-msg hook

What a machine can see is checked. That the subject says one thing, and says it plainly, is for a reader.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_SUBJECT = 72
# The last commit before there was a rule.
BEFORE_THE_RULE = "73b87b2d558b"
RELEASES = "v[0-9]*"
MADE_BY_GIT = ("Merge ", "Revert ", "fixup! ", "squash! ", "amend! ")
NO_VERBS = {"a", "an", "the", "it", "its", "no", "what", "where", "whether", "who", "this", "these", "some", "all"}
IMPERATIVES_IN_ED_OR_ING = {"bring", "embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "string"}


def faults(message: str) -> Iterator[str]:
    """What is wrong with the form of a commit message."""
    subject, _, body = message.partition("\n")
    if subject.startswith(MADE_BY_GIT):
        return
    if len(subject) > LONGEST_SUBJECT:
        yield f"the subject has {len(subject)} characters, and may have {LONGEST_SUBJECT}"
    if subject.endswith("."):
        yield "the subject ends with a full stop"
    if ";" in subject:
        yield "the subject joins changes with a semicolon: make two commits"
    first = re.match(r"[A-Z][a-z]*\b", subject)
    if not first:
        yield "the subject does not start with a capital letter"
    elif not may_be_imperative(first[0].lower()):
        yield f"the subject starts with {first[0]!r}: write what the commit does, as in 'Add …' or 'Fix …'"
    if body and not body.startswith("\n"):
        yield "an empty line must separate the subject from the body"


def may_be_imperative(word: str) -> bool:
    """Whether a word can be an imperative: no article, no participle."""
    return word not in NO_VERBS and (word in IMPERATIVES_IN_ED_OR_ING or not word.endswith(("ed", "ing")))


def without_comments(message: str) -> str:
    """A message as Git will store it."""
    scissors = message.partition("# ------------------------ >8")[0]
    return "\n".join(line for line in scissors.splitlines() if not line.startswith("#")).strip()


def git(*arguments: str) -> str | None:
    """What Git prints; none if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S607 (Git is where it is)
    return done.stdout.strip() if done.returncode == 0 else None


def last_release() -> str:
    """The tag of the last release before this commit, or the last commit before there was a rule."""
    return git("describe", "--tags", "--abbrev=0", "--match", RELEASES, "HEAD^") or BEFORE_THE_RULE


def check_since(commit: str) -> int:
    """Print what is wrong with the commits after `commit`, and return the code to exit with."""
    found = git("log", "--no-merges", "-z", "--format=%h %B", f"{commit}..HEAD")
    if found is None:
        sys.stdout.write(f"not checked: this clone does not reach back to {commit}\n")
        return 0
    commits = [tuple(entry.split(" ", 1)) for entry in found.split("\0") if entry]
    wrong = [
        f"{name} {message.splitlines()[0]}\n    {fault}\n"
        for name, message in commits
        for fault in faults(message.strip())
    ]
    sys.stdout.write("".join([*wrong, f"{len(commits)} commits since {commit}, {len(wrong)} faults\n"]))
    return 1 if wrong else 0


def check_message(path: Path) -> int:
    """Print what is wrong with the message in a file, and return the code to exit with."""
    wrong = list(faults(without_comments(path.read_text())))
    sys.stdout.write("".join(f"{fault}\n" for fault in wrong))
    return 1 if wrong else 0


def main() -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.commits", description="Check the form of commit messages.")
    parser.add_argument("--since", metavar="COMMIT", help="the last commit that is not checked")
    parser.add_argument("--message", metavar="FILE", type=Path, help="a message that Git is about to take")
    asked = parser.parse_args()
    return check_message(asked.message) if asked.message else check_since(asked.since or last_release())


if __name__ == "__main__":
    sys.exit(main())
