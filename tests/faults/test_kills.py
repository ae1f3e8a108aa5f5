"""kill -9 of whoever answers: what was acknowledged stays, what was not is told when it is sent again."""

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection, text

from tests.client import opened, verify
from tests.faults.harness import (
    CLIENTS,
    HOOKED,
    Ledger,
    assert_nothing_lost,
    clients_of,
    create_courses,
    fault_counts,
    find_losses,
    response_of,
    send_until_acknowledged,
    serving,
    stored_outcomes,
    under_load,
)

pytestmark = pytest.mark.anyio

# How many answers are acknowledged between two faults.
BETWEEN = 40


def integrity(db: Connection) -> str:
    return str(db.execute(text("PRAGMA integrity_check")).scalar_one())


@pytest.mark.parametrize(("engine_name", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine_name"])
@pytest.mark.parametrize("kills", fault_counts(2, 30))
async def test_acknowledged_answers_survive_the_kill_of_a_worker(
    workers: int, kills: int, database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", workers=workers) as service:
        await service.ready(workers)
        async with under_load(service, ledger) as load:
            for number in range(kills):
                await load.more(BETWEEN)
                everybody = number == kills - 1
                service.kill(service.pids if everybody else random.sample(service.pids, 1))
            await load.more(BETWEEN)
        assert load.tally["broken"] > 0
        await assert_nothing_lost(service, ledger)
    if database_url.startswith("sqlite"):
        async with opened(database_url) as database:
            assert await database.read(integrity) == "ok"


@pytest.mark.controls
async def test_ledger_notices_answers_acknowledged_before_their_commit(
    database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """The control: the ledger notices."""
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", command=HOOKED) as service:
        await service.ready(1)
        async with under_load(service, ledger, prefix="told-early-") as load:
            await load.more(CLIENTS)
            service.end()
    async with opened(database_url) as database:
        assert await find_losses(database, ledger) != set()


@pytest.mark.parametrize("deaths", fault_counts(3, 100))
async def test_answer_takes_effect_once_if_the_worker_dies_around_the_commit(
    deaths: int, database_url: str, tmp_path: Path
) -> None:
    """Killed before the commit, the retry is the first; killed after it, the retry is told what was decided then."""
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", command=HOOKED) as service:
        await service.ready(1)
        async with clients_of(service) as client, opened(database_url) as database:
            for number in range(deaths):
                for moment, status in (("before", 201), ("after", 200)):
                    id_ = f"dies-{moment}-{number}"
                    answer = response_of(id_)
                    with pytest.raises(httpx.TransportError):
                        await client.post("responses", json=answer)
                    assert (id_ in await database.read(stored_outcomes)) == (status == 200)
                    # The other way to name an answer.
                    del answer["id"]
                    again = await send_until_acknowledged(client, answer, Counter(), headers={"Idempotency-Key": id_})
                    assert again.status_code == status
                    assert again.content == (await database.read(stored_outcomes))[id_]
            assert len(await database.read(stored_outcomes)) == 2 * deaths
            assert (await verify(database)).differences == []

            # The control: who does not name the answer again counts it twice.
            with pytest.raises(httpx.TransportError):
                await client.post("responses", json=response_of("dies-after-all"))
            await send_until_acknowledged(client, {**response_of("dies-after-all"), "id": None}, Counter())
            assert len(await database.read(stored_outcomes)) == 2 * deaths + 2


def can_run(command: Sequence[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("unsynced", [False, True])
async def test_sqlite_syncs_the_disk_before_an_answer_is_acknowledged(
    unsynced: bool, database_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """One sync at least for each answer of a lone client; the control: with `synchronous = OFF` there are none."""
    trace, answers = tmp_path / "trace", 20
    tracing = ("strace", "-f", "-qq", "--signal=none", "--trace=fdatasync,fsync", f"--output={trace}")
    if not can_run([*tracing, "true"]):
        pytest.skip("strace is not here, or may not look into processes")
    key = await create_courses(database_url)
    settings = {"UNSYNCED": "1"} if unsynced else {}
    with serving(database_url, key, tmp_path / "service", command=(*tracing, *HOOKED), settings=settings) as service:
        await service.ready(1)
        before = len(trace.read_text().splitlines())
        async with under_load(service, ledger, clients=1) as load:
            await load.more(answers)
        synced = len(trace.read_text().splitlines()) - before
    assert len(ledger.read()) >= answers
    assert (synced == 0) if unsynced else (synced >= len(ledger.read()))
