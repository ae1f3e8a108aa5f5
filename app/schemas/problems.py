"""The one form that every error has."""

from pydantic import BaseModel, Field


class Fault(BaseModel):
    """One place in a request that is wrong."""

    pointer: str = Field(
        description="a JSON pointer into the body, `?name` for a query parameter, `{name}` for a part of the path, "
        "`name:` for a header; empty for the whole body",
        examples=["/responses/3/score"],
    )
    detail: str = Field(description="what is wrong there, as a phrase", examples=["must be a number"])


class Problem(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = Field(
        description="the address of the page of this service that explains the code",
        json_schema_extra={"format": "uri"},
        examples=["https://proxima.example.org/errors#unknown_course"],
    )
    title: str = Field(description="the kind of error in words, the same for every error of one code")
    status: int = Field(ge=400, le=599, description="the HTTP status of the reply, or of what it is about in a batch")
    detail: str = Field(description="what happened, and what to do about it")
    code: str = Field(
        description="the kind of error, for programs: a code never changes its meaning", examples=["unknown_course"]
    )
    request_id: str = Field(description="finds the request in the logs; also in the header X-Request-ID")
    errors: list[Fault] = Field(description="the places that are wrong; empty if there is no single place")
