from __future__ import annotations

import pytest

from simulations.plots import energy_share
from simulations.report import report_html
from tests.pages import assert_asks_for_nothing, assert_well_formed


@pytest.fixture(scope="module")
def page(result):
    return report_html(result)


def test_the_report_is_one_file_that_asks_for_nothing(page):
    assert_asks_for_nothing(page)


def test_the_report_is_well_formed_and_shows_the_numbers(page, result):
    assert_well_formed(page)
    assert f"{result.rounds[-1].accuracy:.1%}" in page
    assert "Left out: 1 device of kind tiny" in page
    assert page.count("<svg") == 4
    assert "Schedule of one training step on board" in page


def test_the_same_run_gives_the_same_report(page, folder):
    assert (folder / "report.html").read_text() == page


def test_plots_can_be_read_on_a_phone(page):
    assert page.count('<div class="scroll"><svg') == page.count("<svg")


def test_a_kind_that_does_not_page_spends_nothing_on_it(result):
    pi = energy_share(result.plans[1], result.rounds)
    assert pi.paging_j == 0.0 < pi.compute_j
