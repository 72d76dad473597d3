"""A model's parameters and buffers as arrays, and what the model scores."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from scheduler.errors import BadInput

from .outbox import Arrays
from .workload import Examples, Workload

EVALUATION_BATCH = 256


def initial_arrays(workload: Workload, seed: int) -> dict[str, NDArray[np.generic]]:
    """Arrays of a fresh model, the same for the same seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_arrays(workload.model())


def get_arrays(model: torch.nn.Module) -> dict[str, NDArray[np.generic]]:
    """Copies of what `view_arrays` gives. Raises what it raises."""
    return {name: value.copy() for name, value in view_arrays(model).items()}


def view_arrays(model: torch.nn.Module) -> dict[str, NDArray[np.generic]]:
    """All parameters and buffers that the model saves, by name, in the model's own memory.

    Raises BadInput for what numpy, and so an update, has no type for.
    """
    return {name: _array(name, value) for name, value in model.state_dict().items()}


def buffer_names(workload: Workload) -> frozenset[str]:
    """Arrays of the model that no optimizer trains, such as the statistics of batch norm."""
    with torch.random.fork_rng(devices=[]):
        model = workload.model()
    return frozenset(
        model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False))
    )


def set_arrays(model: torch.nn.Module, arrays: Arrays) -> None:
    """Load all parameters and buffers. Raises BadInput unless they are exactly the model's."""
    state = {
        # load_state_dict copies; torch warns of memory that it must not write to.
        name: torch.from_numpy(value if value.flags.writeable else np.array(value))
        for name, value in arrays.items()
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise BadInput(f"the arrays are not those of this workload's model: {detail}") from error


def score(workload: Workload, model: torch.nn.Module, examples: Examples) -> dict[str, float]:
    """Mean `loss`, and `accuracy` (0 to 1) when targets are class numbers and outputs class scores.

    Raises BadInput for examples that the model or the loss cannot take.
    """
    was_training = model.training
    model.eval()
    loss, right = 0.0, 0
    classes = examples.y.dim() == 1 and not examples.y.is_floating_point()
    try:
        with torch.no_grad():
            for start in range(0, len(examples), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                x, y = examples.x[chosen], examples.y[chosen]
                output = model(x)
                classes = classes and output.dim() == 2
                loss += float(workload.loss(output, y)) * len(y)
                right += int((output.argmax(dim=1) == y).sum()) if classes else 0
    except Exception as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadInput(
            f"model and loss of workload {workload.name!r} cannot take its test examples: {detail}"
        ) from error
    finally:
        model.train(was_training)
    result = {"loss": loss / len(examples)}
    return result | {"accuracy": right / len(examples)} if classes else result


def evaluation(workload: Workload) -> Callable[[int, Arrays], dict[str, float]]:
    """A function from (round, arrays) to their score on the workload's held-out examples.

    They are read when they are first needed: a coordinator that starts again asks devices before.
    """
    model, examples = workload.model(), functools.cache(workload.test)

    def evaluate(_: int, arrays: Arrays) -> dict[str, float]:
        set_arrays(model, arrays)
        return score(workload, model, examples())

    return evaluate


def _array(name: str, value: object) -> NDArray[np.generic]:
    if not isinstance(value, torch.Tensor):
        raise BadInput(
            f"the model saves {name!r}, a {type(value).__name__}; keep it out of its state"
        )
    try:
        return value.detach().cpu().numpy()
    except TypeError as error:
        raise BadInput(f"{name!r} is {value.dtype}, which cannot be sent; use float32") from error
