"""Who takes part in a round. A sampler is a pure function; its randomness comes from (seed, round) alone.

So a run that is continued after a stop draws the same cohorts as one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import UnknownName

from .history import History
from .reports import Reports

EXPLORE, EXPLORE_DECAY, EXPLORE_LEAST = 0.9, 0.98, 0.2  # Oort, Lai et al., OSDI 2021, section 5
SLOW_PENALTY = 2.0  # exponent of the system utility, the same
PREFERRED_QUANTILE = 0.8  # assumption: of the known durations; Oort tunes it while it runs
UTILITY_CUT = 0.95  # of the utility of the last device that would be taken, the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Devices that may be asked now, `size` of which are wanted, in a draw of a round.

    `draw` counts the draws within the round: a buffered round asks again and again.
    """

    reports: Reports
    history: History
    size: int
    round: int
    draw: int
    seed: int

    @property
    def generator(self) -> np.random.Generator:
        """A new generator, the same for the same draw of the same round of the same seed."""
        return np.random.default_rng((self.seed, self.round, self.draw))


Sampler = Callable[[Candidates], NDArray[np.uint64]]
"""From the candidates to `size` node ids of them, or all when there are fewer."""


def uniform(candidates: Candidates) -> NDArray[np.uint64]:
    """At random, each with the same chance."""
    nodes = candidates.reports.node
    if candidates.size >= len(nodes):
        return nodes
    return candidates.generator.choice(nodes, size=candidates.size, replace=False)


def by_utility(candidates: Candidates) -> NDArray[np.uint64]:
    """By statistical utility and speed, with exploration, after Oort (Lai et al., OSDI 2021).

    A device's utility is its examples times the mean loss it reported, less the slower it was than most,
    and grows again while it is not asked. Oort uses the root mean square of the losses of single examples;
    a device here reports their mean only. A share of the cohort, smaller from round to round, goes to
    devices that have never answered.
    """
    nodes, size = candidates.reports.node, candidates.size
    if size >= len(nodes):
        return nodes
    generator, seen = candidates.generator, candidates.history.of(nodes)
    known = seen["answered"] > 0
    share = max(EXPLORE_LEAST, EXPLORE * EXPLORE_DECAY**candidates.round)
    new = min(int(np.count_nonzero(~known)), round(share * size))
    old = min(int(np.count_nonzero(known)), size - new)
    new = size - old
    explored = generator.choice(nodes[~known], size=new, replace=False)
    if not old:
        return explored
    return np.concatenate(
        [explored, _exploited(nodes[known], _utility(seen[known], candidates), old, generator)]
    )


def _utility(seen: NDArray[np.void], candidates: Candidates) -> NDArray[np.float64]:
    statistical = seen["examples"] * np.nan_to_num(seen["loss"], nan=0.0, posinf=0.0, neginf=0.0)
    top = statistical.max() or 1.0
    age = np.sqrt(0.1 * np.log(candidates.round + 1) / np.maximum(seen["round"], 1))
    preferred_s = np.quantile(seen["duration_s"], PREFERRED_QUANTILE)
    slower = np.maximum(seen["duration_s"] / max(preferred_s, 1e-9), 1.0)
    return np.asarray((np.clip(statistical / top, 0.0, None) + age) * slower**-SLOW_PENALTY)


def _exploited(
    nodes: NDArray[np.uint64],
    utility: NDArray[np.float64],
    size: int,
    generator: np.random.Generator,
) -> NDArray[np.uint64]:
    """By chance, in proportion to utility, among those about as useful as the best `size`."""
    last = np.partition(utility, len(utility) - size)[len(utility) - size]
    close = utility >= UTILITY_CUT * last
    weight = utility[close] + 1e-12
    return generator.choice(nodes[close], size=size, replace=False, p=weight / weight.sum())


def energy_fair(candidates: Candidates) -> NDArray[np.uint64]:
    """Those that have spent the least energy on training so far; ties at random.

    Devices that were asked and did not answer count as the mean of those that did, so that a
    device that always fails is not asked for ever.
    """
    nodes = candidates.reports.node
    if candidates.size >= len(nodes):
        return nodes
    seen = candidates.history.of(nodes)
    answers = max(1, int(seen["answered"].sum()))
    failed = np.maximum(seen["asked"] - seen["answered"], 0)
    spent_j = seen["energy_j"] + failed * (seen["energy_j"].sum() / answers)
    order = np.lexsort((candidates.generator.random(len(nodes)), spent_j))
    return nodes[order[: candidates.size]]


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
    "utility": by_utility,
    "energy-fair": energy_fair,
}


def make_sampler(name: str) -> Sampler:
    """A sampler by name. Raises UnknownName."""
    if name not in SAMPLERS:
        raise UnknownName("sampler", name, tuple(SAMPLERS))
    return SAMPLERS[name]
