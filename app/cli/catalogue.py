"""Catalogues in files, checked as the service checks them."""

from typing import Any

from pydantic import ValidationError

from app.core.errors import InvalidFile
from app.http.problems import faults_in
from app.schemas.catalogue import CatalogueIn


def validate_catalogue(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A catalogue of a file with this name, as PUT …/catalogue would take it. Raises `InvalidFile`."""
    try:
        return CatalogueIn.model_validate(body).model_dump(exclude_none=True)
    except ValidationError as error:
        raise InvalidFile(f"{name} is not a sound catalogue", faults_in(error, body)) from error
