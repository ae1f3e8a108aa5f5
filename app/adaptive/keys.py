"""Coincidences as 64-bit keys: a sparse model names its weights by hashing what occurs together."""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(kind: int, first: "NDArray[np.int64]", second: "NDArray[np.int64]") -> Keys:
    """One key of three numbers by the finaliser of SplitMix64 (Steele, Lea & Flood 2014); collisions are not expected.

    Among a million keys the chance of any collision is about 3e-8.
    """
    with np.errstate(over="ignore"):
        z = first.astype(np.uint64) * GOLDEN + np.uint64(kind + 1)
        z = finalised(z) + second.astype(np.uint64) * GOLDEN
        return finalised(z)


def finalised(z: Keys) -> Keys:
    """Every bit of the result depends on every bit of the argument, one to one."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def found(keys: Keys, wanted: Keys) -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
    """Where each wanted key stands among the sorted ones, and whether it is there at all."""
    if not len(keys):
        return np.zeros(wanted.shape, dtype=np.int64), np.zeros(wanted.shape, dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, np.asarray(keys[place] == wanted)
