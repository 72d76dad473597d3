"""The form of a fleet's file (docs/fleets.md): what it may say, checked before anything is made of it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from scheduler.errors import BadFile

from .fleet import Floats
from .fleet_changes import change

SIGMAS = 3.0  # log-normal values are drawn again beyond so many standard deviations
DEFAULT_FLEET = "default"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Number(_Strict):
    """A number, or how it differs from device to device, with its source.

    One of `value`; `median` and `sigma` (log-normal; of the natural logarithm, at most 3 sigma away);
    `low` and `high` (evenly between); `levels` and their `shares`.
    """

    value: float | None = None
    median: float | None = None
    sigma: float | None = Field(default=None, ge=0, le=3)
    low: float | None = None
    high: float | None = None
    levels: list[float] | None = Field(default=None, min_length=1, max_length=32)
    shares: list[Annotated[float, Field(ge=0, le=1e9)]] | None = None
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: object) -> object:
        return given if isinstance(given, dict) else {"value": given}

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {name for name, value in self if value is not None} - {"source"}
        if given not in ({"value"}, {"median", "sigma"}, {"low", "high"}, {"levels", "shares"}):
            raise ValueError(
                "give a number, or one of: value; median and sigma; low and high; levels and shares"
            )
        if self.levels is not None and self.shares is not None:
            if len(self.levels) != len(self.shares) or not sum(self.shares) > 0:
                raise ValueError("levels need as many shares, and one of them more than 0")
            if len(set(self.levels)) < len(self.levels):
                raise ValueError("levels must differ")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low must not be more than high")
        return self

    def ends(self) -> tuple[float, float]:
        """The least and the largest value it can have."""
        if self.value is not None:
            return self.value, self.value
        if self.median is not None and self.sigma is not None:
            reach = math.exp(SIGMAS * self.sigma)
            both = (self.median / reach, self.median * reach)
            return min(both), max(both)
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return min(self.levels or [0.0]), max(self.levels or [0.0])

    def middle(self) -> float:
        """The value, the median, or the level with the largest share."""
        if self.median is not None:
            return self.median
        if self.levels is not None and self.shares is not None:
            return self.levels[self.shares.index(max(self.shares))]
        return sum(self.ends()) / 2

    def draw(self, count: int, chance: np.random.Generator) -> Floats:
        """A value per device."""
        if self.median is not None and self.sigma is not None:
            z = chance.standard_normal(count)
            while (far := np.abs(z) > SIGMAS).any():
                z[far] = chance.standard_normal(int(far.sum()))
            return np.asarray(self.median * np.exp(self.sigma * z), dtype=np.float64)
        if self.levels is not None and self.shares is not None:
            p = np.array(self.shares) / sum(self.shares)
            return chance.choice(np.array(self.levels, dtype=np.float64), size=count, p=p)
        low, high = self.ends()
        return np.full(count, low) if low == high else chance.uniform(low, high, count)


def _within(least: float, most: float) -> Callable[[Number], Number]:
    """Bounds keep virtual time and energy finite."""

    def check(number: Number) -> Number:
        low, high = number.ends()
        if not (least <= low and high <= most):
            raise ValueError(f"must be from {least:g} to {most:g}, not {low:g} to {high:g}")
        return number

    return check


def _whole(number: Number) -> Number:
    values = number.levels if number.value is None else [number.value]
    if values is None or any(v != int(v) for v in values):
        raise ValueError("must be a whole number of bytes, or levels of them")
    return number


def _single(number: Number) -> Number:
    if number.value is None:
        raise ValueError("must be one number, the same for all devices of the kind")
    return number


Rate = Annotated[Number, AfterValidator(_within(1e-3, 1e15))]
Amount = Annotated[Number, AfterValidator(_within(0, 1e9))]
Part = Annotated[Number, AfterValidator(_within(0, 1))]
Factor = Annotated[Number, AfterValidator(_within(1e-3, 1e3))]
Offset = Annotated[Number, AfterValidator(_within(-24, 24))]
Bytes = Annotated[Number, AfterValidator(_within(1, 2**52)), AfterValidator(_whole)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")]  # also a file's


class WindowTable(_Strict):
    """A `Window` of fleet.py, with its source."""

    start_h: float = Field(ge=0, lt=24)
    hours: float = Field(gt=0, le=24)
    share: float = Field(default=1.0, ge=0, le=1)
    device_spread_h: float = Field(default=0.0, ge=0, le=12)
    day_spread_h: float = Field(default=0.0, ge=0, le=12)
    source: str = ""


class HabitsTable(_Strict):
    """Left out means always."""

    utc_offset_h: Offset = Number(value=0.0)
    online: list[WindowTable] | None = None
    charging: list[WindowTable] | None = None
    idle: list[WindowTable] | None = None
    unmetered: list[WindowTable] | None = None


class BatteryTable(_Strict):
    """Left out means on mains."""

    capacity_j: Annotated[Number, AfterValidator(_within(1e-3, 1e12))]
    start: Part = Number(value=1.0)
    charge_w: Amount
    own_w: Annotated[Amount, AfterValidator(_single)] | None = None


class PageStoreTable(_Strict):
    """How page stores of a kind differ: `classes` of equal shares, at the quantiles of a log-normal."""

    size_bytes: Annotated[Bytes, AfterValidator(_single)] | None = None
    speed_sigma: Annotated[Part, AfterValidator(_single)] = Number(value=0.0)
    classes: int = Field(default=1, ge=1, le=9)


class ThermalTable(_Strict):
    """A `Thermal` of fleet.py."""

    onset_s: Annotated[Amount, AfterValidator(_single)]
    sustained: Annotated[Number, AfterValidator(_within(0.01, 1)), AfterValidator(_single)]


class TracesTable(_Strict):
    """Files in FedScale's format, beside the fleet's file."""

    availability: str | None = None
    capacity: str | None = None
    source: str = ""


class KindTable(_Strict):
    """One kind of devices. `share` is a weight. `source` stands for numbers without one of their own."""

    share: float = Field(default=1.0, ge=0, le=1e9)
    device: str
    ram_bytes: Bytes
    down_bytes_per_s: Rate
    up_bytes_per_s: Rate
    latency_s: Amount
    radio_w: Annotated[Amount, AfterValidator(_single)]
    slowness: Factor = Number(value=1.0)
    drop_out: Part = Number(value=0.0)
    source: str = ""
    page_store: PageStoreTable = PageStoreTable()
    battery: BatteryTable | None = None
    habits: HabitsTable = HabitsTable()
    thermal: ThermalTable | None = None
    traces: TracesTable = TracesTable()


class DataTable(_Strict):
    """How the workload's examples are split; `shared` lets more devices than partitions take part."""

    split: Literal["natural", "dirichlet", "power-law"] = "natural"
    alpha: float = Field(default=1.0, gt=0, le=1e6)
    partitions: int | None = Field(default=None, ge=1, le=10**7)
    shared: bool = False
    source: str = ""

    @model_validator(mode="after")
    def _natural(self) -> Self:
        if self.split == "natural" and self.model_fields_set & {"partitions", "alpha"}:
            raise ValueError("a natural split has the workload's own partitions, and no alpha")
        return self


class FleetFile(_Strict):
    """A whole file. `devices` left out means one per partition."""

    devices: int | None = Field(default=None, ge=1, le=10**7)
    data: DataTable = DataTable()
    server: dict[str, bool | int | float | str] = {}
    kinds: dict[Name, KindTable] = Field(min_length=1)

    @field_validator("kinds")
    @classmethod
    def _some(cls, kinds: dict[str, KindTable]) -> dict[str, KindTable]:
        if not sum(k.share for k in kinds.values()) > 0:
            raise ValueError("one of the shares must be more than 0")
        return kinds


def fleet_names() -> tuple[str, ...]:
    """Names of the fleets that come with fedpoet."""
    files = resources.files(__package__).joinpath("fleets").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def read_fleet(spec: str, changes: Mapping[str, object]) -> FleetFile:
    """The file behind a fleet's name or path, after `changes`: place in the file -> value.

    A place is names with dots between, as `kinds.phone.ram_bytes`; `*` stands for every name. The value
    `x0.5` halves the numbers that are there. Raises BadFile, in one line that names the place.
    """
    table = _table(spec)
    for place, value in changes.items():
        change(table, place, value, f"fleet {spec}")
    try:
        return FleetFile.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise BadFile(f"fleet {spec}: {place}: {said}") from error


def _table(spec: str) -> dict[str, Any]:
    try:
        if spec in fleet_names():
            text = resources.files(__package__).joinpath(f"fleets/{spec}.toml").read_text("utf-8")
        else:
            text = Path(spec).read_text(encoding="utf-8")
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(fleet_names())
        raise BadFile(f"fleet {spec} cannot be read: {error}; known by name: {known}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"fleet {spec} is not TOML: {error}") from error
