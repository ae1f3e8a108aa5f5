"""The values of a calibration as bytes, and back."""

import io
from dataclasses import astuple, dataclass

import numpy as np

from app.adaptive.types import Floats, Parameters, Population


@dataclass(frozen=True)
class CalibratedValues:
    """What a calibration found: the population, the rates of each skill, the easiness of each item, by number."""

    population: Population
    prior: Floats
    learn: Floats
    forget: Floats
    easiness: Floats


def pack_values(parameters: Parameters) -> bytes:
    """The fitted values of `parameters` as an uncompressed NumPy archive."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        population=np.array(astuple(parameters.population)),
        prior=parameters.skills.prior,
        learn=parameters.skills.learn,
        forget=parameters.skills.forget,
        easiness=parameters.items.easiness,
    )
    return buffer.getvalue()


def unpack_values(packed: bytes) -> CalibratedValues:
    """The values of `pack_values`."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return CalibratedValues(
            Population(*archive["population"].tolist()),
            archive["prior"],
            archive["learn"],
            archive["forget"],
            archive["easiness"],
        )
