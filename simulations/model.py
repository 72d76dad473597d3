"""A workload as a coordinator sees it: arrays and how well they do, no code and no data of a device."""

from __future__ import annotations

from client.state import buffer_names, evaluation, initial_arrays
from client.workload import load_workload
from protos.arrays import forms
from protos.tasks import workload_digest
from server.coordinator.run import Model


def read_model(spec: str, seed: int) -> Model:
    """The model of a workload, initialised from a seed. Raises what `load_workload` raises."""
    workload = load_workload(spec)
    initial = initial_arrays(workload, seed)
    return Model(
        workload=workload.name,
        digest=workload_digest(workload.name, forms(initial)),
        initial=initial,
        averaged=buffer_names(workload),
        evaluate=evaluation(workload),
    )
