"""A device profile of a GPU of this machine, which pages to the host's memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as fn

from scheduler import DeviceProfile, load_device
from scheduler.errors import BadInput

from .host_store import CudaLanes, HostStore
from .profile import PAGE_BYTES, link, page_times
from .timing import Clock, Effort, clock_of, fit_line, median_s

# Whose watts stand for those of any GPU until somebody measures them.
LIKE = "nvidia-h100-sxm"
# Copies over PCIe reach their rate with some megabytes.
GPU_PAGE_BYTES = (*PAGE_BYTES, 64 * 2**20)
_KERNELS = Effort(least=7, most=50, limit_s=1.0)


def require_gpu() -> torch.device:
    """The CUDA device that is current. Raises BadInput where there is none."""
    if not torch.cuda.is_available():
        raise BadInput(
            f"torch {torch.__version__} finds no CUDA device here: this needs an NVIDIA GPU with its driver, "
            "and a torch built with CUDA"
        )
    return torch.device("cuda", torch.cuda.current_device())


def profile_gpu(here: torch.device, *, name: str, today: str) -> DeviceProfile:
    """Measure a GPU: memory, compute rate, and copies from and to pinned memory; takes some seconds.

    `today` goes into the sources. Watts are those of the profile nvidia-h100-sxm, an assumption.
    """
    clock, base = clock_of(here), load_device(LIKE)
    free_bytes, total_bytes = torch.cuda.mem_get_info(here)
    host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    seen = f"measured on {today}"
    watts = f"assumption: that of the profile {LIKE}"
    sources = {
        "ram_bytes": f"{seen}: torch.cuda.mem_get_info",
        "reserved_bytes": f"{seen}: what was not free then, the CUDA context included",
        "page_store_bytes": f"{seen}: a quarter of the host's RAM, since torch may take twice the bytes",
        "flops_per_s": f"{seen}: matrix product 4096x4096x4096 and convolution 64->64, 3x3, of 64 "
        "images 56x56, float32, medians",
        **dict.fromkeys(("compute_w", "idle_w", "page_in.watts", "page_out.watts"), watts),
    }
    measured = replace(
        base,
        name=name,
        description=f"{torch.cuda.get_device_name(here)}, paging to pinned memory of its host, {seen}",
        ram_bytes=total_bytes,
        reserved_bytes=total_bytes - free_bytes,
        page_store_bytes=host_bytes // 4,
        flops_per_s=_compute_rate(here, clock),
        sources=tuple((dict(base.sources) | sources).items()),
    )
    return with_measured_pages(measured, HostStore(CudaLanes(here)), here, clock, today)


def with_measured_pages(
    device: DeviceProfile,
    store: HostStore,
    here: torch.device,
    clock: Clock,
    today: str,
    sizes_bytes: Sequence[int] = GPU_PAGE_BYTES,
) -> DeviceProfile:
    """The profile with the times that pages of these sizes take between `here` and this store."""
    reads: list[tuple[int, float]] = []
    writes: list[tuple[int, float]] = []
    with store:
        for size_bytes in sizes_bytes:
            written_s, read_s = page_times(store, size_bytes, clock, here)
            writes.append((size_bytes, written_s))
            reads.append((size_bytes, read_s))
    seen = (
        f"measured on {today}: copies of {min(sizes_bytes):,} to {max(sizes_bytes):,} bytes "
        "between the model's memory and the host's, one after the other"
    )
    labels = [f"{way}.{n}" for way in ("page_in", "page_out") for n in ("latency_s", "bytes_per_s")]
    read, written = fit_line(reads), fit_line(writes)
    return replace(
        device,
        page_in=link(read, device.page_in.watts),
        page_out=link(written, device.page_out.watts),
        sources=tuple((dict(device.sources) | dict.fromkeys(labels, seen)).items()),
    )


def _compute_rate(here: torch.device, clock: Clock) -> float:
    """Float32 flops per second, with the settings for TF32 that are in force."""
    square = torch.rand(4096, 4096, device=here)
    x, w = torch.rand(64, 64, 56, 56, device=here), torch.rand(64, 64, 3, 3, device=here)
    with torch.no_grad():
        product_s = median_s(lambda: square @ square, clock, _KERNELS)
        convolved_s = median_s(lambda: fn.conv2d(x, w, padding=1), clock, _KERNELS)
    return (2 * 4096**3 + 2 * 64 * 64 * 56 * 56 * 64 * 9) / (product_s + convolved_s)
