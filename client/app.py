"""The Flower ClientApp: reads a message and the node's settings, sends a sealed update. Nothing else.

The coordinator's settings come in the run config, the device's in the node config:

run config:   workload, seed, batch-size, local-epochs, deadline-factor, plan-time-limit-s
node config:  device, ram-bytes, partition-id, page-dir, cache-dir, workload

A number that is 0 or left out means the workload's or the device profile's own. The coordinator may name
a workload that comes with fedpoet; a file is run only if the device's own config names it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from protos.codec import decode_plan, encode_plan
from scheduler import Plan
from scheduler.errors import BadFile, BadInput, RunFailed

from .node import PLAN_TIME_LIMIT_S, Node, PreparedSteps, Settings, WorkloadLoader
from .outbox import Update, failure
from .workload import BUILT_IN, load_workload

PLAN = "fedpoet-plan"  # where a node keeps its plan between messages; its state never leaves it

Config = Mapping[str, bool | int | float | str]
Value = TypeVar("Value", bound=bool | int | float | str)


def build_client_app(
    cache: PreparedSteps | None = None, load: WorkloadLoader = load_workload
) -> ClientApp:
    """A ClientApp. `cache` keeps prepared steps for all nodes that this process plays."""
    prepared: PreparedSteps = {} if cache is None else cache
    load_once = functools.cache(load)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            update = _train(message, context, prepared, load_once)
        except Exception as error:
            # Flower sends the text of an exception to the coordinator: only what `failure` allows.
            raise RunFailed(failure(error)) from error
        return Message(_records(update), reply_to=message)

    return app


def _train(
    message: Message, context: Context, cache: PreparedSteps, load: WorkloadLoader
) -> Update:
    node = Node(settings_of(context), cache, load)
    prepared = node.prepare(_known_plan(context))
    context.state[PLAN] = ConfigRecord({"plan": encode_plan(prepared.solution.plan)})
    (record,) = message.content.array_records.values()
    (config,) = message.content.config_records.values()
    arrays = {name: array.numpy() for name, array in record.items()}
    return node.train(arrays, int(str(config["server-round"])))


def settings_of(context: Context) -> Settings:
    """Settings from the run config and the node config. Raises BadInput for a value of another type."""
    run, node = context.run_config, context.node_config
    ram_bytes = _get(node, "ram-bytes", 0)
    page_dir, cache_dir = _get(node, "page-dir", ""), _get(node, "cache-dir", "")
    if not (device := _get(node, "device", "")):
        raise BadInput('the node config names no device; give a profile: device="raspberry-pi-4b"')
    return Settings(
        workload=_workload(run, node),
        seed=_get(run, "seed", 0),
        batch_size=_get(run, "batch-size", 0) or None,
        local_epochs=_get(run, "local-epochs", 0) or None,
        deadline_factor=_get(run, "deadline-factor", 0.0) or None,
        plan_time_limit_s=_get(run, "plan-time-limit-s", 0.0) or PLAN_TIME_LIMIT_S,
        device=device,
        ram_bytes=ram_bytes or None,
        partition=_get(node, "partition-id", 0),
        page_dir=Path(page_dir) if page_dir else None,
        cache_dir=Path(cache_dir) if cache_dir else None,
    )


def _workload(run: Config, node: Config) -> str:
    if own := _get(node, "workload", ""):
        return own
    if (asked := _get(run, "workload", "watch")) in BUILT_IN:
        return asked
    raise BadInput(f"the coordinator asks for {asked!r}; the node config must name it to allow it")


def _get(config: Config, key: str, default: Value) -> Value:
    value = config.get(key, default)
    if type(default) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise BadInput(f"{key} is {value!r}; it must be of type {type(default).__name__}")
    return cast(Value, value)


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
