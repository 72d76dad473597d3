"""Jobs done by Ray actors, on as many machines as a cluster has. The numbers are the same as on one.

Every machine of the cluster has fedpoet installed, in the same version, and sees the same workload files.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any, Self

import torch

from scheduler.errors import BadInput, RunFailed

from .training import Done, InProcess, Job, Recipe
from .workers import parcels

CONNECT_S = 5.0


class RayWorkers:
    """Does jobs on a Ray cluster, in one actor per CPU or in `workers`; a context manager.

    `address` is the cluster's ("auto" finds one on this machine), "local" starts one here. Raises BadInput
    without Ray or a cluster, RunFailed when an actor ends.
    """

    def __init__(self, recipe: Recipe, address: str, workers: int | None = None) -> None:
        self._recipe, self._address, self._workers = recipe, address, workers
        self._ray: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise BadInput("--ray needs Ray: pip install 'fedpoet[ray]'") from None
        try:
            _require_listening(self._address)
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError) as error:
            line = " ".join(str(error).split())
            raise BadInput(f"no Ray cluster at {self._address!r}: {line}") from error
        self._ray = ray
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = self._workers or int(resources.get("CPU", 1))
        remote = ray.remote(num_cpus=1)(_Actor)
        self._actors = [remote.remote(self._recipe) for _ in range(count)]
        return self

    def __exit__(self, *_: object) -> None:
        self._actors.clear()
        if self._ray is not None:
            self._ray.shutdown()

    @property
    def machines(self) -> frozenset[str]:
        """Ray's ids of the nodes on which the actors are."""
        return frozenset(self._ray.get([actor.machine.remote() for actor in self._actors]))

    def __call__(self, jobs: Sequence[Job]) -> list[Done]:
        """What came of the jobs, in their order."""
        ray, idle = self._ray, list(self._actors)
        waiting = parcels(len(jobs), len(idle))
        busy: dict[Any, tuple[Any, range]] = {}
        done: dict[int, Done] = {}
        while len(done) < len(jobs):
            for actor, parcel in zip(list(idle), waiting, strict=False):
                idle.remove(actor)
                busy[actor.do.remote([jobs[k] for k in parcel])] = actor, parcel
            (ready, *_), _ = ray.wait(list(busy))
            actor, parcel = busy.pop(ready)
            try:
                done.update(zip(parcel, ray.get(ready), strict=True))
            except ray.exceptions.RayActorError as error:
                line = " ".join(str(error).split())
                raise RunFailed(f"a Ray actor ended: {line}") from error
            idle.append(actor)
        return [done[k] for k in range(len(jobs))]


def _require_listening(address: str) -> None:
    """Raise OSError if nobody listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in host:
        socket.create_connection((host, int(port)), CONNECT_S).close()


class _Actor:
    def __init__(self, recipe: Recipe) -> None:
        torch.set_num_threads(1)
        self._work = InProcess(recipe.app())

    def do(self, jobs: list[Job]) -> list[Done]:
        return self._work(jobs)

    def machine(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())
