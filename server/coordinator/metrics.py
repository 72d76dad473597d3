"""A snapshot as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .watch import Snapshot

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(snapshot: Snapshot) -> str:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Of(snapshot))
    return generate_latest(registry).decode()


class _Of(Collector):
    """Hands the metrics of one snapshot to the library."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from _of_rounds(self._snapshot)
        yield from _of_devices(self._snapshot)


def _of_rounds(snapshot: Snapshot) -> Iterator[Metric]:
    rounds = [r for r in snapshot.rounds if r.number > 0]
    totals = (
        ("rounds", "Rounds that have ended, skipped and rolled back ones included.", len(rounds)),
        (
            "rounds_skipped",
            "Rounds without a new model.",
            sum(r.skipped is not None for r in rounds),
        ),
        ("updates", "Updates aggregated.", sum(r.updates for r in rounds)),
        ("bytes_down", "Bytes of models sent to devices.", sum(r.bytes_down for r in rounds)),
        ("bytes_up", "Bytes of updates received.", sum(r.bytes_up for r in rounds)),
        ("device_energy_joules", "Energy that devices report.", sum(r.energy_j for r in rounds)),
    )
    for name, said, value in totals:
        yield CounterMetricFamily(f"fedpoet_{name}", said, value=value)
    refused = CounterMetricFamily(
        "fedpoet_refused", "Devices without a usable update.", labels=["reason"]
    )
    for reason, count in snapshot.refusals:
        refused.add_metric([reason], count)
    yield refused
    if (last := snapshot.last) is not None:
        yield GaugeMetricFamily("fedpoet_round", "The newest round.", value=last.number)
        yield GaugeMetricFamily(
            "fedpoet_round_seconds", "How long the newest round took.", value=last.seconds
        )
        scores = GaugeMetricFamily("fedpoet_score", "Scores of the newest model.", labels=["name"])
        for name, value in last.scores:
            scores.add_metric([name], value)
        yield scores


def _of_devices(snapshot: Snapshot) -> Iterator[Metric]:
    devices = GaugeMetricFamily(
        "fedpoet_devices", "Devices by kind and state.", labels=["kind", "state"]
    )
    for kind in snapshot.kinds:
        for state in ("enrolled", "online", "ready"):
            devices.add_metric([kind.kind, state], getattr(kind, state))
    yield devices
