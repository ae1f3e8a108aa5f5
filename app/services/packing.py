"""The values of a calibration as bytes, and back."""

import io
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from app.adaptive.calibration import Fit
from app.adaptive.types import Floats, Head, Population


@dataclass(frozen=True)
class CalibratedValues:
    """What a calibration found: the population, the rates of each skill, the easiness of each item, a head."""

    population: Population
    prior: Floats
    learn: Floats
    forget: Floats
    easiness: Floats
    head: Head | None


def pack_fit(fit: Fit) -> bytes:
    """The values of a fit, those of everybody and those without the held-out learners, as a NumPy archive."""
    buffer = io.BytesIO()
    arrays = {}
    for kind, parameters in (("final", fit.parameters), ("trained", fit.trained)):
        arrays[f"{kind}_population"] = np.array(astuple(parameters.population))
        arrays[f"{kind}_easiness"] = parameters.items.easiness
        for rate in ("prior", "learn", "forget"):
            arrays[f"{kind}_{rate}"] = getattr(parameters.skills, rate)
        if parameters.head is not None:
            arrays |= {f"{kind}_head_{each.name}": getattr(parameters.head, each.name) for each in fields(Head)}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_fit(packed: bytes, *, trained: bool = False) -> CalibratedValues:
    """The values of `pack_fit`: those of everybody, or those without the held-out learners."""
    kind = "trained" if trained else "final"
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return CalibratedValues(
            Population(*archive[f"{kind}_population"].tolist()),
            archive[f"{kind}_prior"],
            archive[f"{kind}_learn"],
            archive[f"{kind}_forget"],
            archive[f"{kind}_easiness"],
            unpack_head(archive, f"{kind}_head_"),
        )


def unpack_head(archive: Mapping[str, Any], prefix: str) -> Head | None:
    """The head of a fit; a calibration may have none."""
    if f"{prefix}weights" not in archive:
        return None
    return Head(**{each.name: archive[prefix + each.name] for each in fields(Head)})
