"""Errors in the form of 1EdTech: `imsx_StatusInfo`, for every address of CAT 1.0.

Built from the problem of the same error, so only one module decides what an error says.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.common import Reply

MEDIA_TYPE = "application/json"
PREFIX = "/ims/cat/v1p0"
TARGET = "TargetEndSystem"
MOST_FAULTS = 10

MINOR = {
    HTTPStatus.UNAUTHORIZED: "unauthorisedrequest",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "unknownobject",
    HTTPStatus.TOO_MANY_REQUESTS: "server_busy",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_busy",
}
# The standard knows neither: what cannot be done with what was sent is invalid data.
ALL_BAD = frozenset({HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})


def is_cat_path(path: str) -> bool:
    """Return whether errors of this address have this form."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def to_imsx_status(status: int) -> int:
    """Return the HTTP status that CAT has for that of a problem."""
    return HTTPStatus.BAD_REQUEST if status in ALL_BAD else status


def to_status_info(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem in the form of 1EdTech; its pointers are in the description, as there is no list for them."""
    status = problem["status"]
    title = "Unknown Object" if status == HTTPStatus.NOT_FOUND else problem["title"]
    locations = [f"{fault['pointer']} {fault['detail']}" for fault in problem["errors"][:MOST_FAULTS]]
    minor = {"imsx_codeMinorFieldName": TARGET, "imsx_codeMinorFieldValue": MINOR.get(status, "invaliddata")}
    return {
        "imsx_codeMajor": "failure",
        "imsx_severity": "error",
        "imsx_description": "; ".join([f"{title}: {problem['detail']}", *locations]),
        "imsx_codeMinor": {"imsx_codeMinorField": [minor]},
    }


def documented_errors() -> dict[int | str, dict[str, Any]]:
    """Return the errors for `responses=` of a route of CAT."""
    descriptions: dict[int | str, str] = {
        400: "`invaliddata`: malformed or not acceptable, or a `sessionState` that is not the last one",
        401: "`unauthorisedrequest`: no valid key or token",
        403: "`forbidden`: the key lacks a scope",
        404: "`unknownobject`: not there, ended, or another tenant's",
        408: "`invaliddata`: the body came too slowly",
        413: "`invaliddata`: the body is too large",
        415: "`invaliddata`: the body is not plain JSON",
        429: "`server_busy`: too often; wait as long as `Retry-After` says",
        500: "`internal_server_error`: something went wrong on our side",
        503: "`server_busy`: wait as long as `Retry-After` says",
        "default": "any other error",
    }
    return {status: {"model": StatusInfo, "description": text} for status, text in descriptions.items()}


class MinorField(Reply):
    """Which system tells what."""

    imsx_codeMinorFieldName: Literal["TargetEndSystem"] = Field(description="always this service")
    imsx_codeMinorFieldValue: Literal[
        "invaliddata", "unauthorisedrequest", "forbidden", "unknownobject", "server_busy", "internal_server_error"
    ] = Field(description="the word that 1EdTech has for it")


class CodeMinor(Reply):
    """What is wrong, in a word."""

    imsx_codeMinorField: Annotated[list[MinorField], Field(min_length=1)] = Field(description="one element")


class StatusInfo(Reply):
    """An error (imsx_StatusInfo)."""

    imsx_codeMajor: Literal["failure"] = Field(description="that nothing was done")
    imsx_severity: Literal["error"] = Field(description="that something must be done about it")
    imsx_description: str = Field(description="what happened, and which places of the request are wrong")
    imsx_codeMinor: CodeMinor = Field(description="what happened, in a word")
