"""The kinds of values that requests and replies are made of."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema

from app.core.ids import ID_PATTERN, LONGEST_ID, check_id, check_storable
from app.core.times import from_datetime

FIRST_YEAR, LAST_YEAR = 1970, 2199
LARGEST_SCORE = 1_000_000
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
RFC_3339 = (
    r"^(19[7-9][0-9]|2[01][0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    rf"[Tt]{_TIME}:[0-5][0-9](\.[0-9]{{1,9}})?([Zz]|[+-]{_TIME})$"
)
_RFC_3339 = re.compile(RFC_3339)
# No id and no text holds NUL: PostgreSQL could not store it.
TEXT = r"^[^\x00]*$"


class Request(BaseModel):
    """A body: unknown fields are refused, nothing is converted, `null` is absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OneOf(Request):
    """A body that is read as one, and described as exactly one of its `forms`: generated clients then have a type each.

    What a form does not have is null in it, so that no two forms fit one body, and `anyOf` says what `oneOf` would.
    """

    forms: ClassVar[tuple[type[BaseModel], ...]]

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the forms instead of what all of them could have."""
        whole = handler.resolve_ref_schema(handler(core_schema))
        shared: JsonSchemaValue = {name: whole[name] for name in ("title", "description", "examples") if name in whole}
        return {**shared, "anyOf": [handler(form.__pydantic_core_schema__) for form in cls.forms]}


class Reply(BaseModel):
    """A reply, described for the OpenAPI document; it is built as JSON elsewhere."""

    model_config = ConfigDict(extra="forbid")


def to_moment(value: object) -> int:
    """An RFC 3339 text as microseconds since 1970."""
    if not isinstance(value, str) or not _RFC_3339.search(value):
        years = f"between {FIRST_YEAR} and {LAST_YEAR}"
        raise ValueError(f"must be a time {years} with an offset, such as 2026-11-22T09:00:00Z")
    try:
        return from_datetime(datetime.fromisoformat(cut_to_microseconds(value.upper())))
    except ValueError:
        raise ValueError("there is no such time") from None


def cut_to_microseconds(text: str) -> str:
    """The same time without what is below a microsecond."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def to_whole_number(value: object) -> object:
    """A whole number written as 1.0 is whole in JSON too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_ID, strict=True),
    Field(json_schema_extra={"pattern": ID_PATTERN}),
    AfterValidator(check_id),
]
# What was stored by a version that took more than `check_id` does can be named where it is read.
StoredIdentifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_ID, strict=True, pattern=TEXT),
    AfterValidator(check_storable),
]
Title = Annotated[str, StringConstraints(max_length=1000, strict=True, pattern=TEXT)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64, strict=True, pattern=TEXT)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000, strict=True, pattern=TEXT)]
Absent = SkipJsonSchema[None]
Moment = Annotated[
    int,
    BeforeValidator(to_moment),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "pattern": RFC_3339, "examples": ["2026-11-22T09:00:00Z"]}
    ),
]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Probability = Annotated[float, Field(ge=0, le=1)]


class Page(Reply):
    """Where the next page of a list is: `next` is null on the last one."""

    next: str | None = Field(description="give it as `cursor` to get the next page; null on the last one")


def schema_reference(model: type[BaseModel]) -> dict[str, str]:
    """Where the OpenAPI document describes a model that FastAPI does not know of; `app.openapi` puts it there."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def words(values: Iterable[str], **more: Any) -> Any:
    """For a text of a reply that is always one of a few: these in the document."""
    return Field(json_schema_extra={"enum": list(values)}, **more)


def examples(*bodies: dict[str, JsonValue], **more: JsonValue) -> ConfigDict:
    """For the `model_config` of a body: examples that the tests send, and what a field alone cannot say."""
    return ConfigDict(json_schema_extra={"examples": list(bodies), **more})
