"""What the OpenAPI document says in words and shows by example: of everything, once, and as it is."""

import asyncio
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from app.core.migrate import migrate
from app.openapi import EXAMPLES
from app.schemas.calibrations import CalibrationReport
from tests.client import client_of, make_key, served
from tests.contract.course import COURSE, calibrate, fill
from tests.contract.document import current_document
from tests.contract.record import JSON, record_examples

DOCUMENT = current_document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}
CALLS = {name: call["post"] for name, call in DOCUMENT["webhooks"].items()}
# Of all fields; it may rise, and not fall.
DESCRIBED = 1.0
LEAST = 0.95
SHORTEST = 8


def fields_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every schema, and every parameter, by a name that says where it is."""
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            yield f"{name}.{field}", described
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                yield f"{operation['operationId']}({parameter['name']})", parameter


def undescribed(document: dict[str, Any]) -> list[str]:
    """The fields of which the document says nothing but their names."""

    def says_more(name: str, field: dict[str, Any]) -> bool:
        words = field.get("description", "")
        return len(words) >= SHORTEST and words.lower() != name.rpartition(".")[2].replace("_", " ")

    return [name for name, field in fields_of(document) if not says_more(name, field)]


def test_fields_are_described() -> None:
    missing, number = undescribed(DOCUMENT), sum(1 for _ in fields_of(DOCUMENT))
    assert 1 - len(missing) / number >= DESCRIBED >= LEAST, missing


@pytest.mark.controls
def test_field_without_a_word_is_noticed() -> None:
    spoilt = copy.deepcopy(DOCUMENT)
    spoilt["components"]["schemas"]["ResponseOut"]["properties"]["occurred_at"]["description"] = "Occurred at"
    del spoilt["components"]["schemas"]["ResponseOut"]["properties"]["score"]["description"]
    assert undescribed(spoilt) == ["ResponseOut.score", "ResponseOut.occurred_at"]


def test_operations_are_described() -> None:
    for name, operation in (OPERATIONS | CALLS).items():
        assert operation["summary"].endswith("."), name
        assert operation["description"].strip().endswith("."), name
        assert operation["summary"] not in operation["description"], name
        for response in operation["responses"].values():
            assert response["description"] not in {"", "Successful Response"}, name


def test_schemas_are_described_and_no_two_have_one_title() -> None:
    assert [name for name, schema in SCHEMAS.items() if not schema.get("description")] == []
    titles = Counter(schema["title"] for schema in SCHEMAS.values())
    assert [title for title, number in titles.items() if number > 1] == []
    assert SCHEMAS.keys() & {"HTTPValidationError", "ValidationError", "JsonValue"} == set()


def test_schemas_of_one_form_say_the_same() -> None:
    """Two schemas with the same fields of the same kinds would be one."""
    forms: dict[str, list[str]] = {}
    for name, schema in SCHEMAS.items():
        if len(schema.get("properties", {})) > 2:
            form = repr(sorted((field, kind_of(value)) for field, value in schema["properties"].items()))
            forms.setdefault(form, []).append(name)
    assert [names for names in forms.values() if len(names) > 1] == []


def kind_of(field: dict[str, Any]) -> str:
    """What a field holds, without words."""
    return repr(sorted((name, value) for name, value in field.items() if name not in {"title", "description"}))


def test_what_has_a_default_need_not_be_there() -> None:
    """Generators in TypeScript take a field with a default for one that is always there."""
    assert [name for name, field in fields_of(DOCUMENT) if "default" in field] == []


def validator(schema: dict[str, Any]) -> Any:
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def successes() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Operation, status, media type and content of every reply that all is well."""
    for name, operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                for media_type, content in response.get("content", {}).items():
                    yield name, status, media_type, content


def test_every_success_has_a_valid_example() -> None:
    shown = list(successes())
    empty = {name for name, operation in OPERATIONS.items() if "204" in operation["responses"]}
    assert {name for name, *_ in shown} == OPERATIONS.keys() - empty
    for name, status, media_type, content in shown:
        validator(content["schema"]).validate(content["example"])
        assert content["example"] != {}, (name, status, media_type)


@pytest.mark.controls
def test_example_that_is_no_reply_is_noticed() -> None:
    [content] = [content for name, status, _, content in successes() if (name, status) == ("post_response", "201")]
    spoilt = copy.deepcopy(content["example"])
    spoilt["next"]["reason"]["code"] = "practise_skill"
    assert validator(content["schema"]).is_valid(content["example"])
    assert not validator(content["schema"]).is_valid(spoilt)


def test_calls_of_webhooks_have_valid_examples() -> None:
    for call in CALLS.values():
        schema = call["requestBody"]["content"][JSON]["schema"]
        [example] = SCHEMAS[schema["$ref"].rpartition("/")[2]]["examples"]
        validator(schema).validate(example)


def test_examples_have_the_fields_of_the_replies_of_today(empty_database_url: str) -> None:
    """But for those of a calibration, which takes minutes."""
    migrate(empty_database_url)
    replies = asyncio.run(record_examples(empty_database_url, calibrate=False))
    slow = {"post_calibration", "get_calibration", "post_activation", "list_calibrations"}
    assert replies.keys() == EXAMPLES.keys() - slow
    for name, by_media_type in replies.items():
        assert by_media_type.keys() == EXAMPLES[name].keys()
        if JSON in by_media_type:
            differing = set(shape(by_media_type[JSON])) ^ set(shape(EXAMPLES[name][JSON]))
            assert {path for path in differing if not path.startswith("/data/0/interval")} == set(), name


def shape(value: Any, path: str = "") -> Iterator[str]:
    """The fields of a reply, wherever they are."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield f"{path}/{name}"
            yield from shape(child, f"{path}/{name}")
    elif isinstance(value, list) and value:
        yield from shape(value[0], f"{path}/0")


@pytest.mark.anyio
async def test_report_of_a_calibration_has_no_field_without_a_description(database_url: str) -> None:
    async with served(database_url) as app, client_of(app, await make_key(app.state.database)) as client:
        await fill(client)
        calibration = await calibrate(client)
        report = (await client.get(f"courses/{COURSE}/calibrations/{calibration}")).json()["report"]
    assert CalibrationReport.model_validate(report).model_dump(mode="json", exclude_unset=True) == report
    examples = [EXAMPLES[name][JSON] for name in ("get_calibration", "post_activation")]
    assert all(example["report"].keys() == report.keys() for example in examples)
