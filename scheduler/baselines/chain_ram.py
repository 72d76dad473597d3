"""RAM that a chain's blocks need, next to everything that is not the chain's."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Compute, Free, PageIn, PageOut
from ..problem import Problem
from ..replay import replay
from .chain import Block, Chain
from .walk import Walk

# From one use to the next, at most so many operators away, a tensor in the page store stays in RAM.
NEAR = 3


class ChainWalk(Walk):
    """A walk in which what is not the chain's is paged between uses, where that is asked for.

    That is what lives in the page store and, with `page_aside`, forward results that the chain does not
    move: masks that must not be drawn again, long skips.
    """

    def __init__(
        self, problem: Problem, chain: Chain, paged_at_start: tuple[int, ...], page_aside: bool
    ) -> None:
        super().__init__(problem, paged_at_start)
        self.aside = self.paged | (chain.aside if page_aside else frozenset())

    def advance(self, operator: int) -> None:
        """The first run of an operator; then what is not needed soon goes to the page store."""
        self.first_run(operator)
        self.settle()

    def settle(self) -> None:
        """Page what is not needed soon."""
        for k in sorted(self.aside & self.resident):
            later = next((u for u in self.graph.users[k] if u > self.stage), None)
            if later is not None and later > self.stage + NEAR:
                self.page_out(k)
                self.drop(k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRam:
    """Bytes that are not the chain's: `during` an operator's first run, and just `before` it."""

    problem: Problem
    chain: Chain
    during: tuple[int, ...]
    before: tuple[int, ...]
    paged_at_start: frozenset[int]

    def first_bytes(self, block: Block, kept: frozenset[int]) -> int:
        """Peak of the block's first run, when `kept` stays besides its exit."""
        loose = self._loose(block, kept | block.exit)
        return max(own + self.during[o] for o, own in zip(block.forward, loose, strict=True))

    def again_bytes(
        self, block: Block, operators: frozenset[int], kept: frozenset[int], leaving: frozenset[int]
    ) -> int:
        """Peak of running these of its operators again, without what else is there at that time."""
        graph = self.problem.graph
        peaks = [sum(map(self._size, block.entry))]
        for o, own in zip(block.forward, self._loose(block, kept | leaving), strict=True):
            if o in operators:
                op = graph.operators[o]
                brought = (k for k in op.inputs if k in self.paged_at_start)
                peaks.append(own + op.workspace_bytes + sum(map(self._size, brought)))
        return max(peaks)

    def beside_bytes(self, block: Block) -> int:
        """What is there besides the chain while earlier blocks run again for this block's backward pass."""
        later = {u for k in block.exit for u in self.problem.graph.users[k]}
        waiting = sum(self._size(k) for k in block.exit if later & {*block.backward})
        return waiting + (self.before[block.backward[0]] if block.backward else 0)

    def backward_bytes(self, block: Block, paged: frozenset[int]) -> int:
        """Peak of the block's backward pass, when `paged` comes back just in time."""
        uses = {
            k: [u for u in self.problem.graph.users[k] if u in block.backward]
            for k in (block.made | block.entry | block.exit) & self.chain.movable
        }
        # What is there until its last use, and from its first if it comes back for it.
        spans = [(k, u[0] if k in paged else 0, u[-1]) for k, u in uses.items() if u]
        peaks = [
            self.during[o] + sum(self._size(k) for k, first, last in spans if first <= o <= last)
            for o in block.backward
        ]
        return max(peaks, default=0)

    def _size(self, k: int) -> int:
        return self.problem.graph.tensors[k].size_bytes

    def _loose(self, block: Block, stays: frozenset[int]) -> list[int]:
        """Bytes of the chain's results at each operator of the block, its entry included."""
        graph = self.problem.graph
        last = {
            k: max((u for u in graph.users[k] if u in block.forward), default=-1)
            for k in block.made | block.entry
        }
        peaks = []
        for o in block.forward:
            there = {k for k in block.entry if k in stays or last[k] >= o}
            made = {k for k in block.made if graph.producer[k] <= o}
            there |= {k for k in made if k in stays or last[k] >= o or graph.producer[k] == o}
            peaks.append(sum(map(self._size, there)))
        return peaks


def chain_ram(
    problem: Problem, chain: Chain, paged_at_start: tuple[int, ...], page_aside: bool
) -> ChainRam:
    """Measured on the plan that keeps all of the chain's results."""
    walk = ChainWalk(problem, chain, paged_at_start, page_aside)
    for op in problem.graph.operators:
        walk.advance(op.id)
    size = [t.size_bytes for t in problem.graph.tensors]
    during, before = [0] * len(problem.graph.operators), [0] * len(problem.graph.operators)
    ours = rest = 0
    for frame in replay(walk.finish(), problem).frames:
        match frame.step:
            case Compute(operator):
                new = [k for k in problem.graph.operators[operator].outputs if k in chain.movable]
                ours += sum(size[k] for k in new)
                before[operator], during[operator] = rest, frame.ram_bytes - ours
                rest = during[operator] - problem.graph.operators[operator].workspace_bytes
            case Free(tensor):
                ours -= size[tensor] if tensor in chain.movable else 0
                rest = frame.ram_bytes - ours
            case PageIn() | PageOut():
                rest = frame.ram_bytes - ours
    return ChainRam(
        problem=problem,
        chain=chain,
        during=tuple(during),
        before=tuple(before),
        paged_at_start=frozenset(paged_at_start),
    )
