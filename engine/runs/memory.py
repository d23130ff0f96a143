"""A process's memory: how much it had at most, and the driver's heap, given back in time.

A driver makes and drops millions of small objects from many threads; glibc keeps a heap for each
thread and hands little of it back. Left alone, a driver of 60,000 tasks held twice what it used;
so it stays level however long a run is.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Heap", "bound_heap", "peak_megabytes"]

_ARENA_MAX = -8  # mallopt's M_ARENA_MAX
_EVERY = 10.0  # seconds
_STATUS = Path("/proc/self/status")


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    # on Linux getrusage passes a parent's peak on to its children, through fork and exec
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def bound_heap() -> Any:
    """Let threads share two heaps; returns glibc, or None elsewhere.

    The earlier the better: heaps that are there already stay.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 2)
        libc.malloc_trim  # noqa: B018  # not every C library with the one has the other
    except (OSError, TypeError, AttributeError):
        return None
    return libc


class Heap:
    """The process's heap; what is glibc's own is left out elsewhere."""

    def __init__(self) -> None:
        self._libc = bound_heap()
        self._trimmed = time.monotonic()

    def trim(self) -> None:
        """Hand back to the system what is free, at most every ten seconds."""
        if time.monotonic() - self._trimmed < _EVERY:
            return
        from dask.utils import key_split

        key_split.cache_clear()  # Dask remembers the last 100,000 keys it took apart
        if self._libc is not None:
            self._libc.malloc_trim(0)
        self._trimmed = time.monotonic()
