"""`watch`: which of 7 shoulder exercises a person does, from their smartwatch.

Data: 140 recordings of 10 people, both wrists, 3 axes of acceleration (g) and 3 of rotation (rad/s) at
50 Hz, from D. Burns et al., "Shoulder physiotherapy exercise recognition", Physiol. Meas. 39 (2018)
075007, shipped in the PyPI package `seglearn`. One partition per person: the first 8 people train, the
last 2 are the test.

Preprocessing is all on the device: each axis is scaled (`motion`), windows of 2 s start every second, and
each is joined by one copy turned by up to 30 degrees and scaled by up to 10 percent, since no two people
wear a watch alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples, Workload
from scheduler.errors import BadFile

from .files import of_package
from .inert import ARRAY_NAMES, Named, array, read_inert
from .motion import Recording, network, to_examples, windows

CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
TRAIN_SUBJECTS = tuple(range(1, 9))
TEST_SUBJECTS = (9, 10)
WINDOW = 100  # samples: 2 s
STRIDE = 50
TURN_DEGREES = 30.0
SCALE = 0.1


def model() -> torch.nn.Module:
    """The network of `motion`, [n, 6, 100] to [n, 7]."""
    return network(len(CLASSES))


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.08, momentum=0.9)


def data(partition: int) -> Examples:
    """Windows of one person, each with its turned copy."""
    x, y = _windows(TRAIN_SUBJECTS[partition])
    turned = _turn(x, np.random.default_rng((partition, 1)))
    return to_examples(np.concatenate((x, turned)), np.concatenate((y, y)))


def test() -> Examples:
    """Windows of the people that no partition has."""
    parts = [_windows(subject) for subject in TEST_SUBJECTS]
    return to_examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _windows(subject: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return windows(_recordings()[subject], samples=WINDOW, stride=STRIDE)


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
    """Recordings by subject. Raises BadFile when the data file is missing or damaged."""
    # seglearn itself is not imported, since its import needs pandas.
    path = of_package(
        "seglearn", "seglearn/data/watch_dataset.npy", workload="watch", install="seglearn"
    )
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return read_by_subject(file)
    except (BadFile, OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read: {error}; install seglearn again") from error


def read_by_subject(file: BinaryIO) -> dict[int, tuple[Recording, ...]]:
    """Recordings in a pickle of numpy's: an array of one object, a dict of lists with one entry each.

    Raises BadFile for any other content.
    """
    return read_inert(file, ARRAY_NAMES, _by_subject)


def _by_subject(stored: Named) -> dict[int, tuple[Recording, ...]]:
    content: dict[str, Any] = stored.state[4][0]
    recordings: dict[int, list[Recording]] = {s: [] for s in (*TRAIN_SUBJECTS, *TEST_SUBJECTS)}
    columns = array(content["subject"]), content["X"], array(content["y"])
    for subject, samples, label in zip(*columns, strict=True):
        recordings[int(subject)].append((array(samples), int(label)))
    return {subject: tuple(found) for subject, found in recordings.items()}


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
