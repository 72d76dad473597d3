"""Grids of our own: what those without a SuperLink share, and one on which only the cohort exists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from scheduler.errors import RunFailed

LOOKS = 4  # a strategy looks at the nodes at most twice before it starts to wait for more


class OwnGrid(Grid):
    """A Grid behind which no SuperLink stands: it has one run, and makes plain messages."""

    def set_run(self, run: Any) -> None:
        """There is one run, and nothing to set."""

    @property
    def run(self) -> Any:
        """No run of a SuperLink stands behind it."""
        raise NotImplementedError("this Grid has no run of a SuperLink")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a device."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class CohortGrid(Grid):
    """A Grid on which only the cohort exists, for strategies that sample by themselves."""

    def __init__(self, grid: Grid, cohort: tuple[int, ...]) -> None:
        self._grid, self._cohort, self._looks = grid, cohort, 0

    def get_node_ids(self) -> Iterable[int]:
        """The cohort. Raises RunFailed when the strategy waits for more nodes than it has."""
        self._looks += 1
        if self._looks > LOOKS:
            raise RunFailed(
                f"the strategy waits for more nodes than the cohort's {len(self._cohort)}; "
                "set its min_train_nodes and min_available_nodes to 1"
            )
        return self._cohort

    def set_run(self, run: Any) -> None:
        """As the Grid behind it."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the Grid behind it."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """As the Grid behind it."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the Grid behind it."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the Grid behind it."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As the Grid behind it."""
        return self._grid.send_and_receive(messages, timeout=timeout)
