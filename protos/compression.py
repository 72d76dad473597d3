"""Updates in fewer bytes: what training changed, rounded or thinned out. Not exact, so off unless asked for.

A compressed update is a blob of arrays like any other, and tells each change in one of three ways:

NAME                    the array itself, whole: not of floats, or nothing that a number fits
NAME#int8, NAME#scale   the change is int8 times scale (float32, one number)
NAME#place, NAME#value  the change is value (float32) at these places of the flat array (int64), else 0

What is lost is the device's to keep and to add to its next change (error feedback).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadInput, BadMessage

from .arrays import Arrays, decode_arrays, each_array

_LEVELS = 127
Floats = NDArray[np.float64]


class Method(enum.StrEnum):
    """How a change is told."""

    INT8 = "int8"
    TOP_K = "top-k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """`share` is what of an array's numbers TOP_K tells, above 0 and at most 1."""

    method: Method
    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadInput(f"top-k must tell a share above 0 and at most 1, not {self.share}")


def parse_compression(text: str) -> Compression | None:
    """From "int8", "top-k" or "top-k:0.05" (the share told); none from "". Raises BadInput."""
    if not text:
        return None
    name, colon, share = text.partition(":")
    try:
        method = Method(name)
        if not colon:
            return Compression(method=method)
        if method is Method.TOP_K:
            return Compression(method=method, share=float(share))
    except ValueError:
        pass
    raise BadInput(f"{text!r} is no compression: write int8, top-k, or top-k:0.05")


def compress(
    arrays: Arrays, base: Arrays, lost: Mapping[str, Floats], how: Compression
) -> tuple[dict[str, NDArray[Any]], dict[str, Floats]]:
    """What is sent instead of the arrays, given the model they were trained from, and what that loses.

    `lost` is what was lost the last time. Only arrays of floats are ever compressed.
    """
    sent: dict[str, NDArray[Any]] = {}
    left: dict[str, Floats] = {}
    for name, value in arrays.items():
        if "#" in name:
            raise BadInput(f"array {name!r} cannot be compressed: its name has a #")
        change = _change(value, base[name], lost.get(name))
        if change is None:
            sent[name] = value
            continue
        told = _rounded(change) if how.method is Method.INT8 else _largest(change, how.share)
        sent |= {f"{name}#{part}": array for part, array in told.items()}
        left[name] = change - _told(told, change.shape)
    return sent, left


def decompress(sent: Arrays, base: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays that are meant, in their names' order. Arrays that were not compressed stay bit for bit.

    Raises BadMessage for what `compress` does not make of a model like `base`.
    """
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for name, value in sent.items():
        array, _, part = name.partition("#") if name not in base else (name, "", "")
        parts.setdefault(array, {})[part] = value
    if foreign := sorted(parts.keys() - base.keys()):
        raise BadMessage(f"the update has {foreign[0]!r:.80}, which is no array of the model")
    return {name: _meant(name, parts[name], base[name]) for name in sorted(parts)}


def decode_update(data: bytes, base: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays of an update's blob, compressed or not; `base` is its task's model. Raises BadMessage."""
    return decompress(decode_arrays(data), base)


def each_update_array(path: Path, model: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of an update in a file, compressed or not, one after the other; `model` is its task's file.

    The model is read only for an update that is compressed. Raises BadMessage.
    """
    for name, group in groupby(each_array(path), key=lambda item: item[0].partition("#")[0]):
        parts = dict(group)
        if parts.keys() == {name}:
            yield name, parts[name]
            continue
        base = {known: array for known, array in each_array(model) if known in {name, *parts}}
        yield from decompress(parts, base).items()


def _change(value: NDArray[Any], base: NDArray[Any], lost: Floats | None) -> Floats | None:
    """In float64, in which differences of float32 are exact enough; None where a change says nothing."""
    if value.dtype.kind != "f" or not value.size:
        return None
    change: Floats = np.asarray(value, np.float64) - np.asarray(base, np.float64)
    if lost is not None and lost.shape == change.shape:
        change = change + lost
    largest = float(np.abs(change).max())
    return change if largest < float(np.finfo(np.float32).max) else None


def _rounded(change: Floats) -> dict[str, NDArray[Any]]:
    scale = np.float32(np.abs(change).max() / _LEVELS)
    if not scale:
        return {"int8": np.zeros(change.shape, np.int8), "scale": scale.reshape(1)}
    levels = np.clip(np.rint(change / np.float64(scale)), -_LEVELS, _LEVELS)
    return {"int8": levels.astype(np.int8), "scale": scale.reshape(1)}


def _largest(change: Floats, share: float) -> dict[str, NDArray[Any]]:
    flat = change.ravel()
    count = max(1, round(share * flat.size))
    place = np.sort(np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :])
    return {"place": place.astype(np.int64), "value": flat[place].astype(np.float32)}


def _told(parts: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> Floats:
    """The change that these parts tell."""
    if "int8" in parts:
        return parts["int8"].astype(np.float64) * np.float64(parts["scale"][0])
    change = np.zeros(int(np.prod(shape)))
    change[parts["place"]] = parts["value"]
    return change.reshape(shape)


_FORMS = (
    {"int8": np.dtype(np.int8), "scale": np.dtype(np.float32)},
    {"place": np.dtype(np.int64), "value": np.dtype(np.float32)},
)


def _meant(name: str, parts: Mapping[str, NDArray[Any]], base: NDArray[Any]) -> NDArray[Any]:
    if parts.keys() == {""}:
        return parts[""]
    types = {part: array.dtype for part, array in parts.items()}
    if base.dtype.kind != "f" or types not in _FORMS:
        raise BadMessage(f"{name!r:.80} is compressed in a way not known here")
    if "int8" in parts:
        fits = parts["int8"].shape == base.shape and parts["scale"].shape == (1,)
    else:
        place, value = parts["place"], parts["value"]
        rising = place.ndim == 1 and bool((np.diff(place) > 0).all())
        inside = rising and (not place.size or (place[0] >= 0 and place[-1] < base.size))
        fits = bool(inside) and value.shape == place.shape
    if not fits:
        raise BadMessage(f"what is sent of {name!r:.80} does not fit its shape {list(base.shape)}")
    meant = np.asarray(base, np.float64) + _told(parts, base.shape)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
        return meant.astype(base.dtype)
