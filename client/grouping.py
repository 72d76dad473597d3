"""Join nodes into operators, so that the problem stays small and no budget is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from scheduler.graph import Phase

from .dataflow import Node

# Above this many forward and backward operators, neighbours are joined even if unrelated.
MAX_OPERATORS = 60
# A node is small if what it makes is at most this part of the largest need.
SMALL_PART = 32


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes that run as one operator, in order."""

    nodes: tuple[Node, ...]

    @cached_property
    def makes(self) -> frozenset[fx.Node]:
        """Bases made inside."""
        return frozenset(b for n in self.nodes for b in n.makes)

    @cached_property
    def reads(self) -> tuple[fx.Node, ...]:
        """Bases read that were made elsewhere, in order of use."""
        found = dict.fromkeys(b for n in self.nodes for b in n.reads)
        return tuple(b for b in found if b not in self.makes)

    @cached_property
    def writes(self) -> frozenset[fx.Node]:
        """Buffers changed."""
        return frozenset(b for n in self.nodes for b in n.writes)

    @property
    def phase(self) -> Phase:
        """Forward or backward: the same for all nodes."""
        return self.nodes[0].phase

    @cached_property
    def heavy(self) -> int:
        """How many nodes are expensive."""
        return sum(n.heavy for n in self.nodes)

    @cached_property
    def random(self) -> bool:
        """Whether any node draws random numbers."""
        return any(n.random for n in self.nodes)

    @cached_property
    def depends_on_writes(self) -> frozenset[fx.Node]:
        """Bases made from the old value of a buffer that a node here only writes.

        A rerun leaves out such nodes and finds the buffer changed. Batch norm is no such node: in
        training mode what it makes does not depend on its running statistics.
        """
        changed = {b for n in self.nodes if not n.makes for b in n.writes}
        for node in self.nodes:
            if changed.intersection(node.reads):
                changed.update(node.makes)
        return self.makes & changed


class Grouping:
    """Joins units under one rule: no operator may need more RAM than the largest single node does."""

    def __init__(
        self, nodes: Sequence[Node], size: Callable[[fx.Node], int], kept: frozenset[fx.Node]
    ) -> None:
        self._size, self._kept = size, kept
        self._users: dict[fx.Node, set[Node]] = {}
        for node in nodes:
            for base in node.reads:
                self._users.setdefault(base, set()).add(node)
        self.units = [Unit((n,)) for n in nodes]
        self._unit_of = {u.nodes[0]: u for u in self.units}
        self.limit_bytes = max(self.need_bytes(u) for u in self.units)

    def join(self) -> list[Unit]:
        """The operators, in order."""
        while self._join_chains() or self._join_beside():
            pass
        while len(self.units) > MAX_OPERATORS and self._join_least():
            pass
        return self.units

    def outputs(self, unit: Unit) -> tuple[fx.Node, ...]:
        """Bases made inside that something outside needs, in order."""
        inside = set(unit.nodes)
        return tuple(
            b
            for n in unit.nodes
            for b in n.makes
            if b in self._kept or not self._users.get(b, set()) <= inside
        )

    def need_bytes(self, unit: Unit) -> int:
        """Bytes held at most while the unit runs: reads, outputs and what lives inside."""
        lasting = {*self.outputs(unit), *unit.reads}
        last = {b: i for i, n in enumerate(unit.nodes) for b in (*n.makes, *n.reads)}
        held = peak = sum(map(self._size, unit.reads))
        in_place = copies_left_out(unit, self.outputs(unit))
        for i, node in enumerate(unit.nodes):
            held += sum(self._size(b) for b in node.makes if b not in in_place)
            peak = max(peak, held)
            used = {*node.reads, *node.makes} - lasting - set(in_place.values())
            held -= sum(self._size(b) for b in used if last[b] == i)
        return peak

    def _readers(self, base: fx.Node) -> set[Unit]:
        return {self._unit_of[n] for n in self._users.get(base, ())}

    def _join_chains(self) -> bool:
        """Join units with the only reader of something they make; True if any were joined."""
        joined, place = False, 0
        while place < len(self.units):
            if any(self._try(place, j) for j in self._only_readers(self.units[place])):
                joined = True
            else:
                place += 1
        return joined

    def _only_readers(self, unit: Unit) -> list[int]:
        found = set()
        for base in unit.makes - self._kept:
            readers = self._readers(base) - {unit}
            if len(readers) == 1:
                found.update(readers)
        return sorted(self.units.index(u) for u in found)

    def _join_beside(self) -> bool:
        """Join neighbours of which one adds next to nothing; True if any were joined."""
        joined, place = False, 0
        while place + 1 < len(self.units):
            one, other = self.units[place], self.units[place + 1]
            beside = self._adds_little(one, other) or self._adds_little(other, one)
            if beside and self._try(place, place + 1):
                joined = True
            else:
                place += 1
        return joined

    def _adds_little(self, unit: Unit, neighbour: Unit) -> bool:
        if sum(map(self._size, unit.makes)) * SMALL_PART > self.limit_bytes:
            return False
        return set(unit.reads) <= {*neighbour.reads, *neighbour.makes, *unit.writes}

    def _join_least(self) -> bool:
        """Join the two neighbours that need least together."""
        places = sorted(
            range(len(self.units) - 1),
            key=lambda i: self.need_bytes(_joined(self.units[i], self.units[i + 1])),
        )
        return any(self._try(i, i + 1, heavy=len(self.units)) for i in places)

    def _try(self, i: int, j: int, heavy: int = 1) -> bool:
        """Join the units at places i < j if that is allowed and keeps within the limit."""
        first, second = self.units[i], self.units[j]
        if first.heavy + second.heavy > heavy or not _fits_together(first, second):
            return False
        between = self.units[i + 1 : j]
        down = not any(_must_follow(u, first) for u in between)
        up = not any(_must_follow(second, u) for u in between)
        both = _joined(first, second)
        if not (down or up) or both.depends_on_writes.intersection(self.outputs(both)):
            return False
        if self.need_bytes(both) > self.limit_bytes:
            return False
        self.units[j if down else i] = both
        del self.units[i if down else j]
        self._unit_of.update(dict.fromkeys(both.nodes, both))
        return True


def copies_left_out(unit: Unit, outputs: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Copies of storages that need not be made, with what they copy.

    The old content was made inside the unit, and nobody reads it after the change.
    """
    last = {b: n for n in unit.nodes for b in n.reads}
    found: dict[fx.Node, fx.Node] = {}
    for node in unit.nodes:
        for copy in node.copies:
            (old,) = copy.all_input_nodes
            if old in unit.makes and old not in outputs and last[old] is node:
                found[copy] = old
    return found


def _joined(first: Unit, second: Unit) -> Unit:
    return Unit(first.nodes + second.nodes)


def _fits_together(first: Unit, second: Unit) -> bool:
    """Same phase, and nothing that could be recomputed is tied to random numbers."""
    if first.phase is not second.phase or (first.random and second.random):
        return False
    if first.random:
        return first.makes >= set(second.reads)
    return not (second.random and first.reads)


def _must_follow(later: Unit, earlier: Unit) -> bool:
    """Whether `later` cannot run before `earlier`."""
    return bool(
        earlier.makes.intersection(later.reads)
        or later.writes.intersection({*earlier.reads, *earlier.writes})
        or earlier.writes.intersection(later.reads)
        or (earlier.random and later.random)
    )
