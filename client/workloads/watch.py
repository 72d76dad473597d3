"""`watch`: which of 7 shoulder exercises a person does, from their smartwatch.

Data: 140 recordings of 10 people, both wrists, 3 axes of acceleration (g) and 3 of rotation (rad/s) at
50 Hz, from D. Burns et al., "Shoulder physiotherapy exercise recognition", Physiol. Meas. 39 (2018)
075007, shipped in the PyPI package `seglearn`. One partition per person: the first 8 people train, the
last 2 are the test.

Preprocessing is all on the device: each axis is divided by its standard deviation over the device's own
recordings (never centred: the direction of gravity carries the class), cut into windows of 2 s that
start every second, and each window is joined by one copy turned by up to 30 degrees and scaled by up to
10 percent, since no two people wear a watch alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples, Workload
from scheduler.errors import BadFile

CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
TRAIN_SUBJECTS = tuple(range(1, 9))
TEST_SUBJECTS = (9, 10)
AXES = 6
WINDOW = 100  # samples: 2 s
STRIDE = 50
TURN_DEGREES = 30.0
SCALE = 0.1

Recording = tuple[NDArray[np.float64], int]  # [samples, 6 axes], class


def model() -> torch.nn.Module:
    """1-D convolutional net, [n, 6, 100] to [n, 7].

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
    return torch.nn.Sequential(*layers, torch.nn.Linear(channels, len(CLASSES)))


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.08, momentum=0.9)


def data(partition: int) -> Examples:
    """Windows of one person, each with its turned copy."""
    recordings = _recordings()[TRAIN_SUBJECTS[partition]]
    x, y = _windows(recordings)
    turned = _turn(x, np.random.default_rng((partition, 1)))
    return _examples(np.concatenate((x, turned)), np.concatenate((y, y)))


def test() -> Examples:
    """Windows of the people that no partition has."""
    parts = [_windows(_recordings()[subject]) for subject in TEST_SUBJECTS]
    return _examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _examples(x: NDArray[np.float32], y: NDArray[np.int64]) -> Examples:
    """From [n, samples, axes] to torch's [n, axes, samples]."""
    return Examples(x=torch.from_numpy(x).transpose(1, 2).contiguous(), y=torch.from_numpy(y))


def _windows(recordings: tuple[Recording, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scale = np.concatenate([samples for samples, _ in recordings]).std(axis=0)
    windows, labels = [], []
    for samples, label in recordings:
        scaled = (samples / scale).astype(np.float32)
        starts = range(0, len(scaled) - WINDOW + 1, STRIDE)
        windows += [scaled[start : start + WINDOW] for start in starts]
        labels += [label] * len(starts)
    return np.stack(windows), np.array(labels, dtype=np.int64)


def _turn(windows: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Each window [samples, 6] turned about a random axis and scaled, both sensors alike."""
    count = len(windows)
    axis = generator.normal(size=(count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.deg2rad(generator.uniform(-TURN_DEGREES, TURN_DEGREES, size=(count, 1, 1)))
    cross = np.zeros((count, 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    rotation *= generator.uniform(1 - SCALE, 1 + SCALE, size=(count, 1, 1))
    sensors = [windows[:, :, :3] @ rotation, windows[:, :, 3:] @ rotation]
    return np.concatenate(sensors, axis=2).astype(np.float32)


@lru_cache(maxsize=1)
def _recordings() -> dict[int, tuple[Recording, ...]]:
    """Recordings by subject. Raises BadFile when the data file is missing."""
    path = _data_file()
    # The file stores lists of arrays, which numpy pickles; it comes with the installed package.
    content = np.load(path, allow_pickle=True).item()
    subjects = [int(s) for s in content["subject"]]
    found: dict[int, list[Recording]] = {s: [] for s in sorted(set(subjects))}
    for subject, samples, label in zip(subjects, content["X"], content["y"], strict=True):
        found[subject].append((samples, int(label)))
    return {subject: tuple(recordings) for subject, recordings in found.items()}


def _data_file() -> Path:
    """Path of the data file; seglearn itself is not imported, since its import needs pandas."""
    try:
        path = Path(str(distribution("seglearn").locate_file("seglearn/data/watch_dataset.npy")))
    except PackageNotFoundError:
        raise BadFile(
            "the watch workload needs the package seglearn: pip install seglearn"
        ) from None
    if not path.is_file():
        raise BadFile(f"seglearn is installed without its data file {path}; install it again")
    return path


WORKLOAD = Workload(
    name="watch",
    model=model,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=len(TRAIN_SUBJECTS),
    data=data,
    test=test,
    batch_size=8,
    local_epochs=1,
)
