"""Figures of one machine as text: its profile, the costs of a step, the energy of training."""

from __future__ import annotations

from operator import attrgetter

from scheduler import DeviceProfile, Plan, Problem, replay
from scheduler.view.rows import Rows

from .costs import expected_step_s
from .trainer import TrainReport

_SHOWN = 10


def profile_lines(device: DeviceProfile) -> str:
    """Every number of a profile, with its source."""
    return "\n".join(
        f"{label:20} {_number(attrgetter(label)(device)):>16}  {source}"
        for label, source in device.sources
    )


def cost_lines(problem: Problem) -> str:
    """The operators that take longest, and all together."""
    graph, costs = problem.graph, problem.costs.operators
    order = sorted(graph.operators, key=lambda op: -costs[op.id].time_s)
    head = f"{'operator':40} {'phase':9} {'ms':>10} {'workspace bytes':>16}"
    rows = [
        f"{op.name[:40]:40} {op.phase.value:9} {costs[op.id].time_s * 1e3:10.3f} {op.workspace_bytes:16,}"
        for op in order[:_SHOWN]
    ]
    left = len(order) - len(rows)
    rest = [f"and {left} more operators that take less each"] if left else []
    total = f"{'all, each once':40} {'':9} {problem.compute_once.time_s * 1e3:10.3f}"
    return "\n".join((head, *rows, *rest, total))


def energy_text(report: TrainReport) -> str:
    """Joules, and whether a meter read them or a profile estimates them."""
    joules = report.energy_j if report.metered_energy_j is None else report.metered_energy_j
    return f"{joules:.6g} J by {report.energy_source}"


def peak_text(report: TrainReport) -> str:
    """What torch's allocator held at most, if that was measured."""
    if not report.measured_peak_bytes:
        return "not measured: noting every allocation takes RAM too"
    return f"{report.measured_peak_bytes:,} bytes"


def expected_rows(plan: Plan, problem: Problem) -> Rows:
    """How long the interpreter's step should take; for measured costs, which are this machine's."""
    step_s = expected_step_s(plan, problem)
    undo_s = step_s - replay(plan, problem).time_s
    text = f"{step_s:.6g} s, {undo_s:.6g} s of it to write what undoes a failed step"
    return (("expected step", text),)


def _number(value: float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
