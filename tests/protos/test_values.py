"""Numbers arrive with their type and every bit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.device_pb2 import Number, Scalar
from protos.values import from_number, from_scalar, to_number, to_scalar
from scheduler.errors import BadInput, BadMessage

int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64 | st.floats())
def test_metrics(value):
    arrived = from_number("n", Number.FromString(to_number("n", value).SerializeToString()))
    assert type(arrived) is type(value)
    assert arrived == value or math.isnan(arrived) is math.isnan(value) is True
    assert math.copysign(1, arrived) == math.copysign(1, value) or math.isnan(value)


@given(int64 | st.floats(allow_nan=False) | st.booleans() | st.text() | st.binary())
def test_settings(value):
    arrived = from_scalar("n", Scalar.FromString(to_scalar("n", value).SerializeToString()))
    assert type(arrived) is type(value)
    assert arrived == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, True, "1", None, [1], 1j])
def test_what_is_no_metric(value):
    with pytest.raises(BadInput, match="metric n"):
        to_number("n", value)


@pytest.mark.parametrize("value", [2**63, None, [1], {"a": 1}, 1j])
def test_what_is_no_setting(value):
    with pytest.raises(BadInput, match="n is"):
        to_scalar("n", value)


def test_nothing_is_no_value():
    with pytest.raises(BadMessage):
        from_number("n", Number())
    with pytest.raises(BadMessage):
        from_scalar("n", Scalar())
