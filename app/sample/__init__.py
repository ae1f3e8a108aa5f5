"""The sample course: Tatsuoka's test of subtracting fractions, with its answers; see `docs/sample-course.md`."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

COURSE = "fractions"


def catalogue() -> dict[str, Any]:
    """The course as the body of `PUT /v1/courses/fractions/catalogue`."""
    content: dict[str, Any] = json.loads((resources.files(__name__) / "catalogue.json").read_bytes())
    return content


def responses() -> Path:
    """The learners' answers, a file for `proxima import responses`."""
    return Path(str(resources.files(__name__) / "responses.csv.gz"))
