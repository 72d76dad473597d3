"""The proofs, small: training under a hard limit, and bit for bit over several steps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import exact
from benchmarks.outcomes import differences, outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_plain_training_dies_where_the_plan_trains():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prove_ram", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[1:-1]
    assert len(rows) == 3
    assert all("died: " in row for row in rows)
    assert all(row.endswith("finished, same bits") for row in rows)


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("optimizer", exact.OPTIMIZERS)
def test_a_row_compares_every_bit_and_byte(optimizer):
    options = exact.Options(steps=4, time_limit_s=2.0, ram="50%")
    row = exact.run("mlp", optimizer, 2, options)
    assert row.wrong == ()
    assert row.measured_bytes == row.predicted_bytes <= row.budget_bytes < row.keep_all_bytes
    assert row.paged_in_bytes > 0
    assert "same bits" in row.line


def test_peaks_that_break_a_promise_are_told():
    good = exact.Peaks(predicted_bytes=100, measured_bytes=99, own_bytes=99)
    assert list(good.wrong(99)) == []
    assert list(good.wrong(98)) == ["over the budget"]
    assert list(replace(good, predicted_bytes=102).wrong(99)) == ["prediction off"]
    assert list(replace(good, own_bytes=98).wrong(99)) == ["the interpreter itself measured 98"]


def test_every_difference_is_told():
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    one, other = (outcome(module, optimizer, [1.0]) for _ in range(2))
    assert list(differences(one, other)) == []
    other.tensors["bias"] = torch.nextafter(other.tensors["bias"], torch.tensor(9.0))
    other.gradients = [((2,), (1,), "other")]
    other.losses = [1.0 + 2**-52]
    torch.rand(1)
    other.generator = torch.get_rng_state()
    assert list(differences(one, other)) == ["loss", "gradients", "torch's generator", "bias"]
