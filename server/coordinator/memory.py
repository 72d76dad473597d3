"""How the process gives memory back that it has freed."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
OWN_BYTES = 2**20


def give_freed_arrays_back() -> None:
    """Have every block of a megabyte or more be the system's own again as soon as it is freed.

    glibc raises that limit to 32 MiB once such blocks are freed, and keeps holes of a model's size. No
    other C library is touched.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_BYTES)
