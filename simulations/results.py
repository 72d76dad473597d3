"""What a simulation says: one record per round, and one per kind of device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from client.prepare import Prepared
from scheduler import Floor, floor, keep_all, replay
from server.rounds import Round
from server.updates import Arrays

from .fleet import Device, DeviceKind, Fleet
from .grid import Charge


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRound:
    """One device in one round. Times are virtual; joules of training and radio include idle power."""

    node: int
    kind: str
    partition: int
    steps: int
    train_loss: float
    down_s: float
    train_s: float
    up_s: float
    wait_s: float
    train_j: float
    radio_j: float
    wait_j: float
    bytes_down: int
    bytes_up: int
    ram_budget_bytes: int
    predicted_peak_bytes: int
    measured_peak_bytes: int
    paged_out_bytes: int
    paged_in_bytes: int
    recomputed: int

    @property
    def energy_j(self) -> float:
        """Joules the round cost the device: training and radio. Waiting for others is apart."""
        return self.train_j + self.radio_j


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One line of metrics.jsonl. `refused` are nodes without a usable update, with the reason."""

    round: int
    loss: float
    accuracy: float | None
    bytes_down: int
    bytes_up: int
    start_s: float
    end_s: float
    devices: tuple[DeviceRound, ...]
    refused: tuple[tuple[int, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class KindPlan:
    """What a kind of device does in one training step: its plan, its floor, and keep-all for comparison."""

    kind: DeviceKind
    devices: int
    prepared: Prepared
    floor: Floor
    keep_all_peak_bytes: int
    keep_all_time_s: float
    keep_all_energy_j: float
    peak_bytes: int
    time_s: float
    energy_j: float
    page_in_bytes: int
    page_out_bytes: int
    recomputed: int


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A kind whose budget has no plan, and why."""

    kind: DeviceKind
    devices: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished simulation."""

    config: Mapping[str, Any]
    fleet: Fleet
    plans: tuple[KindPlan, ...]
    left_out: tuple[LeftOut, ...]
    rounds: tuple[RoundRecord, ...]
    arrays: Arrays


def kind_plan(kind: DeviceKind, devices: int, prepared: Prepared) -> KindPlan:
    """Account for a prepared step with `replay`."""
    problem = prepared.problem
    own = replay(prepared.solution.plan, problem)
    plain = replay(keep_all(problem), problem)
    return KindPlan(
        kind=kind,
        devices=devices,
        prepared=prepared,
        floor=floor(problem),
        keep_all_peak_bytes=plain.peak_bytes,
        keep_all_time_s=plain.time_s,
        keep_all_energy_j=plain.energy_j,
        peak_bytes=own.peak_bytes,
        time_s=own.time_s,
        energy_j=own.energy_j,
        page_in_bytes=own.page_in_bytes,
        page_out_bytes=own.page_out_bytes,
        recomputed=len(own.recomputed),
    )


def round_record(done: Round, charges: tuple[Charge, ...]) -> RoundRecord:
    """Join what the round engine saw with what the fabric charged."""
    return RoundRecord(
        round=done.number,
        loss=done.evaluation["loss"],
        accuracy=done.evaluation.get("accuracy"),
        bytes_down=done.bytes_down,
        bytes_up=done.bytes_up,
        start_s=done.start_s,
        end_s=done.end_s,
        devices=tuple(_device_round(c, done.metrics.get(c.device.node, {})) for c in charges),
        refused=tuple((r.node, r.reason) for r in done.refused),
    )


def _device_round(charge: Charge, metrics: Mapping[str, float]) -> DeviceRound:
    device: Device = charge.device
    return DeviceRound(
        node=device.node,
        kind=device.kind.name,
        partition=device.partition,
        steps=int(metrics.get("steps", 0)),
        train_loss=float(metrics.get("train-loss", 0.0)),
        down_s=charge.down_s,
        train_s=charge.train_s,
        up_s=charge.up_s,
        wait_s=charge.wait_s,
        train_j=charge.train_j,
        radio_j=charge.radio_j,
        wait_j=charge.wait_j,
        bytes_down=charge.down_bytes,
        bytes_up=charge.up_bytes,
        ram_budget_bytes=device.kind.ram_bytes,
        predicted_peak_bytes=int(metrics.get("predicted-peak-bytes", 0)),
        measured_peak_bytes=int(metrics.get("measured-peak-bytes", 0)),
        paged_out_bytes=int(metrics.get("paged-out-bytes", 0)),
        paged_in_bytes=int(metrics.get("paged-in-bytes", 0)),
        recomputed=int(metrics.get("recomputed-runs", 0)),
    )
