"""What is simulated: the settings of a run, from the command line and from the fleet's file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from client.node import PLAN_TIME_LIMIT_S
from scheduler.errors import BadInput, UnknownName
from server.rules import Eligibility, Late, Rules
from server.strategy import make_strategy, train_config_of

from .fleet_file import DEFAULT_FLEET

Option = bool | int | float | str


class Training(StrEnum):
    """How devices train: PLAIN PyTorch, by their PLANS (the same numbers, slower), or NONE at all.

    Whichever it is, they are charged their plans' RAM, time and energy. With NONE, an update is the model as
    it was.
    """

    PLAIN = "plain"
    PLANS = "plans"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """The settings of a run. None takes what the fleet's [server] table says, else the default beside it.

    `deadline_factor` and `plan_time_limit_s` are about plans, `deadline_s` about rounds. From `cohort` to
    `staleness`, and from `charging` to `battery_at_least`, they are those of `server.rules`.
    `link_slots` is how many messages the coordinator's link carries at a time (None: any number).
    `fleet_changes` are made to the fleet's file: places in it to values. `training` is how devices train.
    """

    workload: str = "watch"
    rounds: int = 30
    seed: int = 0
    fleet: str = DEFAULT_FLEET
    fleet_changes: Mapping[str, Option] = field(default_factory=dict)
    strategy: str | None = None  # fedavg
    sampler: str | None = None  # uniform
    cohort: int | None = None  # every device that may be asked
    over_selection: float | None = None
    deadline_s: float | None = None
    least_updates: int | None = None
    patience_s: float | None = None
    most_skipped: int | None = None
    late: str | None = None
    buffer: int | None = None
    staleness: float | None = None
    charging: bool | None = None
    idle: bool | None = None
    unmetered: bool | None = None
    battery_at_least: float | None = None
    link_slots: int | None = None
    local_epochs: int | None = None  # the workload's
    batch_size: int | None = None  # the workload's
    deadline_factor: float | None = None
    plan_time_limit_s: float = PLAN_TIME_LIMIT_S
    training: str = Training.PLAIN.value

    @property
    def proximal_mu(self) -> float:
        """What FedProx asks of devices; 0 for any other strategy."""
        return train_config_of(make_strategy(self.strategy or "fedavg")).get("proximal-mu", 0.0)

    def __post_init__(self) -> None:
        least = {"rounds": 1, "seed": 0, "cohort": 1, "local_epochs": 1, "batch_size": 1}
        for name, bound in (least | {"link_slots": 1}).items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise BadInput(f"{name.replace('_', ' ')} must be {bound} or more, not {value}")
        if self.seed >= 2**63:
            raise BadInput(f"seed must be less than 2**63, not {self.seed}")
        for name in ("deadline_factor", "plan_time_limit_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"{name.replace('_', ' ')} must be more than 0, not {value}")

        if self.training not in list(Training):
            raise UnknownName("way of training", self.training, tuple(Training))

    def rules(self) -> Rules:
        """The rules of a round. Raises BadInput for rules that cannot be."""
        given = {name: getattr(self, name) for name in _RULES if getattr(self, name) is not None}
        wishes = {name: getattr(self, name) for name in _WISHES if getattr(self, name) is not None}
        if "late" in given:
            if given["late"] not in list(Late):
                raise UnknownName("way with late updates", given["late"], tuple(Late))
            given["late"] = Late(given["late"])
        try:
            return Rules(**given, eligibility=Eligibility(**wishes))
        except TypeError as error:
            raise BadInput(f"the rules of a round cannot be: {error}") from error


_RULES = (
    "cohort",
    "over_selection",
    "deadline_s",
    "least_updates",
    "patience_s",
    "most_skipped",
    "late",
    "buffer",
    "staleness",
)
_WISHES = ("charging", "idle", "unmetered", "battery_at_least")
_FROM_FILE = (*_RULES, *_WISHES, "strategy", "sampler", "link_slots", "local_epochs", "batch_size")
_WHOLE = ("cohort", "least_updates", "most_skipped", "buffer", "link_slots", "local_epochs")
_NUMBERS = ("over_selection", "deadline_s", "patience_s", "staleness", "battery_at_least")


def completed(config: SimulationConfig, options: Iterable[tuple[str, Option]]) -> SimulationConfig:
    """The config with what the fleet's [server] table says where it says nothing. Raises BadInput."""
    given: dict[str, Any] = {}
    for name, value in options:
        key = name.replace("-", "_")
        if key not in _FROM_FILE:
            raise UnknownName("setting of [server]", name, _FROM_FILE)
        given[key] = _typed(key, value)
    unset = {f.name for f in fields(config) if getattr(config, f.name) is None}
    return replace(config, **{name: value for name, value in given.items() if name in unset})


def _typed(name: str, value: Option) -> Option:
    kind: type[Any] = str
    if name in (*_WHOLE, "batch_size"):
        kind = int
    elif name in _NUMBERS:
        kind = float
    elif name in ("charging", "idle", "unmetered"):
        kind = bool
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise BadInput(f"[server] {name} is {value!r}; it must be of type {kind.__name__}")
    return value
