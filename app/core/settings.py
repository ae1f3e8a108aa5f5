"""Settings from the environment: `PROXIMA_*`, and nothing else."""

import os
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.errors import InvalidSetting

PREFIX = "PROXIMA_"


class Settings(BaseSettings):
    """Every setting of the service; each is read once, at the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str = Field(
        default="sqlite:///proxima.db",
        description="`sqlite:///path` or `postgresql://user:password@host/name`",
    )
    pool_size: int = Field(default=8, ge=1, le=100, description="PostgreSQL connections a worker")
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="largest request body")
    max_waiting_responses: int = Field(
        default=1000, ge=1, description="answers that may wait for a transaction before 503"
    )
    drain_seconds: float = Field(
        default=0, ge=0, le=600, description="from the signal to stop, and not ready, to the end of listening"
    )
    requests_per_minute: int = Field(default=600_000, ge=1, description="requests of a key; a batch counts its answers")
    failed_keys_per_minute: int = Field(default=600, ge=1, description="requests without a valid key from an address")
    calibrations_per_hour: int = Field(default=60, ge=1, description="calibrations that a key may start")
    exports_per_hour: int = Field(default=60, ge=1, description="whole cohorts that a key may fetch as CSV")
    webhook_hosts: str = Field(
        default="", description="`host` or `host:port`, by commas, that webhooks may call though private or without TLS"
    )
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("must start with sqlite:/// or postgresql://")
        return url


def read_settings() -> Settings:
    """Read the environment; an unknown or invalid `PROXIMA_*` variable is an error that names it."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise InvalidSetting(f"unknown setting {unknown[0]}; known are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise InvalidSetting(f"{name}: {first['msg']}") from error
