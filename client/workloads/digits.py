"""`digits`: 1,797 handwritten digits of 8 x 8 pixels from scikit-learn, spread unevenly over 10 nodes.

Every fifth image is held out for the test. The others are dealt to the nodes by class, in shares drawn
from a Dirichlet distribution (concentration 1): every node has its own mix of digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_digits

from client.partition import Positions, dirichlet
from client.workload import Examples, Workload

NODES = 10
CLASSES = 10
CONCENTRATION = 1.0
LEAST_EXAMPLES = 32
SPLIT_SEED = 20  # the split is part of the workload: it does not change with the seed of a run


def model() -> torch.nn.Module:
    """Multilayer perceptron, [n, 64] to [n, 10]; wide enough that 200 KB of RAM ask for a plan."""
    return torch.nn.Sequential(
        torch.nn.Linear(64, 192),
        torch.nn.ReLU(),
        torch.nn.Linear(192, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, CLASSES),
    )


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def data(partition: int) -> Examples:
    """Images of one node."""
    x, y = _train()
    chosen = torch.from_numpy(_split()[partition])
    return Examples(x=x[chosen], y=y[chosen])


def test() -> Examples:
    """Every fifth image."""
    x, y = _all()
    return Examples(x=x[::5].clone(), y=y[::5].clone())


@lru_cache(maxsize=1)
def _all() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy((images / 16).astype(np.float32)), torch.from_numpy(
        labels.astype(np.int64)
    )


def _train() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _all()
    kept = torch.arange(len(y)) % 5 != 0
    return x[kept], y[kept]


@lru_cache(maxsize=1)
def _split() -> tuple[Positions, ...]:
    """Positions of each node's images."""
    return dirichlet(
        _train()[1].numpy(),
        NODES,
        alpha=CONCENTRATION,
        generator=np.random.default_rng(SPLIT_SEED),
        least=LEAST_EXAMPLES,
    )


WORKLOAD = Workload(
    name="digits",
    model=model,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=NODES,
    data=data,
    test=test,
    batch_size=16,
    local_epochs=4,
)
