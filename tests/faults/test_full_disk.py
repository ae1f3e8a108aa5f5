"""A disk that is full: 503 and nothing by halves, and all is well again as soon as there is room."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError

from app import group_commit
from app.core import database as foundations
from app.core.migrate import migrate
from tests import postgres
from tests.client import app_of, find_differences, school
from tests.faults.harness import response_of, stored_outcomes

pytestmark = pytest.mark.anyio

DISK = 48 << 20
# Less than a batch needs, but more than an answer, but for the first.
ROOMS = (256 << 10, 24 << 10, 32 << 10, 40 << 10)
BATCH, MOST_BATCHES = 40, 200


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """A server that nobody else uses: while a disk is full, its checkpoints fail for all of its databases."""
    folder = Path(tempfile.mkdtemp(prefix="proxima-pg-"))
    process = postgres.start(folder)
    try:
        url = postgres.server_url(folder)
        postgres.wait_until_ready(url)
        yield url
    finally:
        postgres.stop(process, folder)


@pytest.fixture
def disk(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where PostgreSQL can go."""
    server = request.getfixturevalue("own_server") if engine_name == "postgresql" else None
    folder = tmp_path if server is None else Path(str(make_url(server).query["host"]))
    place = Path(tempfile.mkdtemp(prefix="disk-", dir=folder))
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK},mode=777", "proxima-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        place.rmdir()
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "--lazy", place], check=True)
        place.rmdir()


@pytest.fixture
def small_url(engine_name: str, disk: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a migrated database on the small disk."""
    if engine_name == "sqlite":
        path = shutil.copy(request.getfixturevalue("sqlite_template"), disk / "proxima.db")
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("own_server")
    name, folder = disk.name.replace("-", "_"), disk / "space"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    postgres.administer(server, f"CREATE TABLESPACE \"{name}\" LOCATION '{folder}'")
    with postgres.fresh_database(server, name, template="template0", tablespace=name) as url:
        migrate(url)
        yield url
    postgres.administer(server, f'DROP TABLESPACE "{name}"')


@contextmanager
def filled(disk: Path) -> Iterator[BinaryIO]:
    """The file that fills a disk, for a while."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        try:
            yield file
        finally:
            filler.unlink()


def make_room(filler: BinaryIO, room: int) -> None:
    """Give back some of a disk."""
    filler.truncate(os.fstat(filler.fileno()).st_size - room)


async def fill_up(url: str, disk: Path) -> list[tuple[str, int]]:
    """Send batches until there is no room, and on when there is; whatever is not as it should be, with its number."""
    wrong: list[tuple[str, int]] = []
    ids = [[f"r-{number}-{place}" for place in range(BATCH)] for number in range(MOST_BATCHES)]
    async with school(url) as client:
        database = app_of(client).state.database

        async def send(number: int) -> int:
            reply = await client.post("/responses:batch", json={"responses": list(map(response_of, ids[number]))})
            stored = ids[number] & (await database.read(stored_outcomes)).keys()
            if len(stored) != (BATCH if reply.status_code == 200 else 0):
                wrong.append(("stored", len(stored)))
            if reply.status_code == 503:
                assert int(reply.headers["Retry-After"]) > 0
                assert reply.json()["code"] == "database_unavailable"
            elif reply.status_code != 200 or any(row["status"] != "created" for row in reply.json()["results"]):
                wrong.append(("told", reply.status_code))
            return reply.status_code

        assert await send(0) == 200
        number, refused = 0, []
        with filled(disk) as filler:
            for room in ROOMS:
                make_room(filler, room)
                number += 1
                while await send(number) == 200 and not wrong:
                    number += 1
                refused.append(number)
                if wrong:
                    return wrong
            # What was told can still be read.
            assert (await client.get("learners/l1/mastery")).status_code == 200
        for number in refused:
            assert await send(number) == 200
        assert await find_differences(database) == []
    return wrong


async def test_full_disk_refuses_answers_and_recovers(small_url: str, disk: Path) -> None:
    assert await fill_up(small_url, disk) == []


async def test_answers_without_a_shared_transaction_are_stored_in_part_on_a_full_disk(
    small_url: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(group_commit, "MAX_GROUP", 1)
    [(complaint, stored)] = await fill_up(small_url, disk)
    assert complaint == "stored"
    assert 0 < stored < BATCH


async def test_full_disk_that_is_not_handled_is_an_internal_error(
    small_url: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(foundations, "UNAVAILABLE_STATES", ())
    monkeypatch.setattr(foundations, "OperationalError", InterfaceError)
    wrong = await fill_up(small_url, disk)
    assert ("told", 200) in wrong
