"""Training for simulated devices: jobs in, replies out, here or in other processes. The fabric waits for it.

A job's numbers depend on nothing but the job: it does not matter who does it, when, or beside which others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch import nn

from client.app import build_client_app, decoded
from client.charge import StepCharge
from client.node import (
    BY_PLAN,
    ByPlan,
    DeviceLoader,
    Node,
    PlanKey,
    PreparedSteps,
    Training,
    WorkloadLoader,
    plan_key,
)
from client.outbox import Arrays
from client.plain import Plainly
from client.workload import Examples, Workload, load_workload
from scheduler import Plan, load_device
from scheduler.errors import FedpoetError

from .identity import be, be_server

REMEMBERED_BYTES = 512_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A message that has arrived at a device, and the device's context. Many jobs may share one content."""

    message: Message
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A device's reply. Of a device that failed it is an error, and `log` is what stays in its log."""

    reply: Message
    log: str = ""


Work = Callable[[Sequence[Job]], list[Done]]
"""Does jobs; what is done stands in the order of the jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make the ClientApp of a simulated fleet, in this process or another: it can be pickled.

    With `charges`, devices train plainly and are charged those; without, they execute their plans, of which
    `plans` are known. What neither has is planned where it is missed. `load` and `device` are `Node`'s.
    """

    load: WorkloadLoader = load_workload
    device: DeviceLoader = load_device
    charges: Mapping[PlanKey, StepCharge] | None = None
    plans: Mapping[PlanKey, Plan] = field(default_factory=dict)

    def app(self, cache: PreparedSteps | None = None) -> ClientApp:
        """The ClientApp; `cache` has steps that this process has prepared before."""
        training: Training = BY_PLAN
        if self.charges is not None:
            training = Plainly(charges=dict(self.charges))
        elif self.plans:
            training = _ByKnownPlan(self.plans)
        load = remembering(self.load, REMEMBERED_BYTES)
        return build_client_app(cache, load, self.device, training, _DecodedOnce())


class _ByKnownPlan(ByPlan):
    """Training by plans that were made in another process."""

    def __init__(self, plans: Mapping[PlanKey, Plan]) -> None:
        self._plans = plans

    def ready(self, node: Node, known: Plan | None) -> Plan | None:
        """Check the plan that is known, or find or make one."""
        return super().ready(node, known or self._plans.get(plan_key(node.settings)))


@dataclass(frozen=True, slots=True)
class InProcess:
    """Does jobs one after the other in this process; `on_done` is called after each."""

    app: ClientApp
    on_done: Callable[[Done], None] = lambda _: None

    def __call__(self, jobs: Sequence[Job]) -> list[Done]:
        """What came of the jobs, in their order."""
        done: list[Done] = []
        for job in jobs:
            done.append(do(self.app, job))
            self.on_done(done[-1])
        return done


def do(app: ClientApp, job: Job) -> Done:
    """Let a device handle its message. A device that fails answers with an error, as a SuperNode does."""
    be(job.context.node_id)
    try:
        return Done(reply=app(job.message, job.context))
    except FedpoetError as error:
        raised = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
        return Done(
            reply=Message(raised, reply_to=job.message), log=_told(error.__cause__ or error)
        )
    finally:
        be_server()


def untrained(jobs: Sequence[Job]) -> list[Done]:
    """Replies with the very arrays that were sent: what everything but training costs, and event studies."""
    done: list[Done] = []
    contents: dict[tuple[int, int], RecordDict] = {}  # devices with one partition say the same
    for job in jobs:
        be(job.context.node_id)
        sent, partition = job.message.content, int(str(job.context.node_config["partition-id"]))
        if (id(sent), partition) not in contents:
            contents[id(sent), partition] = _unchanged(sent, partition)
        done.append(Done(reply=Message(contents[id(sent), partition], reply_to=job.message)))
    be_server()
    return done


def _unchanged(sent: RecordDict, partition: int) -> RecordDict:
    (arrays,) = sent.array_records.values()
    metrics = MetricRecord(
        {"num-examples": 1, "partition-id": partition, "steps": 0, "train-loss": 0.0}
    )
    return RecordDict({"arrays": arrays, "metrics": metrics})


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _DecodedOnce:
    """Reads a model that came with many messages once. Who gets the arrays must not write to them."""

    def __init__(self) -> None:
        self._record: ArrayRecord | None = None
        self._arrays: Arrays = {}

    def __call__(self, record: ArrayRecord) -> Arrays:
        if record is not self._record:
            self._record, self._arrays = record, decoded(record)
        return self._arrays


def remembering(load: WorkloadLoader, most_bytes: int) -> WorkloadLoader:
    """`load`, but what a device does once is not done again for every device that a process plays.

    The examples used last are kept, up to `most_bytes` of them, and so is the model's module, if all that
    differs between two of them is what `set_arrays` sets.
    """

    def loaded(spec: str) -> Workload:
        workload = load(spec)
        return replace(
            workload,
            data=_Remembered(workload.data, most_bytes),
            model=_built_once(workload.model),
        )

    return loaded


def _built_once(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    kept: list[nn.Module] = []

    def built() -> nn.Module:
        if kept:
            return kept[0]
        model = build()
        saved = model.state_dict().keys()
        if all(name in saved for name, _ in model.named_buffers()):
            kept.append(model)
        return model

    return built


class _Remembered:
    def __init__(self, data: Callable[[int], Examples], most_bytes: int) -> None:
        self._data, self._most_bytes, self._bytes = data, most_bytes, 0
        self._kept: OrderedDict[int, Examples] = OrderedDict()

    def __call__(self, partition: int) -> Examples:
        if partition in self._kept:
            self._kept.move_to_end(partition)
            return self._kept[partition]
        examples = self._data(partition)
        self._kept[partition] = examples
        self._bytes += _size_bytes(examples)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size_bytes(oldest)
        return examples


def _size_bytes(examples: Examples) -> int:
    return examples.x.nbytes + examples.y.nbytes
