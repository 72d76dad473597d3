"""Arrays in numpy's own file format, as Flower sends them."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def npy(value: NDArray[Any]) -> bytes:
    """The array in C order, as np.save would write it."""
    return header(value.dtype, value.shape) + value.tobytes()


@functools.lru_cache(maxsize=1024)
def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of an array in C order; made once for each form."""
    np.lib.format.write_array_header_1_0(
        file := io.BytesIO(),
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return file.getvalue()
