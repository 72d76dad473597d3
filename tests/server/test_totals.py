from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import BadInput, BadUpdate
from server.totals import BLOCK, CARRY_AFTER, Totals

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
updates = st.lists(
    st.tuples(st.lists(finite, min_size=3, max_size=3), st.floats(0.01, 1e4)),
    min_size=1,
    max_size=8,
)


def totals(given_updates):
    reference = {"w": np.zeros(3, np.float32)}
    sums = Totals(reference)
    for values, weight in given_updates:
        sums.add({"w": np.array(values, np.float32)}, weight)
    return sums


@given(updates, st.randoms())
def test_the_order_of_updates_does_not_change_a_bit(some, random):
    shuffled = list(some)
    random.shuffle(shuffled)
    one, other = totals(some), totals(shuffled)
    assert one.take_mean("w").tobytes() == other.take_mean("w").tobytes()
    assert one.weight == other.weight


@given(updates)
def test_the_mean_is_right_to_the_last_bits_of_a_float64(some):
    got = totals(some).take_mean("w")
    weight = sum(Fraction(w) for _, w in some)
    for i in range(3):
        terms = [Fraction(float(np.float32(v[i])) * w) for v, w in some]
        exact = float(sum(terms) / weight)
        assert got[i] == pytest.approx(exact, rel=1e-15, abs=len(some) * 2.0**-60 / float(weight))


def test_more_updates_than_fit_between_two_carries():
    sums = Totals({"w": np.zeros(1)})
    count = 2 * CARRY_AFTER + 3
    for _ in range(count):
        sums.add({"w": np.array([2.0**-11 - 2.0**-60])}, 1.0)
    assert sums.take_mean("w")[0] == 2.0**-11 - 2.0**-60
    assert sums.count == count


def test_arrays_larger_than_a_block_and_without_dimensions():
    values = np.random.default_rng(0).normal(size=BLOCK + 7).astype(np.float32)
    sums = Totals({"w": values, "n": np.array(3), "none": np.zeros((0, 2))})
    for _ in range(3):
        sums.add({"w": values, "n": np.array(3), "none": np.zeros((0, 2))}, 7)
    np.testing.assert_array_equal(sums.take_mean("w").astype(np.float32), values)
    assert sums.take_mean("n") == 3
    assert sums.take_mean("none").shape == (0, 2)


def test_what_cannot_be_added_exactly_is_refused_and_changes_nothing():
    sums = Totals({"w": np.zeros(2)})
    sums.add({"w": np.array([1.0, 2.0])}, 1)
    with pytest.raises(BadUpdate, match="reach 1e\\+20 with a weight of 10"):
        sums.add({"w": np.array([1e20, 0.0])}, 10)
    np.testing.assert_array_equal(sums.take_mean("w"), [1.0, 2.0])
    with pytest.raises(BadInput, match="complex"):
        Totals({"w": np.zeros(1, np.complex64)})
