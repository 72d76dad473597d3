"""A Grid whose nodes are plain functions from the model's arrays to (arrays, metrics), and its clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from server.replies import from_record, to_record
from server.reports import Reports, plugged_in

Answer = Callable[[dict[str, np.ndarray]], tuple[Mapping[str, Any], Mapping[str, Any]] | str]


class FunctionGrid(Grid):
    """Nodes answer `takes_s[node]` seconds after they were asked, at once by default.

    Replies that can be pulled together come in the order `arrival` puts them; a node whose answer is text
    fails with it, and one whose answer is None never replies.
    """

    def __init__(
        self,
        answers: Mapping[int, Answer],
        arrival: Callable = list,
        takes_s: Mapping[int, float] | None = None,
    ) -> None:
        self.answers, self.arrival, self.asked = answers, arrival, []
        self.takes_s, self.clock_s = takes_s or {}, 0.0
        self._replies: dict[str, tuple[float, Message | None]] = {}
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message: ...

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]: ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.asked.append([m.metadata.dst_node_id for m in messages])
        ids = []
        for message in messages:
            ids.append(f"{len(self.asked)}-{message.metadata.dst_node_id}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            due_s = self.clock_s + self.takes_s.get(message.metadata.dst_node_id, 0.0)
            self._replies[ids[-1]] = (due_s, self._reply(message))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        due = [i for i in message_ids if i in self._replies and self._replies[i][0] <= self.clock_s]
        replies = [self._replies.pop(i)[1] for i in due]
        return [r for r in self.arrival(replies) if r is not None]

    def now_s(self) -> float:
        return self.clock_s

    def wait(self, seconds: float, replies: int) -> None:
        due = sorted(due_s for due_s, _ in self._replies.values() if due_s > self.clock_s)
        last_s = due[min(replies, len(due)) - 1] if due else math.inf
        until_s = min(last_s, self.clock_s + seconds)
        assert until_s < math.inf, "the engine would wait for ever"
        self.clock_s = until_s

    def reports(self) -> Reports:
        return plugged_in(list(self.answers))

    def _reply(self, message: Message) -> Message | None:
        answer = self.answers[message.metadata.dst_node_id]
        (record,) = message.content.array_records.values()
        result = answer(from_record(record))
        if result is None:
            return None
        if isinstance(result, str):
            reply = Message(Error(2, result), reply_to=message)
        elif isinstance(result, RecordDict):
            reply = Message(result, reply_to=message)
        else:
            arrays, metrics = result
            record = arrays if isinstance(arrays, ArrayRecord) else to_record(arrays)
            content = RecordDict({"arrays": record, "metrics": MetricRecord(dict(metrics))})
            reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return reply
