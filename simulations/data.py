"""Workloads with their data divided among devices as the fleet's file says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from client.partition import Form, redivided
from client.workload import Workload, load_workload, with_training

from .fleet import Split

DIVISION = 200  # keeps this generator apart from those that draw the fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How examples are dealt: the fleet's split, the run's seed, and the batch that every device needs."""

    split: Split
    seed: int
    batch_size: int


class Workloads:
    """Workloads by name, each loaded once in a process: a file of one's own runs once.

    In another process they are loaded again, and divided in the same way.
    """

    def __init__(self, division: Division | None = None) -> None:
        self._division = division
        self._loaded: dict[str, Workload] = {}

    def __call__(self, spec: str) -> Workload:
        """The workload. Raises what `load_workload` and `redivided` raise."""
        if spec not in self._loaded:
            self._loaded[spec] = self._divided(load_workload(spec))
        return self._loaded[spec]

    def divided(self, division: Division) -> Workloads:
        """The same workloads, their examples dealt anew."""
        other = Workloads(division)
        other._loaded = {spec: other._divided(own) for spec, own in self._loaded.items()}
        return other

    def __reduce__(self) -> tuple[type[Workloads], tuple[Division | None]]:
        return Workloads, (self._division,)

    def _divided(self, workload: Workload) -> Workload:
        division = self._division
        if division is None or division.split.form == "natural":
            return workload
        return redivided(
            with_training(workload, batch_size=division.batch_size, local_epochs=None),
            cast(Form, division.split.form),
            alpha=division.split.alpha,
            partitions=division.split.partitions,
            generator=np.random.default_rng((division.seed, DIVISION)),
        )
