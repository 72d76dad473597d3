from __future__ import annotations

import numpy as np
import pytest

from scheduler.errors import UnknownName
from server.cohort import SAMPLERS, Candidates, by_utility, energy_fair, make_sampler, uniform
from server.history import Answer, no_history
from server.reports import plugged_in
from server.rules import Eligibility


def candidates(count=50, size=10, number=5, seed=0, history=None, draw=0):
    return Candidates(
        reports=plugged_in(list(range(100, 100 + count))),
        history=history or no_history(),
        size=size,
        round=number,
        draw=draw,
        seed=seed,
    )


def answer(node, **changes):
    settings = {"round": 1, "loss": 1.0, "examples": 10, "duration_s": 1.0, "energy_j": 1.0}
    return Answer(node=node, **(settings | changes))


def known(count=50, **columns):
    """Every device has answered once; `columns` maps a field to a function of the node's index."""
    nodes = range(100, 100 + count)
    answers = [answer(n, **{k: f(n - 100) for k, f in columns.items()}) for n in nodes]
    return no_history().after(nodes, answers)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("history", [None, known(20), known(50)])
def test_samplers_take_distinct_candidates_and_repeat(name, history):
    sampler = make_sampler(name)
    for size in (1, 10, 49, 50, 60):
        chosen = sampler(candidates(size=size, history=history))
        assert len(set(chosen.tolist())) == len(chosen) == min(size, 50)
        assert set(chosen.tolist()) <= set(range(100, 150))
        assert chosen.tolist() == sampler(candidates(size=size, history=history)).tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_rounds_seeds_and_draws_differ(name):
    sampler = make_sampler(name)
    drawn = {
        tuple(sorted(sampler(candidates(**c))))
        for c in ({}, {"number": 6}, {"seed": 1}, {"draw": 1})
    }
    assert len(drawn) == 4


def test_uniform_gives_everyone_the_same_chance():
    counts = np.zeros(50)
    for number in range(2000):
        counts[uniform(candidates(number=number)).astype(int) - 100] += 1
    assert abs(counts - 400).max() < 6 * np.sqrt(400 * 0.8)


def test_utility_prefers_devices_that_learn_much_and_are_not_slow():
    history = known(
        loss=lambda i: 5.0 if i < 10 else 0.1, duration_s=lambda i: 99.0 if i < 5 else 1.0
    )
    taken = np.zeros(50)
    for number in range(50, 150):
        taken[by_utility(candidates(size=5, number=number, history=history)).astype(int) - 100] += 1
    assert taken[5:10].sum() > 0.9 * taken.sum()
    assert taken[:5].sum() == 0


def test_utility_explores_less_and_less():
    history = known(25)
    new = [int(np.sum(by_utility(candidates(number=r, history=history)) >= 125)) for r in (1, 200)]
    assert new == [9, 2]


def test_energy_fair_takes_those_that_have_spent_least():
    history = known(energy_j=float)
    assert sorted(energy_fair(candidates(history=history))) == list(range(100, 110))
    failing = history.after([100] * 200, [])
    assert 100 not in energy_fair(candidates(history=failing))


def test_an_unknown_sampler_is_told_what_there_is():
    with pytest.raises(UnknownName, match="energy-fair"):
        make_sampler("best")


def test_history_counts_and_keeps_the_last_answer():
    history = no_history().after([7, 3], [answer(3, loss=4.0)])
    history = history.after([3], [answer(3, loss=2.0, round=2), answer(9)])
    rows = history.of(np.array([3, 7, 9, 11], dtype=np.uint64))
    assert rows["asked"].tolist() == [2, 1, 0, 0]
    assert rows["answered"].tolist() == [2, 0, 1, 0]
    assert rows["loss"].tolist() == [2.0, 0.0, 1.0, 0.0]
    assert rows["energy_j"].tolist() == [2.0, 0.0, 1.0, 0.0]
    assert history.rows["node"].tolist() == [3, 7, 9]


def test_eligibility_asks_for_what_it_says():
    from dataclasses import replace

    reports = replace(
        plugged_in([1, 2, 3]),
        charging=np.array([True, False, True]),
        battery=np.array([0.9, 0.9, 0.2]),
    )
    mask = Eligibility(charging=True, battery_at_least=0.5).mask(reports)
    assert mask.tolist() == [True, False, False]
    assert Eligibility().mask(reports).all()
