"""The kinds of values that requests and replies are made of."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from app.times import from_datetime

FIRST_YEAR, LAST_YEAR = 1970, 2199
RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


class Request(BaseModel):
    """A body: unknown fields are refused, nothing is converted, `null` is absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Reply(BaseModel):
    """A reply, described for the OpenAPI document; it is built as JSON elsewhere."""

    model_config = ConfigDict(extra="forbid")


def to_moment(value: object) -> int:
    """An RFC 3339 text as microseconds since 1970."""
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise ValueError("must be a time with an offset, such as 2026-11-22T09:00:00Z")
    try:
        moment = datetime.fromisoformat(cut_to_microseconds(value.upper()))
    except ValueError:
        raise ValueError("there is no such time") from None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"must lie between {FIRST_YEAR} and {LAST_YEAR}")
    return from_datetime(moment)


def cut_to_microseconds(text: str) -> str:
    """The same time without what is below a microsecond."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


Identifier = Annotated[str, StringConstraints(min_length=1, max_length=255, strict=True)]
Title = Annotated[str, StringConstraints(max_length=1000, strict=True)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64, strict=True)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000, strict=True)]
Moment = Annotated[
    int,
    BeforeValidator(to_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-22T09:00:00Z"]}),
]
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Probability = Annotated[float, Field(ge=0, le=1)]


class Page(Reply):
    """Where the next page of a list is: `next` is null on the last one."""

    next: str | None = Field(description="give it as `cursor` to get the next page")


def examples(*given: dict[str, Any]) -> ConfigDict:
    """For the `model_config` of a body: examples that the tests send."""
    return ConfigDict(json_schema_extra={"examples": list(given)})
