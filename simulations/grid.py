"""The simulated fleet as a Flower Grid: the same ClientApp, called in process, in virtual time.

A message crosses in Flower's wire format, so that what a device gets and sends is what a SuperLink would
carry, and so that no two nodes share one object (Flower's strategies put one record into all messages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from scheduler.errors import FedpoetError
from server.rounds import content_bytes

from .clock import VirtualClock
from .fleet import Device, Fleet

RUN_ID = 1
TASK_ID = 1

UserConfig = dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one message cost one device. `wait` is from its reply until the round ends."""

    device: Device
    down_bytes: int
    up_bytes: int
    down_s: float
    train_s: float
    up_s: float
    wait_s: float
    train_j: float  # idle power while training included
    radio_j: float  # idle power while bytes move included
    wait_j: float

    @property
    def busy_s(self) -> float:
        """From the start of the round to the end of the reply."""
        return self.down_s + self.train_s + self.up_s

    @property
    def energy_j(self) -> float:
        """All joules of the device in the round."""
        return self.train_j + self.radio_j + self.wait_j


class SimulatedGrid(Grid):
    """Calls `app` for every message to a device of the fleet and charges it to the device's clock.

    `run_config` is what `flwr run` would give to all nodes. `on_reply` is called after each device.
    A device that fails answers with an error, as a SuperNode does, and `on_failure` gets what stays in
    the device's log. A reply that comes after the
    timeout, in virtual time, is lost.
    """

    def __init__(
        self,
        fleet: Fleet,
        app: ClientApp,
        clock: VirtualClock,
        run_config: UserConfig,
        on_reply: Callable[[Device], None] = lambda _: None,
        on_failure: Callable[[Device, BaseException], None] = lambda *_: None,
    ) -> None:
        self._app, self._clock = app, clock
        self._on_reply, self._on_failure = on_reply, on_failure
        self._devices = {d.node: d for d in fleet.devices}
        self._contexts = {d.node: _context(d, run_config) for d in fleet.devices}
        self._replies: dict[str, Message] = {}
        self._pushed = 0
        self.charges: tuple[Charge, ...] = ()  # of the last send_and_receive
        be_server()

    def set_run(self, run: Any) -> None:
        """A simulated fleet has one run; there is nothing to set."""

    @property
    def run(self) -> Any:
        """No run of a SuperLink stands behind a simulated fleet."""
        raise NotImplementedError("a simulated fleet has no run of a SuperLink")

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

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all devices."""
        return list(self._devices)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each device handle its message now; its reply can be pulled at once."""
        return [self._handle(message)[0] for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to messages that were pushed, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One round: all devices work side by side, and time passes until the last one is done."""
        handled = [self._handle(message) for message in messages]
        longest = max((charge.busy_s for _, charge in handled), default=0.0)
        if timeout is not None:
            longest = min(longest, timeout)
        self._clock.advance(longest)
        self.charges = tuple(_waiting(charge, longest) for _, charge in handled)
        replies = {i: self._replies.pop(i) for i, _ in handled}
        in_time = [i for i, charge in handled if charge.busy_s <= longest]
        return [replies[i] for i in in_time]

    def _handle(self, message: Message) -> tuple[str, Charge]:
        node = message.metadata.dst_node_id
        device, context = self._devices[node], self._contexts[node]
        self._pushed += 1
        identity = f"message-{self._pushed}"
        arrived = _across_the_wire(message, identity)
        _be(node)
        try:
            reply = self._app(arrived, context)
        except FedpoetError as error:
            self._on_failure(device, error.__cause__ or error)
            raised = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
            reply = Message(raised, reply_to=arrived)
        finally:
            be_server()
        reply = _across_the_wire(reply, f"{identity}-reply")
        self._replies[identity] = reply
        self._on_reply(device)
        return identity, _charge(device, message, reply)


def be_server() -> None:
    """Let messages made from here on come from the coordinator, as Flower's processes do."""
    _be(SUPERLINK_NODE_ID)


def server_context(run_config: UserConfig) -> Context:
    """The context a ServerApp is called with."""
    return Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config))


def _be(node: int) -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = TASK_ID, RUN_ID, node


def _context(device: Device, run_config: UserConfig) -> Context:
    node_config: UserConfig = {
        "workload": run_config.get("workload", ""),
        "device": device.kind.profile_name,
        "ram-bytes": device.kind.ram_bytes,
        "partition-id": device.partition,
    }
    return Context(RUN_ID, device.node, node_config, RecordDict(), dict(run_config))


def _across_the_wire(message: Message, identity: str) -> Message:
    arrived = message_from_proto(message_to_proto(message))
    arrived.metadata.__dict__["_message_id"] = identity  # a SuperLink gives it; there is no setter
    return arrived


def _charge(device: Device, message: Message, reply: Message) -> Charge:
    link, idle_w = device.kind.link, device.kind.profile.idle_w
    down_bytes, up_bytes = content_bytes(message), content_bytes(reply)
    down_s, up_s = link.down_s(down_bytes), link.up_s(up_bytes)
    metrics: dict[str, Any] = {}
    if reply.has_content():
        (record,) = reply.content.metric_records.values()
        metrics = dict(record)
    return Charge(
        device=device,
        down_bytes=down_bytes,
        up_bytes=up_bytes,
        down_s=down_s,
        train_s=float(metrics.get("time-s", 0.0)),
        up_s=up_s,
        wait_s=0.0,
        train_j=float(metrics.get("energy-j", 0.0)),
        radio_j=(down_s + up_s) * (link.watts + idle_w),
        wait_j=0.0,
    )


def _waiting(charge: Charge, round_s: float) -> Charge:
    wait_s = max(0.0, round_s - charge.busy_s)
    return replace(charge, wait_s=wait_s, wait_j=wait_s * charge.device.kind.profile.idle_w)
