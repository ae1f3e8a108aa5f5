"""The command line: what it prints, what it does, and with which code it ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app import cli
from app.adaptive.cat import METHODS, RULES
from app.adaptive.irt import Model
from app.analysis.practice_study import POLICY_NAMES, WORLD_NAMES
from app.cli import main
from app.cli.doctor import CHECKS
from app.core.database import open_database
from app.queries.responses import count_responses
from tests.client import CATALOGUE, minute_text, opened
from tests.processes import NO_CERTIFICATES, start

Run = Callable[..., Result]
KEY = re.compile(r"prx_\d+_[A-Za-z0-9_-]{49}\n")


def runner_of(url: str) -> Run:
    def run(*arguments: str, **settings: str) -> Result:
        environment = {"PROXIMA_DATABASE_URL": url, **settings}
        result = CliRunner().invoke(main, arguments, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def proxima(database_url: str) -> Run:
    """The command on a migrated database."""
    return runner_of(database_url)


@pytest.fixture
def fresh(empty_database_url: str) -> Run:
    """The command on a database without a table."""
    return runner_of(empty_database_url)


def fine(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, code: int) -> str:
    """The one line that says why."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("proxima: ")
    return line


@pytest.fixture
def course(proxima: Run, tmp_path: Path) -> Path:
    """A file of answers to a course that is there."""
    catalogue = tmp_path / "arithmetic.json"
    catalogue.write_text(json.dumps(CATALOGUE))
    assert fine(proxima("import", "catalogue", str(catalogue))) == "course arithmetic: 4 skills, 8 items (revision 1)\n"
    return answers(tmp_path / "answers.csv")


def answers(path: Path, extra: Sequence[str] = ()) -> Path:
    rows = [
        f"l{who},i{item},,{(who * item + who) % 3 % 2},{minute_text(20 * item + who)}"
        for who in range(20)
        for item in range(1, 8)
    ]
    path.write_text("\n".join(["learner_id,item_id,skill_ids,correct,attempted_at", *rows, *extra, ""]))
    return path


def test_commands_refuse_a_database_that_is_not_migrated(fresh: Run) -> None:
    for command in (
        ("serve",),
        ("key", "list", "--tenant", "t"),
        ("calibrate", "--course", "c"),
        ("replay", "--verify"),
    ):
        assert "run `proxima migrate`" in refused(fresh(*command), 3)


def test_migrate_prepares_the_database_and_may_be_repeated(fresh: Run) -> None:
    for _ in range(2):
        assert fine(fresh("migrate")) == "the database is up to date\n"
    assert fine(fresh("replay", "--verify")) == ""


def test_key_create_prints_only_the_key_on_standard_output(proxima: Run) -> None:
    made = proxima("key", "create", "--tenant", "school", "--scope", "responses:write", "--scope", "learners:read")
    assert KEY.fullmatch(fine(made))
    assert made.stderr == ""
    listed = fine(proxima("key", "list", "--tenant", "school"))
    assert made.stdout.strip() not in listed
    [line] = listed.splitlines()
    assert "in force" in line
    assert line.endswith("learners:read responses:write")
    id_ = line.split()[0]
    fine(proxima("key", "revoke", id_, "--tenant", "school"))
    assert "revoked" in fine(proxima("key", "list", "--tenant", "school"))
    refused(proxima("key", "revoke", id_, "--tenant", "school"), 1)
    refused(proxima("key", "list", "--tenant", "other"), 1)
    assert proxima("key", "create", "--tenant", "school", "--scope", "root").exit_code == 2


def test_import_catalogue_reads_json_and_csv(proxima: Run, course: Path, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("id,skills,title\nx1,add;fresh,One\nx2,,Two\n")
    told = fine(proxima("import", "catalogue", str(table), "--course", "arithmetic"))
    assert told == "course arithmetic: 5 skills, 10 items (revision 2)\n"


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", '{"items": [{"id": "x", "skills": ["add"], "colour": 1}]}', "/items/0/colour"),
        ("a.json", '{"items": [{"id": "x", "skills": ["none"]}]}', "/items/0/skills/0"),
        ("a.json", '{"skills": [{"id": "x", "prerequisites": ["x"]}]}', "x → x"),
        ("a.json", "{", "strict JSON"),
        ("a.csv", "id,skills,max_score\nx,add,-3\n", "/items/0/max_score"),
    ],
)
def test_import_catalogue_refuses_an_invalid_catalogue(
    proxima: Run, tmp_path: Path, name: str, content: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    result = proxima("import", "catalogue", str(path), "--course", "c")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("proxima: ")
    assert place in result.stderr
    assert "Traceback" not in result.stderr
    refused(proxima("calibrate", "--course", "c"), 1)


def test_import_responses_checks_loads_and_can_be_repeated(proxima: Run, course: Path) -> None:
    answers(course, ["l1,i1,,-2,", "l1,i1,,1,yesterday"])
    rejected = course.with_name("answers.csv.rejected.csv")
    load = ("import", "responses", str(course), "--course", "arithmetic")

    dry = proxima(*load, "--dry-run")
    assert fine(dry) == "140 rows can be loaded\n"
    assert dry.stderr == f"2 rows rejected: see {rejected}\n"
    lines = [line.split(",")[0] for line in rejected.read_text().splitlines()]
    assert lines == ["line", "142", "143"]
    rejected.unlink()
    assert "0 answers" in fine(proxima("replay", "--verify"))

    loaded = proxima(*load)
    assert fine(loaded).startswith("140 answers loaded (")
    assert loaded.stderr.endswith(f"2 rows rejected: see {rejected}\n")
    assert rejected.exists()
    assert fine(proxima(*load)).startswith("0 answers loaded (")
    refused(proxima("import", "responses", str(course), "--course", "nowhere", "--tenant", "other"), 1)


@pytest.mark.parametrize("new", [True, False])
def test_file_without_a_usable_row_loads_nothing(proxima: Run, course: Path, new: bool) -> None:
    course.write_text("learner_id,item_id,skill_ids,correct,attempted_at\nann,i1,add,,\nbob,i2,,yes,\n")
    rejected = course.with_name("answers.csv.rejected.csv")
    load = ("import", "responses", str(course), "--course", "new" if new else "arithmetic")
    for command in ((*load, "--dry-run"), load, load):
        assert refused(proxima(*command), 1) == (
            f"proxima: nothing was loaded: all 2 rows were rejected, as on line 2: correct is missing; see {rejected}"
        )
        assert rejected.read_text().count("\n") == 3
        assert rejected.stat().st_mode & 0o777 == 0o600
    assert "no such course" in refused(proxima("calibrate", "--course", "new"), 1)
    assert "0 answers" in fine(proxima("replay", "--verify"))
    course.write_text("learner_id,item_id,skill_ids,correct,attempted_at\n" + "ann,i1,add,,\n" * 3 + "bob,i2,,1,\n")
    assert fine(proxima(*load)).startswith("1 answer loaded (")
    course.write_text("learner_id,item_id,skill_ids,correct\n")
    assert fine(proxima(*load)).startswith("0 answers loaded (")


def test_ids_that_no_address_carries_name_no_course_and_no_tenant(proxima: Run, course: Path) -> None:
    for name in ("..", " c", "a\tb"):
        for kind, file in (("catalogue", course.with_name("arithmetic.json")), ("responses", course)):
            told = proxima("import", kind, str(file), "--course", name)
            assert (told.exit_code, told.stdout) == (1, "")
            assert told.stderr.startswith("proxima: the id of a new course must not ")
        made = proxima("key", "create", "--tenant", name, "--scope", "admin")
        assert "the name of a tenant must not " in refused(made, 1)


def test_calibrate_needs_answers_and_activates_its_result(proxima: Run, course: Path) -> None:
    assert "at least 100 responses" in refused(proxima("calibrate", "--course", "arithmetic"), 1)
    refused(proxima("calibrate", "--course", "nowhere"), 1)
    fine(proxima("import", "responses", str(course), "--course", "arithmetic"))
    told = fine(proxima("calibrate", "--course", "arithmetic", "--activate")).splitlines()
    assert told[0].startswith("calibration c-1: 140 answers of 20 learners; held-out log loss ")
    assert told[1].startswith("items: ")
    assert told[2].startswith("mastery: ")
    assert told[3] == "calibration c-1 is in force; 20 snapshots were rebuilt"
    assert ", 0 snapshots to be rebuilt, 0 of another version, 0 differences" in fine(proxima("replay", "--verify"))


def test_calibrate_leaves_out_learners_and_spans(proxima: Run, course: Path) -> None:
    fine(proxima("import", "responses", str(course), "--course", "arithmetic"))
    learners = course.with_name("bots.txt")
    learners.write_text("l0\nl1\n\n")
    leave = ("--leave-out-learners", str(learners), "--leave-out-span", "2027-01-01T00:00:00Z", "-")
    told = fine(proxima("calibrate", "--course", "arithmetic", "--activate", *leave)).splitlines()
    assert told[0].startswith("calibration c-1: 126 answers of 18 learners; ")
    assert "left out on request: 14 answers" in told
    # Only the fit leaves them out: all learners are rebuilt, and nothing is another than what follows from the log.
    assert told[-1] == "calibration c-1 is in force; 20 snapshots were rebuilt"
    assert ", 0 snapshots to be rebuilt, 0 of another version, 0 differences" in fine(proxima("replay", "--verify"))
    wrong = proxima("calibrate", "--course", "arithmetic", "--leave-out-span", "yesterday", "-")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "/leave_out/spans/0/since" in wrong.stderr


def test_doctor_screens_a_course(proxima: Run, tmp_path: Path) -> None:
    """An item with a wrong key is named with what that rests on, and fails the check; without it all is well."""
    file = tmp_path / "answers.csv"
    for turned in (False, True):
        rows = ["learner_id,item_id,skill_ids,correct"]
        for who in range(200):
            for item in range(10):
                right = (who * 7919 % 200) / 20 + (who * 31 + item * 17) % 5 > item + 2
                rows.append(f"{turned}{who},i{item},s,{int(right != (turned and item == 4))}")
        file.write_text("\n".join(rows) + "\n")
        name = f"c{int(turned)}"
        catalogue = {"skills": [{"id": "s"}], "items": [{"id": f"i{item}", "skills": ["s"]} for item in range(10)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(catalogue))
        fine(proxima("import", "catalogue", str(tmp_path / f"{name}.json")))
        fine(proxima("import", "responses", str(file), "--course", name))
    well, ill = proxima("doctor", "--course", "c0"), proxima("doctor", "--course", "c1")
    assert "ok    items: 10 judged, none is suspect" in well.stdout
    assert "ok    learners: 0 of 0 with enough answers do not fit" in well.stdout
    assert "FAIL  items: 1 of 10 items do not measure what the others measure" in ill.stdout
    assert "FAIL  items: item i4: its key is probably wrong: item-rest correlation -0." in ill.stdout
    assert "over 200 answers" in ill.stdout
    assert ill.exit_code == 1
    assert "FAIL  course: " in proxima("doctor", "--course", "nowhere").stdout
    assert proxima("doctor", "--tenant", "school").exit_code == 2


def test_replay_finds_the_first_difference(proxima: Run, course: Path, database_url: str) -> None:
    fine(proxima("import", "responses", str(course), "--course", "arithmetic"))
    told = fine(proxima("replay", "--verify"))
    assert told.startswith("default/arithmetic: 20 learners, 140 answers, 0 recommendations, ")
    tamper(database_url, "UPDATE response SET p_correct = 0.5 WHERE learner_id = 'l3'")
    result = proxima("replay", "--verify")
    assert result.exit_code == 1
    assert "another prediction follows from the log" in result.stderr
    assert proxima("replay").exit_code == 2


def test_doctor_names_what_is_wrong(fresh: Run) -> None:
    def findings(result: Result) -> dict[str, str]:
        return {line[6:].partition(":")[0]: line[:4].strip() for line in result.stdout.splitlines()}

    ill = fresh("doctor")
    assert ill.exit_code == 1
    assert findings(ill) == {"settings": "ok", "database": "FAIL"}
    fine(fresh("migrate"))
    assert findings(fresh("doctor"))["keys"] == "FAIL"
    fine(fresh("key", "create", "--tenant", "school", "--scope", "admin"))
    well = fresh("doctor")
    found = findings(well)
    assert set(found) == {name for name, _ in CHECKS}
    # the PostgreSQL of the tests does not sync its commits, and the doctor says so
    assert {name for name, word in found.items() if word == "FAIL"} <= {"durability"}
    assert well.exit_code == ("FAIL" in found.values())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"PROXIMA_COLOUR": "red"}, "PROXIMA_COLOUR"),
        ({"PROXIMA_POOL_SIZE": "many"}, "PROXIMA_POOL_SIZE"),
        ({"PROXIMA_DATABASE_URL": "mysql://x"}, "PROXIMA_DATABASE_URL"),
        ({"PROXIMA_DATABASE_URL": "sqlite:////no/such/folder/x.db"}, "/no/such/folder"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_wrong_setting_is_named(command: str, settings: dict[str, str], named: str) -> None:
    assert named in refused(runner_of("sqlite:///unused.db")(command, **settings), 3)


def test_migrate_goes_to_a_revision_and_loses_data_only_if_allowed(proxima: Run) -> None:
    assert "down to 0005 loses data" in refused(proxima("migrate", "--to", "0005"), 1)
    assert "no revision 12" in refused(proxima("migrate", "--to", "12"), 1)
    assert fine(proxima("migrate", "--to", "0005", "--lose-data")) == "the database is at revision 0005\n"
    assert "run `proxima migrate`" in refused(proxima("key", "list", "--tenant", "school"), 3)
    assert fine(proxima("migrate")) == "the database is up to date\n"


@pytest.mark.parametrize("command", ["migrate", "serve"])
@pytest.mark.parametrize("address", ["nobody@127.0.0.1:1/x", "nobody@/x?host=/no/such/folder"])
def test_unreachable_database_is_reported_in_one_line(command: str, address: str) -> None:
    assert "the database " in refused(runner_of(f"postgresql://{address}")(command), 3 if command == "serve" else 1)


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_database_that_does_not_exist_is_reported_in_one_line(command: str, postgres_server: str) -> None:
    url = make_url(postgres_server).set(database="none").render_as_string()
    assert "the database " in refused(runner_of(url)(command), 3 if command == "serve" else 1)


def tamper(url: str, statement: str) -> None:
    async def change() -> None:
        async with opened(url) as database:
            await database.write(lambda db: db.execute(text(statement)))

    asyncio.run(change())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{address}/readyz", verify=NO_CERTIFICATES).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("engine_name", "workers"), [("sqlite", "1"), ("postgresql", "1"), ("postgresql", "2")], indirect=["engine_name"]
)
def test_serve_answers_requests_and_stops_on_a_signal(
    proxima: Run, database_url: str, workers: str, course: Path
) -> None:
    key = fine(proxima("key", "create", "--tenant", "default", "--scope", "admin")).strip()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", str(port), "--workers", workers],
        env={**os.environ, "PROXIMA_DATABASE_URL": database_url},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(address, process)
        reply = httpx.post(
            f"{address}/v1/courses/arithmetic/responses",
            headers={"Authorization": f"Bearer {key}"},
            json={"id": "r-1", "learner": "ann", "item": "i1", "correct": True},
            verify=NO_CERTIFICATES,
        )
        assert reply.status_code == 201
        process.send_signal(signal.SIGTERM)
        told, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert told == ""
    assert "Traceback" not in log
    assert "ann" not in log
    assert "1 learners, 1 answers" in fine(proxima("replay", "--verify"))


def stored(url: str) -> int:
    """How many answers the course holds, as another process sees it."""

    async def count() -> int:
        database = open_database(url)
        try:
            return await database.read(count_responses, 1, "large")
        finally:
            await database.close()

    return asyncio.run(count())


def test_import_of_many_answers_continues_after_a_kill(proxima: Run, database_url: str, tmp_path: Path) -> None:
    """kill -9 between two chunks or in the middle of one: what was committed stays, the next run loads the rest."""
    file, learners, items = tmp_path / "large.csv", 800, 50
    rows = [
        f"l{who},i{item},s{item % 7},{(who * item) % 3 % 2},{item}" for who in range(learners) for item in range(items)
    ]
    file.write_text("\n".join(["learner_id,item_id,skill_ids,correct,order", *rows, ""]))
    fine(proxima("key", "create", "--tenant", "default", "--scope", "admin"))
    process = start(
        ["import", "responses", file, "--course", "large"], env={**os.environ, "PROXIMA_DATABASE_URL": database_url}
    )
    while not stored(database_url):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = stored(database_url)
    assert 0 < kept < len(rows)
    told = fine(proxima("import", "responses", str(file), "--course", "large"))
    assert told.startswith(f"{len(rows) - kept:,} answers loaded (")
    assert told.endswith(f", {kept:,} were there already\n")
    assert stored(database_url) == len(rows)
    verified = fine(proxima("replay", "--verify"))
    assert verified.startswith(f"default/large: {learners:,} learners, {len(rows):,} answers, ")


HEAVY = ("alembic", "fastapi", "numpy", "scipy", "sqlalchemy")
REPORT_HEAVY = f"import sys; sys.stderr.write(' '.join(name for name in {HEAVY} if name in sys.modules))"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """The arguments of every group and command that asks it for help."""
    yield (*path, "--help")
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name, "--help")


def heavy_imports(before: str = "") -> str:
    """What a process of its own has imported, of what is heavy, after all help has been asked for."""
    calls = [f"main({list(arguments)}, standalone_mode=False)" for arguments in commands(main)]
    program = "\n".join([before, "from app.cli import main", *calls, REPORT_HEAVY])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Usage: proxima") == len(calls)
    return done.stderr


def test_help_imports_neither_the_engine_nor_the_service() -> None:
    assert heavy_imports() == ""


def test_law_of_lazy_imports_notices_an_eager_one() -> None:
    assert heavy_imports(before="import app.cli.service").split() == list(HEAVY)


def test_command_line_choices_are_those_of_the_engine() -> None:
    assert get_args(cli.Rule) == RULES
    assert get_args(cli.Method) == METHODS
    assert get_args(cli.Model) == (*get_args(Model), "bkt")
    assert cli.WORLDS == WORLD_NAMES
    assert cli.POLICIES == POLICY_NAMES
