"""The tensors of a training step, in RAM and in the page store, and the way back if a step fails."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scheduler.errors import BudgetExceeded, DamagedPage
from scheduler.graph import Graph

from .allocator import known_blocks
from .layout import Layout, copy_storage
from .page_store import Page, PageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A copy in the page store; `page` is None for optimizer state that does not exist yet."""

    page: Page | None
    layout: Layout | None


_NOTHING = Stored(page=None, layout=None)


class Memory:
    """Tensors by the ids of a graph.

    Resident optimizer state that the optimizer has not created yet is None and takes no RAM. An
    owner (a module's parameter or buffer) gets every change of its tensor as its .data, so that the
    module holds no memory of its own.

    `protect` is called before a persistent tensor is changed and keeps its old content in the page
    store: its own page where there is one, else a copy written for this. `commit` ends a step and
    drops them, `roll_back` restores them. So a failed step changes nothing, at the price of writing
    every changed tensor that has no page (see `undo_bytes`), and no RAM.
    """

    def __init__(
        self, graph: Graph, home_paged: frozenset[int], store: PageStore, budget_bytes: int
    ) -> None:
        self._graph, self._store, self._budget_bytes = graph, store, budget_bytes
        self._home_paged = home_paged
        self._resident: dict[int, Tensor | None] = {}
        self._stored: dict[int, Stored] = {}
        self._undo: dict[int, Stored] = {}
        self._owners: dict[int, Tensor] = {}
        self.resident_bytes = 0
        self.undo_written_bytes = 0

    def __contains__(self, k: int) -> bool:
        return k in self._resident

    def __getitem__(self, k: int) -> Tensor | None:
        return self._resident[k]

    def require_room(self, extra_bytes: int, where: str) -> None:
        """Raise BudgetExceeded if `extra_bytes` more would be over the budget."""
        total = self.resident_bytes + extra_bytes
        if total > self._budget_bytes:
            raise BudgetExceeded(
                f"{where}: {self.resident_bytes} bytes are resident and {extra_bytes} more are "
                f"needed, together {total}; the budget is {self._budget_bytes}: plan again"
            )

    def require_peak(self, peak_bytes: int) -> None:
        """Raise BudgetExceeded if more than the budget was held."""
        if peak_bytes > self._budget_bytes:
            raise BudgetExceeded(
                f"an operator took more memory than was measured for it: {peak_bytes} bytes were held, "
                f"the budget is {self._budget_bytes}; leave that much more of it free"
            )

    def set_owner(self, k: int, owner: Tensor) -> None:
        """Let `owner`.data follow tensor k."""
        self._owners[k] = owner

    def is_followed(self, k: int, owner: Tensor) -> bool:
        """Whether the owner still has the memory of tensor k, or none if it is paged out."""
        tensor = self._resident.get(k)
        if tensor is None:
            return owner.untyped_storage().nbytes() == 0
        return owner.data_ptr() == tensor.data_ptr()

    def install(self, k: int, tensor: Tensor | None) -> None:
        """Take over a persistent tensor: into the page store or, copied, into RAM."""
        if k in self._home_paged:
            self.hold(k, tensor)
            self.page_out(k)
            self.release(k)
        else:
            with known_blocks():
                copy = None if tensor is None else copy_storage(tensor)
            self.hold(k, copy)

    def hold(self, k: int, tensor: Tensor | None) -> None:
        """Make a tensor resident, or replace what is there under its id."""
        self.release(k)
        self._resident[k] = tensor
        if tensor is not None:
            self.resident_bytes += tensor.untyped_storage().nbytes()
            if (owner := self._owners.get(k)) is not None:
                owner.data = tensor

    def release(self, k: int) -> None:
        """Give up a tensor's RAM."""
        tensor = self._resident.pop(k, None)
        if tensor is not None:
            self.resident_bytes -= tensor.untyped_storage().nbytes()
            if (owner := self._owners.get(k)) is not None:
                owner.data = torch.empty(0, dtype=tensor.dtype)

    def page_out(self, k: int) -> None:
        """Copy a resident tensor to the page store."""
        new = self._written(k, self._resident[k])
        self._drop(self._stored.pop(k, _NOTHING))
        self._stored[k] = new

    def page_in(self, k: int) -> None:
        """Bring a tensor back; its page stays."""
        self.hold(k, self._read(self._stored[k]))

    def drop_page(self, k: int) -> None:
        """Forget a tensor's page, if it has one."""
        self._drop(self._stored.pop(k, _NOTHING))

    def protect(self, k: int) -> None:
        """Keep the content of a persistent tensor that is about to change."""
        if k in self._undo:
            self.drop_page(k)
        elif k in self._stored:
            self._undo[k] = self._stored.pop(k)
        else:
            self._undo[k] = self._written(k, self._resident[k])
            tensor = self._resident[k]
            self.undo_written_bytes += 0 if tensor is None else tensor.untyped_storage().nbytes()

    def commit(self) -> None:
        """End a step: persistent tensors stay where they live, everything else goes."""
        for stored in self._undo.values():
            self._drop(stored)
        self._undo.clear()
        self._settle()
        for k in set(self._stored) - self._home_paged:
            self.drop_page(k)

    def roll_back(self) -> None:
        """Undo a step. Raises DamagedPage if an old content cannot be read any more."""
        self._settle()
        for k in list(self._undo):
            self.release(k)
            self.drop_page(k)
            self._stored[k] = self._undo.pop(k)
        for tensor in self._graph.tensors:
            if self._graph.is_persistent(tensor.id):
                self._go_home(tensor.id)

    def bring_all(self) -> None:
        """Make every persistent tensor resident, over the budget if need be: training is over.

        Raises DamagedPage after it has brought what can be read.
        """
        damaged: DamagedPage | None = None
        for k in list(self._stored):
            try:
                self.page_in(k)
                self.drop_page(k)
            except DamagedPage as error:
                damaged = error
        if damaged is not None:
            raise damaged

    def forget(self) -> None:
        """Let go of every tensor without touching what the owners hold."""
        self._resident.clear()
        self._owners.clear()
        self.resident_bytes = 0

    def _settle(self) -> None:
        for k in list(self._resident):
            if not self._graph.is_persistent(k):
                self.release(k)
        for k in list(self._stored):
            if not self._graph.is_persistent(k):
                self.drop_page(k)

    def _go_home(self, k: int) -> None:
        if k in self._home_paged:
            self.release(k)
            return
        if k not in self._resident:
            self.page_in(k)
        self.drop_page(k)

    def _written(self, k: int, tensor: Tensor | None) -> Stored:
        if tensor is None:
            return _NOTHING
        return Stored(page=self._store.write(k, content(tensor)), layout=Layout.of(tensor))

    def _read(self, stored: Stored) -> Tensor | None:
        if stored.page is None or stored.layout is None:
            return None
        tensor = stored.layout.new()
        self._store.read(stored.page, content(tensor))
        return tensor

    def _drop(self, stored: Stored) -> None:
        if stored.page is not None:
            self._store.drop(stored.page)


def undo_bytes(graph: Graph, block_bytes: int) -> int:
    """Page store that `protect` may need at most, in whole blocks."""
    changed = {k for op in graph.operators for k in op.mutates}
    return sum(-(-graph.tensors[k].size_bytes // block_bytes) * block_bytes for k in changed)


def content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's whole storage."""
    raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return raw.numpy().data
