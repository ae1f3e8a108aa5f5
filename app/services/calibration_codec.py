"""The values of a calibration as bytes, and back."""

import io
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.fit import CalibrationFit
from app.adaptive.parameters import BehaviourModel, Population

# Names in the archive: of the rates, and of the fields of a behaviour model that have other names in the code.
RATES = {"prior": "prior", "learn": "p_learn", "forget": "p_forget"}
WRITTEN = {
    "item_contexts": "places",
    "skill_sets": "kin",
    "skill_set_loadings": "kin_loadings",
    "crosses": "cues",
    "cross_weights": "cue_weights",
}


def _written(name: str) -> str:
    """Return the name of a field of a behaviour model in the archive."""
    return WRITTEN.get(name, name)


@dataclass(frozen=True)
class CalibratedValues:
    """The values of a calibration: population, rates of each skill, intercept of each item, behaviour model.

    `rapid_below` (I,): in ms, below which an answer to an item was not thought about; 0 where that is not known.
    `suspect` (I,) marks items that do not measure what the others do.
    """

    population: Population
    prior: Floats
    p_learn: Floats
    p_forget: Floats
    intercept: Floats
    behaviour: BehaviourModel | None
    rapid_below: Integers
    suspect: Booleans


def encode_calibration(fit: CalibrationFit, rapid_below: Integers, suspect: Booleans) -> bytes:
    """Return the values of a fit, of all learners and without the held-out ones, as a NumPy archive."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"rapid_below": rapid_below, "suspect": suspect}
    for kind, parameters in (("final", fit.parameters), ("trained", fit.trained)):
        arrays[f"{kind}_population"] = np.array(astuple(parameters.population))
        arrays[f"{kind}_easiness"] = parameters.items.intercept
        for rate, name in RATES.items():
            arrays[f"{kind}_{rate}"] = getattr(parameters.skills, name)
        if parameters.behaviour is not None:
            arrays |= {
                f"{kind}_head_{_written(field.name)}": getattr(parameters.behaviour, field.name)
                for field in fields(BehaviourModel)
            }
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_calibration(encoded: bytes, *, trained: bool = False) -> CalibratedValues:
    """Return the values that `encode_calibration` wrote: of all learners, or without the held-out ones."""
    kind = "trained" if trained else "final"
    with np.load(io.BytesIO(encoded), allow_pickle=False) as archive:
        return CalibratedValues(
            Population(*archive[f"{kind}_population"].tolist()),
            archive[f"{kind}_prior"],
            archive[f"{kind}_learn"],
            archive[f"{kind}_forget"],
            archive[f"{kind}_easiness"],
            _decode_behaviour_model(archive, f"{kind}_head_"),
            archive["rapid_below"] if "rapid_below" in archive else np.empty(0, dtype=np.int64),
            archive["suspect"] if "suspect" in archive else np.empty(0, dtype=np.bool_),
        )


def _decode_behaviour_model(archive: Mapping[str, Any], prefix: str) -> BehaviourModel | None:
    """Return the behaviour model of a fit, if it has one."""
    if f"{prefix}weights" not in archive:
        return None
    return BehaviourModel(**{field.name: archive[prefix + _written(field.name)] for field in fields(BehaviourModel)})
