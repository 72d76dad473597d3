"""Where in a model something happens: the module's name and class, and the user's line."""

from __future__ import annotations

import gc
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode

from scheduler.graph import Phase

# The keys of a recorded node's meta.
PHASE, PLACE = "phase", "place"

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_PYTHON = sysconfig.get_paths()["stdlib"]

Step = tuple[FrameType, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A module by name and class (None: outside of all, in the loss) and a line of its user's code.

    `line` is "file:number", or None if only code of torch is there.
    """

    module: str | None
    line: str | None

    def __str__(self) -> str:
        return ", ".join(part for part in (self.module or "the loss", self.line) if part)


class Places:
    """Finds places from the frames between `entry`, the code that calls the model, and what it runs."""

    def __init__(self, module: nn.Module, entry: CodeType) -> None:
        self._entry = entry
        self._names: Mapping[int, str] = {
            id(part): named(name, part) for name, part in module.named_modules()
        }

    def here(self) -> Place | None:
        """Where the caller was called from."""
        frame = sys._getframe(1)  # noqa: SLF001
        return self._of(_outward(frame, frame.f_lineno))

    def of(self, error: BaseException) -> Place | None:
        """Where an exception was raised; None outside of model and loss."""
        return self._of(reversed(list(traceback.walk_tb(error.__traceback__))))

    def of_change(self, state: Callable[[], object], run: Callable[[], object]) -> Place | None:
        """The first line of the user's that changes `state` while `run` runs."""
        before, found = state(), list[Place | None]()
        lines: dict[FrameType, int] = {}

        def watch(frame: FrameType, event: str, _: object) -> Any:
            if event != "call" and not found and state() != before:
                found.append(self._of(_outward(frame, lines[frame])))
            lines[frame] = frame.f_lineno
            return watch if is_users(frame.f_code) else None

        tracer, collecting = sys.gettrace(), gc.isenabled()
        gc.disable()  # what others do when garbage is collected would seem to be called by the line
        sys.settrace(watch)
        try:
            run()
        finally:
            sys.settrace(tracer)
            if collecting:
                gc.enable()
        return found[0] if found else None

    def _of(self, steps: Iterable[Step]) -> Place | None:
        """`steps` go from the innermost frame outward."""
        module = line = None
        for frame, number in steps:
            code = frame.f_code
            if code is self._entry:
                return None if module is None and line is None else Place(module=module, line=line)
            if line is None and is_users(code):
                line = f"{_shown(code.co_filename)}:{number}"
            if module is None and code.co_varnames[:1] == ("self",):
                module = self._names.get(id(frame.f_locals.get("self")))
        return None


class Marks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, marks every node that is recorded with the phase it runs in and its place."""

    # Such as torch.cond: `capture` refuses them, with their place.
    supports_higher_order_operators = True

    def __init__(self, places: Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = places
        self._last: fx.Node | None = None
        self.phase = Phase.FORWARD

    def __enter__(self) -> Any:
        self._last = next(reversed(_graph().nodes))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        result = func(*args, **(kwargs or {}))
        place = self._places.here()
        while self._last is not None and self._last.next.op != "root":
            self._last = self._last.next
            self._last.meta |= {PHASE: self.phase, PLACE: place}
        return result


def named(name: str, module: nn.Module) -> str:
    """A module as messages call it."""
    return f"{name or 'the model'} ({type(module).__name__})"


def at(node: fx.Node) -> str:
    """The start of a message about a recorded node: where it is, if that is known."""
    return start(node.meta.get(PLACE))


def start(place: Place | None) -> str:
    """The start of a message about a place."""
    return f"{place}: " if place else ""


def is_users(code: CodeType) -> bool:
    """Whether code is neither torch's, Python's nor the client's."""
    name = code.co_filename
    if name.startswith("<") and not name.startswith("<ipython"):
        return False  # generated: dataclasses, torch's own
    of_python = name.startswith(_PYTHON) and "site-packages" not in name
    return not (of_python or name.startswith((_TORCH, _HERE)))


def _graph() -> fx.Graph:
    mode = get_proxy_mode()
    assert mode is not None  # noqa: S101
    graph: fx.Graph = mode.tracer.graph
    return graph


def _outward(frame: FrameType, line: int) -> Iterator[Step]:
    yield frame, line
    while (outer := frame.f_back) is not None:
        frame = outer
        yield frame, frame.f_lineno


def _shown(name: str) -> str:
    try:
        return str(Path(name).relative_to(Path.cwd()))
    except ValueError:
        return name
