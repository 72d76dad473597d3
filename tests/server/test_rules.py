"""Deadlines, over-selection, late updates, buffered rounds, patience, skipped rounds, and resumed runs."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.errors import BadInput, RunFailed
from server.polling import Polling
from server.reports import plugged_in
from server.rules import Late, Rules
from server.strategy import make_strategy
from tests.server.grids import FunctionGrid
from tests.server.test_rounds import INITIAL, adds, run

LATE = "came 1 rounds late"


def fleet(count=6, **changes):
    """Node n adds n and takes n seconds."""
    nodes = {n: adds(n, 10, **{"train-loss": 1.0}) for n in range(1, count + 1)}
    return FunctionGrid(nodes, takes_s={n: float(n) for n in nodes}, **changes)


def test_a_deadline_ends_the_round_with_what_is_there():
    done = run(fleet(), rules=Rules(deadline_s=3)).rounds[1]
    assert set(done.metrics) == {1, 2, 3}
    assert done.waiting == (4, 5, 6)
    assert done.end_s == 3


def test_over_selection_asks_more_and_takes_the_first():
    ran = run(fleet(), rules=Rules(cohort=2, over_selection=2.0))
    done = ran.rounds[1]
    assert len(done.cohort) == 4
    assert set(done.metrics) == set(sorted(done.cohort)[:2])
    assert set(done.waiting) == set(sorted(done.cohort)[2:])
    np.testing.assert_array_equal(ran.arrays["b"], np.mean(sorted(done.cohort)[:2]))


def test_a_device_that_owes_a_reply_is_not_asked_and_its_late_update_is_dropped():
    grid = fleet()
    rounds = run(grid, rules=Rules(deadline_s=4), num_rounds=2).rounds
    assert grid.asked == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]]
    assert [(r.node, r.reason) for r in rounds[2].refused] == [
        (5, "came 1 rounds late"),
        (6, "came 1 rounds late"),
    ]
    assert set(rounds[2].metrics) == {1, 2, 3, 4}


def test_devices_are_told_that_a_round_has_ended_and_may_be_asked_again():
    grid, withdrawn = fleet(), []
    rounds = run(grid, rules=Rules(deadline_s=4), num_rounds=2, withdraw=withdrawn.append).rounds
    assert [sorted(ids) for ids in withdrawn] == [["1-5", "1-6"], ["2-5", "2-6"]]
    assert grid.asked[1] == [1, 2, 3, 4, 5, 6]
    assert rounds[1].waiting == rounds[2].waiting == (5, 6)
    assert rounds[2].refused == ()


def test_a_late_update_is_moved_to_the_newest_model_and_weighs_less():
    grid = FunctionGrid({1: adds(1), 2: adds(7)}, takes_s={1: 3.0, 2: 5.0})
    rules = Rules(cohort=1, over_selection=2.0, late=Late.ADD, staleness=1.0)
    ran = run(grid, rules=rules, num_rounds=2)
    assert set(ran.rounds[1].metrics) == {1}
    assert set(ran.rounds[2].metrics) == {2}
    np.testing.assert_array_equal(ran.arrays["b"], [8, 8])  # 0 + 1, then that + 7
    both = Rules(cohort=2, late=Late.ADD, staleness=1.0, deadline_s=4)
    grid = FunctionGrid({1: adds(1), 2: adds(7)}, takes_s={1: 3.0, 2: 5.0})
    ran = run(grid, rules=both, num_rounds=2)
    # In round 2 node 1 adds 1 with weight 10, node 2 adds 7 with weight 5, to a model that is 1.
    np.testing.assert_allclose(ran.arrays["b"], 1 + (10 * 1 + 5 * 7) / 15, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_buffered_rounds_keep_devices_at_work(strategy):
    grid = fleet()
    ran = run(grid, rules=Rules(cohort=3, buffer=2), num_rounds=5, strategy=make_strategy(strategy))
    assert all(len(done.metrics) == 2 for done in ran.rounds[1:])
    assert all(len(p.pending) <= 3 for p in ran.progress[1:])
    for progress in ran.progress[1:]:
        assert {p.version for p in progress.pending} <= progress.bases.keys() | {progress.number}
        assert len(progress.bases) <= 3


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(cohort=2),
        Rules(cohort=2, over_selection=2.0, deadline_s=3),
        Rules(cohort=3, late=Late.ADD, deadline_s=3),
        Rules(cohort=3, buffer=2),
    ],
)
@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "median"])
def test_a_run_that_goes_on_gives_the_same_model(rules, strategy):
    def uninterrupted(rounds):
        grid = fleet()
        return grid, run(
            grid, rules=rules, num_rounds=rounds, strategy=make_strategy(strategy), seed=4
        )

    whole = uninterrupted(5)[1]
    for stop in (1, 3):
        grid, first = uninterrupted(stop)
        rest = run(
            grid,
            rules=rules,
            num_rounds=5,
            strategy=make_strategy(strategy),
            seed=4,
            resume=first.progress[-1],
        )
        assert [r.number for r in rest.rounds] == list(range(stop + 1, 6))
        assert [r.cohort for r in rest.rounds] == [r.cohort for r in whole.rounds[stop + 1 :]]
        for name in INITIAL:
            assert rest.arrays[name].tobytes() == whole.arrays[name].tobytes()


def test_a_cohort_that_was_drawn_before_the_stop_is_asked_again_but_for_those_that_were():
    from dataclasses import replace

    drawn = []
    grid = fleet()
    first = run(grid, rules=Rules(cohort=3), on_cohort=lambda *c: drawn.append(c))
    stopped = replace(first.progress[-1], cohort=(2, 5))
    grid.asked.clear()
    rest = run(grid, rules=Rules(cohort=3), num_rounds=2, resume=stopped)
    assert drawn[0][0] == 1
    assert len(drawn[0][1]) == 3
    assert grid.asked == [[2, 5]]
    assert set(rest.rounds[0].metrics) == {2, 5}


def test_patience_waits_for_devices_and_ends():
    grid = fleet(1)

    def reports():
        return plugged_in([1] if grid.clock_s >= 120 else [])

    done = run(grid, reports=reports, rules=Rules(patience_s=600)).rounds[1]
    assert set(done.metrics) == {1}
    assert done.end_s == 121
    with pytest.raises(RunFailed, match="of 0 devices online none may be asked"):
        run(grid, reports=lambda: plugged_in([]), rules=Rules(patience_s=600))


def test_a_skipped_round_says_why_and_keeps_the_model():
    if_one = Rules(most_skipped=1)
    answers = [lambda _: "no space", adds(1)]
    ran = run(FunctionGrid({1: lambda arrays: _next(answers, arrays)}), rules=if_one, num_rounds=2)
    assert ran.rounds[1].skipped == "0 usable updates came; at least 1 must"
    assert ran.rounds[2].skipped is None
    np.testing.assert_array_equal(ran.arrays["b"], [1, 1])
    few = run(fleet(2), rules=Rules(least_updates=2, deadline_s=1.5, most_skipped=9)).rounds[1]
    assert few.skipped == "1 usable updates came; at least 2 must"


def _next(answers, arrays):
    return answers.pop(0)(arrays)


def test_an_absurd_change_is_refused():
    grid = FunctionGrid({1: adds(1), 2: adds(1000)})
    done = run(grid, rules=Rules(largest_change=100.0)).rounds[1]
    ((refusal),) = done.refused
    assert refusal.node == 2
    assert "away from its model; 100 is the most" in refusal.reason


@pytest.mark.parametrize(
    "bad",
    [
        {"cohort": 0},
        {"over_selection": 0.9},
        {"deadline_s": 0},
        {"buffer": 2},
        {"patience_s": -1},
        {"least_updates": 0},
        {"largest_change": float("nan")},
    ],
)
def test_rules_that_cannot_be(bad):
    with pytest.raises(BadInput):
        Rules(**bad)


def test_polling_a_grid_gives_what_its_own_clock_gives():
    grid = fleet(3)

    def pause(seconds):
        grid.clock_s += seconds

    polling = Polling(grid, grid.now_s, pause)
    arrays = run(grid, wait=polling.wait, reports=polling.reports, num_rounds=2).arrays
    np.testing.assert_array_equal(arrays["b"], run(fleet(3), num_rounds=2).arrays["b"])
    assert polling.wait_for_nodes(3)
    before_s = grid.clock_s
    assert not polling.wait_for_nodes(4, timeout_s=10)
    assert grid.clock_s == before_s + 10
