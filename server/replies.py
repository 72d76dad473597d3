"""Between Flower's messages and arrays: what a reply must be, how large it is, and how fast it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from protos.npy import header, npy
from scheduler.errors import BadUpdate

from .updates import Arrays, check_arrays, check_weight

WEIGHT = "num-examples"
ORDER = "partition-id"
NUMBER_BYTES = 8

Metrics = Mapping[str, float]
Record = TypeVar("Record", ArrayRecord, MetricRecord, ConfigRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node whose update was not aggregated, and why. `sent` tells a bad update from none at all."""

    node: int
    reason: str
    sent: bool


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads arrays that should be like `reference`, those with its very headers without parsing them."""

    reference: Arrays
    headers: Mapping[str, bytes]

    def read(self, record: ArrayRecord) -> dict[str, NDArray[np.generic]]:
        """Arrays as numpy has them; some may be read-only. Raises what `from_record` raises."""
        return {name: self._array(name, array) for name, array in record.items()}

    def _array(self, name: str, array: Array) -> NDArray[np.generic]:
        header, want = self.headers.get(name), self.reference.get(name)
        if header is None or want is None or len(array.data) != len(header) + want.nbytes:
            return _checked(name, array.numpy())
        if array.data.startswith(header):
            return np.frombuffer(array.data, want.dtype, offset=len(header)).reshape(want.shape)
        return _checked(name, array.numpy())


def reader(reference: Arrays) -> Reader:
    """A reader of updates to the model `reference`."""
    return Reader(
        reference=reference,
        headers={name: header(v.dtype, v.shape) for name, v in reference.items()},
    )


def check_reply(reply: Message, read: Reader) -> dict[str, NDArray[np.generic]]:
    """The arrays of a reply without error. Raises BadUpdate, with the reason, unless it is an update."""
    records = [type(record).__name__ for record in reply.content.values()]
    if sorted(records) != ["ArrayRecord", "MetricRecord"]:
        raise BadUpdate(
            f"the update holds {records}; it must hold one ArrayRecord and one MetricRecord"
        )
    (record,) = _records(reply.content, ArrayRecord)
    try:
        arrays = read.read(record)
    except Exception as error:  # whatever damaged bytes lead to, a MemoryError included
        raise BadUpdate(f"the update cannot be read: {error}") from error
    check_arrays(arrays, read.reference)
    (metrics,) = _records(reply.content, MetricRecord)
    check_weight(metrics, WEIGHT)
    return arrays


def position(reply: Message) -> tuple[float, int]:
    """By partition, which is the same on every fabric, then by node id, which Flower draws at random."""
    order = metrics_of(reply).get(ORDER, -1.0) if reply.has_content() else -1.0
    return (order if math.isfinite(order) else -1.0), reply.metadata.src_node_id


def metrics_of(reply: Message) -> dict[str, float]:
    """All metrics that are one number."""
    records = _records(reply.content, MetricRecord)
    return {k: v for record in records for k, v in record.items() if isinstance(v, int | float)}


def content_bytes(content: RecordDict) -> int:
    """Bytes of the arrays, as Flower serializes them, and of the numbers beside them."""
    records = _records(content, ArrayRecord)
    arrays = sum(len(array.data) for record in records for array in record.values())
    numbers = sum(len(record) for record in _records(content, MetricRecord))
    settings = sum(len(record) for record in _records(content, ConfigRecord))
    return arrays + NUMBER_BYTES * (numbers + settings)


def _records(content: RecordDict, kind: type[Record]) -> list[Record]:
    """Records of a kind. Flower's own views of a RecordDict copy it, at ten times the cost."""
    return [record for record in content.values() if isinstance(record, kind)]


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as Flower sends them."""
    return ArrayRecord({name: _encoded(np.asarray(value)) for name, value in arrays.items()})


def _encoded(value: NDArray[np.generic]) -> Array:
    """As Array(value), but the header is made once for each form."""
    return Array(dtype=str(value.dtype), shape=value.shape, stype=SType.NUMPY, data=npy(value))


def from_record(record: ArrayRecord) -> dict[str, NDArray[np.generic]]:
    """Arrays as numpy has them. Raises ValueError, TypeError and others when bytes are not arrays."""
    return {name: _checked(name, array.numpy()) for name, array in record.items()}


def _checked(name: str, value: object) -> NDArray[np.generic]:
    if not isinstance(value, np.ndarray):  # numpy also reads archives
        raise TypeError(f"{name!r} is a {type(value).__name__}, not an array")
    return cast(NDArray[np.generic], value)
