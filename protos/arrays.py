"""Named arrays as a blob in the safetensors format, which holds numbers and nothing that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load, save, save_file

from scheduler.errors import BadInput, BadMessage

from .tasks import ArrayForm

Arrays = Mapping[str, NDArray[Any]]

NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
"""numpy's types that can be sent, and what safetensors calls them."""


def forms(arrays: Arrays) -> list[ArrayForm]:
    """Name, type and dimensions of each array. Raises BadInput for a type that cannot be sent."""
    return [(name, _type_name(name, value), tuple(value.shape)) for name, value in arrays.items()]


def encode_arrays(arrays: Arrays) -> bytes:
    """The arrays as one blob. Raises BadInput for a type that cannot be sent."""
    forms(arrays)
    return save(_dense(arrays))


def write_arrays(arrays: Arrays, path: Path) -> None:
    """The arrays as one blob in a file, without a copy of them in memory."""
    forms(arrays)
    save_file(_dense(arrays), path)


def decode_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a blob, by name in ascending order. Raises BadMessage when it holds none."""
    try:
        arrays = load(data)
    except Exception as error:  # damaged bytes lead to more than the library's own error
        raise BadMessage(f"not arrays in the safetensors format: {error}") from error
    return {name: arrays[name] for name in sorted(arrays)}


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a blob in a file, by name in ascending order. Raises BadMessage when it holds none."""
    return dict(each_array(path))


def each_array(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The same one after the other, so that only one has to be in memory."""
    try:
        with safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
    except Exception as error:  # as above
        raise BadMessage(f"not arrays in the safetensors format: {error}") from error


def require_arrays(path: Path) -> None:
    """Raise BadMessage unless a file is a blob of arrays; the arrays themselves are not read.

    Raises OSError when the file cannot be read at all.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except OSError:
        raise
    except Exception as error:  # as above
        raise BadMessage(f"not arrays in the safetensors format: {error}") from error


def _dense(arrays: Arrays) -> dict[str, NDArray[Any]]:
    # Not ascontiguousarray, which gives a scalar a dimension.
    return {name: np.asarray(value, order="C") for name, value in arrays.items()}


def _type_name(name: str, value: NDArray[Any]) -> str:
    if (dtype := value.dtype.name) not in NAMES:
        raise BadInput(f"array {name!r} is {dtype}, which cannot be sent; use float32")
    return NAMES[dtype]
