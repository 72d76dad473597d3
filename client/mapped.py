"""Train a model that is larger than the RAM: from a file, by a plan, into a file.

`mapped` makes a module whose parameters lie in a safetensors file and take no RAM; it can be traced,
planned and trained by a plan. `SavingInterpreter` ends training by writing parameters, buffers and
optimizer state to files, one tensor at a time.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from scheduler.errors import BadFile, BadInput, PageStoreError

from .interpreter import Interpreter
from .pager import content

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"

# safetensors' names of types.
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {v: k for k, v in _TYPES.items()}
# What one tensor takes of a header besides its name: keys, type, shape and two offsets.
_ENTRY_BYTES = 256


def mapped(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """The module that `build` makes, with the parameters and buffers of a file.

    Nothing is read until it is used, and the system can take that RAM back at any time. The tensors
    are read-only: changing one in place, as eager training does, ends the process.
    Raises BadFile, and BadInput for a module that keeps tensors which it does not save.
    """
    with torch.device("meta"):
        module = build()
    try:
        module.load_state_dict(dict(tensors_of(path)), assign=True)
    except RuntimeError as error:
        raise BadInput(f"{path} is not this model: {' '.join(str(error).split())}") from error
    for name, buffer in module.named_buffers():
        if buffer.is_meta:
            raise BadInput(
                f"the file cannot have buffer {name}, which is not persistent: save it too"
            )
    return module


def tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and read-only tensors of a safetensors file, in RAM only while they are read."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack("<Q", data[:8])
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            shape, start = tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            yield name, _view(data, _TYPES[entry["dtype"]], shape, start)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BadFile(f"{path} is not a safetensors file ({error})") from error


def _view(data: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return torch.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(shape)


class SavingInterpreter(Interpreter):
    """An Interpreter that on exit saves everything to files in a folder, and leaves the module empty.

    `model.safetensors` gets parameters and buffers, `optimizer.safetensors` the optimizer's state as
    "parameter.state"; what is not a tensor stays with the optimizer. Besides what is resident between
    steps, that takes the RAM of one tensor. The folder must exist. Raises PageStoreError if it cannot
    be written to: then module and optimizer get everything back, as from an Interpreter. No step is
    measured: RAM is short.
    """

    def __init__(self, *arguments: Any, folder: Path, **options: Any) -> None:
        super().__init__(*arguments, measured_steps=0, **options)
        self._folder = folder

    def __exit__(self, *_: object) -> None:
        try:
            self._save()
        finally:
            super().__exit__()

    def _save(self) -> None:
        program = self._program
        state = [(f"{u.name}.{name}", k) for u in program.updates for name, k in u.state]
        for file, named in (
            (MODEL_FILE, [*program.parameters, *program.buffers]),
            (OPTIMIZER_FILE, state),
        ):
            # Large elements first, so that all lie aligned.
            named.sort(key=lambda item: -program.layouts[item[1]].dtype.itemsize)
            with TensorWriter(self._folder / file, [name for name, _ in named]) as writer:
                for name, k in named:
                    self._write(writer, name, k)
        for k in (t.id for t in self._graph.tensors if self._graph.is_persistent(t.id)):
            self._memory.release(k)
            self._memory.drop_page(k)

    def _write(self, writer: TensorWriter, name: str, k: int) -> None:
        memory = self._memory
        if k in memory:
            writer.add(name, memory[k])
            return
        memory.page_in(k, drop=False)
        writer.add(name, memory[k])
        memory.release(k)


class TensorWriter:
    """Writes tensors one at a time to a safetensors file, which is there once all are written."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        # Which tensors exist shows as they come, so there is room for a header that names them all.
        room = sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names)
        self._room, self._end = -(-room // 8) * 8 + 8, 0
        self._header: dict[str, object] = {}

    def __enter__(self) -> Self:
        with _explained(self._part):
            self._file = self._part.open("wb")
            self._file.seek(8 + self._room)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file, _explained(self._part):
            if kind is None:
                self._file.seek(0)
                self._file.write(struct.pack("<Q", self._room))
                self._file.write(json.dumps(self._header).encode().ljust(self._room))
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)

    def add(self, name: str, tensor: Tensor | None) -> None:
        """Write a tensor; None, which stands for state that does not exist, is left out."""
        if tensor is None:
            return
        raw = tensor.contiguous()
        size_bytes = raw.numel() * raw.itemsize
        with _explained(self._part):
            self._file.write(content(raw)[raw.storage_offset() * raw.itemsize :][:size_bytes])
        self._header[name] = {
            "dtype": _NAMES[raw.dtype],
            "shape": list(raw.shape),
            "data_offsets": [self._end, self._end + size_bytes],
        }
        self._end += size_bytes


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PageStoreError(f"{path} cannot be written: {error.strerror}") from error
