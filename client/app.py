"""The Flower ClientApp: reads a message and the node's settings, sends a sealed update. Nothing else.

The run config is what the coordinator asks for, the node config what the device says (`asked`).
"""

from __future__ import annotations

import functools

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from protos.codec import decode_plan, encode_plan
from scheduler import Plan, load_device
from scheduler.errors import BadFile, RunFailed

from .asked import settings_from
from .node import BY_PLAN, DeviceLoader, Node, PreparedSteps, Settings, Training, WorkloadLoader
from .outbox import Update, failure
from .workload import load_workload

PLAN = "fedpoet-plan"  # where a node keeps its plan between messages; its state never leaves it


def build_client_app(
    cache: PreparedSteps | None = None,
    load: WorkloadLoader = load_workload,
    device: DeviceLoader = load_device,
    training: Training = BY_PLAN,
) -> ClientApp:
    """A ClientApp. `cache` keeps prepared steps for all nodes that this process plays.

    `load` and `device` find the workload and the device profile of a node's settings by their names.
    `training` is how the nodes train.
    """
    prepared: PreparedSteps = {} if cache is None else cache
    load_once, device_once = functools.cache(load), functools.cache(device)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            node = Node(settings_of(context), prepared, load_once, device_once, training)
            update = _train(message, context, node)
        except Exception as error:
            # Flower sends the text of an exception to the coordinator: only what `failure` allows.
            raise RunFailed(failure(error)) from error
        return Message(_records(update), reply_to=message)

    return app


def _train(message: Message, context: Context, node: Node) -> Update:
    if (plan := node.ready(_known_plan(context))) is not None:
        context.state[PLAN] = ConfigRecord({"plan": encode_plan(plan)})
    (record,) = message.content.array_records.values()
    (config,) = message.content.config_records.values()
    arrays = {name: array.numpy() for name, array in record.items()}
    return node.train(arrays, int(str(config["server-round"])))


def settings_of(context: Context) -> Settings:
    """Settings from the run config and the node config. Raises BadInput for a value of another type."""
    return settings_from(context.run_config, context.node_config)


def _known_plan(context: Context) -> Plan | None:
    """The plan this node made for an earlier message, if it is still there and whole."""
    record = context.state.get(PLAN)
    if not isinstance(record, ConfigRecord) or not isinstance(data := record.get("plan"), bytes):
        return None
    try:
        return decode_plan(data)
    except BadFile:
        return None


def _records(update: Update) -> RecordDict:
    arrays = ArrayRecord({name: Array(value) for name, value in update.arrays.items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord(dict(update.metrics))})


app = build_client_app()
