"""How many examples a law is tried on: what its test asks for at a desk and in `make test-all`, fewer in `make test`.

Wherever a failure would stop others, the examples are always the same; at a desk new ones are searched for.
"""

from typing import Any

from hypothesis import settings

USUAL = 50
LEAST = 5

settings.register_profile("desk", deadline=None, max_examples=USUAL, print_blob=True)
settings.register_profile("all", settings.get_profile("desk"), derandomize=True)
settings.register_profile("gate", settings.get_profile("all"), max_examples=USUAL // 5)
settings.register_profile("night", settings.get_profile("desk"), max_examples=20 * USUAL)


def examples(count: int, **options: Any) -> settings:
    """So many examples, more or fewer by the profile that is loaded when the test is collected."""
    return settings(max_examples=scaled(count), **options)


def scaled(count: int, least: int = LEAST) -> int:
    """So many, more or fewer by the profile."""
    return max(min(count, least), round(count * settings().max_examples / USUAL))
