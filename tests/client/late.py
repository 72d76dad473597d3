"""Copies that take place at any moment a device may choose, and as late as it may: a GPU's, on the CPU."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from client.host_store import Immediate, Moment

Draw = Callable[[], bool]


class LetGo(AssertionError):
    """Memory of the device was given back before a copy that uses it had ended."""


@dataclass(eq=False)
class Copy:
    """A copy that does not hold the device's memory, as no copy on a side stream does."""

    lanes: LateLanes
    lane: str
    run: Callable[[], object]
    after: Moment | None
    ran: bool = False

    def has_passed(self) -> bool:
        if self.lanes.draw():
            self.wait()
        return self.ran

    def wait(self) -> None:
        """It runs now, after those before it in its lane."""
        while not self.ran:
            self.lanes.run_next(self.lane)


class LateLanes(Immediate):
    """Copies run when somebody waits for them, and before that whenever `draw` says so."""

    def __init__(self, draw: Draw = lambda: False) -> None:
        self.draw = draw
        self._waiting: dict[str, deque[Copy]] = defaultdict(deque)

    def copy(self, lane: str, target: Tensor, source: Tensor, after: Moment | None) -> Moment:
        if lane == "reads":
            into, outof = _unheld(target), lambda: source
        else:
            into, outof = (lambda: target), _unheld(source)
        copy = Copy(self, lane, lambda: into().copy_(outof()), after)
        self._waiting[lane].append(copy)
        for busy in [name for name, copies in self._waiting.items() if copies]:
            if self.draw():
                self.run_next(busy)
        return copy

    def run_next(self, lane: str) -> None:
        copy = self._waiting[lane].popleft()
        if copy.after is not None:
            copy.after.wait()
        copy.run()
        copy.ran = True


def drawn(seed: int) -> Draw:
    draw = random.Random(seed)
    return lambda: draw.random() < 0.3


def _unheld(tensor: Tensor) -> Callable[[], Tensor]:
    reference = StorageWeakRef(tensor.untyped_storage())

    def again() -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
        if storage is None:
            raise LetGo("a copy runs after its memory was given back")
        return torch.empty(0, dtype=torch.uint8).set_(storage)

    return again
