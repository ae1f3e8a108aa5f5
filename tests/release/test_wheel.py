"""The wheel: built, installed into an environment of its own far from the checkout, migrated and started.

The dependencies come from the lock, so a package index is needed unless uv has them in its cache. `make test-wheel`.
"""

import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import app
from app.core.migrate import head_revision
from app.core.settings import PREFIX

pytestmark = pytest.mark.release

ROOT = Path(__file__).parents[2]
INSTALL_TIMEOUT_S = 300
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class Installation:
    """A wheel, and an environment with nothing but this wheel and its dependencies."""

    wheel: Path
    programs: Path
    folder: Path

    def run(self, program: str, *arguments: str, code: int = 0) -> str:
        """What a program of the environment prints, in a folder that holds a database and nothing else."""
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables, without any that lead back to the checkout."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "PYTHON"))}
        return {**kept, f"{PREFIX}DATABASE_URL": f"sqlite:///{self.folder / 'installed.db'}"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    install(python, "--require-hashes", "-r", str(ROOT / "requirements" / "runtime.lock"))
    install(python, "--no-deps", str(wheel))
    work = folder / "work"
    work.mkdir()
    return Installation(wheel, environment / "bin", work)


def install(python: Path, *arguments: str) -> None:
    """Install as the Makefile does: by uv, or by pip, which knows the machine's own configuration."""
    uv = str(Path(sys.executable).with_name("uv"))
    by_uv = [uv, "pip", "install", "--quiet", "--python", str(python), *arguments]
    by_pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    done = subprocess.run(by_uv, env={**os.environ, "UV_SYSTEM_CERTS": "1"}, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        subprocess.run(by_pip, timeout=INSTALL_TIMEOUT_S, check=True)


def test_wheel_installs_one_package_and_its_metadata(installed: Installation) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"app", f"proxima-{app.__version__}.dist-info"}
    revisions = {f"app/migrations/versions/{path.name}" for path in (ROOT / "migrations" / "versions").glob("*.py")}
    needed = {"app/py.typed", "app/alembic.ini", "app/migrations/env.py", "app/migrations/script.py.mako", *revisions}
    assert needed - names == set()


def test_wheel_declares_the_dependencies_it_needs(installed: Installation) -> None:
    check = [str(Path(sys.executable).with_name("uv")), "pip", "check", "--python", str(installed.programs / "python")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_installed_package_is_imported_and_has_one_version(installed: Installation) -> None:
    imports = "import app, importlib.metadata, json"
    values = "[app.__file__, app.__version__, importlib.metadata.version('proxima')]"
    path, version, declared = json.loads(installed.run("python", "-c", f"{imports}; print(json.dumps({values}))"))
    assert Path(path).is_relative_to(installed.programs.parent)
    assert version == declared == app.__version__
    assert installed.run("proxima", "--version") == f"proxima, version {version}\n"


def test_installed_package_is_typed(installed: Installation) -> None:
    script = installed.folder / "typed.py"
    script.write_text("import app\n\nreveal_type(app.__version__)\n")
    python = str(installed.programs / "python")
    check = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, str(script)]
    done = subprocess.run(check, cwd=installed.folder, env=installed.environment, capture_output=True, check=False)
    assert b'Revealed type is "str"' in done.stdout.replace(b"builtins.", b""), done.stdout
    assert done.returncode == 0, done.stdout


def test_installed_program_migrates_up_and_down(installed: Installation) -> None:
    assert installed.run("proxima", "migrate") == "the database is up to date\n"
    assert "make a backup" in installed.run("proxima", "migrate", "--to", "0003", code=1)
    config = str(next(installed.programs.parent.glob("lib/python*/site-packages/app/alembic.ini")))
    assert f"{head_revision()} (head)" in installed.run("alembic", "-c", config, "current")
    for revision in ("0003", "base"):
        printed = installed.run("proxima", "migrate", "--to", revision, "--lose-data")
        assert printed == f"the database is at revision {revision}\n"
    assert installed.run("proxima", "migrate") == "the database is up to date\n"


def test_installed_program_serves_and_stops(installed: Installation) -> None:
    installed.run("proxima", "migrate")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [str(installed.programs / "proxima"), "serve", "--port", str(port)]
    log = installed.folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=installed.folder, env=installed.environment, stdout=output, stderr=output
        )
        try:
            assert is_ready(f"http://127.0.0.1:{port}/readyz"), log.read_text()
            document = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()
            assert document["info"]["version"] == app.__version__
        finally:
            process.terminate()
            code = process.wait(START_TIMEOUT_S)
    assert code == 0, log.read_text()


def is_ready(url: str) -> bool:
    """Whether the service answers within the time it has to start."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).is_success:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False
