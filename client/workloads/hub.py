"""`hf:NAME?...`: any data set of the Hugging Face Hub, or a folder like one, divided by flwr-datasets.

    hf:ylecun/mnist?partitioner=dirichlet&partition_by=label&num_partitions=10&alpha=0.5&x=image&y=label

NAME is looked up as `datasets.load_dataset` does: on the Hub, which needs a network, or a folder of this
machine. `Choice` lists what can be set; `partitioner` is one of flwr-datasets, without the word
Partitioner (`iid`, `dirichlet`, `natural-id`, `pathological`, ...), and all else is handed to it. The model
is a small network for images or for numbers; `divided` takes a model of one's own (docs/workloads.md).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from numpy.typing import NDArray

from client.workload import Examples, Workload
from scheduler.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from datasets import Dataset
    from flwr_datasets.partitioner import Partitioner

PREFIX = "hf:"
Optimizers = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of a data set is used, and how.

    `x` names the column of images or numbers, or several of numbers with commas between; `y` the column
    of class numbers. `train` is the split that is divided and `test` the one that nobody has. `subset` is
    the Hub's configuration.
    """

    x: str = "image"
    y: str = "label"
    train: str = "train"
    test: str = "test"
    subset: str | None = None
    batch_size: int = 16
    local_epochs: int = 1


def from_spec(spec: str) -> Workload:
    """The workload of `hf:NAME?key=value&...`.

    Raises UnknownName for an unknown partitioner and BadInput for everything else that cannot be used.
    """
    name, _, query = spec.removeprefix(PREFIX).partition("?")
    try:
        given = {key: _value(text) for key, text in parse_qsl(query, strict_parsing=bool(query))}
    except ValueError as error:
        raise BadInput(f"{spec}: write options as key=value with & between ({error})") from error
    if not name:
        raise BadInput(f"{spec}: name a data set, as in hf:ylecun/mnist")
    made = _partitioner(spec, str(given.pop("partitioner", "iid")), given)
    chosen = {f.name: given[f.name] for f in fields(Choice) if f.name in given}
    return divided(name, made, Choice(**chosen))


def divided(
    name: str,
    partitioner: Partitioner,
    choice: Choice,
    *,
    model: Callable[[], torch.nn.Module] | None = None,
    optimizer: Optimizers | None = None,
) -> Workload:
    """A workload of the data set `name`, with a partition for each of the partitioner's.

    `model` maps x ([n, channels, height, width] from 0 to 1 for images, else [n, columns]) to class scores;
    None takes a small network. `optimizer` None is SGD with momentum.

    Raises BadInput, with the cause, for a data set that cannot be loaded or divided so.
    """
    dataset = _flwr_datasets().FederatedDataset(
        dataset=name,
        subset=choice.subset,
        partitioners={choice.train: partitioner},
        shuffle=False,  # partitioners draw by themselves
    )
    try:
        test = _examples(dataset.load_split(choice.test), choice)
        first = _examples(dataset.load_partition(0, choice.train), choice)
        partitions = int(dataset.partitioners[choice.train].num_partitions)
        classes = _classes(dataset.load_split(choice.train), choice, test)
    except BadInput as error:
        raise BadInput(f"data set {name}: {error}") from error
    except Exception as error:  # the Hub, the file system, the file's format or the partitioner
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadInput(
            f"data set {name} cannot be loaded or divided: {detail}; one of the Hub needs a network"
        ) from error

    def data(partition: int) -> Examples:
        return _examples(dataset.load_partition(partition, choice.train), choice)

    return Workload(
        name=f"{PREFIX}{name}",
        model=model or (lambda: _network(tuple(first.x.shape[1:]), classes)),
        loss=torch.nn.functional.cross_entropy,
        optimizer=optimizer or _sgd,
        partitions=partitions,
        data=data,
        test=lambda: test,
        batch_size=choice.batch_size,
        local_epochs=choice.local_epochs,
    )


def _flwr_datasets() -> Any:
    # It reports the name of each data set to its makers unless told not to before it is imported.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        import flwr_datasets
        import flwr_datasets.partitioner
    except ImportError as error:
        raise BadInput(
            f"hf: workloads need flwr-datasets ({error}): pip install 'fedpoet[hub]'"
        ) from error
    return flwr_datasets


def _value(text: str) -> Any:
    """A number where the text is one, a list of numbers in brackets, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _partitioner(spec: str, name: str, given: dict[str, Any]) -> Partitioner:
    known = _flwr_datasets().partitioner
    wanted = "".join(part.capitalize() for part in name.split("-")) + "Partitioner"
    if name not in _partitioner_names(known.__all__):
        raise UnknownName("partitioner", name, _partitioner_names(known.__all__))
    own = {f.name for f in fields(Choice)}
    try:
        made: Partitioner = getattr(known, wanted)(
            **{key: value for key, value in given.items() if key not in own}
        )
    except (TypeError, ValueError) as error:
        raise BadInput(f"{spec}: {wanted} cannot be made: {error}") from error
    return made


def _partitioner_names(classes: Iterable[str]) -> tuple[str, ...]:
    """`natural-id` for NaturalIdPartitioner; the abstract Partitioner has none."""
    parts = (re.findall("[A-Z][a-z]+", name)[:-1] for name in classes)
    return tuple("-".join(part).lower() for part in parts if part)


def _examples(dataset: Dataset, choice: Choice) -> Examples:
    """All of a split or partition, in memory."""
    columns = choice.x.split(",")
    for column in (*columns, choice.y):
        if column not in dataset.column_names:
            raise BadInput(f"it has no column {column!r}, only {', '.join(dataset.column_names)}")
    content: dict[str, NDArray[Any]] = dataset.with_format("numpy")[:]
    y = np.asarray(content[choice.y])
    if y.dtype.kind not in "iu" or y.ndim != 1 or y.min(initial=0) < 0:
        raise BadInput(f"column {choice.y!r} holds no class numbers from 0")
    parts = [_numbers(column, np.asarray(content[column])) for column in columns]
    single = len(parts) == 1 and parts[0].ndim > 1
    x = parts[0] if single else np.stack(parts, axis=1)
    return Examples(x=torch.from_numpy(x), y=torch.from_numpy(y.astype(np.int64)))


def _numbers(column: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Images [n, height, width] or [n, height, width, channels] as [n, channels, ...], else numbers."""
    if values.dtype.kind not in "iufb":
        raise BadInput(f"column {column!r} holds no numbers, or images of different sizes")
    if values.dtype == np.uint8 and values.ndim >= 3:
        values = values[..., None] if values.ndim == 3 else values
        return np.ascontiguousarray(np.moveaxis(values, -1, 1), dtype=np.float32) / np.float32(255)
    return values.astype(np.float32)


def _classes(train: Dataset, choice: Choice, test: Examples) -> int:
    """How many classes there are, by the column's own names or else by the largest number."""
    named = getattr(train.features[choice.y], "num_classes", None)
    largest = max(int(np.max(train.with_format("numpy")[choice.y][:])), int(test.y.max()))
    return int(named) if named else largest + 1


def _network(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """A small network for images [channels, height, width], or a perceptron for numbers [columns]."""
    if len(shape) == 3:
        layers: list[torch.nn.Module] = []
        channels = shape[0]
        for width in (16, 32, 32):
            layers += [
                torch.nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                torch.nn.GroupNorm(4, width),
                torch.nn.ReLU(),
            ]
            channels = width
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(channels, classes))
    if len(shape) > 1:
        raise BadInput(f"x of shape {list(shape)} needs a model of your own (docs/workloads.md)")
    return torch.nn.Sequential(
        torch.nn.Linear(shape[0], 64), torch.nn.ReLU(), torch.nn.Linear(64, classes)
    )


def _sgd(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
