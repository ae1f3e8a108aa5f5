"""API keys, the tokens that stand for them, and scopes, without SQL and without HTTP.

A key is `prx_<tenant id>_<43 random characters><6 characters of checksum>`, a token the same with `prt`. The tenant in
it makes the look-up tenant-scoped; the checksum refuses a mistyped one before the database is asked. Only its SHA-256
is stored: the random part has 256 bits, so a slow hash would add nothing.
"""

import base64
import hashlib
import re
import secrets
import zlib
from collections.abc import Collection
from typing import NamedTuple

SCOPES = {
    "admin": "everything, and the making of keys",
    "catalogue:write": "create and change courses, skills, items and calibrations",
    "responses:write": "send, void and regrade responses",
    "learners:read": "read the mastery and the recommendations of single learners",
    "analytics:read": "read whole cohorts",
}

# 18 digits always fit the signed 64 bits of the column.
_SECRET = re.compile(r"(prx|prt)_([1-9][0-9]{0,17})_[A-Za-z0-9_-]{43}([A-Za-z0-9_-]{6})", re.ASCII)


class NewKey(NamedTuple):
    """A key as it is made: `text` is shown once, `id` and `hash` are stored."""

    text: str
    id: str
    hash: bytes


def make_key(tenant_id: int) -> NewKey:
    """A new random key of the tenant."""
    text, hash_ = _make("prx", tenant_id)
    return NewKey(text, f"key-{secrets.token_hex(8)}", hash_)


def make_token(tenant_id: int) -> tuple[str, bytes]:
    """A new random token of the tenant: its text and its hash."""
    return _make("prt", tenant_id)


def parse_key(text: str) -> tuple[int, bytes] | None:
    """The tenant and the hash of a key; none if it cannot be one of ours."""
    return _parse("prx", text)


def parse_token(text: str) -> tuple[int, bytes] | None:
    """The tenant and the hash of a token; none if it cannot be one of ours."""
    return _parse("prt", text)


def allows(scopes: Collection[str], needed: str) -> bool:
    """Whether a key with `scopes` may do what `needed` names; `admin` may do everything."""
    return needed in scopes or "admin" in scopes


def _make(kind: str, tenant_id: int) -> tuple[str, bytes]:
    body = f"{kind}_{tenant_id}_{secrets.token_urlsafe(32)}"
    text = body + _checksum(body)
    return text, _hash(text)


def _parse(kind: str, text: str) -> tuple[int, bytes] | None:
    match = _SECRET.fullmatch(text)
    if match is None or match[1] != kind or _checksum(text[:-6]) != match[3]:
        return None
    return int(match[2]), _hash(text)


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
