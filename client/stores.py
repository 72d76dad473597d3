"""Which page store a step gets, by where its model is."""

from __future__ import annotations

from pathlib import Path

import torch

from .host_store import CudaLanes, HostStore
from .page_store import PageStore


def store_for(
    device: torch.device,
    path: Path,
    *,
    capacity_bytes: int | None = None,
    block_bytes: int = 4096,
) -> PageStore | HostStore:
    """An encrypted file at `path` for a model in RAM, host memory for one on a GPU.

    Both are context managers. Raises PageStoreError if the file cannot be made.
    """
    if device.type == "cuda":
        return HostStore(CudaLanes(device), capacity_bytes=capacity_bytes)
    return PageStore(path, capacity_bytes=capacity_bytes, block_bytes=block_bytes)
