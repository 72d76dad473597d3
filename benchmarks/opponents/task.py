"""What every framework trains in the comparison of simulators. Needs numpy and torch only.

Labelled synthetic: clients differ in the mean of their features and in how many examples they have, always
a whole number of batches, so that all frameworks take the same steps.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

CLIENTS = 1000
COHORT = 10
TESTED = 250
CLASSES = 10
SEED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model with its training: `shape` is that of one example, `batches` the fewest and most per client."""

    name: str
    shape: tuple[int, ...]
    batch_size: int
    batches: tuple[int, int]
    learning_rate: float
    shift: float  # standard deviation of clients' means
    noise: float


TASKS = {
    "logistic": Task(
        name="logistic",
        shape=(60,),
        batch_size=10,
        batches=(5, 15),
        learning_rate=0.05,
        shift=0.5,
        noise=1.5,
    ),
    "cnn": Task(
        name="cnn",
        shape=(1, 28, 28),
        batch_size=8,
        batches=(3, 7),
        learning_rate=0.05,
        shift=0.3,
        noise=4.0,
    ),
}


def model(task: str) -> nn.Module:
    """Logistic regression, or a CNN of 60,075 parameters: 0.24 MB."""
    if task == "logistic":
        return nn.Sequential(nn.Linear(60, CLASSES))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 35),
        nn.ReLU(),
        nn.Linear(35, CLASSES),
    )


def initial_model(task: str) -> nn.Module:
    """The model that all frameworks begin with."""
    torch.manual_seed(SEED)
    return model(task)


@functools.cache
def prototypes(task: str) -> np.ndarray:
    """The mean example of each class, smooth where it is an image."""
    generator = np.random.default_rng((SEED, 0))
    shape = TASKS[task].shape
    means = generator.normal(size=(CLASSES, *shape))
    for axis in range(2, means.ndim):
        for _ in range(4):
            means = (means + np.roll(means, 1, axis) + np.roll(means, -1, axis)) / 3
    return means / means.std()


def _draw(task: Task, count: int, generator: np.random.Generator, shift: float) -> tuple:
    labels = generator.integers(CLASSES, size=count)
    x = prototypes(task.name)[labels] * 0.5
    x += generator.normal(scale=task.noise, size=x.shape)
    x += generator.normal(scale=shift, size=(1, *[1] * len(task.shape)))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


@functools.cache
def examples(task: str, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What one client has, x and y; kept once they are made."""
    what = TASKS[task]
    generator = np.random.default_rng((SEED, 1, client))
    low, high = what.batches
    count = int(generator.integers(low, high + 1)) * what.batch_size
    return _draw(what, count, generator, what.shift)


@functools.cache
def test_examples(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples that no client has."""
    return _draw(TASKS[task], TESTED, np.random.default_rng((SEED, 2)), 0.0)


def accuracy(module: nn.Module, task: str) -> float:
    """Share of the test examples that the model gets right."""
    x, y = test_examples(task)
    module.eval()
    with torch.no_grad():
        right = sum(
            int((module(a).argmax(1) == b).sum())
            for a, b in zip(x.split(250), y.split(250), strict=True)
        )
    module.train()
    return right / TESTED


class Watch:
    """Notes when each round has ended; the first is start-up, the rest is what a round takes."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []
        self.cpu_s: list[float] = []  # of this process
        self.accuracy = 0.0

    def round_ended(self, accuracy: float) -> None:
        self.ends_s.append(time.time())
        self.cpu_s.append(time.process_time())
        self.accuracy = accuracy

    def report(self, began_s: float) -> dict:
        """Seconds before the second round began, seconds of a round after that, accuracy at the end."""
        first, last = self.ends_s[0], self.ends_s[-1]
        rounds = len(self.ends_s)
        return {
            "rounds": rounds,
            "start_s": first - began_s,
            "round_s": (last - first) / (rounds - 1),
            "round_cpu_s": (self.cpu_s[-1] - self.cpu_s[0]) / (rounds - 1),
            "accuracy": self.accuracy,
        }
