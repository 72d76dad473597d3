"""Who is speaking: Flower gives a message its sender from what the process says it is."""

from __future__ import annotations

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1
TASK_ID = 1

UserConfig = dict[str, bool | int | float | str]


def be(node: int) -> None:
    """Let messages made from here on come from a node, as in Flower's own processes."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = TASK_ID, RUN_ID, node


def be_server() -> None:
    """Let messages made from here on come from the coordinator."""
    be(SUPERLINK_NODE_ID)


def server_context(run_config: UserConfig) -> Context:
    """The context a ServerApp is called with."""
    return Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config))
