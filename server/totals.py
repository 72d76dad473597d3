"""Weighted sums of updates that are the same, bit for bit, in whatever order the updates come.

Floating-point addition depends on the order, and replies arrive in any. So each term, a float64, is cut
into two whole numbers, of units 2**-10 and 2**-60, and whole numbers are added: what is lost is only what
a term has below 2**-60, and that does not depend on the other terms. Updates can thus be added as they
arrive and forgotten, and a coordinator that adds them again after a restart finds the same model.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadInput, BadUpdate

from .updates import Arrays

COARSE, FINE = 2.0**10, 2.0**60  # reciprocals of the two units
SHIFT = 50  # bits from one unit to the other
MOST = 2.0**52  # sum of all magnitudes; the coarse sums then stay below 2**62
CARRY_AFTER = 2**13  # terms; each puts at most 2**49 into the fine sums
SMALL = 2**14  # numbers of an array that is added together with others
BLOCK = 2**16  # numbers that are worked on at a time, so that they stay in the processor's cache


class Totals:
    """Sums of the arrays of updates, weighted. Takes 16 bytes of RAM per number of the model."""

    def __init__(self, reference: Arrays) -> None:
        for name, value in reference.items():
            if np.iscomplexobj(value):
                raise BadInput(f"array {name!r} is complex; models of real numbers can be averaged")
        self._shapes = {name: value.shape for name, value in reference.items()}
        self._parts = _parts(reference)
        self._sums = [
            (np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64))
            for size in (sum(reference[name].size for name in part) for part in self._parts)
        ]
        self._coarse: dict[str, NDArray[np.int64]] = {}
        self._fine: dict[str, NDArray[np.int64]] = {}
        for part, (coarse, fine) in zip(self._parts, self._sums, strict=True):
            ends = np.cumsum([reference[name].size for name in part])[:-1]
            self._coarse |= dict(zip(part, np.split(coarse, ends), strict=True))
            self._fine |= dict(zip(part, np.split(fine, ends), strict=True))
        self._weight = Fraction(0)
        self._reach = 0.0
        self.count = 0

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self._weight)

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add arrays of the reference's names and shapes, each number finite.

        Raises BadUpdate, and adds nothing, when the sums could leave the range that is exact.
        """
        flat = [_flat(arrays, part) for part in self._parts]
        reach = max(map(_largest, flat), default=0.0) * weight
        if not self._reach + reach <= MOST:
            raise BadUpdate(
                f"the update's numbers reach {reach / weight:.3g} with a weight of {weight:.6g}: too much "
                "to be added exactly; a smaller learning rate may help"
            )
        self._reach += reach
        self._weight += Fraction(weight)
        for values, (coarse, fine) in zip(flat, self._sums, strict=True):
            _add(values, weight, coarse, fine)
        self.count += 1
        if self.count % CARRY_AFTER == 0:
            for coarse, fine in self._sums:
                _carry(coarse, fine)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays whose sums are still there."""
        return tuple(self._coarse)

    def take_mean(self, name: str) -> NDArray[np.float64]:
        """The weighted mean of one array, in float64, in exchange for its sums; an update has been added."""
        self._parts, self._sums = [], []  # nothing can be added from here on
        coarse, fine = self._coarse.pop(name), self._fine.pop(name)
        _carry(coarse, fine)
        mean = fine / FINE
        mean += coarse / COARSE
        mean /= self.weight
        return mean.reshape(self._shapes[name])


def _parts(reference: Arrays) -> list[tuple[str, ...]]:
    """Names of arrays that are added together: the small ones as one, since each call of numpy costs."""
    small = tuple(name for name, value in reference.items() if value.size <= SMALL)
    large = [(name,) for name in reference if name not in set(small)]
    return [small, *large] if small else [*large]


def _flat(arrays: Arrays, part: tuple[str, ...]) -> NDArray[Any]:
    if len(part) == 1:
        return arrays[part[0]].reshape(-1)
    return np.concatenate([arrays[name].reshape(-1) for name in part], dtype=np.float64)


def _carry(coarse: NDArray[np.int64], fine: NDArray[np.int64]) -> None:
    """Move what is whole in the fine sums to the coarse ones."""
    carry = fine >> SHIFT
    coarse += carry
    carry <<= SHIFT
    fine -= carry


def _largest(values: NDArray[Any]) -> float:
    if not values.size:
        return 0.0
    return max(abs(float(values.max())), abs(float(values.min())))


def _add(
    values: NDArray[Any], weight: float, coarse: NDArray[np.int64], fine: NDArray[np.int64]
) -> None:
    for start in range(0, values.size, BLOCK):
        block = slice(start, start + BLOCK)
        term = np.multiply(values[block], weight, dtype=np.float64)
        whole = np.rint(term * COARSE)
        coarse[block] += whole.astype(np.int64)
        term -= whole / COARSE  # exact: both are multiples of the term's last bit
        fine[block] += np.rint(term * FINE).astype(np.int64)
