"""A disk that fails in the middle of a commit (EIO): what could not be made durable is not acknowledged."""

import asyncio
import shlex
import tempfile
from pathlib import Path

import pytest

from app.core.migrate import migrate
from tests import postgres
from tests.client import opened
from tests.faults.harness import (
    HOOKED,
    Ledger,
    assert_nothing_lost,
    create_courses,
    fault_counts,
    find_losses,
    serving,
    under_load,
)
from tests.faults.test_kills import can_run

pytestmark = pytest.mark.anyio

# The first syncs of a process belong to the start; then every so many fails.
HEALTHY, EVERY = 40, 25
BETWEEN = 50


def failing(trace: Path) -> tuple[str, ...]:
    """What to run a program by, so that its disk fails."""
    fault = ("--trace=fdatasync", f"--inject=fdatasync:error=EIO:when={HEALTHY}+{EVERY}", f"--output={trace}")
    command = ("strace", "-f", "-qq", "--signal=none", *fault)
    if not can_run([*command, "true"]):
        pytest.skip("strace is not here, or may not look into processes")
    trace.unlink()
    return command


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("answers", fault_counts(100, 2_000))
async def test_answer_that_the_disk_refuses_is_not_acknowledged(
    answers: int, database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    command = (*failing(trace), *HOOKED)
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", command=command) as service:
        await service.ready(1)
        async with under_load(service, ledger, clients=2) as load:
            for _ in range(answers // BETWEEN):
                await load.more(BETWEEN)
        failed = trace.read_text().count("(INJECTED)")
        print(f"sqlite: {load.acknowledged} answers, {failed} syncs failed")  # noqa: T201 (how much there was to check)
        assert failed > 0
        assert load.tally["503"] > 0
        await assert_nothing_lost(service, ledger)


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
async def test_ledger_notices_a_service_that_ignores_errors_of_the_disk(
    database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """The control: a service that takes a commit that failed for one that did not."""
    trace = tmp_path / "trace"
    command = (*failing(trace), *HOOKED)
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", command=command, settings={"FORGIVING": "1"}) as service:
        await service.ready(1)
        async with under_load(service, ledger, clients=2) as load:
            await load.more(2 * BETWEEN)
        async with opened(database_url) as database:
            lost = await find_losses(database, ledger)
    assert 0 < len(lost) < load.acknowledged


@pytest.mark.parametrize("answers", fault_counts(100, 2_000))
async def test_answer_that_the_disk_refuses_postgresql_is_not_acknowledged(
    answers: int, ledger: Ledger, tmp_path: Path
) -> None:
    """A sync of its log that fails stops PostgreSQL at once, and it recovers from what is on the disk."""
    # The name of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="proxima-pg-"))
    trace = folder / "trace"
    traced = postgres.START_AGAIN.replace("exec", f"exec {shlex.join(failing(trace))}")
    url = postgres.server_url(folder)
    process = postgres.start(folder, postgres.DURABLE)
    try:
        await asyncio.to_thread(postgres.wait_until_ready, url)
        await asyncio.to_thread(migrate, url)
        key = await create_courses(url)
        postgres.crash(process, folder)
        process = postgres.launch(folder, traced, postgres.DURABLE)
        await asyncio.to_thread(postgres.wait_until_ready, url)
        with serving(url, key, tmp_path / "service") as service:
            await service.ready(1)
            async with under_load(service, ledger, clients=2) as load:
                for _ in range(answers // BETWEEN):
                    await load.more(BETWEEN)
            failed = trace.read_text().count("(INJECTED)")
            stops = (folder / "log").read_text().count("PANIC")
            print(f"postgresql: {load.acknowledged} answers, {failed} syncs failed, {stops} stops")  # noqa: T201
            assert 0 < stops <= failed
            assert load.tally["503"] > 0
            assert load.tally["broken"] == 0
            await asyncio.to_thread(postgres.shut_down, process)
            process = postgres.start_again(folder, postgres.DURABLE)
            await asyncio.to_thread(postgres.wait_until_ready, url)
            await assert_nothing_lost(service, ledger)
    finally:
        postgres.stop(process, folder)
