"""The executor as a library of its own: plan a training step once, then run it many times."""

from __future__ import annotations

from .interpreter import Interpreter

__all__ = ["Interpreter"]
