"""Medians by a clock that the test winds, and the line through transfer times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.timing import Effort, fit_line, median_s


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def takes(self, *seconds: float):
        """Something that takes these seconds in turn, the last one for ever."""
        left = list(seconds)

        def run() -> None:
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_the_first_run_warms_up_and_an_outlier_does_not_count() -> None:
    clock = Clock()
    effort = Effort(least=5, most=5, limit_s=100.0)
    assert median_s(clock.takes(50.0, 1.0, 1.0, 9.0, 1.0, 1.0), clock, effort) == pytest.approx(1.0)


def test_what_comes_before_a_run_is_not_timed() -> None:
    clock = Clock()
    effort = Effort(least=3, most=3, limit_s=0.0)
    assert median_s(clock.takes(2.0), clock, effort, clock.takes(7.0)) == pytest.approx(2.0)


@given(st.floats(0.001, 10), st.integers(1, 5), st.integers(5, 50), st.floats(0.001, 100))
def test_samples_stay_within_the_effort(
    run_s: float, least: int, most: int, limit_s: float
) -> None:
    clock, effort = Clock(), Effort(least=least, most=most, limit_s=limit_s)
    median_s(clock.takes(run_s), clock, effort)
    samples = round(clock.now_s / run_s) - 1
    assert least <= samples <= most
    assert samples <= max(least, limit_s / run_s + 2)


SIZES = (4096, 65536, 2**20, 2**24)


@given(st.floats(0, 1), st.floats(1e3, 1e11))
def test_a_line_is_found_again(latency_s: float, bytes_per_s: float) -> None:
    line = fit_line([(n, latency_s + n / bytes_per_s) for n in SIZES])
    for n in SIZES:
        assert line.latency_s + n / line.bytes_per_s == pytest.approx(
            latency_s + n / bytes_per_s, rel=1e-4
        )


@given(st.lists(st.floats(1e-7, 100), min_size=4, max_size=4))
def test_more_bytes_never_take_less_time(times: list[float]) -> None:
    line = fit_line(list(zip(SIZES, times, strict=True)))
    assert line.latency_s >= 0
    assert 0 < line.bytes_per_s < float("inf")


def test_one_slow_size_does_not_decide_alone() -> None:
    """Absolute errors would follow the largest page and put the small ones wrong by factors."""
    times = [1e-5 + n / 1e9 for n in SIZES]
    times[-1] *= 2
    line = fit_line(list(zip(SIZES, times, strict=True)))
    assert line.latency_s + SIZES[0] / line.bytes_per_s == pytest.approx(times[0], rel=0.3)


@pytest.mark.parametrize("timings", [[], [(1, 1.0)], [(1, 1.0), (1, 2.0)], [(1, 0.0), (2, 1.0)]])
def test_too_little_for_a_line_is_refused(timings: list[tuple[int, float]]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fit_line(timings)
