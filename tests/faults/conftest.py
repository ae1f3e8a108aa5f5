from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    empty = Ledger(tmp_path / "ledger")
    yield empty
    empty.close()
