"""What the image and the compose file promise, without building them: benchmarks/clean_root.sh does that."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # publishes no types

from app.core.memory import responses_that_fit
from app.core.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements/runtime.lock").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SECRET = "/run/secrets/proxima_database_url"  # noqa: S105 (where it is, not what it is)
LONGEST_S = 20


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows them."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


STEPS = instructions((ROOT / "Dockerfile").read_text())
STAGES = [place for place, (name, _) in enumerate(STEPS) if name == "FROM"]
FINAL = STEPS[STAGES[-1] :]


def only(name: str) -> str:
    """What the one instruction of this name in the image itself says."""
    (value,) = [value for step, value in FINAL if step == name]
    return value


def check() -> list[str]:
    """The health check's command."""
    command = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    assert isinstance(command, list)
    return command


def test_image_is_built_in_two_stages_on_one_pinned_python() -> None:
    assert [STEPS[place][1].split()[0] for place in STAGES] == ["python:3.11-slim-bookworm"] * 2


def test_image_installs_packages_locked_by_hash() -> None:
    installing = [value for name, value in STEPS if name == "RUN" and "pip" in value and "install" in value]
    (command,) = [value for value in installing if "-m pip" in value]
    assert "--require-hashes" in command
    assert "--only-binary=:all:" in command
    requirements = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(requirements) > 20
    for requirement in requirements:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+ ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert not re.search(r"https?://|--(extra-)?index", LOCK)


def test_image_copies_files_that_exist_and_are_not_ignored() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name, value in STEPS
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    }
    assert copied == sent
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_image_runs_without_privileges_with_its_state_on_a_volume() -> None:
    user, _, group = only("USER").partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert f"useradd --uid {user} --gid {group} " in only("RUN")
    variables = dict(word.split("=", 1) for word in shlex.split(only("ENV")))
    url = variables.pop("PROXIMA_DATABASE_URL")
    assert Settings(database_url=url).database_url.startswith(f"sqlite:///{only('VOLUME')}/")
    assert not [name for name in variables if name.startswith(PREFIX)]


def test_port_is_the_same_in_image_command_health_check_and_compose() -> None:
    port = only("EXPOSE")
    assert json.loads(only("CMD"))[-2:] == ["--port", port]
    assert re.findall(r"\d{4,}", check()[-1]) == [port]
    assert COMPOSE["services"]["proxima"]["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.fixture
def service(sqlite_template: Path, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The command of the image, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arguments = [str(port) if word == only("EXPOSE") else word for word in json.loads(only("CMD"))]
    (tmp_path / "proxima.db").write_bytes(sqlite_template.read_bytes())
    with run(arguments, f"sqlite:///{tmp_path}/proxima.db") as process:
        yield port, process


@contextmanager
def run(arguments: list[str], url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`proxima` as a process, gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from app.cli import main; main()", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROXIMA_DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    """Whether the health check passes."""
    program, *arguments = [word.replace(only("EXPOSE"), str(port)) for word in check()]
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, timeout=LONGEST_S)
    return done.returncode == 0


def test_health_check_passes_only_while_the_service_runs(
    service: tuple[int, subprocess.Popen[bytes]],
) -> None:
    port, process = service
    deadline = time.monotonic() + LONGEST_S
    while not healthy(port):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    process.wait(LONGEST_S)
    assert not healthy(port)


@pytest.mark.parametrize("secret", ["postgresql://a:s3cret@db/x", None])
def test_database_url_in_a_secret_file_takes_precedence(secret: str | None, tmp_path: Path) -> None:
    (writing,) = [value for name, value in STEPS if name == "RUN" and SECRET in value]
    python, program, file = tmp_path / "python", tmp_path / "proxima", tmp_path / "secret"
    python.write_text('#!/bin/sh\necho "$PROXIMA_DATABASE_URL" "$@"\n')
    python.chmod(0o755)
    if secret:
        file.write_text(secret + "\n")
    replaced = {"/opt/venv/bin/proxima": program, "/opt/venv/bin/python": python, SECRET: file}
    for name, path in replaced.items():
        assert name in writing
        writing = writing.replace(name, str(path))
    subprocess.run(["/bin/sh", "-e", "-c", writing], check=True)
    environment = {"PROXIMA_DATABASE_URL": "sqlite:////data/proxima.db", "PATH": "/usr/bin:/bin"}
    said = subprocess.check_output([program, "serve", "a b"], env=environment, text=True)
    assert said.split()[0] == secret or (secret is None and said.startswith("sqlite:////data/"))
    assert said.endswith(" serve a b\n")


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_services_are_locked_down(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108 (of the container)
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()


def test_compose_gives_the_service_memory_to_calibrate() -> None:
    limit = COMPOSE["services"]["proxima"]["mem_limit"]
    assert limit.endswith("g")
    assert responses_that_fit(int(limit[:-1]) << 30) >= 750_000


def test_compose_file_holds_no_secret() -> None:
    for service in COMPOSE["services"].values():
        for variable in service.get("environment", {}):
            assert variable == "POSTGRES_USER" or variable.endswith("_FILE")
        assert set(service["secrets"]) <= COMPOSE["secrets"].keys()
    assert [set(secret) for secret in COMPOSE["secrets"].values()] == [{"file"}, {"file"}]
    assert Path(SECRET).name in COMPOSE["services"]["proxima"]["secrets"]
    assert not re.search(r"://\w+:", (ROOT / "compose.yaml").read_text())


def test_compose_migrates_after_the_database_is_ready_and_before_the_service() -> None:
    services = COMPOSE["services"]
    assert services["proxima"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
