from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from scheduler.errors import BadInput
from simulations.report import report_html
from simulations.report.energy import energy_shares
from simulations.report.learning import thinned
from simulations.report.lines import lines
from simulations.report.participation import took_part
from simulations.results import ROW, Outcome
from simulations.tally import tally
from tests.pages import (
    assert_asks_for_nothing,
    assert_shown_by_a_browser,
    assert_well_formed,
    needs_chromium,
)
from tests.simulations.made_runs import larger

PICTURES = (
    "Test accuracy and loss by round, by virtual time and by joules",
    "How often devices of each kind took part",
    "What became of the messages to each kind of device",
    "How long rounds took, and how many updates they used",
    "Energy of a message by kind of device",
    "Floor, peak and budget of each kind of device",
    "RAM over one training step, per kind of device",
    "Schedule of one training step on board",
)


@pytest.fixture(scope="module")
def page(result):
    return report_html(result)


@pytest.fixture(scope="module")
def large(result):
    return larger(result, devices=5000, rounds=300, per_round=200)


@pytest.fixture(scope="module")
def large_page(large):
    return report_html(large)


def test_the_report_is_one_file_that_asks_for_nothing(page, large_page):
    assert_asks_for_nothing(page)
    assert_asks_for_nothing(large_page)


def test_the_report_is_well_formed_and_shows_the_numbers(page, result):
    assert_well_formed(page)
    assert f"{result.rounds[-1].accuracy:.1%}" in page
    (smaller,) = result.smaller
    assert (
        f"75 % of this fleet can train digits at batch {4 * smaller.batch_size}; at batch" in page
    )
    assert "below the floor of" in page
    for said in PICTURES:
        assert f'aria-label="{said}' in page, said
    assert re.search(r'aria-label="Round \d, the slowest', page)


def test_the_same_run_gives_the_same_report(page, folder):
    assert (folder / "report.html").read_text() == page


def test_pictures_can_be_read_on_a_phone(page, large_page):
    for made in (page, large_page):
        assert made.count('<div class="scroll"><svg') == made.count("<svg")


def test_a_report_does_not_grow_with_the_fleet_and_the_rounds(result, large_page):
    assert_well_formed(large_page)
    twice = report_html(larger(result, devices=10_000, rounds=600, per_round=400))
    assert len(twice) < 1.1 * len(large_page)


def test_a_run_without_a_round_is_not_reported(result):
    with pytest.raises(BadInput, match="no rounds to report yet"):
        report_html(replace(result, rounds=()))


def test_a_run_in_which_nobody_was_ever_asked_has_a_report(result):
    idle = [
        replace(r, asked=0, outcomes={}, kinds=(), skipped="no device is online")
        for r in result.rounds[1:]
    ]
    empty = replace(result, rounds=(result.rounds[0], *idle), journeys=np.zeros(0, ROW))
    page = report_html(empty)
    assert_well_formed(page)
    assert "No device was ever asked" in page
    assert "no device is online" in page


def test_a_run_without_scores_has_a_report(result):
    rounds = tuple(replace(r, loss=None, accuracy=None) for r in result.rounds)
    page = report_html(replace(result, rounds=rounds))
    assert_well_formed(page)
    assert "no number" in page


@pytest.mark.parametrize("piece_rows", [1, 7, 1000])
def test_a_tally_is_the_same_as_counting_rows_one_by_one(large, piece_rows, monkeypatch):
    run = replace(large, journeys=large.journeys[:500])
    monkeypatch.setattr("simulations.tally.PIECE_ROWS", piece_rows)
    sums = tally(run)
    rows = run.journeys
    for at, node in enumerate(run.devices["node"][:50].tolist()):
        mine = rows[rows["node"] == node]
        assert sums.asked[at] == len(mine)
        assert sums.used[at] == (mine["outcome"] == Outcome.AGGREGATED).sum()
    for kind in range(len(run.plans)):
        mine = rows[rows["kind"] == kind]
        fell = np.maximum(0, mine["battery_before"] - mine["battery_after"])
        assert sums.levels[kind].sum() == sums.messages[kind].sum() == len(mine)
        assert sums.drained[kind] == pytest.approx(fell.sum())
        assert sums.drains[kind] == (fell > 0).sum()
        assert sums.most_drained[kind] == fell.max()
        joules = mine["train_j"] + mine["radio_j"]
        assert sums.energy_j[kind].sum() == pytest.approx(joules.sum())
    wasted = rows[rows["outcome"] != Outcome.AGGREGATED]
    assert sums.wasted_j == pytest.approx((wasted["train_j"] + wasted["radio_j"]).sum())


def test_every_device_of_the_fleet_is_counted_once(large, result):
    for run in (large, result):
        for took in took_part(run, tally(run)):
            assert sum(took.parts()) == took.devices


def test_bars_of_energy_add_up_to_what_was_charged(result):
    charged = sum(r.energy_j for r in result.rounds)
    shares = energy_shares(result)
    assert sum(s.total_j * s.messages for s in shares) == pytest.approx(charged)
    pi = next(s for s in shares if s.label == "pi")
    assert pi.paging_j == 0.0 < pi.compute_j


def test_many_kinds_are_told_by_group(result):
    plans = [
        replace(plan, name=f"{plan.name} {n}", group=plan.name)
        for n in range(10)
        for plan in result.plans
    ]
    many = larger(replace(result, plans=tuple(plans)), devices=420, rounds=3, per_round=90)
    assert [line.label for line in lines(many)] == ["board", "pi", "tiny"]
    assert sum(line.able(many) for line in lines(many)) == sum(p.devices for p in plans)
    for took in took_part(many, tally(many)):
        assert len(took.used) == (np.isin(many.devices["kind"], took.line.kinds)).sum()
    page = report_html(many)
    assert_well_formed(page)
    assert "Shown are 24, evenly from the fastest to the slowest" in page


def test_thinning_keeps_the_ends_and_their_order():
    assert thinned(5, 10) == [0, 1, 2, 3, 4]
    kept = thinned(1001, 10)
    assert (kept[0], kept[-1], len(set(kept))) == (0, 1000, 10)
    assert kept == sorted(kept)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("which", ["page", "large_page"])
def test_a_real_browser_shows_it_without_a_network_and_without_complaint(which, request, tmp_path):
    assert_shown_by_a_browser(request.getfixturevalue(which), tmp_path)
