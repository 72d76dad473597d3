"""How pages move beside compute, and the threads that move those of a page store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor

from .layout import raw
from .page_store import Page, PageStore

# A worker copies and encrypts; Python's default of 8 MiB would count against a hard memory limit.
STACK_BYTES = 512 * 1024

T = TypeVar("T")

# A page that is being written, or has been; its result raises what writing it raised.
Writing: TypeAlias = Future[Page]
Reading: TypeAlias = Future[None]


class Transfer(Protocol):
    """A page on its way. On a device, what has `result` called before it runs after the page has moved."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self) -> object:
        """Wait for its end. Raises what it raised."""

    def exception(self) -> BaseException | None:
        """Wait for its end; what it raised, if anything."""


class Transfers(Protocol):
    """Moves the storages of tensors to where pages are kept, and back.

    A tensor's memory must stay, and its content stay as it is, until its transfer has ended. Methods
    may raise PageStoreError, or their transfers do.
    """

    def write(self, k: int, tensor: Tensor) -> Transfer:
        """Write a tensor's storage, once all reads before this that drop their page have made room."""

    def copy_out(self, k: int, tensor: Tensor) -> Transfer:
        """Write a tensor's storage beside the writes of the plan."""

    def read(self, page: Any, tensor: Tensor, *, drop: bool) -> Transfer:
        """Fill a tensor's storage from a page, once it is written; `drop` gives its room back then."""

    def drop(self, page: Any) -> None:
        """Make the room of a page free, after its writing has ended; one that failed has none."""

    def require_done(self) -> None:
        """Wait until everything has ended. Raises what the first that failed has raised."""

    def settle(self) -> None:
        """Wait until everything has ended, whatever came of it."""

    def close(self) -> None:
        """Give up what moves the pages, after what it was asked to do."""


class Pager:
    """One thread reads pages, one writes them, each in the order it was asked to; a third writes copies.

    Page-outs and page-ins of a plan wait for each other as `scheduler.overlap` says. Copies for the way
    back (`copy_out`) have a thread of their own, so that no page-out of the plan waits for all of them.
    A tensor's memory must stay, and its content stay as it is, until its future is done. Threads start
    when they are first needed. Only the owner's thread calls the methods.
    """

    def __init__(self, store: PageStore) -> None:
        self._store = store
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._pending: list[Future[Any]] = []
        self._room_given: Reading | None = None

    def write(self, k: int, tensor: Tensor) -> Writing:
        """By the writer's thread."""
        room_given = self._room_given

        def work(data: memoryview) -> Page:
            if room_given is not None:
                wait((room_given,))
            return self._store.write(k, data)

        return self._submit("writer", work, tensor)

    def copy_out(self, k: int, tensor: Tensor) -> Writing:
        """By the copier's thread."""
        return self._submit("copier", partial(self._store.write, k), tensor)

    def read(self, page: Writing, tensor: Tensor, *, drop: bool) -> Reading:
        """By the reader's thread."""

        def work(into: memoryview) -> None:
            written = page.result()
            self._store.read(written, into)
            if drop:
                self._store.drop(written)

        future = self._submit("reader", work, tensor)
        if drop:
            self._room_given = future
        return future

    def drop(self, page: Writing) -> None:
        """At once: it has been written."""
        if page.exception() is None:
            self._store.drop(page.result())

    def require_done(self) -> None:
        """Wait for all threads to be idle; raise what the first that failed has raised."""
        pending, self._pending = self._pending, []
        wait(pending)
        for future in pending:
            future.result()

    def settle(self) -> None:
        """Wait for all threads to be idle."""
        wait(self._pending)
        self._pending.clear()

    def close(self) -> None:
        """End the threads."""
        for worker in self._workers.values():
            worker.shutdown()
        self._workers.clear()

    def _submit(self, worker: str, work: Callable[[memoryview], T], tensor: Tensor) -> Future[T]:
        if worker not in self._workers:
            self._workers[worker] = _started(f"page-{worker}")
        future = self._workers[worker].submit(_without_hold, work, content(tensor))
        self._pending.append(future)
        return future


def _without_hold(work: Callable[[memoryview], T], data: memoryview) -> T:
    """Let go of the memory before anybody is told that the work is done, so that it can be freed."""
    result = work(data)
    data.release()
    return result


def _started(name: str) -> ThreadPoolExecutor:
    """A pool whose one thread runs already, with a small stack."""
    before = threading.stack_size(STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        pool.submit(int).result()
    finally:
        threading.stack_size(before)
    return pool


def content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's whole storage."""
    return raw(tensor).numpy().data
