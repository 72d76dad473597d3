"""Scalars of a task's config and numbers of an update's metrics, so that they arrive as they were."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.errors import BadInput, BadMessage

from .device_pb2 import Number, Scalar

ScalarValue = bool | int | float | str | bytes

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def to_scalar(name: str, value: object) -> Scalar:
    """A value as it is sent. Raises BadInput, which names it, for a type that is not on the list."""
    match value:
        case bool():
            return Scalar(truth=value)
        case int() if LOWEST <= value <= HIGHEST:
            return Scalar(integer=value)
        case float():
            return Scalar(real=value)
        case str():
            return Scalar(text=value)
        case bytes():
            return Scalar(data=value)
    raise BadInput(f"{name} is {value!r:.60}; a device can be sent one number, text or bytes only")


def from_scalar(name: str, scalar: Scalar) -> ScalarValue:
    """The value that was sent. Raises BadMessage when there is none."""
    kind = scalar.WhichOneof("value")
    if kind is None:
        raise BadMessage(f"{name!r:.60} has no value")
    value: ScalarValue = getattr(scalar, kind)
    return value


def to_number(name: str, value: object) -> Number:
    """A metric as it is sent. Raises BadInput unless it is one number; int stays int, float float."""
    match value:
        case bool():
            pass
        case int() if LOWEST <= value <= HIGHEST:
            return Number(integer=value)
        case float():
            return Number(real=value)
    raise BadInput(f"metric {name} is {value!r:.60}; a metric is one number of 64 bits")


def from_number(name: str, number: Number) -> int | float:
    """The metric that was sent. Raises BadMessage when it has no value."""
    kind = number.WhichOneof("value")
    if kind is None:
        raise BadMessage(f"metric {name!r:.60} has no value")
    value: int | float = getattr(number, kind)
    return value


def to_numbers(metrics: Mapping[str, int | float]) -> dict[str, Number]:
    """All metrics of an update, for its header."""
    return {name: to_number(name, value) for name, value in metrics.items()}


def from_numbers(metrics: Mapping[str, Number]) -> dict[str, int | float]:
    """All metrics of an update's header, by name in ascending order."""
    return {name: from_number(name, metrics[name]) for name in sorted(metrics)}
