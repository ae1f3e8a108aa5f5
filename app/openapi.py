"""What the OpenAPI document says beside what the routes say themselves."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.core.ids import LONGEST_ID, MOST_BYTES
from app.routers.webhooks import calls
from app.schemas.calibrations import ActivationIn, CalibrationIn
from app.schemas.tokens import TokenRequest

DESCRIPTION = f"""
- **Key**: every address under `/v1` wants `Authorization: Bearer prx_…`; `proxima key create` makes a key.
- **Ids** of courses, skills, items, learners and responses are your own strings of 1 to {LONGEST_ID} characters
  (and at most {MOST_BYTES} bytes of UTF-8, which only rare scripts reach), without control characters and without
  white space at the ends, and neither `.` nor `..`;
  in a path they are percent-encoded, a slash as `%2F`. A learner is known from the first answer or offered exercise on.
- **Strictness**: unknown fields and parameters are refused; `null` means absent. Times are RFC 3339 with an offset.
- **Retries**: give each answer an `id`, and it counts once, however often it is sent.
- **Lists** come in pages: follow `next`, or the header `Link`, until there is none.
- **Limits**: `RateLimit` and `RateLimit-Policy` in a reply tell what is left of which quota and for how many seconds;
  beyond it there is 429 with `Retry-After`.
- **Errors** are problems as RFC 9457 defines them, with a stable `code`; [all codes and what to do](errors).
"""

METADATA: dict[str, Any] = {
    "title": "Proxima",
    "summary": "What each learner has mastered, how sure that is, and what comes next and why.",
    "description": DESCRIPTION,
    "license_info": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
    "servers": [{"url": "/", "description": "this service"}],
    "openapi_tags": [
        {"name": "catalogue", "description": "Courses with their skills and items."},
        {"name": "responses", "description": "Answers into the log: one, many, and their correction."},
        {"name": "recommendations", "description": "What comes next, and why."},
        {"name": "sessions", "description": "Adaptive tests: an ability, measured with as few items as it takes."},
        {"name": "cat", "description": "The same tests as 1EdTech CAT 1.0 has them; errors are imsx_StatusInfo."},
        {"name": "mastery", "description": "What is known of a learner, or of all."},
        {"name": "calibrations", "description": "Item parameters from your own answers: fit, compare, switch."},
        {
            "name": "tokens",
            "description": "For clients that speak OAuth 2.0: a token that stands for a key for an hour.",
        },
        {"name": "webhooks", "description": "Be called when something has happened."},
    ],
    "webhooks": calls,
    # One schema for what is both sent and received: two of one title cannot be told apart by generators.
    "separate_input_output_schemas": False,
}
REQUEST_ID = {"$ref": "#/components/headers/RequestId"}
SUCCESS = "Successful Response"
# Bodies that routes read by themselves, so that FastAPI does not know of them.
READ_BY_ROUTES = (CalibrationIn, ActivationIn, TokenRequest)
# What stands in braces in an address.
PATH_PARAMETERS = {
    "course": "the id of the course, as it was made with `PUT …/catalogue`",
    "learner": "the id of the learner, as your system names them",
    "response_id": "the id of the answer",
    "session": "the id of the test",
    "calibration": "the id of the calibration, `c-` and its number",
    "webhook": "the id of the webhook, `wh-` and 16 digits",
    "sectionIdentifier": "the id of the section, as the reply to its making had it",
    "sessionIdentifier": "the id of the session, as the reply to its making had it",
}
# Replies of the sample course, by operation; `python -m tests.contract.record` asks for them anew.
EXAMPLES: dict[str, Any] = json.loads(files("app").joinpath("examples.json").read_text("utf-8"))


def describe_operations(app: FastAPI) -> None:
    """Let the document say what is true of every operation. To be called after all routes were added."""
    make_document = app.openapi
    for route in app.routes:
        if isinstance(route, APIRoute):
            # The name of the function: short, and stable when an address is not.
            route.operation_id = route.name

    @cache
    def openapi() -> dict[str, Any]:
        document = make_document()
        components = document["components"]
        components["headers"] = {
            "RequestId": {
                "description": "finds the request in the logs; yours, if you sent one in this header",
                "schema": {"type": "string"},
            }
        }
        components["schemas"].update(_schemas_of(READ_BY_ROUTES))
        _name_forms(components["schemas"])
        _describe_defaults(components["schemas"])
        for path in document["paths"].values():
            for operation in path.values():
                _describe_operation(operation, components["schemas"])
                for response in operation["responses"].values():
                    response.setdefault("headers", {})["X-Request-ID"] = REQUEST_ID
        for call in document["webhooks"].values():
            _split_description(call["post"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas_of(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The models, and those they are made of, as components."""
    described = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )[1]
    found: dict[str, Any] = described["$defs"]
    return found


def _name_forms(schemas: dict[str, Any]) -> None:
    """Give the forms of a body, which pydantic writes where they are used, a name that others can use."""
    for schema in list(schemas.values()):
        for number, form in enumerate(schema.get("anyOf", ())):
            if "title" in form:
                schemas[form["title"]] = form
                schema["anyOf"][number] = {"$ref": f"#/components/schemas/{form['title']}"}


def _describe_defaults(schemas: dict[str, Any]) -> None:
    """Say defaults in words: of a field with `default`, generators in TypeScript say that it must be there."""
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            default = field.pop("default", None)
            if default not in (None, "", []) and not isinstance(default, dict):
                field["description"] = f"{field['description']}; default {json.dumps(default)}"


def _describe_operation(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Say what the operation does, what its parameters are, and what a good reply looks like."""
    _split_description(operation)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["description"] = PATH_PARAMETERS[parameter["name"]]
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            reference = content.get("schema", {}).get("$ref", "")
            if reference and response["description"] == SUCCESS:
                response["description"] = schemas[reference.rpartition("/")[2]]["description"].partition("\n")[0]
            if status.startswith("2"):
                content["example"] = EXAMPLES[operation["operationId"]][media_type]
        if response["description"] == SUCCESS:
            response["description"] = "Done; there is nothing more to say."


def _split_description(operation: dict[str, Any]) -> None:
    """The first sentence about a function says more than its name in other words; the rest describes it."""
    operation["summary"], _, operation["description"] = operation["description"].partition("\n\n")
