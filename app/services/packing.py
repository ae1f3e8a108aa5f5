"""The values of a calibration as bytes, and back."""

import io
from dataclasses import astuple, dataclass

import numpy as np

from app.adaptive.calibration import Fit
from app.adaptive.types import Floats, Population


@dataclass(frozen=True)
class CalibratedValues:
    """What a calibration found: the population, the rates of each skill, the easiness of each item, by number."""

    population: Population
    prior: Floats
    learn: Floats
    forget: Floats
    easiness: Floats


def pack_fit(fit: Fit) -> bytes:
    """The values of a fit, those of everybody and those without the held-out learners, as a NumPy archive."""
    buffer = io.BytesIO()
    arrays = {}
    for kind, parameters in (("final", fit.parameters), ("trained", fit.trained)):
        arrays[f"{kind}_population"] = np.array(astuple(parameters.population))
        arrays[f"{kind}_easiness"] = parameters.items.easiness
        for rate in ("prior", "learn", "forget"):
            arrays[f"{kind}_{rate}"] = getattr(parameters.skills, rate)
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
        )
