"""Chance without state: numbers that look random and depend on nothing but a seed and what they are for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .fleet import Floats

Bits = NDArray[np.uint64]
Key = Bits | NDArray[np.int64] | int

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1


def bits(seed: int, *keys: Key) -> Bits:
    """64 bits for each combination of keys (SplitMix64's mixing function, once per key)."""
    mixed = np.zeros(1, dtype=np.uint64)
    for key in (seed, *keys):
        word = np.uint64(key & _WORD) if isinstance(key, int) else key.astype(np.uint64)
        mixed = _mix((mixed ^ word) + np.uint64(_STEP))
    return mixed


def uniform(seed: int, *keys: Key) -> Floats:
    """A number from 0 up to, not including, 1 for each combination of keys."""
    return (bits(seed, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(word: Bits) -> Bits:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(_FIRST)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(_SECOND)
    return word ^ (word >> np.uint64(31))
