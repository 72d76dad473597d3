"""The tensors of a training step, in RAM and in the page store."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scheduler.errors import BudgetExceeded, DamagedPage
from scheduler.graph import Graph

from .allocator import known_blocks
from .layout import Layout, copy_storage, ram_bytes
from .pager import Transfer, Transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A copy in the page store; `page` is None for optimizer state that does not exist yet."""

    page: Transfer | None
    layout: Layout | None


NOTHING = Stored(page=None, layout=None)


class Memory:
    """Tensors by the ids of a graph; what is not there yet, or still being written, is waited for.

    Resident optimizer state that the optimizer has not created yet is None and takes no RAM. An
    owner (a module's parameter or buffer) gets every change of its tensor as its .data, so that the
    module holds no memory of its own.

    Transfers run beside compute (see Transfers). A tensor that is released while it is being written
    counts until that has ended, and what takes RAM waits for that: `scheduler.overlap` has the rules.
    """

    def __init__(
        self, graph: Graph, home_paged: frozenset[int], pager: Transfers, budget_bytes: int
    ) -> None:
        self._graph, self._pager, self._budget_bytes = graph, pager, budget_bytes
        self._home_paged = home_paged
        self._resident: dict[int, Tensor | None] = {}
        self._stored: dict[int, Stored] = {}
        self._owners: dict[int, Tensor] = {}
        self._arriving: dict[int, tuple[Transfer, bool]] = {}
        self._writing: dict[int, list[Transfer]] = {}
        self._leaving: list[tuple[int, Tensor, list[Transfer]]] = []
        self.resident_bytes = 0

    def __contains__(self, k: int) -> bool:
        return k in self._resident

    def __getitem__(self, k: int) -> Tensor | None:
        if k in self._arriving:
            self._arrive(k)
        return self._resident[k]

    def require_room(self, extra_bytes: int, where: str) -> None:
        """Wait for RAM that is being given back; raise BudgetExceeded if more than the budget is needed."""
        if self._leaving:
            self._leave()
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
            self.finish_writes(k)
            self.release(k)
        else:
            with known_blocks():
                copy = None if tensor is None else copy_storage(tensor)
            self.hold(k, copy)

    def reserve(self, k: int) -> None:
        """Count a tensor of the graph that somebody else holds."""
        self._resident[k] = None
        self.resident_bytes += self._graph.tensors[k].size_bytes

    def hold(self, k: int, tensor: Tensor | None) -> None:
        """Make a tensor resident, or replace what is there under its id."""
        if tensor is not None and self._resident.get(k) is tensor:
            return
        self.release(k)
        self._resident[k] = tensor
        if tensor is not None:
            self.resident_bytes += ram_bytes(tensor)
            if (owner := self._owners.get(k)) is not None:
                owner.data = tensor

    def release(self, k: int) -> None:
        """Give up a tensor's RAM, at once or when it has been written."""
        if k in self._arriving:
            self._arrive(k)
        self._let_go(k)

    def page_out(self, k: int) -> None:
        """Copy a resident tensor to the page store."""
        tensor, old = self[k], self._stored.get(k)
        if tensor is None:
            self._stored[k] = NOTHING
            return
        writing = self._pager.write(k, tensor)
        self._writing.setdefault(k, []).append(writing)
        if old is not None:
            writing.result()  # the old page may be the only way back, so it goes last
            self.drop_page(k)
        self._stored[k] = Stored(page=writing, layout=Layout.of(tensor))

    def copy_out(self, k: int) -> Stored:
        """A copy of a resident tensor in the page store that is not its page."""
        tensor = self[k]
        if tensor is None:
            return NOTHING
        writing = self._pager.copy_out(k, tensor)
        self._writing.setdefault(k, []).append(writing)
        return Stored(page=writing, layout=Layout.of(tensor))

    def page_in(self, k: int, *, drop: bool) -> None:
        """Bring a tensor back; `drop` says that its page is not needed again."""
        stored = self._stored[k]
        if stored.page is None or stored.layout is None:
            self.hold(k, None)
            if drop:
                del self._stored[k]
            return
        self.release(k)
        tensor = stored.layout.new()
        reading = self._pager.read(stored.page, tensor, drop=drop)
        self.hold(k, tensor)
        self._arriving[k] = (reading, drop)

    def finish_writes(self, k: int) -> None:
        """Wait until a tensor's content is written wherever it shall be. Raises what that raised."""
        _require(self._writing.pop(k, []))

    def take_page(self, k: int) -> Stored:
        """A tensor's page, which is the caller's from now on."""
        return self._stored.pop(k, NOTHING)

    def put_page(self, k: int, stored: Stored) -> None:
        """Let this be what the page store has of a tensor, and RAM nothing."""
        self.release(k)
        self.drop_page(k)
        self._stored[k] = stored

    def drop_page(self, k: int) -> None:
        """Forget a tensor's page, if it has one."""
        self.drop(self._stored.pop(k, NOTHING))

    def drop(self, stored: Stored) -> None:
        """Make the room of a copy free."""
        if stored.page is not None:
            self._pager.drop(stored.page)

    def finish(self) -> None:
        """Wait for all transfers. Raises what the first that failed has raised."""
        self._pager.require_done()
        for k in list(self._arriving):
            self._arrive(k)
        self._writing.clear()
        self._leave()

    def give_up(self) -> None:
        """Wait for all transfers, whatever comes of them: what did not arrive is not resident."""
        self._pager.settle()
        for k, (reading, _) in list(self._arriving.items()):
            if reading.exception() is None:
                self._arrive(k)
            else:
                del self._arriving[k]
                self._let_go(k)
        self._writing.clear()
        self._stay()

    def go_home(self) -> None:
        """After a step: persistent tensors to where they live between steps, everything else goes."""
        for k in list(self._resident):
            if not self._graph.is_persistent(k):
                self.release(k)
        for k in list(self._stored):
            if not self._graph.is_persistent(k):
                self.drop_page(k)
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
                self.page_in(k, drop=True)
                _ = self[k]
            except DamagedPage as error:
                damaged = error
                del self._arriving[k]
                self._let_go(k)
        if damaged is not None:
            raise damaged

    def forget(self) -> None:
        """Let go of every tensor without touching what the owners hold."""
        self._resident.clear()
        self._owners.clear()
        self.resident_bytes = 0

    def _arrive(self, k: int) -> None:
        reading, drop = self._arriving[k]
        reading.result()
        del self._arriving[k]
        if drop:
            del self._stored[k]

    def _let_go(self, k: int) -> None:
        """If writing it has failed, it stays: this may be its only content."""
        tensor, writing = self._resident.get(k), self._writing.pop(k, [])
        done = all(w.done() for w in writing)
        if done:
            _require(writing)
        self._resident.pop(k, None)
        if tensor is None:
            return
        if (owner := self._owners.get(k)) is not None:
            owner.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        if done:
            self.resident_bytes -= ram_bytes(tensor)
        else:
            self._leaving.append((k, tensor, writing))

    def _leave(self) -> None:
        while self._leaving:
            _, tensor, writing = self._leaving[-1]
            _require(writing)
            self._leaving.pop()
            self.resident_bytes -= ram_bytes(tensor)

    def _stay(self) -> None:
        """What was to leave and was not written is resident again."""
        for k, tensor, writing in self._leaving:
            self.resident_bytes -= ram_bytes(tensor)
            if any(w.exception() is not None for w in writing):
                self.hold(k, tensor)
        self._leaving.clear()

    def _go_home(self, k: int) -> None:
        if k in self._home_paged:
            self.release(k)
            return
        if k not in self._resident:
            self.page_in(k, drop=True)
            _ = self[k]
        self.drop_page(k)


def _require(writing: list[Transfer]) -> None:
    """Wait until these have ended. Raises what the first that failed has raised."""
    for one in writing:
        one.result()
