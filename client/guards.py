"""What tracing must not do to its surroundings, and how its errors are put."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from scheduler.errors import FedpoetError, Untraceable

from .places import Places, start


@contextlib.contextmanager
def generators_kept(places: Places, again: Callable[[], object]) -> Iterator[None]:
    """Keep every generator as it was, and refuse a model that does more than draw from torch's.

    On fake tensors nothing is drawn from torch's generator, so a change of its state would be lost.
    `again` does once more what is done meanwhile, to find the line that drew.
    """

    def refuse(*_: object) -> None:
        raise Untraceable(
            "the forward pass reads or sets the state of torch's generator, as activation "
            "checkpointing does; remove it: the plan recomputes by itself"
        )

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    states = {"Python's random": random.getstate, "numpy.random": _numpy_state}
    before = {name: state() for name, state in states.items()}
    names = ("get_rng_state", "set_rng_state", "manual_seed", "seed")
    try:
        with contextlib.ExitStack() as patches:
            for owner in (torch, torch.random, torch.cuda, torch.cuda.random):
                for name in names:
                    patches.enter_context(mock.patch.object(owner, name, refuse))
            yield
        for name, state in states.items():
            if state() != before[name]:
                where = start(places.of_change(state, again))
                raise Untraceable(f"{where}the forward pass draws from {name}; draw from torch")
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def explained(places: Places) -> Iterator[None]:
    """Turn whatever tracing raises into one clear line, and keep torch from logging the rest."""
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        if isinstance(error, FedpoetError) and not isinstance(error, Untraceable):
            raise
        raise Untraceable(f"{start(places.of(error))}{_cause(error)}") from error
    finally:
        torch_log.setLevel(level)


def _cause(error: Exception) -> str:
    match error:
        case Untraceable():
            return str(error)
        case DataDependentOutputException():
            return (
                f"the model turns a tensor's value into a Python number ({error}): control flow that "
                "depends on data cannot be planned; use torch.where or fixed shapes"
            )
        case DynamicOutputShapeException():
            return f"the shape of the output of {error} depends on data; use masks of a fixed shape"
        case UnsupportedOperatorException():
            return f"{error} cannot run without data; use another operator"
    line = first_line(error)
    if "numpy" in line.lower():
        line += "; use torch functions instead of numpy in the forward pass"
    return f"the training step cannot be traced: {type(error).__name__}: {line}"


def _numpy_state() -> str:
    return str(np.random.get_state())  # noqa: NPY002


def first_line(error: Exception) -> str:
    """What an exception says, in one line of a sensible length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
