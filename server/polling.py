"""What the round engine needs of a Grid that can only be asked: Flower's SuperLink."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from .replies import metrics_of
from .reports import PLUGGED_IN, Reports, Said, reports_of

LOOK_EVERY_S = 1.0
QUERY = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Ask nodes how things stand with them: wait at most `wait_s` for answers, each good for `fresh_s`."""

    wait_s: float = 30.0
    fresh_s: float = 300.0


class Polling:
    """Looks at `grid` every `look_every_s`; `pause_s` lets time pass.

    A SuperLink does not tell when a reply has come. With `query`, nodes are asked how things stand; one
    that does not answer in time, or that runs another ClientApp, is taken for plugged in and willing, as
    all are without.
    """

    def __init__(
        self,
        grid: Grid,
        now_s: Callable[[], float],
        pause_s: Callable[[float], None],
        look_every_s: float = LOOK_EVERY_S,
        query: Query | None = None,
    ) -> None:
        self._grid, self._now_s, self._pause_s = grid, now_s, pause_s
        self._look_every_s, self._query = look_every_s, query
        self._said: dict[int, tuple[float, Said]] = {}  # by node: until when it is good, and what

    def wait(self, seconds: float, _: int) -> None:
        """Until the next look, or less."""
        self._pause_s(min(seconds, self._look_every_s))

    def reports(self) -> Reports:
        """Every node that is online, with what it said of itself."""
        nodes = list(self._grid.get_node_ids())
        if self._query is not None:
            now_s = self._now_s()
            self._said = {n: kept for n, kept in self._said.items() if kept[0] > now_s}
            if missing := [node for node in nodes if node not in self._said]:
                self._ask(missing, self._query)
        return reports_of({n: self._said[n][1] if n in self._said else PLUGGED_IN for n in nodes})

    def wait_for_nodes(self, nodes: int, timeout_s: float = math.inf) -> bool:
        """Wait until so many nodes are online; False when they are not after `timeout_s`."""
        until_s = self._now_s() + timeout_s
        while len(list(self._grid.get_node_ids())) < nodes:
            if self._now_s() >= until_s:
                return False
            self._pause_s(self._look_every_s)
        return True

    def _ask(self, nodes: Iterable[int], query: Query) -> None:
        messages = [Message(RecordDict(), node, QUERY, ttl=query.wait_s) for node in nodes]
        pushed = zip(self._grid.push_messages(messages), nodes, strict=True)
        asked = {message_id: node for message_id, node in pushed if message_id}
        until_s = self._now_s() + query.wait_s
        said = dict.fromkeys(nodes, PLUGGED_IN)
        while asked:
            for reply in self._grid.pull_messages(list(asked)):
                if (node := asked.pop(reply.metadata.reply_to_message_id, None)) is not None:
                    said[node] = _said(reply)
            left_s = until_s - self._now_s()
            if left_s <= 0:
                break
            if asked:
                self._pause_s(min(left_s, self._look_every_s))
        good_until_s = self._now_s() + query.fresh_s
        self._said |= {node: (good_until_s, each) for node, each in said.items()}


def _said(reply: Message) -> Said:
    """What an answer says; an error, or anything but the numbers that are asked for, says nothing."""
    numbers = metrics_of(reply) if reply.has_content() else {}
    try:
        said = Said(
            charging=bool(numbers["charging"]),
            idle=bool(numbers["idle"]),
            unmetered=bool(numbers["unmetered"]),
            battery=numbers.get("battery", 1.0),
            free_ram_bytes=int(numbers["free-ram-bytes"]),
            can_train=bool(numbers["ready"]),
        )
    except (KeyError, ValueError, OverflowError):
        return PLUGGED_IN
    possible = 0 <= said.battery <= 1 and 0 <= said.free_ram_bytes < 2**63
    return said if possible else PLUGGED_IN
