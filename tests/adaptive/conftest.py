"""In this folder a warning or a floating-point exception of NumPy is a failure."""

from collections.abc import Iterator

import numpy as np
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"))


@pytest.fixture(autouse=True)
def no_floating_point_surprise() -> Iterator[None]:
    """Overflow, underflow, division by zero and invalid operations raise."""
    with np.errstate(all="raise"):
        yield
