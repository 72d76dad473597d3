"""Hand a traced and planned step to another process, as a file that only this benchmark reads."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

from torch import fx


class _Pickler(pickle.Pickler):
    """torch pickles a graph's function by tracing it again, which not every function stands: as code."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MethodType) and isinstance(obj.__self__, fx.GraphModule):
            code = obj.__self__.graph.python_code("self")
            return _function, (code.src, code.globals)
        if isinstance(obj, ModuleType):
            return importlib.import_module, (obj.__name__,)
        return NotImplemented


class _Empty:
    """What the functions take as their module: they use nothing of it."""


def _function(source: str, names: dict[str, Any]) -> Callable[..., Any]:
    scope = dict(names)
    exec(compile(source, "<planned step>", "exec"), scope)  # noqa: S102
    return MethodType(scope["forward"], _Empty())


def write(path: Path, what: Any) -> None:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(what)
    path.write_bytes(buffer.getvalue())


def read(path: Path) -> Any:
    """Only of files that this program wrote itself: a pickle can run code."""
    return pickle.loads(path.read_bytes())  # noqa: S301
