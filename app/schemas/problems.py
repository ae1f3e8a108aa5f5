"""The one form that every error has."""

from pydantic import BaseModel, Field

from app.core.errors import Fault


class Problem(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = Field(
        description="the address of the page of this service that explains the code",
        json_schema_extra={"format": "uri"},
        examples=["https://proxima.example.org/errors#unknown_course"],
    )
    title: str
    status: int
    detail: str = Field(description="what happened, and what to do about it")
    code: str = Field(description="stable: programs may rely on it", examples=["unknown_course"])
    request_id: str = Field(description="finds the request in the logs; also in the header X-Request-ID")
    errors: list[Fault] = Field(description="the places that are wrong; empty if there is no single place")
