"""What carries a coordinator's messages: the device service, Flower's SuperLink, or both as one Grid."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.federation import Pending
from server.polling import Polling, Query
from server.reports import Reports
from server.service.grid import ServiceGrid
from server.service.host import ServiceHost

from .run import Fabric, Model
from .watch import KindLine

RUN_ID = 1


def service_fabric(host: ServiceHost, model: Model, run_id: int = RUN_ID) -> Fabric:
    """Devices that come over the device service; what is under way is in its store."""
    grid = ServiceGrid(
        host,
        run_id=run_id,
        workload=model.workload,
        workload_digest=model.digest,
        random_bytes=secrets.token_bytes,
    )

    def asked() -> tuple[Pending, ...]:
        return tuple(
            Pending(
                message_id=kept.message_id,
                node=kept.node,
                version=int(kept.group_id) - 1,
                asked_s=kept.asked_s,
            )
            for kept in grid.asked()
        )

    return Fabric(
        grid=grid,
        wait=grid.wait,
        reports=grid.reports,
        asked=asked,
        forget=grid.forget,
        withdraw=grid.withdraw,
    )


def flower_fabric(
    grid: Grid,
    now_s: Callable[[], float],
    pause_s: Callable[[float], None],
    query: Query | None = None,
) -> Fabric:
    """Nodes of a SuperLink, which keeps messages for itself and cannot take them back."""
    polling = Polling(grid, now_s, pause_s, query=query)
    return Fabric(grid=grid, wait=polling.wait, reports=polling.reports)


def joined(service: Fabric, flower: Fabric, look_every_s: float = 1.0) -> Fabric:
    """Both at once. A SuperLink has to be looked at, so a wait ends after `look_every_s`."""
    grid = JoinedGrid(service.grid, flower.grid)

    def wait(seconds: float, _: int) -> None:
        service.wait(min(seconds, look_every_s), 1)

    def reports() -> Reports:
        parts = (service.reports(), flower.reports())
        grid.learn(*(part.node.tolist() for part in parts))
        merged = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in Reports.__slots__
        }
        order = np.argsort(merged["node"], kind="stable")
        return Reports(**{name: column[order] for name, column in merged.items()})

    return Fabric(grid=grid, wait=wait, reports=reports, asked=service.asked, forget=service.forget)


class JoinedGrid(Grid):
    """Two Grids as one: a message goes to the Grid that has its node.

    Ids of nodes are drawn at random from 63 bits on either, so that no two meet.
    """

    def __init__(self, first: Grid, second: Grid) -> None:
        self._first, self._second = first, second
        self._of_first: set[int] = set()
        self._of_second: set[str] = set()  # messages; all others are the first's

    def learn(self, first: Iterable[int], second: Iterable[int]) -> None:
        """Nodes that were just seen on either."""
        self._of_first = (self._of_first | set(first)) - set(second)

    def set_run(self, run: Any) -> None:
        """For the second, Flower's own."""
        self._second.set_run(run)

    @property
    def run(self) -> Any:
        """The second's: Flower's own."""
        return self._second.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node of either."""
        return self._of(dst_node_id).create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Nodes of both."""
        first, second = list(self._first.get_node_ids()), list(self._second.get_node_ids())
        self.learn(first, second)
        return sorted(first + second)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push each to its own; ids are in the order of the messages."""
        listed = list(messages)
        ids = [""] * len(listed)
        for grid in (self._first, self._second):
            places = [i for i, m in enumerate(listed) if self._of(m.metadata.dst_node_id) is grid]
            pushed = grid.push_messages([listed[i] for i in places]) if places else ()
            for place, message_id in zip(places, pushed, strict=True):
                ids[place] = message_id
                if grid is self._second:
                    self._of_second.add(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies from either."""
        listed = list(message_ids)
        second = [i for i in listed if i in self._of_second]
        first = [i for i in listed if i not in self._of_second]
        replies = list(self._first.pull_messages(first)) if first else []
        if second:
            found = list(self._second.pull_messages(second))
            for reply in found:
                self._of_second.discard(reply.metadata.reply_to_message_id)
            replies += found
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The round engine pushes and pulls; it never calls this."""
        raise NotImplementedError("push and pull instead")

    def _of(self, node: int) -> Grid:
        return self._first if node in self._of_first else self._second


def kinds_of(host: ServiceHost) -> tuple[KindLine, ...]:
    """Devices of the service by kind; those that never said what they are count as unknown."""
    there = host.presence.there()
    enrolled: Counter[str] = Counter()
    for device in host.store.roster.devices():
        if device.revoked_at_s is None:
            enrolled[device.report.profile if device.report else "unknown"] += 1
    online = Counter(said.profile for said in there.values())
    ready = Counter(said.profile for said in there.values() if said.ready)
    return tuple(
        KindLine(kind=kind, enrolled=enrolled[kind], online=online[kind], ready=ready[kind])
        for kind in sorted(enrolled | online)
    )
