"""The Flower ClientApp: reads a message and the node's settings, sends a sealed update. Nothing else.

The run config is what the coordinator asks for, the node config what the device says (`asked`). A message of
type "query" is answered with how things stand on the device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SType
from numpy.typing import NDArray

from protos.codec import decode_plan, encode_plan
from protos.npy import npy
from scheduler import Plan, load_device
from scheduler.errors import BadFile, RunFailed

from .asked import policy_from, settings_from
from .device.facts import Sources, system_sources
from .device.policy import Policy, Reason, verdict
from .node import BY_PLAN, DeviceLoader, Node, PreparedSteps, Settings, Training, WorkloadLoader
from .outbox import Arrays, Update, failure, seal_standing
from .workload import load_workload

PLAN = "fedpoet-plan"  # where a node keeps its plan between messages; its state never leaves it


Decoder = Callable[[ArrayRecord], Arrays]


def decoded(record: ArrayRecord) -> Arrays:
    """Arrays as numpy has them."""
    return {name: array.numpy() for name, array in record.items()}


def build_client_app(
    cache: PreparedSteps | None = None,
    load: WorkloadLoader = load_workload,
    device: DeviceLoader = load_device,
    training: Training = BY_PLAN,
    decode: Decoder = decoded,
    sources: Callable[[], Sources] = system_sources,
) -> ClientApp:
    """A ClientApp. `cache` keeps prepared steps for all nodes that this process plays.

    `load` and `device` find the workload and the device profile of a node's settings by their names.
    `training` is how the nodes train. `decode` reads the model that came with a message. `sources` tell
    what is so on the device, for its owner's policy and for a coordinator that asks.
    """
    prepared: PreparedSteps = {} if cache is None else cache
    load_once, device_once = functools.cache(load), functools.cache(device)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with _said_as_allowed():
            reason = _reason(policy_from(context.node_config), sources)
        if reason is not Reason.ALLOWED:
            raise RunFailed(f"the owner's policy does not allow training now: {reason}")
        with _said_as_allowed():
            node = Node(settings_of(context, message), prepared, load_once, device_once, training)
            update = _train(message, context, node, decode)
        return Message(_records(update), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        with _said_as_allowed():
            settings = settings_of(context, message)
            budget_bytes = settings.ram_bytes or device_once(settings.device).trainable_bytes
            standing = seal_standing(_standing(context, sources(), budget_bytes))
        return Message(RecordDict({"standing": MetricRecord(dict(standing))}), reply_to=message)

    return app


@contextlib.contextmanager
def _said_as_allowed() -> Iterator[None]:
    """Flower sends the text of an exception to the coordinator: only what `failure` allows."""
    try:
        yield
    except Exception as error:
        raise RunFailed(failure(error)) from error


def _standing(context: Context, sources: Sources, budget_bytes: int) -> dict[str, int | float]:
    """What the owner's policy goes by. What is not known counts as not so; no battery is said of on mains."""
    facts = sources.facts()
    standing: dict[str, int | float] = {
        "charging": int(bool(facts.charging)),
        "idle": int(bool(facts.idle)),
        "unmetered": int(bool(facts.unmetered)),
        "free-ram-bytes": min(sources.free_ram().value or 0, budget_bytes),
        "ready": int(verdict(policy_from(context.node_config), facts) is Reason.ALLOWED),
    }
    return standing if facts.battery is None else standing | {"battery": facts.battery}


def _reason(policy: Policy, sources: Callable[[], Sources]) -> Reason:
    """Whether the owner's policy allows training now; without a policy nothing is looked at."""
    return Reason.ALLOWED if policy == Policy() else verdict(policy, sources().facts())


def _train(message: Message, context: Context, node: Node, decode: Decoder) -> Update:
    if (plan := node.ready(_known_plan(context))) is not None:
        context.state[PLAN] = ConfigRecord({"plan": encode_plan(plan)})
    (record,) = message.content.array_records.values()
    (config,) = message.content.config_records.values()
    return node.train(decode(record), int(str(config["server-round"])))


def settings_of(context: Context, message: Message | None = None) -> Settings:
    """Settings from the run config, a message's own config and the node config.

    Raises BadInput for a value of another type.
    """
    own = () if message is None else message.content.config_records.values()
    asked = dict(context.run_config)
    for config in own:
        asked |= {
            name: value for name, value in config.items() if not isinstance(value, list | bytes)
        }
    return settings_from(asked, context.node_config)


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
    arrays = ArrayRecord({name: _encoded(value) for name, value in update.arrays.items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord(dict(update.metrics))})


def _encoded(value: NDArray[np.generic]) -> Array:
    """As Array(value), but the header is made once for each form."""
    return Array(dtype=str(value.dtype), shape=value.shape, stype=SType.NUMPY, data=npy(value))


app = build_client_app()
