"""The colours of every drawing, by what they mean. They differ for colour-blind readers too."""

from __future__ import annotations

LIGHT = {
    "page": "#f6f7f9",
    "paper": "#ffffff",
    "ink": "#1c2430",
    "muted": "#5b6675",
    "grid": "#e1e5ea",
    "line": "#d7dce3",
    "forward": "#2f52dc",
    "backward": "#8fdcec",
    "update": "#0a8746",
    "paging": "#f0990d",
    "again": "#93306f",
    "plain": "#8b8f9a",
    "budget": "#d55e00",
    "radio": "#46541f",
    "idle": "#c3c9d1",
    "stored": "#dcbb86",
    "resident": "#a3abf2",
    "good": "#1f7a44",
    "warn": "#9a5b00",
}
"""On white paper."""

DARK = {
    "page": "#11151b",
    "paper": "#191f27",
    "ink": "#e6eaf0",
    "muted": "#9aa6b5",
    "grid": "#2b333e",
    "line": "#333c48",
    "forward": "#4d86ff",
    "backward": "#c3f3f7",
    "update": "#27b868",
    "paging": "#f7c530",
    "again": "#d877c8",
    "plain": "#7d8594",
    "budget": "#ff7a33",
    "radio": "#a3b86c",
    "idle": "#565d66",
    "stored": "#96803a",
    "resident": "#3f5288",
    "good": "#62c486",
    "warn": "#f0a847",
}
"""On dark paper."""

TERMINAL = {
    "forward": "#3f78ff",
    "backward": "#7ad4e4",
    "update": "#168a4a",
    "paging": "#eea511",
    "again": "#b8479f",
    "plain": "#8b8f9a",
    "budget": "#e8601c",
    "stored": "#b99450",
    "resident": "#7f8fe0",
}
"""In the terminal, whose paper may be light or dark."""

TOGETHER = (
    ("forward", "backward", "update", "again", "paging"),
    ("resident", "stored", "again", "paging", "paper"),
    ("forward", "again", "paging", "idle", "radio"),
    ("plain", "forward", "budget"),
)
"""Colours that stand beside each other in one picture, and so have to be told apart."""

TOGETHER_ON_PAGES = (
    ("again", "forward", "update", "paging", "grid"),
    ("forward", "paging", "again", "radio", "resident", "grid"),
    ("forward", "paging", "again", "update", "backward", "resident"),
)
"""The same of pictures that are never in the terminal."""


def css_variables() -> str:
    """The colours as CSS variables, light or dark as the reader has it."""
    light, dark = (
        " ".join(f"--{name}: {value};" for name, value in colours.items())
        for colours in (LIGHT, DARK)
    )
    return (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{\n  :root {{ {dark} }}\n}}\n"
    )
