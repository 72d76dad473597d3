"""What the coordinator's process asks of its system: freed memory back, and files for all connections."""

from __future__ import annotations

import contextlib
import ctypes
import resource

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
OWN_BYTES = 2**20


def give_freed_arrays_back() -> None:
    """Have every block of a megabyte or more be the system's own again as soon as it is freed.

    glibc raises that limit to 32 MiB once such blocks are freed, and keeps holes of a model's size. No
    other C library is touched.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_BYTES)


def allow_many_connections() -> None:
    """Take as many open files as the system lets this process have; each connection of a device is one.

    A shell's own limit is often 1,024, at which a coordinator with 1,000 devices could not open its journal.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
