"""Matplotlib figures as inline SVG that follows the page's colours, light or dark.

Colours are drawn as placeholders and become CSS variables; text stays text. Same input, same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .palette import LIGHT

COLOURS = {name: f"#0100{number:02x}" for number, name in enumerate(LIGHT)}
"""Placeholder of each of the page's CSS variables (`--ink` and so on)."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Within it, figures have the report's style; `name` makes their ids unique in the page."""
    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        yield


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with axes in rows, left to right."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False)
    return made, [ax for row in axes for ax in row]


def svg(made: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that scales to its column; `label` is read to the blind."""
    buffer = io.StringIO()
    made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg {} \1>", text, count=1)
    text = text.replace("<svg {}", f'<svg role="img" aria-label="{label}"', 1)
    for variable, placeholder in COLOURS.items():
        text = text.replace(placeholder, f"var(--{variable})")
    # Text takes the page's font; matplotlib would name its own.
    return re.sub(r"(font: (?:bold |italic )?[\d.]+px) [^;\"]+", r"\1 var(--font)", text)
