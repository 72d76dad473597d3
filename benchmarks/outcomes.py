"""What training leaves behind, and whether two trainings left the same, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Shape, strides and digest of a gradient.
Note = tuple[tuple[int, ...], tuple[int, ...], str]


def recording(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimizer class, changed to note every gradient that it is given.

    A note takes no memory of torch's, so that it does not disturb what is measured.
    """

    class Recording(kind):  # type: ignore[valid-type, misc]
        notes: list[Note] = []  # noqa: RUF012

        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if (gradient := parameter.grad) is not None:
                        self.notes.append(
                            (tuple(gradient.shape), gradient.stride(), digest(gradient))
                        )
            return super().step(closure)

    return Recording


def digest(tensor: Tensor) -> str:
    """A digest of a tensor's type, shape and every bit of its content."""
    raw = tensor.detach().cpu()
    if raw.dtype is torch.bfloat16:  # which numpy does not know
        raw = raw.view(torch.int16)
    array = raw.numpy()
    head = f"{tensor.dtype} {array.shape}".encode()
    return hashlib.blake2b(head + array.tobytes(), digest_size=16).hexdigest()


@dataclass
class Outcome:
    """Everything a few training steps leave behind, in RAM wherever the model is."""

    losses: list[float] = field(default_factory=list)
    gradients: list[Note] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    generator: Tensor = field(default_factory=lambda: torch.empty(0))
    peaks: list[int] = field(default_factory=list)


def outcome(module: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> Outcome:
    names = {p: n for n, p in module.named_parameters()}
    state = {
        f"{names[p]} {key}": value.cpu().clone() if isinstance(value, Tensor) else value
        for p, held in optimizer.state.items()
        for key, value in held.items()
    }
    tensors = {k: v.cpu().clone() for k, v in module.state_dict().items()}
    generator = torch.get_rng_state().clone()
    if (device := next(module.parameters()).device).type == "cuda":
        generator = torch.cat([generator, torch.cuda.get_rng_state(device)])
    return Outcome(losses=losses, tensors=tensors, state=state, generator=generator)


def differences(one: Outcome, other: Outcome) -> Iterator[str]:
    """What differs, by name; gradients may come in another order."""
    if [*map(float.hex, one.losses)] != [*map(float.hex, other.losses)]:
        yield "loss"
    if sorted(one.gradients) != sorted(other.gradients):
        yield "gradients"
    if not torch.equal(one.generator, other.generator):
        yield "torch's generator"
    for left, right in ((one.tensors, other.tensors), (one.state, other.state)):
        if left.keys() != right.keys():
            yield f"names {', '.join(sorted(left.keys() ^ right.keys()))}"
        yield from (k for k in left.keys() & right.keys() if not _same(left[k], right[k]))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return digest(one) == digest(other)
    return bool(one == other)
