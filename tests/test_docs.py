"""The documents do what they say: their examples are run, from top to bottom, against a service with the sample course.

    ```bash      is run, in one shell for the whole document; a block after it, if it is `json` or `csv`, is its output
    ```console   holds `$ command` lines, each above what it prints
    ```python    is run, like bash

Whatever is printed must be shown. Numbers may differ by `TOLERANCE`; what no two runs have in common is in `CHANGING`.
Blocks in other languages are only shown. `make` is not run.

`python -m tests.test_docs` writes what the examples print now into the documents. Read the difference then.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import click
import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy.engine import make_url

from app.cli import main
from app.core.settings import PREFIX, Settings
from app.http.auth import permits_of
from app.main import create_app
from tests import postgres
from tests.processes import NO_CERTIFICATES, command_at, start

ROOT = Path(__file__).parents[1]
RUN = ("README.md", "docs/api.md", "docs/operate.md", "docs/sessions.md", "docs/cat.md", "docs/tutorial.md")
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}

# The moment at which the examples begin.
WRITTEN = "2026-11-28T12:00:00Z"
AHEAD = "TEST_CLOCK_AHEAD_S"
ADDRESS = "127.0.0.1:8000"
LAST_LINE = "Ctrl-C stops the service.\n"
LONGEST_S = 300
TOLERANCE = 2e-3
WIDTH = 120
OUTPUT = ("json", "csv")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGING = {
    r"pr[xt]_1_[\w-]{49}": "a key or a token",
    r"\bkey-[0-9a-f]{16}\b": "the id of a key",
    r"\b[orst]-[0-9a-f]{24,32}\b": "an id made by the service",
    r"\bv1\.\d+\.[0-9a-f]{16}\b": "the state of a session",
    r"\b[0-9a-f]{32}\b": "the id of a request",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z": "this moment",
    r"\([\d,]+/s\)": "how fast it went",
    r"\b\d+ GiB\b": "room on the disk",
}


@dataclass(frozen=True)
class Step:
    """A command of a document, and the output it is shown with."""

    line: int
    command: str
    shown: str
    kind: str


@dataclass(frozen=True)
class Service:
    """A demonstration that runs in a folder."""

    folder: Path
    address: str
    printed: str

    @property
    def key(self) -> str:
        """The key it printed."""
        return str(re.findall(r"prx_\S+", self.printed)[0])


def steps(text: str) -> Iterator[Step]:
    """What is to be run, in order. Output that no command stands above is a fault of the document."""
    blocks = [(text.count("\n", 0, match.start()) + 2, match[1], match[2]) for match in FENCE.finditer(text)]
    for place, (line, language, content) in enumerate(blocks):
        before = blocks[place - 1][1] if place else ""
        following = blocks[place + 1] if place + 1 < len(blocks) else (0, "", "")
        kind, shown = following[1:] if following[1] in OUTPUT else ("text", "")
        if language in OUTPUT and before not in ("bash", "python"):
            yield Step(line, "echo no command stands above this\n", "", "text")
        elif language == "bash":
            yield Step(line, content, shown, kind)
        elif language == "python":
            yield Step(line, f"python - <<'END'\n{content}END\n", shown, kind)
        elif language == "console":
            yield from console_steps(line, content)


def console_steps(line: int, content: str) -> Iterator[Step]:
    """The commands of a console; a backslash at the end of a line continues it, and `<<'END'` all up to END."""
    command = r"(?:.*<<'END'\n(?:.*\n)*?END|(?:.*\\\n)*.*)"
    for match in re.finditer(rf"^\$ ({command})\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
        yield Step(line + content.count("\n", 0, match.start()), match[1] + "\n", match[2], "text")


def run(wanted: Sequence[Step], folder: Path, variables: dict[str, str]) -> list[tuple[str, bool]]:
    """What each step prints, and whether all its commands succeeded; one shell for all of them."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python").write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    (programs / "python").chmod(0o755)
    ends = ("printf '\\0%d\\0' $failed; failed=0\n" for _ in wanted)
    script = "failed=0; trap 'failed=1' ERR\n" + "".join(s.command + end for s, end in zip(wanted, ends, strict=True))
    with command_at(programs / "proxima"):
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=folder,
            env={**clean_environment(), **variables, "PATH": f"{programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    print(done.stderr)  # noqa: T201 (shown when the test fails)
    parts = done.stdout.split("\0")
    return [(parts[i], parts[i + 1] == "0") for i in range(0, len(parts) - 1, 2)]


def clean_environment() -> dict[str, str]:
    """This environment without settings of ours, at the time of the examples."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join([str(ROOT / "tests" / "clock"), str(ROOT)])
    return {**kept, "PYTHONPATH": path, AHEAD: str(ahead_s())}


@cache
def ahead_s() -> float:
    """How far the clock of the examples is ahead of the real one: mastery fades, so each day they would print less."""
    real = time.time() - float(os.environ.get(AHEAD, "0"))
    return datetime.fromisoformat(WRITTEN).timestamp() - real


def faults(text: str, folder: Path, address: str = ADDRESS, key: str = "") -> list[str]:
    """What in a document is not so."""
    wanted = [step for step in steps(text.replace(ADDRESS, address)) if not step.command.startswith("make ")]
    printed = run(wanted, folder, {"KEY": key})
    found = [f"line {step.line}: the shell ended before this" for step in wanted[len(printed) :]]
    for step, (output, fine) in zip(wanted, printed, strict=False):
        different = [] if fine else ["a command failed"]
        different += json_differences(step.shown, output) if step.kind == "json" else text_differences(step, output)
        if different:
            heading = f"line {step.line}: {'; '.join(different)}"
            found.append(f"{heading}\n{step.command}printed:\n{shape(output).replace(address, ADDRESS)}")
    return found


def json_differences(shown: str, printed: str) -> list[str]:
    """Where two JSON texts differ."""
    try:
        return list(find_differences(json.loads(shown), json.loads(printed), ""))
    except ValueError as error:
        return [f"not JSON: {error}"]


def find_differences(shown: Any, printed: Any, path: str) -> Iterator[str]:
    """Where two values differ, as JSON pointers."""
    if type(shown) is not type(printed):
        yield f"{path} is {type(printed).__name__}, not {type(shown).__name__}"
    elif isinstance(shown, dict):
        yield from (f"{path}/{name} is not there" for name in shown.keys() - printed.keys())
        yield from (f"{path}/{name} is not shown" for name in printed.keys() - shown.keys())
        for name in shown.keys() & printed.keys():
            yield from find_differences(shown[name], printed[name], f"{path}/{name}")
    elif isinstance(shown, list):
        if len(shown) != len(printed):
            yield f"{path} has {len(printed)} elements, not {len(shown)}"
        for place, pair in enumerate(zip(shown, printed, strict=False)):
            yield from find_differences(*pair, f"{path}/{place}")
    elif not matches_with_tolerance(str(shown), str(printed)):
        yield f"{path} is {printed!r}, not {shown!r}"


def text_differences(step: Step, printed: str) -> list[str]:
    """Whether a text is what is shown."""
    return [] if matches_with_tolerance(step.shown.strip(), printed.strip()) else ["it prints something else"]


def matches_with_tolerance(shown: str, printed: str) -> bool:
    """Whether two texts are equal but for what changes, and for decimals by no more than the tolerance."""
    pieces = [re.split(r"(-?\d+\.\d+(?:e-\d+)?)", replace_what_changes(text)) for text in (shown, printed)]
    if len(pieces[0]) != len(pieces[1]):
        return False
    return all(
        left == right if place % 2 == 0 else abs(float(left) - float(right)) <= TOLERANCE
        for place, (left, right) in enumerate(zip(*pieces, strict=True))
    )


def replace_what_changes(text: str) -> str:
    """The text with names for what is different each time."""
    for pattern, name in CHANGING.items():
        text = re.sub(pattern, f"<{name}>", text)
    return text


def shape(printed: str) -> str:
    """An output as a document shows it: JSON in lines that can be read."""
    try:
        return wrapped(json.loads(printed), 0) + "\n"
    except ValueError:
        return printed


def wrapped(value: Any, indent: int) -> str:
    """A JSON value, on as few lines as its width allows."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or len(flat) + indent <= WIDTH:
        return flat
    if isinstance(value, dict):
        parts = [f'"{name}": {wrapped(child, indent + len(name) + 5)}' for name, child in value.items()]
    else:
        parts = [wrapped(child, indent + 1) for child in value]
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + indent < WIDTH and "\n" not in lines[-1] + part:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return "{["[isinstance(value, list)] + f",\n{' ' * (indent + 1)}".join(lines) + "}]"[isinstance(value, list)]


@contextmanager
def demonstration(folder: Path) -> Iterator[Service]:
    """`proxima demo` in a folder, from when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "demo.log").open("w") as log:
        process = start(
            ["demo", "--port", str(port)], cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line == LAST_LINE:
                break
        else:
            pytest.fail(f"the demonstration ended: {(folder / 'demo.log').read_text()}")
        wait_until_ready(f"http://127.0.0.1:{port}/readyz")
        yield Service(folder, f"127.0.0.1:{port}", "".join(lines))
    finally:
        process.terminate()
        process.wait(30)
        process.close()


def wait_until_ready(url: str) -> None:
    """Return once the service answers."""
    for _ in range(200):
        try:
            if httpx.get(url, verify=NO_CERTIFICATES).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("the service does not answer")


@pytest.fixture(scope="module")
def fresh_demo(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A folder in which `make demo` ran and was stopped; each document goes on in a copy of it."""
    folder = tmp_path_factory.mktemp("demo")
    with demonstration(folder) as service:
        return service


@pytest.mark.parametrize("name", RUN)
def test_examples_in_documents_work(name: str, fresh_demo: Service, tmp_path: Path) -> None:
    folder = copytree(fresh_demo.folder, tmp_path / "copy")
    with demonstration(folder) as service:
        found = faults(TEXTS[name], folder, service.address, service.key)
    assert not found, f"{name}\n" + "\n".join(found)


def test_documents_with_examples_have_some() -> None:
    assert {name: bool(list(steps(TEXTS[name]))) for name in RUN} == dict.fromkeys(RUN, True)


GOOD = """
```bash
echo '{"status": "mastered", "p": 0.61, "responses": 3, "id": "r-0123456789abcdef01234567"}'
```

```json
{"status": "mastered", "p": 0.61, "responses": 3, "id": "r-aaaaaaaaaaaaaaaaaaaaaaaa"}
```

```console
$ A=1; echo loaded \\
  2 rows
loaded 2 rows
$ echo $A
1
```
"""
ROTTEN = {
    "a field that has gone": ('\n{"status"', '\n{"old": 1, "status"'),
    "a field that is not shown": (', "responses": 3, "id": "r-a', ', "id": "r-a'),
    "another status": ('\n{"status": "mastered"', '\n{"status": "decayed"'),
    "another number": ('0.61, "responses": 3, "id": "r-a', '0.62, "responses": 3, "id": "r-a'),
    "another type": ('"responses": 3, "id": "r-a', '"responses": 3.0, "id": "r-a'),
    "another text": ("loaded 2 rows\n$", "loaded 3 rows\n$"),
    "a line that is not shown": ("loaded 2 rows\n$", "$"),
    "a command that fails": ("$ echo $A", "$ echo $A; false; true"),
    "a command that is not there": ("$ echo $A", "$ proximo"),
    "a shell that ends": ("$ echo $A", "$ exit"),
    "output that comes from nowhere": ("```bash\necho", "```text\necho"),
}


def test_example_that_is_right_passes(tmp_path: Path) -> None:
    assert faults(GOOD, tmp_path) == []


@pytest.mark.controls
@pytest.mark.parametrize("rot", ROTTEN)
def test_law_of_examples_notices_one_that_is_wrong(rot: str, tmp_path: Path) -> None:
    old, new = ROTTEN[rot]
    assert old in GOOD
    assert len(faults(GOOD.replace(old, new), tmp_path)) == 1


def test_postgresql_statements_in_documents_work(postgres_server: str, tmp_path: Path) -> None:
    [statements] = [match[2] for match in FENCE.finditer(TEXTS["docs/operate.md"]) if match[1] == "sql"]
    folder = make_url(postgres_server).query["host"]
    url = f"postgresql://proxima:secret@/proxima?host={folder}"
    for statement in statements.split(";")[:-1]:
        postgres.administer(postgres_server, statement)
    try:
        outcome = run([Step(1, "proxima migrate\n", "", "text")], tmp_path, {"PROXIMA_DATABASE_URL": url})
    finally:
        postgres.administer(postgres_server, "DROP DATABASE proxima WITH (FORCE)")
        postgres.administer(postgres_server, "DROP ROLE proxima")
    assert outcome == [("the database is up to date\n", True)]


def broken_links(name: str, text: str) -> list[str]:
    """Links within the project that lead nowhere."""
    prose = FENCE.sub("", text)
    targets = [*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)]
    return [
        target for target in targets if not re.match(r"https?:", target) and not leads_somewhere(name, text, target)
    ]


def leads_somewhere(name: str, text: str, target: str) -> bool:
    """Whether a file is there, and in it the heading."""
    path, _, anchor = target.partition("#")
    file = (ROOT / name).parent / path
    return file.exists() and (not anchor or anchor in anchors(file.read_text() if path else text))


def anchors(text: str) -> set[str]:
    """The anchors of headings, as they are usually made."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_in_documents_lead_somewhere(name: str) -> None:
    assert broken_links(name, TEXTS[name]) == []


@pytest.mark.controls
@pytest.mark.reads("docs", "Makefile")
def test_law_of_links_notices_a_broken_one() -> None:
    text = "# One thing\n[a](#one-thing) [b](#no) [c](Makefile) [d](gone.md) [e](docs/errors.md#conflict) <img src='x'>"
    assert broken_links("README.md", text) == ["#no", "gone.md"]


def test_documents_can_be_reached_from_the_readme() -> None:
    reached: set[str] = set()
    waiting = ["README.md"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s:]+)\)", TEXTS[name]))
            paths = [(ROOT / name).parent.joinpath(target).resolve() for target in targets]
            waiting += [path.relative_to(ROOT).as_posix() for path in paths if path.suffix == ".md"]
    assert reached == set(DOCUMENTS)


def unknown_targets(text: str) -> list[str]:
    """Targets of `make` that a document names and the Makefile lacks."""
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [name for name in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, re.MULTILINE) if name not in known]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_in_documents_exist(name: str) -> None:
    assert unknown_targets(TEXTS[name]) == []
    assert unknown_targets("`make demo` and `make coffee`\nmake tea") == ["coffee", "tea"]


def test_settings_are_documented_and_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named = {name for text in TEXTS.values() for name in re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", FENCE.sub("", text))}
    table = set(re.findall(rf"^\| `({PREFIX}\w+)` \|", TEXTS["docs/operate.md"], re.MULTILINE))
    assert named == known
    assert table == known


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_commands_and_options_are_documented() -> None:
    text = TEXTS["docs/operate.md"]
    options = {
        (call, option)
        for call, command in commands(main, "proxima")
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(proxima(?: [a-z]+)+)[^|]*\|.*$", text, re.MULTILINE)}
    assert rows.keys() == {call for call, _ in commands(main, "proxima")}
    assert [(call, option) for call, option in sorted(options) if option not in rows[call]] == []


def test_routes_are_documented_with_their_scopes() -> None:
    row = re.compile(r"^\| `([A-Z]+) (/(?:v1|ims)/\S+)` \| `([a-z:]+)` \|", re.MULTILINE)
    table = [match for name in ("docs/api.md", "docs/cat.md") for match in row.findall(TEXTS[name])]
    routes = {
        (method, route.path, permit.scope)
        for route in iter_route_contexts(create_app(Settings()).routes)
        if hasattr(route, "dependant")
        for method in route.methods or ()
        for permit in permits_of(route.dependant)
    }
    assert set(table) == routes
    assert len(table) == len(routes)


def refreshed(text: str, folder: Path, service: Service) -> str:
    """A document with what its examples print now."""
    wanted = [step for step in steps(text.replace(ADDRESS, service.address)) if not step.command.startswith("make ")]
    lines = text.split("\n")
    for step, (output, _) in reversed(list(zip(wanted, run(wanted, folder, {"KEY": service.key}), strict=True))):
        place = step.line - 1
        if lines[place].startswith("$ "):
            place += step.command.count("\n")
        elif output:
            place = lines.index("```", place)
            place = next(number for number in range(place + 1, len(lines)) if lines[number].startswith("```")) + 1
        else:
            continue
        end = next(number for number in range(place, len(lines)) if re.match(r"```|\$ ", lines[number]))
        lines[place:end] = shape(output).replace(service.address, ADDRESS).splitlines()
    return "\n".join(lines)


def refresh() -> None:
    """Write what the examples print now into the documents."""
    with tempfile.TemporaryDirectory() as name:
        with demonstration(Path(name)):
            pass
        for document in RUN:
            with tempfile.TemporaryDirectory() as other, demonstration(copytree(name, Path(other) / "copy")) as service:
                (ROOT / document).write_text(refreshed(TEXTS[document], service.folder, service))


if __name__ == "__main__":
    refresh()
