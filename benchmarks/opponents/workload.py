"""The comparison's task as workloads of fedpoet."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.opponents import task
from client.workload import Examples, Workload


def _examples(name: str, client: int) -> Examples:
    x, y = task.examples(name, client)
    return Examples(x=x, y=y)


def _tested(name: str) -> Examples:
    x, y = task.test_examples(name)
    return Examples(x=x, y=y)


def _workload(name: str) -> Workload:
    what = task.TASKS[name]
    return Workload(
        name=name,
        model=partial(task.model, name),
        loss=torch.nn.functional.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=what.learning_rate),
        partitions=task.CLIENTS,
        data=partial(_examples, name),
        test=partial(_tested, name),
        batch_size=what.batch_size,
        local_epochs=1,
    )


logistic, cnn = _workload("logistic"), _workload("cnn")
