"""Jobs on a Ray cluster of two nodes: the same numbers as in one process."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from scheduler.errors import BadInput
from simulations.ray_workers import RayWorkers
from simulations.run import simulate
from simulations.training import InProcess, Recipe
from tests.simulations.test_training import charged, jobs, told  # noqa: F401 - a fixture


@pytest.fixture
def cluster(monkeypatch):
    """Two Ray nodes on this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=options)
    try:
        made.add_node(num_cpus=1, object_store_memory=100_000_000)
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
# Ray leaves sockets and processes to be collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_nodes_give_the_numbers_of_one_process(
    cluster,
    charged,  # noqa: F811
    config,
    result,
    folder,
    machine,
    tmp_path,
):
    """Of single jobs, and of a whole simulation: every byte of its folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [told(InProcess(charged.app())(jobs(range(7), number=n))) for n in (1, 2)]
        with RayWorkers(charged, cluster.address) as work:
            assert len(work.machines) == 2
            assert [told(work(jobs(range(7), number=n))) for n in (1, 2)] == alone
    finally:
        torch.set_num_threads(threads)
    simulate(config, tmp_path / "run", machine=replace(machine, ray=cluster.address))
    assert files(tmp_path / "run") == files(folder)


def files(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_no_cluster_is_bad_input():
    with (
        pytest.raises(BadInput, match=r"no Ray cluster at '127\.0\.0\.1:1'"),
        RayWorkers(Recipe(), "127.0.0.1:1"),
    ):
        pass


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(BadInput, match=r"pip install 'fedpoet\[ray\]'"),
        RayWorkers(Recipe(), "auto"),
    ):
        pass
