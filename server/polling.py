"""What the round engine needs of a Grid that can only be asked: Flower's SuperLink."""

from __future__ import annotations

import math
from collections.abc import Callable

from flwr.serverapp import Grid

from .reports import Reports, plugged_in

LOOK_EVERY_S = 1.0


class Polling:
    """Looks at `grid` every `look_every_s`; `pause_s` lets time pass.

    A SuperLink does not tell when a reply has come, and a stock SuperNode says nothing of its device.
    """

    def __init__(
        self,
        grid: Grid,
        now_s: Callable[[], float],
        pause_s: Callable[[float], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._grid, self._now_s, self._pause_s = grid, now_s, pause_s
        self._look_every_s = look_every_s

    def wait(self, seconds: float, _: int) -> None:
        """Until the next look, or less."""
        self._pause_s(min(seconds, self._look_every_s))

    def reports(self) -> Reports:
        """Every node that is online, and nothing more about it."""
        return plugged_in(list(self._grid.get_node_ids()))

    def wait_for_nodes(self, nodes: int, timeout_s: float = math.inf) -> bool:
        """Wait until so many nodes are online; False when they are not after `timeout_s`."""
        until_s = self._now_s() + timeout_s
        while len(list(self._grid.get_node_ids())) < nodes:
            if self._now_s() >= until_s:
                return False
            self._pause_s(self._look_every_s)
        return True
