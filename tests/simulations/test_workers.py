"""Jobs in other processes: the same numbers, whatever the number of workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
import torch

from client.workload import Workload, load_workload
from scheduler.errors import BadInput, RunFailed
from simulations.training import InProcess, Recipe
from simulations.workers import Processes, parcels
from tests.simulations.test_training import charged, jobs, told  # noqa: F401 - a fixture

ROUNDS = (1, 2)


def run(work, parts: Sequence[int] = range(7)) -> list:
    return [told(work(jobs(parts, number=n))) for n in ROUNDS]


@pytest.fixture(scope="module", autouse=True)
def _one_thread_here():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(charged) -> list:  # noqa: F811
    return run(InProcess(charged.app()))


@pytest.fixture(scope="module")
def work(charged):  # noqa: F811
    with Processes(charged, 2) as work:
        yield work


def test_numbers_are_the_same_as_in_one_process(work, alone):
    assert run(work) == alone
    assert work([]) == []


def test_fewer_jobs_than_workers(work, alone):
    assert run(work, [4]) == [[done[4]] for done in alone]


def mixed(rounds: list) -> list:
    """Two rounds of the same devices, taken in turn."""
    return [one for pair in zip(*rounds, strict=True) for one in pair]


def test_jobs_of_several_model_versions_at_once(work, alone):
    """As in buffered rounds: what a worker was sent before is not mistaken for what it is sent now."""
    asked = mixed([jobs(number=n) for n in ROUNDS])
    for _ in range(2):
        assert told(work(asked)) == mixed([done[:4] for done in alone])


def test_a_device_that_fails_does_so_in_a_worker_too(work, charged):  # noqa: F811
    assert told(work(jobs([0, 77]))) == told(InProcess(charged.app())(jobs([0, 77])))


def deadly(spec: str) -> Workload:
    os.kill(os.getpid(), signal.SIGKILL)
    return load_workload(spec)


def test_a_worker_that_is_killed_is_told_with_its_exit_code():
    text = "ended with exit code -9; if memory ran out"
    with (
        Processes(Recipe(load=deadly, charges={}), 1) as work,
        pytest.raises(RunFailed, match=text),
    ):
        work(jobs([0]))


def test_no_worker_is_bad_input():
    with pytest.raises(BadInput, match="1 worker or more, not 0"):
        Processes(Recipe(), 0)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parcels_hold_every_job_once(count, workers):
    assert [k for parcel in parcels(count, workers) for k in parcel] == list(range(count))
