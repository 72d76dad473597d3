"""Parts of self-contained HTML pages: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from .palette import css_variables

KEY = (
    ("forward", "forward"),
    ("backward", "backward"),
    ("update", "update"),
    ("again", "computed again"),
    ("paging", "moving to or from the page store"),
    ("stored", "in the page store only"),
    ("resident", "in RAM"),
)
"""Colours of a schedule, and what they say."""


def page(package: str, name: str, *, title: str, subtitle: str, **parts: str) -> str:
    """A whole page from the template that a package has; title and subtitle are text, parts are HTML."""
    return _template(__package__, "page.html").substitute(
        style=css_variables() + _read(__package__, "style.css"),
        title=escape(title),
        subtitle=escape(subtitle),
        body=_template(package, name).substitute(parts),
    )


def _template(package: str, name: str) -> Template:
    return Template(_read(package, name))


def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text("utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML already; the head is text."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    return "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in facts
    )


def key(entries: Iterable[tuple[str, str]] = KEY) -> str:
    """What colours mean."""
    items = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(text)}</span>'
        for colour, text in entries
    )
    return f'<div class="key">{items}</div>'
