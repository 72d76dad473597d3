"""A plan drawn with characters: RAM over time, what runs, and where a tensor is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from ..baselines import keep_all
from ..plan import Plan
from ..problem import Problem
from ..replay import replay
from .palette import TERMINAL
from .schedule import RUNS, Row, Span, ram_curve, schedule
from .text import human_bytes, human_s

BLOCKS = " ▁▂▃▄▅▆▇█"
LETTERS = {"forward": "f", "backward": "b", "update": "u", "again": "r"}
STRIP = {"resident": "█", "again": "▓", "moving": "x", "stored": "─"}
"""How a tensor's strip shows where it is, by the names of `Row`."""
STRIP_COLOURS = {**TERMINAL, "moving": TERMINAL["paging"]}

BRIEF = 0.25  # a tensor in RAM for less than this share of a column shows as a thin line
NOTICED = (
    3  # reruns are what is looked for: they show in a column that others have up to so much more of
)
LABEL = 9  # columns left of the chart
HEIGHT = 12  # lines of the chart
LEAST_BUDGET_HEIGHT = 4  # lines below the budget; what keep-all needs beyond the top is cut off


def ram_chart(plan: Plan, problem: Problem, width: int, coloured: bool) -> Text:
    """RAM over time of a plan, of keep-all behind it, and the budget; below it what runs when."""
    own, plain = replay(plan, problem), replay(keep_all(problem), problem)
    columns = max(10, width - LABEL - 1)
    end_s = max(own.time_s, plain.time_s) or 1.0
    budget = plan.budget.ram_bytes
    scale = _scale(budget, own.peak_bytes, plain.peak_bytes)
    drawn = _Layers(
        scale=scale,
        own=_most_per_column(*ram_curve(own), end_s, columns),
        plain=_most_per_column(*ram_curve(plain), end_s, columns),
    )
    shown = f"budget {human_bytes(budget)}" + ("" if scale.budget_line else ", far above")
    cut = ", beyond the top" if plain.peak_bytes > scale.top_bytes else ""
    text = Text.assemble(
        " " * LABEL,
        ("█", TERMINAL["forward"]),
        f" this plan, peak {human_bytes(own.peak_bytes)}   ",
        ("░", TERMINAL["plain"]),
        f" keep all, peak {human_bytes(plain.peak_bytes)}{cut}   ",
        ("▁", TERMINAL["budget"]),
        f" {shown}\n",
    )
    top = scale.lines(max(own.peak_bytes, plain.peak_bytes))
    for line in range(top - 1, -1, -1):
        text.append(_label(line, top, scale)).append_text(drawn.line(line, columns)).append("\n")
    text.append_text(_times(end_s, columns))
    return text.append_text(_runs(plan, problem, end_s, columns, coloured))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Bytes of one line; the budget lies on the edge above `budget_line` lines, if it is drawn."""

    line_bytes: float
    budget_line: int

    @property
    def top_bytes(self) -> float:
        return self.line_bytes * (HEIGHT + 1)

    def lines(self, most_bytes: int) -> int:
        """How many lines are needed, the one with the budget included."""
        return min(HEIGHT, max(math.ceil(most_bytes / self.line_bytes), self.budget_line)) + 1


def _scale(budget: int, own_peak: int, plain_peak: int) -> _Scale:
    most = max(own_peak, plain_peak, 1)
    if budget > 2 * most:
        return _Scale(line_bytes=most / HEIGHT, budget_line=0)
    line = max(LEAST_BUDGET_HEIGHT, int(HEIGHT * budget / max(most, budget)))
    return _Scale(line_bytes=max(budget, 1) / line, budget_line=line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """RAM per column of the plan, and of keep-all behind it."""

    scale: _Scale
    own: Sequence[int]
    plain: Sequence[int]

    def line(self, line: int, columns: int) -> Text:
        text = Text()
        for column in range(columns):
            own, plain = (self._eighths(v[column], line) for v in (self.own, self.plain))
            if own:
                text.append(BLOCKS[own], TERMINAL["forward"])
            elif line == self.scale.budget_line and line:
                text.append("▁", TERMINAL["budget"])
            else:
                text.append("░" if plain >= 4 else " ", TERMINAL["plain"])
        return text

    def _eighths(self, value: int, line: int) -> int:
        eighths = round(8 * (value / self.scale.line_bytes - line))
        return min(8, max(0, eighths))


def _label(line: int, lines: int, scale: _Scale) -> str:
    at_top = line == lines - 1 and scale.budget_line < lines - 2
    if line and (line == scale.budget_line or at_top):
        return f"{human_bytes(line * scale.line_bytes):>{LABEL - 1}} ┤"
    return f"{'' if line else '0':>{LABEL - 1}} {'│' if line else '┤'}"


def _most_per_column(
    times: Sequence[float], values: Sequence[int], end_s: float, columns: int
) -> list[int]:
    """The largest value within each column's stretch of time."""
    most = [0] * columns
    for begin, end, value in zip(times, times[1:], values[1:], strict=False):
        first = min(int(columns * begin / end_s), columns - 1)
        last = min(int(columns * end / end_s - 1e-9), columns - 1)
        for column in range(first, max(first, last) + 1):
            most[column] = max(most[column], value)
    return most


def _times(end_s: float, columns: int) -> Text:
    middle, end = human_s(end_s / 2), human_s(end_s)
    half = columns // 2 - len(middle) // 2
    line = f"{'0':<{half}}{middle}"
    return Text(f"{' ' * (LABEL + 1)}{line}{end:>{columns - len(line)}}\n", "dim")


def _runs(plan: Plan, problem: Problem, end_s: float, columns: int, coloured: bool) -> Text:
    """Two strips: which operators run, and how much of the time something moves."""
    walked = schedule(plan, problem)
    shares = {
        name: share_per_column((s for s, run in walked.runs if run == name), end_s, columns)
        for name in RUNS
    }
    moving = share_per_column(walked.moves, end_s, columns)
    text = Text(f"{'computes':>{LABEL}} ")
    for column in range(columns):
        name = max(RUNS, key=lambda r: shares[r][column] * (NOTICED if r == "again" else 1))
        if not shares[name][column]:
            text.append(" ")
        else:
            text.append("█" if coloured else LETTERS[name], TERMINAL[name])
    text.append(f"\n{'pages':>{LABEL}} ")
    for share in moving:
        text.append(BLOCKS[min(8, round(8 * share + 0.499))], TERMINAL["paging"])
    text.append("\n" + " " * (LABEL + 1))
    for name, said in (*zip(RUNS, ("forward", "backward", "update", "again"), strict=True),):
        text.append("█" if coloured else LETTERS[name], TERMINAL[name]).append(f" {said}   ")
    return text.append("█", TERMINAL["paging"]).append(" to or from the page store")


def share_per_column(spans: Iterable[Span], end_s: float, columns: int) -> list[float]:
    """How much of each column's stretch of time lies within the spans."""
    share = [0.0] * columns
    for start, duration in spans:
        begin, end = columns * start / end_s, columns * (start + duration) / end_s
        for column in range(int(begin), min(int(end), columns - 1) + 1):
            share[column] += max(0.0, min(end, column + 1) - max(begin, column))
    return share


def strip(row: Row, end_s: float, columns: int) -> Text:
    """Where one tensor is over time: any time in RAM shows."""
    shares = {name: share_per_column(getattr(row, name), end_s or 1.0, columns) for name in STRIP}
    text = Text()
    for column in range(columns):
        name = max(("resident", "again"), key=lambda name: shares[name][column])
        share = shares[name][column]
        if shares["moving"][column] > share / 2:
            name, share = "moving", 1.0
        elif not share and shares["stored"][column]:
            name, share = "stored", 1.0
        text.append((STRIP[name] if share > BRIEF else "▏") if share else " ", STRIP_COLOURS[name])
    return text
