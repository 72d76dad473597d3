"""How a tensor lies in its storage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Torch's allocator of device memory (c10/cuda/CUDACachingAllocator.cpp) gives out multiples of this.
DEVICE_BLOCK_BYTES = 512


def ram_bytes(tensor: Tensor) -> int:
    """The bytes that torch's allocator counts for a tensor's storage, in RAM or a device's memory."""
    size_bytes = tensor.untyped_storage().nbytes()
    return size_bytes if tensor.is_cpu else _in_blocks(size_bytes)


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's whole storage, as a tensor."""
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return empty.set_(tensor.untyped_storage())


def _in_blocks(size_bytes: int) -> int:
    return -(-size_bytes // DEVICE_BLOCK_BYTES) * DEVICE_BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Type, shape, strides and offset (in elements) of a tensor, and where and how large its storage is."""

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage_bytes: int

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor."""
        return cls(
            device=tensor.device,
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            offset=int(tensor.storage_offset()),
            storage_bytes=tensor.untyped_storage().nbytes(),
        )

    @property
    def ram_bytes(self) -> int:
        """The bytes that torch's allocator counts for the storage."""
        cpu = self.device.type == "cpu"
        return self.storage_bytes if cpu else _in_blocks(self.storage_bytes)

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """The tensor of this layout in a storage on its device."""
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        return empty.set_(storage, self.offset, self.shape, self.stride)

    def new(self) -> Tensor:
        """A tensor of this layout in a new storage, its content undefined."""
        return self.on(torch.UntypedStorage(self.storage_bytes, device=self.device))  # type: ignore[no-untyped-call]

    def new_fake(self) -> Tensor:
        """The same under a FakeTensorMode, where storages cannot be made directly."""
        elements = self.storage_bytes // self.dtype.itemsize
        return torch.empty(elements, dtype=self.dtype, device=self.device).as_strided(
            self.shape, self.stride, self.offset
        )


def copy_storage(tensor: Tensor) -> Tensor:
    """The same tensor in a new storage of the same size."""
    return Layout.of(tensor).on(tensor.untyped_storage().clone())  # type: ignore[no-untyped-call]
