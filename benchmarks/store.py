"""Throughput of the page store, as a ratio to the same file without encryption.

    python -m benchmarks.store [--folder DIR]

Pages of three sizes are written and read back, by the store and by plain writes and reads of the same
bytes at the same offsets, taking turns. `cached`: as training uses it, where the operating system keeps
what it can of the file in RAM. `synced`: every page is forced onto the storage and read from there again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from client.page_store import Page, PageStore

PAGES = (64 * 1024, 1024 * 1024, 16 * 1024 * 1024)
TOTAL_BYTES = 64 * 1024 * 1024


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plain_write(file: int, pages: list[memoryview]) -> None:
    offset = 0
    for data in pages:
        offset += os.pwrite(file, data, offset)


def plain_read(file: int, pages: list[memoryview]) -> None:
    offset = 0
    for data in pages:
        offset += os.preadv(file, [data], offset)


def write(store: PageStore, pages: list[memoryview], written: list[Page]) -> None:
    written[:] = [store.write(k, data) for k, data in enumerate(pages)]


def read(store: PageStore, pages: list[memoryview], written: list[Page]) -> None:
    for page, data in zip(written, pages, strict=True):
        store.read(page, data)


def synced(file: int, work: Callable[[], None], on_storage: bool) -> None:
    work()
    if on_storage:
        os.fdatasync(file)


def uncached(file: int, on_storage: bool) -> None:
    """Let the operating system forget the file, so that it has to read it."""
    if on_storage:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def measured(folder: Path, size: int, rounds: int, on_storage: bool) -> tuple[float, ...]:
    """MB/s of writing and reading: plain, plain, encrypted, encrypted."""
    pages = [memoryview(bytearray(os.urandom(size))) for _ in range(TOTAL_BYTES // size)]
    samples: list[tuple[float, ...]] = []
    with PageStore(folder / "encrypted") as store:
        file = store._file  # noqa: SLF001 (what is compared is the file, not the store's interface)
        plain = os.open(folder, os.O_TMPFILE | os.O_RDWR)
        for _ in range(rounds):
            written: list[Page] = []
            plain_writes = partial(plain_write, plain, pages)
            writes = partial(write, store, pages, written)
            times = [
                seconds(partial(synced, plain, plain_writes, on_storage)),
                seconds(partial(synced, file, writes, on_storage)),
            ]
            for one in (plain, file):
                uncached(one, on_storage)
            times.insert(1, seconds(partial(plain_read, plain, pages)))
            times.append(seconds(partial(read, store, pages, written)))
            samples.append(tuple(times))
            for page in written:
                store.drop(page)
        os.close(plain)
    return tuple(TOTAL_BYTES / 1e6 / statistics.median(one) for one in zip(*samples, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{'pages':>10} {'':7} {'plain MB/s':>17} {'encrypted MB/s':>17} {'ratio':>11}")
    print(
        f"{'':10} {'':7} {'write':>8} {'read':>8} {'write':>8} {'read':>8} {'write':>5} {'read':>5}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for on_storage in (False, True):
            for size in PAGES:
                a, b, c, d = measured(Path(folder), size, options.rounds, on_storage)
                label = "synced" if on_storage else "cached"
                rates = f"{a:8.0f} {b:8.0f} {c:8.0f} {d:8.0f} {c / a:5.2f} {d / b:5.2f}"
                print(f"{size:10,} {label:7} {rates}", flush=True)


if __name__ == "__main__":
    main()
