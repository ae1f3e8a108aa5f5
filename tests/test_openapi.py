"""The OpenAPI document is true: schemathesis finds nothing, and the committed copy is the one that is served."""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from functools import cache

import jsonschema_rs
import pytest
from fastapi import APIRouter, FastAPI

from app.core.settings import Settings
from app.main import create_app
from app.routers import webhooks
from app.services import course_model
from tests.client import client_of, make_key, opened, served
from tests.contract.conformance import ROLES, Role, explore, format_findings
from tests.contract.course import calibrate, fill, insert_running_calibration, insert_webhooks, open_sections
from tests.contract.document import PATH, current_document, render
from tests.tenants import MakeUrl, databases

DOCUMENT = current_document()
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}
READS = {"list_skills", "list_items", "get_recommendations", "post_recommendations", "get_mastery", "get_session"}
# Nobody guesses a key; a session that is in the section is hardly met.
UNLIKELY = {"post_token", "end_session", "submit_results"}


async def prepare(url: str) -> None:
    """Fill a database with something of everything."""
    async with served(url) as app, client_of(app, await make_key(app.state.database)) as client:
        await fill(client)
        await calibrate(client)
        await open_sections(client)
        # So that a run does not spend its time on fits.
        await insert_running_calibration(app.state.database)
        await app.state.database.write(insert_webhooks)


async def key_of(url: str, role: Role) -> str | None:
    """What a caller in a role sends."""
    async with opened(url) as database:
        return None if role.scopes is None else await make_key(database, scopes=role.scopes)


@pytest.fixture(scope="module")
def make(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory, templates: dict[str, str]
) -> Iterator[MakeUrl]:
    """Makes databases of either kind."""
    with databases(postgres_server, tmp_path_factory.mktemp("schemathesis"), templates) as maker:
        yield maker


@pytest.fixture(scope="module")
def filled(make: MakeUrl) -> Callable[[str], str]:
    """The URL of a filled database of either kind; it is only copied."""

    @cache
    def fill_one(kind: str) -> str:
        url = make(kind)
        asyncio.run(prepare(url))
        return url

    return fill_one


@pytest.fixture
def filled_url(engine_name: str, make: MakeUrl, filled: Callable[[str], str]) -> str:
    """The URL of a database with something of everything."""
    return make(engine_name, like=filled(engine_name))


@pytest.mark.examples
@pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])
def test_schemathesis_finds_no_fault(filled_url: str, role: Role) -> None:
    key = asyncio.run(key_of(filled_url, role))
    course_model.COURSE_MODELS = course_model.LruCache()
    app = create_app(Settings(database_url=filled_url, log_level="error", failed_keys_per_minute=1_000_000))
    run = explore(app, key, role)
    assert not run.findings, format_findings(run.findings)
    answered = {name for name, status in run.statuses if status < 300}
    match role.name:
        case "admin":
            assert answered | UNLIKELY == OPERATIONS.keys() - {"post_calibration"}
            assert ("post_calibration", 409) in run.statuses
            assert run.refusals
        case "reader":
            assert answered == READS
            assert {name for name, status in run.statuses if status == 403} == OPERATIONS.keys() - READS - {
                "post_token"
            }
        case _:
            assert not answered
            methods = {405} if role.covers else set()
            assert {status for name, status in run.statuses if name != "post_token"} == {401, *methods}


@pytest.mark.soak
def test_schemathesis_finds_no_fault_in_a_long_run(filled_url: str) -> None:
    role, seed = Role("admin", ("admin",), 400), secrets.randbits(32)
    key = asyncio.run(key_of(filled_url, role))
    course_model.COURSE_MODELS = course_model.LruCache()
    run = explore(
        create_app(Settings(database_url=filled_url, log_level="error", failed_keys_per_minute=1_000_000)),
        key,
        role,
        seed,
    )
    assert not run.findings, f"CONTRACT_SEED={seed} CONTRACT_EXAMPLES={role.examples}: {format_findings(run.findings)}"


def test_openapi_document_is_current() -> None:
    assert PATH.read_text() == render(DOCUMENT), (
        "the contract has changed: run `make openapi` and look at the difference"
    )


def test_openapi_document_is_the_same_each_time() -> None:
    """It is completed in place, so that a second time must change nothing."""
    app = create_app(Settings(log_level="error"))
    first = render(app.openapi())
    assert (render(app.openapi()), render(app.openapi())) == (first, first)
    assert first == render(DOCUMENT)


def test_operations_have_names_and_descriptions() -> None:
    assert len(OPERATIONS) == sum(len(path) for path in DOCUMENT["paths"].values())
    for name, operation in OPERATIONS.items():
        assert name.isidentifier()
        assert operation["summary"].endswith(".")
        assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}


def test_bodies_have_valid_examples() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    bodies = {name for name in schemas if name.endswith("In")} - {"ItemIn", "LeaveOutIn", "NextIn", "SkillIn", "SpanIn"}
    assert bodies == {
        "ActivationIn",
        "BatchIn",
        "CalibrationIn",
        "CatalogueIn",
        "RegradeIn",
        "ResponseIn",
        "SessionIn",
        "SessionResponseIn",
        "VoidIn",
        "WebhookIn",
    }
    for name in bodies:
        validator = jsonschema_rs.validator_for(
            {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
        )
        assert schemas[name]["examples"]
        for example in schemas[name]["examples"]:
            validator.validate(example)
        assert not validator.is_valid({**schemas[name]["examples"][0], "unknown": 1})


def test_webhooks_describe_only_replies_that_count() -> None:
    """FastAPI adds its own form of an error to every operation with a body, and here every error is a problem."""
    assert set(DOCUMENT["webhooks"]) == {
        "skill.mastered",
        "learner.stuck",
        "calibration.finished",
        "response.corrected",
    }
    for call in DOCUMENT["webhooks"].values():
        assert set(call["post"]["responses"]) == {"204", "default"}
    assert DOCUMENT["components"]["schemas"].keys() & {"HTTPValidationError", "ValidationError"} == set()


def test_operation_that_declares_no_errors_has_the_form_of_fastapi() -> None:
    """The control of the test above."""
    router = APIRouter()
    router.post("/x")(webhooks.skill_mastered)
    app = FastAPI(routes=router.routes)
    assert "HTTPValidationError" in app.openapi()["components"]["schemas"]


def test_openapi_document_names_no_other_host() -> None:
    assert "http" not in json.dumps(DOCUMENT["servers"])
    assert DOCUMENT["servers"] == [{"url": "/", "description": "this service"}]
