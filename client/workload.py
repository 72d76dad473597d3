"""What is trained: a model, a loss, an optimizer, and where a device finds its data."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from scheduler.errors import BadFile, BadInput, FedpoetError, UnknownName

from .proximal import proximal

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")

BUILT_IN = {
    "watch": "client.workloads.watch",
    "digits": "client.workloads.digits",
    "phone-har": "client.workloads.phone_har",
    "keyword": "client.workloads.keyword",
    "next-word": "client.workloads.next_word",
}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples of one device: `x` is [n, ...] and `y` is [n] or [n, ...], one entry per example.

    Raises BadInput unless both are tensors, with the same number of examples and at least one.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, torch.Tensor):
                raise BadInput(
                    f"{name} of examples is a {type(value).__name__}, not a torch.Tensor"
                )
        counts = [t.shape[0] if t.dim() else 0 for t in (self.x, self.y)]
        if counts[0] != counts[1] or not counts[0]:
            raise BadInput(
                f"examples need as many x as y and at least one, not {counts[0]} and {counts[1]}"
            )

    def __len__(self) -> int:
        return int(self.x.shape[0])


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One training task; `examples/own_workload.py` is a complete one.

    `model` returns a fresh module, initialised from torch's generator as the caller seeded it. `loss`
    maps (model output, target) to a 0-d tensor. `data` returns the training examples of one of the
    `partitions` natural nodes and runs on the device: what it reads never leaves. `test` returns
    examples that no partition has; accuracy is reported when its targets are class numbers.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
    partitions: int
    data: Callable[[int], Examples]
    test: Callable[[], Examples]
    batch_size: int
    local_epochs: int

    def __post_init__(self) -> None:
        for name in ("partitions", "batch_size", "local_epochs"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise BadInput(
                    f"workload {self.name!r}: {name} must be a whole number, 1 or more, not {value!r}"
                )

    def examples(self, partition: int) -> Examples:
        """Training examples of a partition. Raises BadInput, naming it, when there is none or no example."""
        if not 0 <= partition < self.partitions:
            raise BadInput(
                f"workload {self.name!r} has partitions 0 to {self.partitions - 1}, not {partition}"
            )
        try:
            return self.data(partition)
        except BadFile:
            raise  # a file says by itself what is wrong with it
        except BadInput as error:
            raise BadInput(f"{error}; partition {partition}") from error

    def training_examples(self, partition: int) -> Examples:
        """Examples of a partition. Raises BadInput when they do not make a whole batch."""
        examples = self.examples(partition)
        if len(examples) < self.batch_size:
            raise BadInput(
                f"partition {partition} has {len(examples)} examples, "
                f"fewer than a batch of {self.batch_size}"
            )
        return examples


def load_workload(spec: str) -> Workload:
    """The workload of a name in BUILT_IN, of `hf:...` (`client.workloads.hub`), or of `path.py:name`.

    `name` is a Workload at module level, or a function without arguments that returns one. Raises
    UnknownName for a name that is neither, and BadFile for a file that cannot be read or run. The
    workload's own functions raise BadInput, with the cause, when they fail or return something else.
    """
    if spec in BUILT_IN:
        found = importlib.import_module(BUILT_IN[spec]).WORKLOAD
    elif spec.startswith("hf:"):
        found = importlib.import_module("client.workloads.hub").from_spec(spec)
    elif ".py" in spec:
        found = _from_file(spec)
    else:
        raise UnknownName("workload", spec, (*BUILT_IN, "hf:NAME", "path.py:name"))
    if not isinstance(found, Workload):
        raise BadFile(f"{spec} is a {type(found).__name__}, not a client.workload.Workload")
    name = found.name
    return replace(
        found,
        model=_guarded(found.model, f"model() of workload {name!r}", torch.nn.Module),
        optimizer=_guarded(
            found.optimizer, f"optimizer() of workload {name!r}", torch.optim.Optimizer
        ),
        data=_guarded(found.data, f"data() of workload {name!r}", Examples),
        test=_guarded(found.test, f"test() of workload {name!r}", Examples),
    )


def _guarded(
    make: Callable[Parameters, Made], what: str, kind: type[object]
) -> Callable[Parameters, Made]:
    """`make`, but with errors that name what was called."""

    @functools.wraps(make)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Made:
        try:
            made = make(*args, **kwargs)
        except FedpoetError:
            raise
        except (Exception, SystemExit) as error:
            raise BadInput(f"{what} ended with {_told(error)}") from error
        if not isinstance(made, kind):
            raise BadInput(f"{what} returned a {type(made).__name__}, not a {kind.__name__}")
        return made

    return guarded


def _told(error: BaseException) -> str:
    """Type and text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def with_training(
    workload: Workload,
    *,
    batch_size: int | None,
    local_epochs: int | None,
    proximal_mu: float = 0.0,
) -> Workload:
    """The workload with another batch size or number of local epochs; None keeps its own.

    `proximal_mu` is FedProx's: its optimizer is drawn back to where it began. Raises BadInput.
    """
    return replace(
        workload,
        optimizer=lambda parameters: proximal(workload.optimizer(parameters), proximal_mu),
        batch_size=workload.batch_size if batch_size is None else batch_size,
        local_epochs=workload.local_epochs if local_epochs is None else local_epochs,
    )


def batches(
    examples: Examples, workload: Workload, order: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Whole batches for the local epochs, in a new order each; what is left over waits for the next."""
    x, y, size = examples.x, examples.y, workload.batch_size
    whole = len(examples) // size * size
    for _ in range(workload.local_epochs):
        positions = torch.from_numpy(order.permutation(len(examples)))
        for chosen in positions[:whole].view(-1, size).unbind():
            yield x.index_select(0, chosen), y.index_select(0, chosen)


def _from_file(spec: str) -> object:
    file, _, name = spec.rpartition(":")
    if not file or not name or name.endswith(".py"):
        raise BadInput(f"name the workload inside the file: {spec}:NAME")
    path = Path(file)
    if not path.is_file():
        raise BadFile(
            f"no workload file {path}; give a path to a Python file, then a colon and a name"
        )
    found = getattr(_run(path), name, None)
    if found is None:
        raise BadFile(f"{path} has no {name!r} at module level")
    if isinstance(found, Workload) or not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise BadFile(f"{spec}() ended with {_told(error)}") from error


def _run(path: Path) -> ModuleType:
    name = f"fedpoet_workload_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadFile(f"{path} cannot be run: {_told(error)}") from error
    return module
