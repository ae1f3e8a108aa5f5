"""API keys and scopes, without SQL and without HTTP.

A key is `prx_<tenant id>_<43 random characters><6 characters of checksum>`. The tenant in it makes the look-up
tenant-scoped; the checksum refuses a mistyped key before the database is asked. Only its SHA-256 is stored: the
random part has 256 bits, so a slow hash would add nothing.
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
_KEY = re.compile(r"prx_([1-9][0-9]{0,17})_[A-Za-z0-9_-]{43}([A-Za-z0-9_-]{6})", re.ASCII)


class NewKey(NamedTuple):
    """A key as it is made: `text` is shown once, `id` and `hash` are stored."""

    text: str
    id: str
    hash: bytes


def make_key(tenant_id: int) -> NewKey:
    """A new random key of the tenant."""
    body = f"prx_{tenant_id}_{secrets.token_urlsafe(32)}"
    text = body + _checksum(body)
    return NewKey(text, f"key-{secrets.token_hex(8)}", _hash(text))


def parse_key(text: str) -> tuple[int, bytes] | None:
    """The tenant and the hash of a key; none if it cannot be one of ours."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-6]) != match[2]:
        return None
    return int(match[1]), _hash(text)


def allows(scopes: Collection[str], needed: str) -> bool:
    """Whether a key with `scopes` may do what `needed` names; `admin` may do everything."""
    return needed in scopes or "admin" in scopes


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
