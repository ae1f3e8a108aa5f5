"""What the OpenAPI document says beside what the routes say themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.routers.webhooks import calls
from app.schemas.common import LONGEST_ID, MOST_BYTES

DESCRIPTION = f"""
- **Key**: every address under `/v1` wants `Authorization: Bearer prx_…`; `proxima key create` makes a key.
- **Ids** of courses, skills, items, learners and responses are your own strings of 1 to {LONGEST_ID} characters
  (and at most {MOST_BYTES} bytes of UTF-8, which only rare scripts reach);
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
}
REQUEST_ID = {"$ref": "#/components/headers/RequestId"}


def describe_operations(app: FastAPI) -> None:
    """Let the document say what is true of every operation. To be called after all routes were added."""
    make_document = app.openapi
    for route in app.routes:
        if isinstance(route, APIRoute):
            # The name of the function: short, and stable when an address is not.
            route.operation_id = route.name

    def openapi() -> dict[str, Any]:
        document = make_document()
        document["components"]["headers"] = {
            "RequestId": {
                "description": "finds the request in the logs; yours, if you sent one in this header",
                "schema": {"type": "string"},
            }
        }
        for path in document["paths"].values():
            for operation in path.values():
                # The sentence about the function says more than its name in other words.
                operation["summary"] = operation.pop("description", operation["summary"])
                for response in operation["responses"].values():
                    response.setdefault("headers", {})["X-Request-ID"] = REQUEST_ID
        return document

    app.openapi = openapi  # type: ignore[method-assign]
