"""Vibrations of machines that were not all recorded equally often, so that updates weigh differently."""

from __future__ import annotations

import dataclasses

from client.workload import Examples, load_workload
from tests.e2e.flower_processes import VIBRATION

vibration = load_workload(VIBRATION)


def data(partition: int) -> Examples:
    examples, count = vibration.data(partition), 48 + 24 * (partition % 3)
    return Examples(x=examples.x[:count], y=examples.y[:count])


uneven = dataclasses.replace(vibration, name="uneven", data=data)
