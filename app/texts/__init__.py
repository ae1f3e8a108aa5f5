"""What is said to people, by key and language: one file for each language beside this one, all words in it.

A key that a language lacks is said in English. `{names}` in a text are filled in; each language has the same ones.
"""

import json
from pathlib import Path

FALLBACK = "en"
TEXTS: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("*.json"))
}
LANGUAGES = tuple(TEXTS)


def say(language: str, key: str, **values: str) -> str:
    """A text of the catalogue with its names filled in; a language that there is not is English."""
    text = TEXTS.get(language, {}).get(key) or TEXTS[FALLBACK][key]
    return text.format(**values)
