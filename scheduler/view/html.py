"""Parts of self-contained HTML pages: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
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


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], sentences: Container[int] = ()
) -> str:
    """A table whose cells are HTML already; the head is text. Columns of sentences may break."""
    kinds = [' class="text"' if column in sentences else "" for column in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{x}</td>' for kind, x in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
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
