"""Keys: made, read again, refused when altered; scopes."""

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.security import SCOPES, allows, make_key, parse_key

TENANTS = st.integers(min_value=1, max_value=10**18 - 1)
LETTERS = string.ascii_letters + string.digits + "-_"


@given(TENANTS)
def test_key_is_parsed_as_it_was_made(tenant_id: int) -> None:
    key = make_key(tenant_id)
    assert parse_key(key.text) == (tenant_id, key.hash)
    assert key.hash == hashlib.sha256(key.text.encode()).digest()
    assert key.text not in repr((key.id, key.hash))


def test_keys_differ() -> None:
    keys = [make_key(1) for _ in range(100)]
    assert len({key.text for key in keys}) == len({key.id for key in keys}) == 100


@given(TENANTS, st.data())
def test_key_with_one_wrong_character_is_refused(tenant_id: int, data: st.DataObject) -> None:
    text = make_key(tenant_id).text
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([letter for letter in LETTERS if letter != text[place]]))
    assert parse_key(text[:place] + other + text[place + 1 :]) is None


@given(st.text() | st.builds("prx_{}_{}".format, st.integers(), st.text(LETTERS, min_size=48, max_size=50)))
def test_text_that_is_not_a_key_is_refused(text: str) -> None:
    assert parse_key(text) is None


def test_key_with_anything_around_it_is_refused() -> None:
    text = make_key(7).text
    for altered in (text + "\n", " " + text, text + "=", text[:-1], text.upper(), text * 1000):
        assert parse_key(altered) is None


@pytest.mark.parametrize("scope", SCOPES)
def test_admin_implies_every_scope_and_nothing_else_does(scope: str) -> None:
    assert allows({"admin"}, scope)
    assert allows({scope}, scope)
    assert not allows(set(), scope)
    if scope != "admin":
        assert not allows(SCOPES.keys() - {scope, "admin"}, scope)
