"""Coincidences as 64-bit keys: a sparse model names its weights by hashing what occurs together."""

import numpy as np
from numpy.typing import NDArray

from app.adaptive.arrays import Floats, Integers, Seeds

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_keys(kind: int, first: "NDArray[np.int64]", second: "NDArray[np.int64]") -> Keys:
    """One key of three numbers by the finaliser of SplitMix64 (Steele, Lea & Flood 2014); collisions are not expected.

    Among a million keys the chance of any collision is about 3e-8.
    """
    with np.errstate(over="ignore"):
        z = first.astype(np.uint64) * GOLDEN + np.uint64(kind + 1)
        z = finalise(z) + second.astype(np.uint64) * GOLDEN
        return finalise(z)


def finalise(z: Keys) -> Keys:
    """Every bit of the result depends on every bit of the argument, one to one."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def find_keys(keys: Keys, queries: Keys) -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
    """Where each wanted key stands among the sorted ones, and whether it is there at all."""
    if not len(keys):
        return np.zeros(queries.shape, dtype=np.int64), np.zeros(queries.shape, dtype=np.bool_)
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return index, np.asarray(keys[index] == queries)


def uniform(seeds: Seeds, items: Integers) -> Floats:
    """U(0, 1) for each pair of seed and item: SplitMix64 (Steele, Lea & Flood 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        z = finalise(seeds + (items.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    return np.asarray((z >> np.uint64(11)) * 2.0**-53)
