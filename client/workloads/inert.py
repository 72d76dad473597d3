"""A pickle file read as data alone: nothing that it names is imported or called.

Two data sets are published as pickles, a format that runs code when it is read. Here every class and
function of a pickle becomes an inert `Named` value, with the arguments and the state that the file gives it,
and only names that the caller lists are let through. The reader then takes what it needs from these.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadFile

Read = TypeVar("Read")

# What numpy's own arrays ask for.
ARRAY_NAMES = frozenset(
    {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
)
_CODES = {"f8": np.dtype("<f8"), "i8": np.dtype("<i8")}


class Named:
    """What a pickle calls `name`: with `args` once it was called, with `state` once that was set."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def __call__(self, *args: Any) -> Named:
        """The same name, called; nothing happens."""
        return Named(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_inert(file: BinaryIO, allowed: frozenset[str], decode: Callable[[Any], Read]) -> Read:
    """What `decode` makes of the pickle that starts here; a `Named` stands for each class and call.

    Raises BadFile, with what was found, for a name that is not `allowed`, for a damaged pickle, and
    for one that `decode` cannot follow.
    """
    try:
        return decode(_Inert(file, allowed).load())
    except BadFile:
        raise
    except Exception as error:  # a damaged pickle can end in an error of any type
        raise BadFile(f"it is damaged: {type(error).__name__}: {error}") from error


def array(found: Named) -> NDArray[Any]:
    """A numpy array of numbers, which numpy pickles as a call, a state and text for its bytes.

    Raises whatever the first mismatch is: for use in a `decode`.
    """
    if found.name != "numpy.core.multiarray._reconstruct" or found.state is None:
        raise TypeError(f"{found.name} where an array should be")
    _, shape, dtype, by_column, content = found.state
    # Pickles of Python 2 keep bytes as text.
    numbers = np.frombuffer(content.args[0].encode("latin1"), _CODES[dtype.args[0]])
    return numbers.reshape(shape, order="F" if by_column else "C")


# In Python rather than C: there, one damaged byte can ask for gigabytes of memo.
class _Inert(pickle._Unpickler):  # noqa: SLF001
    def __init__(self, file: BinaryIO, allowed: frozenset[str]) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Named:
        """An inert stand-in for a name that is allowed."""
        full = f"{module}.{name}"
        if full not in self._allowed:
            raise BadFile(f"it asks for {full}, which is no data; nothing of it was run")
        return Named(full)

    def persistent_load(self, _: Any) -> Any:
        """Refused: nothing outside the file is read."""
        raise BadFile("it refers to something outside of itself; nothing of it was run")
