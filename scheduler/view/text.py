"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Container, Sequence


def human_bytes(size: float) -> str:
    """Decimal units, three digits: 180 kB, 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.3g} {unit}"


def human_s(seconds: float) -> str:
    """Microseconds to days."""
    if 0 < seconds < 0.9995:
        return _small(seconds, "s")
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def human_j(joules: float) -> str:
    """Microjoules to gigajoules."""
    if 0 < joules < 0.9995:
        return _small(joules, "J")
    for unit in ("J", "kJ", "MJ", "GJ"):
        if joules < 999.5 or unit == "GJ":
            break
        joules /= 1000
    return f"{joules:.0f} {unit}" if joules >= 99.95 else f"{joules:.3g} {unit}"


def _small(value: float, unit: str) -> str:
    milli = value * 1000
    return f"{milli:.3g} m{unit}" if milli >= 0.9995 else f"{milli * 1000:.3g} µ{unit}"


def plural(count: int, one: str) -> str:
    """`1 device`, `3 devices`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def shortened(name: str, limit: int = 34) -> str:
    """The name, or its beginning and an ellipsis."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Rows of equal length as plain text in columns; those named by `left` start at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if n in left else f"{cell:>{width}}"
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
