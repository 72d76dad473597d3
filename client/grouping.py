"""Join nodes into operators, so that the problem stays small and no budget is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from scheduler.graph import Phase

from .dataflow import Node

# Above this many forward and backward operators, neighbours are joined even if that loses something.
MAX_OPERATORS = 200
# Bytes are few if they are at most this part of the largest need.
SMALL_PART = 32
# Work is little if it is at most this share of the step's.
SMALL_WORK = 1e-4


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
    def flops(self) -> int:
        """Work of all nodes."""
        return sum(n.flops for n in self.nodes)

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
        self._kept = kept
        self._users: dict[fx.Node, set[Node]] = {}
        for node in nodes:
            for base in node.reads:
                self._users.setdefault(base, set()).add(node)
        self._bytes = {b: size(b) for n in nodes for b in (*n.reads, *n.makes)}
        self._made_nowhere = self._users.keys() - {b for n in nodes for b in n.makes}
        self._need: dict[Unit, int] = {}
        self._pairs: dict[tuple[Unit, Unit], Unit] = {}
        self.units = [Unit((n,)) for n in nodes]
        self._unit_of = {u.nodes[0]: u for u in self.units}
        self._chains = dict(self._unit_of)
        self._place = {u: i for i, u in enumerate(self.units)}
        self._flops = max(1, sum(n.flops for n in nodes))
        self.limit_bytes = max(map(self.need_bytes, self.units))
        self._small_bytes = self.limit_bytes // SMALL_PART

    def join(self, max_operators: int) -> list[Unit]:
        """The operators, in order; about `max_operators` at most."""
        while self._join_chains():
            pass
        self._chains = dict(self._unit_of)
        while self._join_beside() or self._join_chains():
            pass
        while len(self.units) > max_operators and self._join_least():
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
        if unit not in self._need:
            self._need[unit] = self._measure(unit)
        return self._need[unit]

    def _measure(self, unit: Unit) -> int:
        outputs = self.outputs(unit)
        lasting = {*outputs, *unit.reads}
        last = {b: i for i, n in enumerate(unit.nodes) for b in (*n.makes, *n.reads)}
        held = peak = self._sum(unit.reads)
        in_place = copies_left_out(unit, outputs)
        lasting.update(in_place.values())
        for i, node in enumerate(unit.nodes):
            held += self._sum(b for b in node.makes if b not in in_place)
            peak = max(peak, held)
            used = {*node.reads, *node.makes} - lasting
            held -= self._sum(b for b in used if last[b] == i)
        return peak

    def _sum(self, bases: Iterable[fx.Node]) -> int:
        return sum(map(self._bytes.__getitem__, bases))

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
        return sorted(self._place[u] for u in found)

    def _join_beside(self) -> bool:
        """Join neighbours where that costs next to nothing; True if any were joined."""
        joined, place = False, 0
        while place + 1 < len(self.units):
            one, other = self.units[place], self.units[place + 1]
            many = one.heavy + other.heavy
            if self._costs_little(one, other) and self._try(place, place + 1, heavy=many):
                joined = True
            else:
                place += 1
        return joined

    def _costs_little(self, one: Unit, other: Unit) -> bool:
        both = self._joined(one, other)
        return (
            self._excess_bytes(both) <= self._small_bytes
            and self._dearer_flops(one, other) <= SMALL_WORK * self._flops
        )

    def _excess_bytes(self, unit: Unit) -> int:
        """RAM that the unit needs beyond what the most demanding chain in it needs alone."""
        chains = {self._chains[n] for n in unit.nodes}
        return self.need_bytes(unit) - max(map(self.need_bytes, chains))

    def _dearer_flops(self, one: Unit, other: Unit) -> float:
        """Work more that it takes to have again what the cheaper of the two makes, for its share.

        Making again costs work per byte. If both cost the same, nothing is lost; if a cheap one joins a
        dear one, its bytes are no longer cheap to have again. Only forward operators are worth a rerun.
        """
        if one.phase is not Phase.FORWARD:
            return 0.0
        made = self.outputs(self._joined(one, other))
        sizes = [self._sum(b for b in made if b in u.makes) for u in (one, other)]
        work = [one.flops, other.flops]
        share = sum(work) / max(1, sum(sizes))
        return max(share * size - flops for size, flops in zip(sizes, work, strict=True))

    def _loss(self, one: Unit, other: Unit) -> float:
        excess = self._excess_bytes(self._joined(one, other)) / self.limit_bytes
        return excess + self._dearer_flops(one, other) / self._flops

    def _join_least(self) -> bool:
        """Join the two neighbours that lose least by it."""
        places = sorted(
            range(len(self.units) - 1), key=lambda i: self._loss(self.units[i], self.units[i + 1])
        )
        return any(self._try(i, i + 1, heavy=len(self.units)) for i in places)

    def _try(self, i: int, j: int, heavy: int = 1) -> bool:
        """Join the units at places i < j if that is allowed and keeps within the limit."""
        first, second = self.units[i], self.units[j]
        if first.heavy + second.heavy > heavy or not _fits_together(first, second):
            return False
        both = self._joined(first, second)
        if both.depends_on_writes.intersection(self.outputs(both)):
            return False
        if self.need_bytes(both) > self.limit_bytes:
            return False
        between = self.units[i + 1 : j]
        down = self._worth_waiting(first, second, j)
        down = down and not any(_must_follow(u, first) for u in between)
        up = not any(_must_follow(second, u) for u in between)
        if not (down or up):
            return False
        self.units[j if down else i] = both
        del self.units[i if down else j]
        self._unit_of.update(dict.fromkeys(both.nodes, both))
        self._place = {u: n for n, u in enumerate(self.units)}
        return True

    def _worth_waiting(self, first: Unit, second: Unit, j: int) -> bool:
        """Whether `first` may run as late as place `j` without more RAM in between.

        What it reads then lives until there, what it makes does not. Sources may be paged: no matter.
        """
        reads = set(first.reads) - self._made_nowhere - set(second.reads)
        longer = [b for b in reads if all(self._place[u] < j for u in self._readers(b))]
        saved = [b for b in self.outputs(first) if b not in self._kept]
        return self._sum(longer) - self._sum(saved) <= self._small_bytes

    def _joined(self, first: Unit, second: Unit) -> Unit:
        pair = first, second
        if pair not in self._pairs:
            self._pairs[pair] = Unit(first.nodes + second.nodes)
        return self._pairs[pair]


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
