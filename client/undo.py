"""The way back from a step that fails: the old content of what it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from scheduler.graph import Graph

from .layout import Layout
from .memory import Memory, Stored


class Undo:
    """Keeps the old content of every persistent tensor that a step changes, until the step has ended.

    A tensor that lives in the page store has its page there. Of the others, those for which the
    budget has `spare_bytes` left are copied within RAM just before they change (`ram_bytes` are held
    for that all the time); the rest is written to the page store, from the beginning of the step and
    beside its compute (see `undo_bytes`). So a failed step changes nothing.
    """

    def __init__(
        self,
        memory: Memory,
        changed: Iterable[int],
        layouts: Sequence[Layout],
        spare_bytes: int,
    ) -> None:
        self._memory, self._layouts = memory, layouts
        sizes = {k: layouts[k].ram_bytes for k in changed}
        self._in_ram, self._in_store = shared_out(sizes, spare_bytes)
        self.ram_bytes = sum(sizes[k] for k in self._in_ram)
        self.written_bytes = 0
        self._copies: dict[int, Tensor] = {}
        self._kept: dict[int, Stored] = {}
        self._old: dict[int, Stored | Tensor] = {}

    def open(self) -> None:
        """Take the RAM for copies."""
        self._copies = {k: self._layouts[k].new() for k in self._in_ram}
        self._memory.resident_bytes += self.ram_bytes

    def close(self) -> None:
        """Give the RAM for copies back."""
        self._copies.clear()

    def begin(self) -> None:
        """Begin to write what has to be in the page store before it changes."""
        for k in self._in_store:
            tensor = self._memory[k]
            if tensor is not None:
                self._kept[k] = self._memory.copy_out(k)
                self.written_bytes += tensor.untyped_storage().nbytes()

    def protect(self, k: int) -> None:
        """Call before a tensor changes; waits until its old content is safe."""
        tensor = self._memory[k]
        self._memory.finish_writes(k)
        if k in self._old:
            self._memory.drop_page(k)
        elif k in self._copies and tensor is not None:
            copy = self._copies[k]
            copy.untyped_storage().copy_(tensor.untyped_storage())
            self._old[k] = copy
            self._memory.drop_page(k)
        elif k in self._kept:
            self._old[k] = self._kept.pop(k)
            self._memory.drop_page(k)
        else:
            self._old[k] = self._memory.take_page(k)

    def commit(self) -> None:
        """The step has ended: what was kept is not needed any more."""
        self._drop(self._kept.values())
        self._drop(self._old.values())
        self._kept.clear()
        self._old.clear()
        self._memory.go_home()

    def roll_back(self) -> None:
        """Undo a step. Raises DamagedPage if an old content cannot be read any more."""
        self._memory.give_up()
        self._drop(self._kept.values())
        self._kept.clear()
        for k in list(self._old):
            old = self._old.pop(k)
            if isinstance(old, Stored):
                self._memory.put_page(k, old)
            else:
                self._restore(k, old)
        self._memory.go_home()

    def _restore(self, k: int, old: Tensor) -> None:
        if k not in self._memory:
            self._memory.drop_page(k)
            self._memory.hold(k, self._layouts[k].new())
        tensor = self._memory[k]
        assert tensor is not None  # noqa: S101
        tensor.untyped_storage().copy_(old.untyped_storage())

    def _drop(self, kept: Iterable[Stored | Tensor]) -> None:
        for one in kept:
            if isinstance(one, Stored):
                self._memory.drop(one)


def changed_in_ram(graph: Graph, home_paged: frozenset[int]) -> tuple[int, ...]:
    """Persistent tensors that a step changes and that live in RAM, in the order of their first change."""
    changed = (k for op in graph.operators for k in op.mutates if graph.is_persistent(k))
    return tuple(k for k in dict.fromkeys(changed) if k not in home_paged)


def shared_out(sizes: Mapping[int, int], spare_bytes: int) -> tuple[list[int], list[int]]:
    """Of tensors and their bytes, those that find room in the RAM to spare, in their order; the others."""
    in_ram: list[int] = []
    in_store: list[int] = []
    for k, size_bytes in sizes.items():
        fits = size_bytes <= spare_bytes
        (in_ram if fits else in_store).append(k)
        spare_bytes -= size_bytes if fits else 0
    return in_ram, in_store


def undo_bytes(graph: Graph, block_bytes: int) -> int:
    """Page store that `Undo` may need at most, in whole blocks."""
    changed = {k for op in graph.operators for k in op.mutates}
    return sum(-(-graph.tensors[k].size_bytes // block_bytes) * block_bytes for k in changed)
