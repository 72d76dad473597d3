"""What an update must be before it is aggregated. Knows arrays and numbers, not Flower."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadUpdate

Arrays = Mapping[str, NDArray[np.generic]]

MOST_WEIGHT = 2**53  # beyond it a float64 does not count one by one; sums stay far from infinity
SHOWN = 3  # names that an error message lists before it only counts


def check_arrays(arrays: Arrays, reference: Arrays) -> None:
    """Raise BadUpdate unless both have the same names, shapes and types, and all numbers are finite."""
    if missing := sorted(reference.keys() - arrays.keys()):
        raise BadUpdate(f"the update lacks {_listed(missing)}")
    if extra := sorted(arrays.keys() - reference.keys()):
        raise BadUpdate(f"the update has {_listed(extra)}, which the model does not have")
    for name, want in reference.items():
        got = arrays[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise BadUpdate(f"array {name!r} is {_form(got)}; the model has {_form(want)}")
        if bad := np.count_nonzero(~np.isfinite(got)):
            raise BadUpdate(
                f"array {name!r} has {bad} of {got.size} values that are NaN or infinite; "
                "a smaller learning rate may help"
            )


def check_weight(metrics: Mapping[str, object], key: str) -> None:
    """Raise BadUpdate unless the weight of the update is a positive number that examples can have."""
    weight = metrics.get(key)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BadUpdate(
            f"metric {key!r}, the weight of the update, is {weight!r}; it must be a number"
        )
    if not 0 < weight <= MOST_WEIGHT:
        raise BadUpdate(
            f"metric {key!r}, the weight of the update, is {weight}; it must be more than 0 and at most 2**53"
        )


def _form(array: NDArray[np.generic]) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"array {', '.join(map(repr, names[:SHOWN]))}{more}"
