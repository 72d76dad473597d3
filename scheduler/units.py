"""Sizes as people write them."""

from __future__ import annotations

import re

from .errors import BadInput

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(text: str) -> int:
    """Bytes from "737719", "200KB", "1.5 MB" (powers of 1000) or "256KiB", "1GiB" (powers of 1024).

    Raises BadInput for anything else, or for less than one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    size = int(float(match[1]) * _FACTORS[match[2] or ""]) if match else 0
    if not 1 <= size < 2**63:
        raise BadInput(f"{text!r} is not a size: write for example 737719, 200KB or 256KiB")
    return size
