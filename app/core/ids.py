"""Ids: what the caller's own names of courses, skills, items, learners, responses and sessions may look like.

An id must come through an address as it was sent. Clients remove `.` and `..` from addresses, and clients, proxies and
spreadsheets cut or alter white space at the ends and control characters. What older versions stored can still be read.
"""

import re

LONGEST_ID = 255
# Three ids fit into one entry of an index of PostgreSQL (2,704 bytes).
MOST_BYTES = 850

_CONTROL = r"\x00-\x1f\x7f-\x9f"
# A byte order mark is glued to the first id of a file now and then, and is no more visible than a space.
_SPACE = rf"\s\ufeff{_CONTROL}"
# No control character, no white space at the ends, neither `.` nor `..`: also for engines that cannot look ahead.
ID_PATTERN = rf"^([^.{_SPACE}]([^{_CONTROL}]*[^{_SPACE}])?|\.([^{_CONTROL}]*[^.{_SPACE}]|[^{_CONTROL}]+\.))$"
_ID = re.compile(ID_PATTERN)
_CONTROLS = re.compile(f"[{_CONTROL}]")


def check_id(id_: str) -> str:
    """Return an id that may be given to something new. Raises `ValueError` with the reason if it may not."""
    if len(id_) > LONGEST_ID:
        raise ValueError(f"must have at most {LONGEST_ID} characters")
    if not _ID.fullmatch(id_):
        raise ValueError(_fault_in(id_))
    return check_storable(id_)


def _fault_in(id_: str) -> str:
    """Return which part of the rule an id breaks."""
    if not id_ or id_.isspace():
        return "must not be blank"
    if _CONTROLS.search(id_):
        return "must not contain control characters, such as tabs, line ends and NUL"
    if id_ in {".", ".."}:
        return "must not be . or .., which clients remove from addresses"
    return "must not begin or end with white space"


def check_storable(id_: str) -> str:
    """Return an id that both databases can hold. Raises `ValueError` with the reason if one cannot."""
    try:
        size = len(id_.encode())
    except UnicodeEncodeError:
        raise ValueError("must not contain half of a surrogate pair") from None
    if size > MOST_BYTES:
        raise ValueError(f"must have at most {MOST_BYTES} bytes in UTF-8")
    return id_
