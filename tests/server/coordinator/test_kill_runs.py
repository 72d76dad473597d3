from __future__ import annotations

import pytest

from benchmarks.kill_runs import compare

pytestmark = pytest.mark.slow


def test_a_run_in_which_processes_are_killed_gives_the_model_of_one_in_peace(tmp_path):
    """One of the fifty runs of `make kill-runs`: real processes, four kills, about four seconds apart."""
    assert compare(runs=1, seed=1, every_s=4.0, folder=tmp_path, most_kills=4) > 0
