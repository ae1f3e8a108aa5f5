"""The words of `docs/glossary.md` that are not used, looked for: `python -m tests.architecture.vocabulary [--write]`.

What is still there is listed in `vocabulary.json`, by file and word. The list may only shrink: a use that is not in it
fails, and so does an entry that is no longer needed; `--write` takes these out and adds nothing.
"""

import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
ALLOWED = Path(__file__).with_name("vocabulary.json")
LEFT_OUT = {"docs/glossary.md"}
ROW = re.compile(r"\| `([^`]+)` \| (.+?) \| (everywhere|names|prose) \| (?:`(.+)`)? ?\|")

Uses = dict[str, dict[str, int]]


class Word(NamedTuple):
    """A word that is not used: what to say instead, where it is looked for, and the lines that may have it."""

    text: str
    instead: str
    where: str
    exception: re.Pattern[str] | None

    def count_in(self, text: str) -> int:
        """How often a text has the word, as a whole word or as a part of an identifier."""
        if any(letter.isupper() for letter in self.text):
            return len(re.findall(rf"(?<![A-Za-z]){re.escape(self.text)}(?![a-z])", text))
        return len(re.findall(rf"(?<![a-z]){re.escape(self.text)}(?![a-z])", split_capitals(text)))


def split_capitals(text: str) -> str:
    """`LruCache` as `lru_cache`, and everything in small letters."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()


def read_words(glossary: str) -> list[Word]:
    """The table of the glossary."""
    table = glossary.split("<!-- forbidden: begin -->")[1].split("<!-- forbidden: end -->", maxsplit=1)[0]
    found = [row.groups() for row in map(ROW.fullmatch, table.splitlines()) if row]
    return [
        Word(text, instead, where, re.compile(pattern.replace(r"\|", "|")) if pattern else None)
        for text, instead, where, pattern in found
    ]


def read_files() -> Iterator[tuple[str, str]]:
    """Path and text of every file that is checked."""
    paths = [
        *ROOT.glob("app/**/*.py"),
        *ROOT.glob("app/texts/*.json"),
        *ROOT.glob("docs/*.md"),
        ROOT / "docs" / "openapi.json",
        ROOT / "README.md",
    ]
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        if name not in LEFT_OUT:
            yield name, path.read_text()


def split_source(path: str, text: str) -> tuple[list[str], list[str]]:
    """The lines of a file with its identifiers only, and with its prose only."""
    lines = text.splitlines()
    if not path.endswith(".py"):
        return [], lines
    names, prose = [""] * len(lines), [""] * len(lines)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row = token.start[0] - 1
        if token.type == tokenize.NAME:
            names[row] += f" {token.string}"
        elif token.type in {tokenize.STRING, tokenize.COMMENT}:
            for number, line in enumerate(token.string.splitlines()):
                prose[row + number] += f" {line}"
    return names, prose


def count_uses(path: str, text: str, words: list[Word]) -> dict[str, int]:
    """How often each word that is not used stands in a file; only those that do."""
    flat = text + split_capitals(text)
    # Most words stand in no file: only for the others is a file taken apart.
    present = [word for word in words if word.text in flat]
    if not present:
        return {}
    names, prose = split_source(path, text)
    searched = {"names": names, "prose": prose, "everywhere": [*names, *prose]}
    uses = {
        word.text: sum(
            word.count_in(line)
            for line in searched[word.where]
            if word.exception is None or not word.exception.search(f"{path}:{line}")
        )
        for word in present
    }
    return {word: count for word, count in uses.items() if count}


def find_uses() -> Uses:
    """The uses in the whole project, by file."""
    words = read_words(GLOSSARY.read_text())
    uses = {path: count_uses(path, text, words) for path, text in read_files()}
    return {path: found for path, found in uses.items() if found}


def compare(uses: Uses, allowed: Uses) -> list[str]:
    """What is not as the list says: a new use, or an entry that is no longer needed."""
    faults = []
    for path in sorted(uses.keys() | allowed.keys()):
        found, listed = uses.get(path, {}), allowed.get(path, {})
        for word in sorted(found.keys() | listed.keys()):
            count, limit = found.get(word, 0), listed.get(word, 0)
            if count > limit:
                faults.append(f"{path}: “{word}” stands {count} times, {limit} are allowed; see docs/glossary.md")
            elif count < limit:
                faults.append(f"{path}: “{word}” stands {count} times and the list allows {limit}; run --write")
    return faults


def shrink(uses: Uses, allowed: Uses) -> Uses:
    """The list without what is no longer needed."""
    smaller = {
        path: {word: min(count, uses.get(path, {}).get(word, 0)) for word, count in listed.items()}
        for path, listed in allowed.items()
    }
    kept = {path: {word: count for word, count in listed.items() if count} for path, listed in smaller.items()}
    return {path: listed for path, listed in kept.items() if listed}


def main() -> int:
    """Say what is wrong; the exit code."""
    uses, allowed = find_uses(), json.loads(ALLOWED.read_text())
    if "--write" in sys.argv:
        allowed = shrink(uses, allowed)
        ALLOWED.write_text(json.dumps(allowed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    faults = compare(uses, allowed)
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
