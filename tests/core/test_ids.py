"""An id is taken if, and only if, it comes through every address, file and table as it is."""

import re
import unicodedata
from urllib.parse import quote, unquote, urljoin

import httpx
import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.ids import ID_PATTERN, check_id
from tests.gate.examples import examples

BASE = "http://service/v1/courses/c/learners/"
# What the rule is about, next to any text.
TEXTS = st.text(st.sampled_from(". /%ab\t\n\0\x7f\x85\xa0\u2028\u200b\ufeff\u3000"), max_size=6) | st.text(max_size=300)


def comes_through(id_: str) -> bool:
    """What the rule protects, said without it: clients, spreadsheets and terminals leave the id as it is."""
    if "\ufeff" in (id_[:1], id_[-1:]) or not id_ or len(id_) > 255 or len(id_.encode("utf-8", "replace")) > 850:
        return False
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in id_):
        return False
    sent = urljoin(BASE, quote(id_, safe="") + "/mastery")
    by_httpx = str(httpx.URL(BASE + quote(id_, safe="") + "/mastery"))
    paths = [url.removeprefix(BASE).removesuffix("/mastery") for url in (sent, by_httpx)]
    return [unquote(path) for path in paths] == [id_, id_] and id_.strip() == id_


@given(TEXTS)
@example(".")
@example("..")
@example("...")
@example(".a")
@example("a.")
@example("a/../b")
@example("\ufeffann")
@example("a\u0301")
@example(" " * 255)
@example("a" + " " * 254)
@example("\U0010ffff" * 213)
@examples(400)
def test_id_is_taken_if_and_only_if_it_comes_through(id_: str) -> None:
    if comes_through(id_):
        assert check_id(id_) == id_
    else:
        with pytest.raises(ValueError, match=r"^must "):
            check_id(id_)


@given(TEXTS.filter(lambda text: len(text) <= 200 and text.isprintable()))
@examples(200)
def test_document_says_the_same_rule(id_: str) -> None:
    """Its pattern is read by the engines of others, which cannot look ahead; half surrogates are no text for them."""
    valid = jsonschema_rs.validator_for({"type": "string", "pattern": ID_PATTERN}).is_valid(id_)
    assert valid == bool(re.fullmatch(ID_PATTERN, id_)) == comes_through(id_)


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        ("", "blank"),
        (" \t", "blank"),
        ("a\nb", "control characters"),
        ("\0", "control characters"),
        ("..", "clients remove"),
        (" ann", "white space"),
        ("ann\u3000", "white space"),
        ("\ufeffann", "white space"),
        ("x" * 256, "at most 255 characters"),
        ("\U0001f600" * 213, "at most 850 bytes"),
        ("a\ud800", "surrogate"),
    ],
)
def test_reason_is_that_of_the_id(id_: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_id(id_)
