"""The OpenAPI document as it is committed; `make openapi` writes it."""

import json
from pathlib import Path
from typing import Any

from app.core.settings import Settings
from app.main import create_app

PATH = Path(__file__).parents[2] / "docs" / "openapi.json"


def current_document() -> dict[str, Any]:
    """What the program serves at /openapi.json."""
    return create_app(Settings(log_level="error")).openapi()


def render(document: dict[str, Any]) -> str:
    """As text in which a change shows line by line."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(current_document()))
