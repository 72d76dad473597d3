"""The GPU's benchmark, as far as it can run without a GPU: everything but the device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import Result, line, main

ARGUMENTS = [
    "--quick",
    "--only",
    "resnet50",
    "--steps",
    "1",
    "--time-limit",
    "1",
    "--shares",
    "0.6",
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_way_runs_on_the_cpu(capsys):
    settings = torch.are_deterministic_algorithms_enabled()
    assert main([*ARGUMENTS, "--device", "cpu"]) == 0
    assert torch.are_deterministic_algorithms_enabled() == settings
    _, title, _, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("bottleneck blocks")
    found = {row[:28].strip(): row[28:].split() for row in rows}
    assert list(found) == [
        "plain eager",
        "plan, all memory",
        "plan, 60% of keep-all",
        "rockmate",
        "checkpoint every block",
        "save_on_cpu, pinned",
    ]
    for name, values in found.items():
        if name.startswith("plan,"):
            _, peak_mb, budget_mb, same = values
            assert same == "yes"
            assert float(peak_mb) <= float(budget_mb)
    assert found["save_on_cpu, pinned"][-1] == "yes"
    # It runs batch norm twice, so running statistics differ, and the table says so.
    assert "running_" in found["checkpoint every block"][-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_what_to_do(capsys):
    assert main(ARGUMENTS) == 2
    said = capsys.readouterr()
    assert "finds no CUDA device" in said.err
    assert "--device cpu --quick" in said.err
    assert said.out == ""


KEPT = Result(name="plan", budget_bytes=100, peak_bytes=100, ratio=1.0)


@pytest.mark.parametrize(
    ("result", "broken"),
    [
        (KEPT, False),
        (Result(name="plan", budget_bytes=100, peak_bytes=101, ratio=1.0), True),
        (Result(name="plan", budget_bytes=100, peak_bytes=9, differs=("loss",)), True),
        (Result(name="plan", budget_bytes=100, problem="failed"), True),
        (Result(name="rockmate", problem="is not installed"), False),
        (Result(name="checkpoint", peak_bytes=101, differs=("loss",)), False),
    ],
)
def test_only_a_plan_that_breaks_a_promise_makes_it_fail(result, broken):
    assert result.broken is broken
    assert result.name in line(result)
