"""Client credentials as RFC 6749 has them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.common import Reply


class TokenRequest(BaseModel):
    """What the form holds; other fields are passed over."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grant_type": "client_credentials"}]})

    grant_type: Literal["client_credentials"] = Field(description="no other grant is known here")
    client_id: str = Field(default="", description="the id of a key, unless in the header `Authorization: Basic`")
    client_secret: str = Field(default="", description="the key itself, `prx_…`")
    scope: str = Field(default="", description="scopes of the key by spaces, to have no more; URIs are passed over")
    audience: str = Field(default="", description="read by other services, and passed over by this one")


class TokenOut(Reply):
    """A token."""

    access_token: str = Field(description="send it as `Authorization: Bearer …`, as a key")
    token_type: Literal["Bearer"] = Field(description="that it is sent as RFC 6750 has it")
    expires_in: int = Field(description="for how many seconds it is valid")
    scope: str = Field(description="what it may do: scopes by spaces")


class TokenError(Reply):
    """Why there is none."""

    error: Literal[
        "invalid_request", "invalid_client", "invalid_scope", "unsupported_grant_type", "temporarily_unavailable"
    ] = Field(description="the code that RFC 6749 has for it")
    error_description: str = Field(description="what happened, and what to do about it, in ASCII")
