"""A workload of your own: a model, a loss, an optimizer, and data for a node.

    fedpoet simulate --workload examples/own_workload.py:vibration --rounds 10

Copy this file and change the parts. The task here: tell from a second of vibration whether a machine
runs well, has a worn bearing, or an unbalanced shaft. Each of 6 nodes watches one machine, and every
machine turns at its own speed. The recordings are made up from a seed, so the file needs no download.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from client.workload import Examples, Workload

MACHINES = 6
RECORDINGS = 96  # per machine
SAMPLES = 128  # per recording
CLASSES = 3  # well, worn bearing, unbalanced shaft


def model() -> torch.nn.Module:
    """A fresh model. fedpoet seeds torch's generator before it calls this.

    Any module that torch can trace will do. Group norm rather than batch norm: a batch's statistics
    differ from node to node.
    """
    return torch.nn.Sequential(
        torch.nn.Conv1d(1, 8, kernel_size=7, stride=2, padding=3),
        torch.nn.GroupNorm(2, 8),
        torch.nn.ReLU(),
        torch.nn.Conv1d(8, 16, kernel_size=5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, CLASSES),
    )


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD (with or without momentum) or Adam; its state counts in the RAM budget."""
    return torch.optim.Adam(parameters, lr=0.003)


def record(machine: int, count: int) -> Examples:
    """Recordings of one machine.

    On a real device this would open a sensor or a file. It runs on the device, and what it returns
    never leaves: only the trained arrays and a few declared numbers do.
    """
    generator = np.random.default_rng((2024, machine))
    speed_hz = 8 + 2.5 * machine
    time_s = np.arange(SAMPLES) / SAMPLES
    labels = generator.integers(CLASSES, size=count)
    phase = generator.uniform(0, 2 * np.pi, size=(count, 1))
    shaft = np.sin(2 * np.pi * speed_hz * time_s + phase)
    bearing = np.sin(2 * np.pi * 3.6 * speed_hz * time_s + phase)
    signal = (
        0.4 * shaft + 0.8 * (labels == 1)[:, None] * bearing + 1.2 * (labels == 2)[:, None] * shaft
    )
    signal += generator.normal(scale=0.4, size=signal.shape)
    return Examples(
        x=torch.from_numpy(signal.astype(np.float32)).unsqueeze(1),  # [count, 1 channel, samples]
        y=torch.from_numpy(
            labels.astype(np.int64)
        ),  # [count]; class numbers, so accuracy is reported
    )


def data(partition: int) -> Examples:
    """Training examples of one node. Batches have one size: what is left over waits for a later epoch."""
    return record(partition, RECORDINGS)


def test() -> Examples:
    """Examples that no node has: a machine with a speed of its own."""
    return record(MACHINES, 300)


vibration = Workload(
    name="vibration",
    model=model,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=MACHINES,
    data=data,
    test=test,
    batch_size=8,
    local_epochs=2,
)
