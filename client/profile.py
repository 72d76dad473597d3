"""A device profile of this very machine: RAM, page store, compute rate and power, as measured."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as fn

from scheduler import DeviceProfile, PageLink
from scheduler.errors import BadInput, PageStoreError

from .meter import Meter, NoMeter
from .page_store import PageStore
from .pager import Pager, Transfers, content
from .timing import Clock, Effort, Line, fit_line, median_s

# Sizes of pages as networks have them; the block of the storage comes first.
PAGE_BYTES = (16 * 1024, 64 * 1024, 256 * 1024, 2**20, 4 * 2**20, 16 * 2**20)
_PAGES = Effort(least=7, most=200, limit_s=0.5)
_KERNELS = Effort(least=7, most=200, limit_s=1.0)

# Where no meter says otherwise. A busy core of a laptop or server takes some 3 to 10 W.
ASSUMED_CORE_W = 5.0
ASSUMED_IDLE_W = 5.0
POWER_WINDOW_S = 2.0

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """All RAM that this process can get, and what of it is free or can be freed."""

    total_bytes: int
    available_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """How fast pages move, and a description of where they were."""

    read: Line
    write: Line
    block_bytes: int
    free_bytes: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts, those of work above idle, each with its source."""

    idle_w: tuple[float, str]
    compute_w: tuple[float, str]
    page_in_w: tuple[float, str]
    page_out_w: tuple[float, str]


def profile_machine(
    *,
    name: str,
    store_folder: Path,
    today: str,
    meter: Meter | NoMeter,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    root: Path = Path("/"),
    on_stage: Stage = lambda _what: None,
) -> DeviceProfile:
    """Measure this machine, with as many threads as torch uses now; takes half a minute at most.

    `today` goes into the sources. Pages go through a page store in `store_folder`. `on_stage` gets
    what is about to be measured. `root` is where /proc and /sys are looked for. Raises PageStoreError
    if the folder cannot hold a page store, BadInput if it is none.
    """
    on_stage("RAM")
    ram = measure_ram(root)
    on_stage("page store")
    pages = measure_pages(store_folder, clock, root)
    on_stage("compute rate")
    flops_per_s = compute_rate(clock)
    on_stage("power")
    power = measure_power(meter, store_folder, clock, sleep)
    seen = f"measured on {today}"
    paged = (
        f"{seen}: pages of {pages.block_bytes:,} to {max(PAGE_BYTES):,} bytes through the page store, "
        f"its threads and encryption included, {pages.where}"
    )
    rate = "matrix product 256x512x512 and convolution 64->64, 3x3, of 8 images 16x16"
    numbers: dict[str, str] = {
        "ram_bytes": f"{seen}: {ram.source}",
        "reserved_bytes": f"{seen}: what was not available then, with Python and torch loaded",
        "page_store_bytes": f"{seen}: half of the {pages.free_bytes:,} bytes free in the folder",
        "page_block_bytes": f"{seen}: block size of the folder's file system",
        "flops_per_s": f"{seen}: {rate}, float32, medians, {torch.get_num_threads()} thread(s)",
        "compute_w": power.compute_w[1],
        "idle_w": power.idle_w[1],
        "page_in.latency_s": f"{paged}; read into new memory",
        "page_in.bytes_per_s": f"{paged}; read into new memory",
        "page_in.watts": power.page_in_w[1],
        "page_out.latency_s": f"{paged}; written, not flushed",
        "page_out.bytes_per_s": f"{paged}; written, not flushed",
        "page_out.watts": power.page_out_w[1],
        "overlap": "the executor reads and writes pages in threads beside compute",
    }
    return DeviceProfile(
        name=name,
        description=f"{processor(root)}, {os.cpu_count()} cores, {platform.system()}, {seen}",
        ram_bytes=ram.total_bytes,
        reserved_bytes=ram.total_bytes - ram.available_bytes,
        page_store_bytes=pages.free_bytes // 2,
        page_block_bytes=pages.block_bytes,
        flops_per_s=flops_per_s,
        compute_w=power.compute_w[0],
        idle_w=power.idle_w[0],
        page_in=link(pages.read, power.page_in_w[0]),
        page_out=link(pages.write, power.page_out_w[0]),
        overlap=True,
        sources=tuple(numbers.items()),
    )


def measure_ram(root: Path = Path("/")) -> Ram:
    """RAM of the machine, or of the control group that this process is held to, if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available, source = total, "os.sysconf; what is in use is not known"
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        info = {
            key: int(rest.split()[0]) * 1024 for key, _, rest in (x.partition(":") for x in lines)
        }
        total, available = info["MemTotal"], info["MemAvailable"]
        source = "/proc/meminfo, MemTotal and MemAvailable"
    except (OSError, ValueError, KeyError, IndexError):
        pass
    group = root / "sys" / "fs" / "cgroup"
    try:
        limit = int((group / "memory.max").read_text())  # "max" is no number, and no limit
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return Ram(total_bytes=total, available_bytes=available, source=source)
    if limit >= total:
        return Ram(total_bytes=total, available_bytes=available, source=source)
    left = max(0, min(available, limit - used))
    return Ram(total_bytes=limit, available_bytes=left, source="memory.max of the control group")


def measure_pages(folder: Path, clock: Clock, root: Path = Path("/")) -> Pages:
    """Reads and writes of pages through the page store itself, in a folder."""
    try:
        block_bytes = os.statvfs(folder).f_frsize or 4096
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadInput(f"cannot page to {folder}: {error.strerror}; give another folder") from error
    if free_bytes < 8 * PAGE_BYTES[-1]:
        raise PageStoreError(f"{folder} has only {free_bytes:,} bytes left: free some space")
    reads: list[tuple[int, float]] = []
    writes: list[tuple[int, float]] = []
    path = folder / f"profile-{secrets.token_hex(4)}"
    with (
        PageStore(path, block_bytes=block_bytes) as store,
        contextlib.closing(Pager(store)) as pager,
    ):
        for size in sorted({block_bytes, *PAGE_BYTES}):
            written_s, read_s = page_times(pager, size, clock, torch.device("cpu"))
            writes.append((size, written_s))
            reads.append((size, read_s))
    return Pages(
        read=fit_line(reads),
        write=fit_line(writes),
        block_bytes=block_bytes,
        free_bytes=free_bytes,
        where=_storage(folder, root),
    )


def page_times(
    pager: Transfers, size_bytes: int, clock: Clock, device: torch.device
) -> tuple[float, float]:
    """Median seconds of writing and of reading one page; blocks are written over, as in training.

    One page comes right after the other: after a pause the first takes 0.1 ms longer, but a step writes
    most of its pages (the way back) in one go, and waits for few of the others.
    """
    tensor = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
    kept = pager.write(0, tensor)

    def write() -> None:
        page = pager.write(1, tensor)
        page.result()
        pager.drop(page)

    def read() -> None:
        new = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        pager.read(kept, new, drop=False).result()

    written_s, read_s = (median_s(run, clock, _PAGES) for run in (write, read))
    pager.settle()
    pager.drop(kept)
    return written_s, read_s


def compute_rate(clock: Clock) -> float:
    """Float32 flops per second of a matrix product and a convolution of the size of small networks."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, 512, generator=generator) for n in (256, 512))
    x, w = (
        torch.rand(8, 64, 16, 16, generator=generator),
        torch.rand(64, 64, 3, 3, generator=generator),
    )
    with torch.no_grad():
        product_s = median_s(lambda: a @ b, clock, _KERNELS)
        convolved_s = median_s(lambda: fn.conv2d(x, w, padding=1), clock, _KERNELS)
    flops = 2 * 256 * 512 * 512 + 2 * 8 * 64 * 16 * 16 * 64 * 9
    return flops / (product_s + convolved_s)


def measure_power(
    meter: Meter | NoMeter, folder: Path, clock: Clock, sleep: Callable[[float], None]
) -> Power:
    """Watts from the meter while idle, computing and paging, each for POWER_WINDOW_S; or assumptions."""
    if isinstance(meter, NoMeter):
        return _assumed(f"no meter: {meter.reason}")
    idle_w = _watts(meter, clock, lambda: sleep(0.1))
    if idle_w <= 0:
        return _assumed(f"{meter.name} did not move in {POWER_WINDOW_S:g} s")
    source = f"measured by {meter.name} over {POWER_WINDOW_S:g} s"
    data = content(torch.zeros(PAGE_BYTES[-1], dtype=torch.uint8))
    square = torch.rand(512, 512)
    with PageStore(folder / f"profile-{secrets.token_hex(4)}") as store:
        kept = store.write(0, data)
        work: dict[str, Callable[[], object]] = {
            "compute": lambda: square @ square,
            "page_in": lambda: store.read(kept, data),
            "page_out": lambda: store.drop(store.write(1, data)),
        }
        above = {k: max(0.0, _watts(meter, clock, run) - idle_w) for k, run in work.items()}
    return Power(
        idle_w=(idle_w, f"{source} of sleep; what else runs is in it"),
        compute_w=(above["compute"], f"{source} of matrix products, less idle_w"),
        page_in_w=(above["page_in"], f"{source} of reading pages, less idle_w"),
        page_out_w=(above["page_out"], f"{source} of writing pages, less idle_w"),
    )


def _assumed(why: str) -> Power:
    threads = torch.get_num_threads()
    core = f"{ASSUMED_CORE_W:g} W for a busy core"
    paging = (ASSUMED_CORE_W, f"assumption: {core} that encrypts and copies; {why}")
    return Power(
        idle_w=(ASSUMED_IDLE_W, f"assumption: {ASSUMED_IDLE_W:g} W; {why}"),
        compute_w=(ASSUMED_CORE_W * threads, f"assumption: {core}, {threads} thread(s); {why}"),
        page_in_w=paging,
        page_out_w=paging,
    )


def _watts(meter: Meter, clock: Clock, run: Callable[[], object]) -> float:
    start_j, start_s = meter.joules(), clock()
    while clock() - start_s < POWER_WINDOW_S:
        run()
    return (meter.joules() - start_j) / (clock() - start_s)


def link(line: Line, watts: float) -> PageLink:
    """A page link that transfers as fast as the line says."""
    return PageLink(latency_s=line.latency_s, bytes_per_s=line.bytes_per_s, watts=watts)


def processor(root: Path = Path("/")) -> str:
    """The processor's name, as the system has it."""
    try:
        lines = (root / "proc" / "cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith(("model name", "Model"))]
    return next(filter(None, names), platform.machine() or "unknown processor")


def _storage(folder: Path, root: Path) -> str:
    """The file system that holds a folder, and what its page cache means for the figures."""
    kind = "unknown"
    place = folder.resolve()
    try:
        mounts = [x.split() for x in (root / "proc" / "mounts").read_text().splitlines()]
    except OSError:
        mounts = []
    held = [m for m in mounts if len(m) > 2 and place.is_relative_to(m[1])]
    if held:
        kind = max(held, key=lambda m: len(m[1]))[2]
    if kind in ("tmpfs", "ramfs"):
        return f"on {kind}, WHICH IS RAM: give a folder on storage"
    return f"on {kind} and in the system's page cache, which takes RAM if there is any"
