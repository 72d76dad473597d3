"""The state of torch's generators: the CPU's, and that of the device that computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor


def generators_now(device: torch.device) -> Callable[[], None]:
    """A function that puts the generators back to where they are now.

    Their states are kept in memory that torch does not count.
    """
    kept = [(torch.set_rng_state, _bytes(torch.get_rng_state()))]
    if device.type == "cuda":
        put = partial(torch.cuda.set_rng_state, device=device)
        kept.append((put, _bytes(torch.cuda.get_rng_state(device))))

    def put_back() -> None:
        for put, state in kept:
            put(torch.frombuffer(state, dtype=torch.uint8))

    return put_back


def _bytes(state: Tensor) -> bytearray:
    return bytearray(state.numpy().tobytes())
