"""Dynamic programming on a chain of blocks: keep, page or compute again.

Beaumont, Eyraud-Dubois, Shilova: *Efficient Combination of Rematerialization and Offloading for Training
DNNs*, NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..check import is_valid
from ..plan import Plan
from ..problem import Problem
from ..replay import replay
from .chain import Block, Chain, chain_of, run_j
from .chain_ram import ChainRam, ChainWalk, chain_ram
from .plain import keep_all
from .walk import NoWayBackError, cheapest, homes

# Steps of RAM per budget. The program runs a little beyond the budget, since its count of RAM is cautious.
LEVELS = 400
BEYOND = 1.25
# Plans that are written and measured in search of the most RAM in the count that fits.
MOST_TRIES = 24
# What the chain leaves aside is not worth paging if it is less than this share of the budget.
ASIDE_SHARE = 0.01


def pofo(problem: Problem) -> Plan | None:
    """The program's best plan among several homes of persistent tensors and of what the chain leaves aside.

    As published: the forward pass of blocks s..t either holds what block s needs for its backward pass,
    in RAM or in the page store, and goes on with s+1..t; or it runs ahead to block s', with the input
    of s kept or paged, and later runs s..s'-1 again. Both are tried for every amount of RAM.

    Departures: the cost is energy, not time, and transfers hide behind nothing; a general graph is cut
    into blocks where a single tensor crosses, and what crosses longer (skips over a quarter of the
    network, random masks) is kept or paged throughout; what a block holds is chosen among several sets,
    cheapest bytes given up first. RAM is counted in steps and block by block, so each plan is measured
    by `replay`, and the next smaller amount of RAM is taken if it does not fit.
    """
    plain = keep_all(problem)
    if is_valid(plain, problem):
        return plain
    chain = chain_of(problem)
    aside_bytes = sum(problem.graph.tensors[k].size_bytes for k in chain.aside)
    worth_it = aside_bytes > ASIDE_SHARE * problem.budget.ram_bytes
    ways = product(homes(problem.graph), (False, True) if worth_it else (False,))
    plans = (_best(problem, chain, home, aside) for home, aside in ways)
    return cheapest(problem, plans)


def _best(problem: Problem, chain: Chain, home: tuple[int, ...], page_aside: bool) -> Plan | None:
    ram = chain_ram(problem, chain, home, page_aside)
    if max(ram.during) > problem.budget.ram_bytes:
        return None
    table = _table(ram)

    def written(level: int) -> Plan | None:
        writer = _Writer(table, ChainWalk(problem, chain, home, page_aside))
        try:
            writer.write(0, len(chain.blocks) - 1, level)
            return writer.walk.finish()
        except NoWayBackError:
            return None

    found: list[Plan] = []
    fits, too_much = -1, table.levels + 1
    for _ in range(MOST_TRIES):
        # From the top by what is too much, until a plan fits; then halfway between.
        level = too_much - 1 if fits < 0 else (fits + too_much) // 2
        if level <= fits or not math.isfinite(table.cost_j[0][-1][level]):
            break
        plan = written(level)
        if plan is None:
            too_much = level
            continue
        excess = replay(plan, problem).peak_bytes - problem.budget.ram_bytes
        if excess <= 0:
            found.append(plan)
            fits = level
        else:
            too_much = level if fits >= 0 else level + 1 - max(1, table.used(excess))
    return cheapest(problem, found)


@dataclass(frozen=True, slots=True)
class _Save:
    """Run the block and hold its results the n-th way; go on with the next block."""

    hold: int


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Run up to block `to` and finish from there; then do the blocks before it again."""

    to: int
    page_input: bool


_Choice = _Save | _Ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Least extra joules of blocks s..t with so many levels of RAM, and the choice that reaches it."""

    chain: Chain
    levels: int
    unit_bytes: float
    cost_j: list[list[NDArray[np.float64]]]
    picked: list[list[NDArray[np.int32]]]
    choices: list[list[list[_Choice]]]

    def used(self, size_bytes: float) -> int:
        """Levels taken by so many bytes."""
        return math.ceil(size_bytes / self.unit_bytes - 1e-9)


class _Offers:
    """What blocks s..t may do: (choice, joules, least bytes, bytes held meanwhile)."""

    def __init__(self, ram: ChainRam) -> None:
        self.ram, self.blocks = ram, ram.chain.blocks
        self.costs, self.tensors = ram.problem.costs, ram.problem.graph.tensors
        none: frozenset[int] = frozenset()
        self.entry_bytes = [self._bytes(b.entry) for b in self.blocks]
        self.backward = [[ram.backward_bytes(b, h.paged) for h in b.holds] for b in self.blocks]
        self.beside = [ram.beside_bytes(b) for b in self.blocks]
        self.pass_first = [ram.first_bytes(b, none) for b in self.blocks]
        self.pass_again = [ram.again_bytes(b, b.pass_again, none, b.exit) for b in self.blocks]
        self.pass_j = [run_j(ram.problem, b.pass_again) for b in self.blocks]
        self.save_j = [
            (run_j(ram.problem, b.save_again), run_j(ram.problem, b.all_again)) for b in self.blocks
        ]
        self.save_first = [[ram.first_bytes(b, h.kept) for h in b.holds] for b in self.blocks]
        self.save_again = [
            [ram.again_bytes(b, b.all_again, h.kept, b.exit) for h in b.holds] for b in self.blocks
        ]
        self.save_last = [ram.again_bytes(b, b.save_again, b.saved, none) for b in self.blocks]

    def save(self, s: int, t: int) -> Iterator[tuple[_Save, float, int, int]]:
        block, first, last = self.blocks[s], t == len(self.blocks) - 1, s == t
        for n, hold in enumerate(block.holds):
            again = self.save_last[s] if last else self.save_again[s][n]
            need = self.save_first[s][n] if first else again + self.beside[t]
            again_j = 0.0 if first else self.save_j[s][not last]
            yield _Save(n), again_j + hold.cost_j, max(need, self.backward[s][n]), hold.held_bytes

    def ahead(self, s: int, t: int) -> Iterator[tuple[_Ahead, float, int, int]]:
        first, entry = t == len(self.blocks) - 1, self.blocks[s].entry
        pages = all(self.tensors[k].pageable for k in entry) and bool(entry)
        out_in = (self.costs.page_out, self.costs.page_in)
        page_j = sum(self.costs.total_j(moves[k]) for k in sorted(entry) for moves in out_in)
        needs = self.pass_first if first else [n + self.beside[t] for n in self.pass_again]
        need_kept = need_paged = needs[s]
        again_j = 0.0
        for to in range(s + 1, t + 1):
            if to > s + 1:
                need_kept = max(need_kept, needs[to - 1] + self.entry_bytes[s])
                need_paged = max(need_paged, needs[to - 1])
            again_j += 0.0 if first else self.pass_j[to - 1]
            yield _Ahead(to, False), again_j, need_kept, self.entry_bytes[s]
            if pages:
                yield _Ahead(to, True), again_j + page_j, need_paged, 0

    def _bytes(self, tensors: frozenset[int]) -> int:
        return sum(self.tensors[k].size_bytes for k in tensors)


def _table(ram: ChainRam) -> _Table:
    """The program, from short runs of blocks to the whole chain."""
    count, offers = len(ram.chain.blocks), _Offers(ram)
    levels = round(LEVELS * BEYOND)
    empty = [np.full(levels + 1, np.inf) for _ in range(count)]
    table = _Table(
        chain=ram.chain,
        levels=levels,
        unit_bytes=max(ram.problem.budget.ram_bytes, 1) / LEVELS,
        cost_j=[list(empty) for _ in range(count)],
        picked=[[np.zeros(levels + 1, dtype=np.int32)] * count for _ in range(count)],
        choices=[[[] for _ in range(count)] for _ in range(count)],
    )
    for length in range(count):
        for s in range(count - length):
            _fill(table, offers, s, s + length)
    return table


def _fill(table: _Table, offers: _Offers, s: int, t: int) -> None:
    best = np.full(table.levels + 1, np.inf)
    picked = np.zeros(table.levels + 1, dtype=np.int32)
    choices: list[_Choice] = []
    nothing = np.zeros(table.levels + 1)

    def offer(
        choice: _Choice,
        own_j: float,
        need: int,
        held: int,
        rest: NDArray[np.float64],
        again: NDArray[np.float64],
    ) -> None:
        shift, least = table.used(held), max(table.used(need), table.used(held))
        if least > table.levels:
            return
        total = own_j + rest[least - shift : table.levels + 1 - shift] + again[least:]
        better = total < best[least:]
        if better.any():
            best[least:][better] = total[better]
            picked[least:][better] = len(choices)
            choices.append(choice)

    for save, own_j, need, held in offers.save(s, t):
        offer(save, own_j, need, held, nothing if s == t else table.cost_j[s + 1][t], nothing)
    for ahead, own_j, need, held in offers.ahead(s, t):
        offer(ahead, own_j, need, held, table.cost_j[ahead.to][t], table.cost_j[s][ahead.to - 1])
    table.cost_j[s][t], table.picked[s][t], table.choices[s][t] = best, picked, choices


class _Writer:
    """From choices to steps."""

    def __init__(self, table: _Table, walk: ChainWalk) -> None:
        self.table, self.walk = table, walk
        self.blocks = table.chain.blocks

    def write(self, s: int, t: int, level: int) -> None:
        """Forward and backward of blocks s..t."""
        choice = self.table.choices[s][t][int(self.table.picked[s][t][level])]
        match choice:
            case _Save(n):
                block, hold = self.blocks[s], self.blocks[s].holds[n]
                self._forward(block, block.saved, hold.paged, leaving=s < t)
                for k in block.saved - hold.kept:
                    self.walk.drop(k)
                if s < t:
                    self.write(s + 1, t, level - self.table.used(hold.held_bytes))
                for operator in block.backward:
                    self.walk.advance(operator)
            case _Ahead(to, page_input):
                self._run_ahead(s, to, page_input)
                held = 0 if page_input else self._entry_bytes(s)
                self.write(to, t, level - self.table.used(held))
                self.write(s, to - 1, level)

    def _run_ahead(self, s: int, to: int, page_input: bool) -> None:
        for n in range(s, to):
            paged = self.blocks[n].entry if page_input and n == s else frozenset[int]()
            self._forward(self.blocks[n], frozenset(), paged, leaving=True)
            for k in self.blocks[n].entry if n > s else paged:
                self.walk.drop(k)

    def _entry_bytes(self, s: int) -> int:
        return sum(self.walk.graph.tensors[k].size_bytes for k in self.blocks[s].entry)

    def _forward(
        self, block: Block, saved: frozenset[int], paged: frozenset[int], *, leaving: bool
    ) -> None:
        """Run a block for what is to be saved and, when `leaving` it, for its exit; drop the rest.

        What is to be paged is paged out at once.
        """
        walk, maker = self.walk, self.walk.graph.producer.__getitem__
        for k in sorted(paged & block.entry):
            walk.bring(k)
            walk.page_out(k)
        if walk.stage < block.forward[-1] or not walk.steps:
            for operator in block.forward:
                walk.advance(operator)
                for k in walk.graph.operators[operator].outputs:
                    if k in paged:
                        walk.page_out(k)
        else:
            wanted = (saved & block.made) | (block.exit if leaving else frozenset())
            for k in sorted(wanted, key=maker):
                walk.bring(k)
                if k in paged:
                    walk.page_out(k)
        for k in block.made - block.exit - saved:
            walk.drop(k)
