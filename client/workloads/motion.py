"""What the workloads of motion sensors share: windows of recordings, and a network for them.

A recording is scaled on the device: each axis is divided by its standard deviation over the device's own
recordings. It is never centred, since the direction of gravity carries the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples
from scheduler.errors import BadInput

AXES = 6  # 3 of acceleration, 3 of rotation
Recording = tuple[NDArray[np.float64], int]  # [samples, AXES], class


def network(classes: int) -> torch.nn.Module:
    """1-D convolutional net, [n, AXES, samples] to [n, classes].

    Group norm: statistics of a batch differ from person to person, and averaging them hurts.
    """
    layers: list[torch.nn.Module] = []
    channels = AXES
    for width in (16, 24, 32):
        layers += [
            torch.nn.Conv1d(channels, width, kernel_size=5, padding=2, bias=False),
            torch.nn.GroupNorm(4, width),
            torch.nn.ReLU(),
            torch.nn.AvgPool1d(2),
        ]
        channels = width
    layers += [torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(channels, classes))


def windows(
    recordings: Sequence[Recording], *, samples: int, stride: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scaled windows [n, samples, AXES] of one device's recordings, and their classes [n].

    Raises BadInput when no recording is long enough for a window.
    """
    longest = max((len(signal) for signal, _ in recordings), default=0)
    if longest < samples:
        raise BadInput(
            f"no recording has {samples} samples, which a window takes; the longest has {longest}"
        )
    scale = np.concatenate([signal for signal, _ in recordings]).std(axis=0)
    found, labels = [], []
    for signal, label in recordings:
        scaled = (signal / scale).astype(np.float32)
        starts = range(0, len(scaled) - samples + 1, stride)
        found += [scaled[start : start + samples] for start in starts]
        labels += [label] * len(starts)
    return np.stack(found), np.array(labels, dtype=np.int64)


def to_examples(x: NDArray[np.float32], y: NDArray[np.int64]) -> Examples:
    """From [n, samples, axes] to torch's [n, axes, samples]."""
    return Examples(x=torch.from_numpy(x).transpose(1, 2).contiguous(), y=torch.from_numpy(y))
