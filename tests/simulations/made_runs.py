"""Runs made in code, of any size, for what reads run folders."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from simulations.reading import Run
from simulations.results import DEVICE, ROW, KindRound, Outcome, RoundRecord


def messages(run: Run, count: int, rounds: int, seed: int = 0) -> np.ndarray:
    """So many rows of dtype ROW over the devices of a run, each of which may end in any way."""
    chance = np.random.default_rng(seed)
    rows = np.zeros(count, ROW)
    able = run.devices[run.devices["kind"] >= 0]
    device = able[chance.integers(len(able), size=count)]
    rows["node"], rows["kind"] = device["node"], device["kind"]
    rows["round"] = rows["asked_in"] = np.sort(chance.integers(1, rounds + 1, size=count))
    others = len(Outcome) - 1
    rows["outcome"] = chance.choice(len(Outcome), p=[0.6, *[0.4 / others] * others], size=count)
    rows["steps"] = chance.integers(1, 9, size=count)
    rows["sent_s"] = 100.0 * (rows["round"] - 1)
    for name in ("wait_down_s", "down_s", "train_s", "wait_up_s", "up_s", "train_j", "radio_j"):
        rows[name] = chance.uniform(0, 20, size=count)
    parts = ("sent_s", "wait_down_s", "down_s", "train_s", "wait_up_s", "up_s")
    rows["end_s"] = sum(rows[name] for name in parts)
    rows["battery_before"] = chance.uniform(0.5, 1, size=count)
    rows["battery_after"] = rows["battery_before"] - chance.uniform(-0.1, 0.5, size=count)
    return rows


def larger(run: Run, devices: int, rounds: int, per_round: int) -> Run:
    """The run as if it had so many devices, rounds, and messages in each."""
    table = np.zeros(devices, DEVICE)
    table["node"], table["partition"] = np.arange(devices) + 100, np.arange(devices) % 50
    table["kind"] = np.arange(devices) % (len(run.plans) + 1) - 1
    bigger = replace(run, devices=table)
    rows = messages(bigger, rounds * per_round, rounds)
    records = [run.rounds[0], *(_record(run, rows, number) for number in range(1, rounds + 1))]
    return replace(bigger, journeys=rows, rounds=tuple(records))


def _record(run: Run, rows: np.ndarray, number: int) -> RoundRecord:
    mine = rows[rows["round"] == number]
    return RoundRecord(
        round=number,
        loss=2.0 / number,
        accuracy=1 - math.exp(-number / 9),
        start_s=100.0 * (number - 1),
        end_s=100.0 * number,
        online=len(run.devices),
        asked=len(mine),
        waiting=0,
        skipped="nobody was there" if number % 7 == 0 else None,
        outcomes={str(Outcome.AGGREGATED): int((mine["outcome"] == 0).sum())},
        kinds=tuple(
            _kind(plan.name, mine[mine["kind"] == at]) for at, plan in enumerate(run.plans)
        ),
        refused=(),
    )


def _kind(name: str, rows: np.ndarray) -> KindRound:
    return KindRound(
        kind=name,
        rows=len(rows),
        aggregated=int((rows["outcome"] == Outcome.AGGREGATED).sum()),
        steps=int(rows["steps"].sum()),
        busy_s=float(rows["train_s"].sum()),
        train_j=float(rows["train_j"].sum()),
        radio_j=float(rows["radio_j"].sum()),
        wait_j=0.0,
        bytes_down=0,
        bytes_up=0,
        peak_bytes=0,
        battery_spent=0.0,
        battery=1.0,
    )
