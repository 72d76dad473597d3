"""A Grid whose nodes are plain functions from the model's arrays to (arrays, metrics)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from server.rounds import from_record, to_record

Answer = Callable[[dict[str, np.ndarray]], tuple[Mapping[str, Any], Mapping[str, Any]] | str]


class FunctionGrid(Grid):
    """Replies come in the order `arrival` puts them; a node whose answer is text fails with it."""

    def __init__(self, answers: Mapping[int, Answer], arrival: Callable = list) -> None:
        self.answers, self.arrival, self.asked = answers, arrival, []
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message: ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]: ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]: ...

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        self.asked.append([m.metadata.dst_node_id for m in messages])
        replies = [self._reply(m) for m in messages]
        return [r for r in self.arrival(replies) if r is not None]

    def _reply(self, message: Message) -> Message | None:
        answer = self.answers[message.metadata.dst_node_id]
        (record,) = message.content.array_records.values()
        result = answer(from_record(record))
        if result is None:
            return None
        if isinstance(result, str):
            return Message(Error(2, result), reply_to=message)
        if isinstance(result, RecordDict):
            return Message(result, reply_to=message)
        arrays, metrics = result
        record = arrays if isinstance(arrays, ArrayRecord) else to_record(arrays)
        content = RecordDict({"arrays": record, "metrics": MetricRecord(dict(metrics))})
        return Message(content, reply_to=message)
