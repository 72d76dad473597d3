"""Vibrations of machines that were not all recorded equally often, so that updates weigh differently."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from client.workload import Examples, load_workload

vibration = load_workload(f"{Path(__file__).parents[2] / 'examples' / 'own_workload.py'}:vibration")


def data(partition: int) -> Examples:
    examples, count = vibration.data(partition), 48 + 24 * (partition % 3)
    return Examples(x=examples.x[:count], y=examples.y[:count])


uneven = dataclasses.replace(vibration, name="uneven", data=data)
