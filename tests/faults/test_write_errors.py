"""A disk that fails in the middle of a commit (EIO): what could not be made durable is not acknowledged."""

from pathlib import Path

import pytest

from tests.faults.harness import HOOKED, Ledger, amounts, assert_nothing_lost, furnish, serving, under_load
from tests.faults.test_kills import can_run

pytestmark = pytest.mark.anyio

# The first syncs belong to the start; then every so many fails.
HEALTHY, EVERY = 40, 25
BETWEEN = 50


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("answers", amounts(100, 2_000))
async def test_what_the_disk_refuses_is_not_acknowledged(
    answers: int, database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    failing = ("--trace=fdatasync", f"--inject=fdatasync:error=EIO:when={HEALTHY}+{EVERY}", f"--output={trace}")
    tracing = ("strace", "-f", "-qq", "--signal=none", *failing)
    if not can_run([*tracing, "true"]):
        pytest.skip("strace is not here, or may not look into processes")
    key = await furnish(database_url)
    with serving(database_url, key, tmp_path / "service", command=(*tracing, *HOOKED)) as service:
        await service.ready(1)
        async with under_load(service, ledger, clients=2) as load:
            for _ in range(answers // BETWEEN):
                await load.more(BETWEEN)
        failed = trace.read_text().count("(INJECTED)")
        assert failed > 0
        assert load.tally["503"] > 0
        await assert_nothing_lost(service, ledger)
