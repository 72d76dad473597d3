"""How a tensor lies in its storage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Type, shape, strides and offset (in elements) of a tensor, and the bytes of its whole storage."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage_bytes: int

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor."""
        return cls(
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            offset=int(tensor.storage_offset()),
            storage_bytes=tensor.untyped_storage().nbytes(),
        )

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """The tensor of this layout in a storage."""
        empty = torch.empty(0, dtype=self.dtype)
        return empty.set_(storage, self.offset, self.shape, self.stride)

    def new(self) -> Tensor:
        """A tensor of this layout in a new storage, its content undefined."""
        return self.on(torch.UntypedStorage(self.storage_bytes))  # type: ignore[no-untyped-call]

    def new_fake(self) -> Tensor:
        """The same under a FakeTensorMode, where storages cannot be made directly."""
        elements = self.storage_bytes // self.dtype.itemsize
        return torch.empty(elements, dtype=self.dtype).as_strided(
            self.shape, self.stride, self.offset
        )


def copy_storage(tensor: Tensor) -> Tensor:
    """The same tensor in a new storage of the same size."""
    return Layout.of(tensor).on(tensor.untyped_storage().clone())  # type: ignore[no-untyped-call]
