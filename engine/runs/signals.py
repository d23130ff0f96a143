"""How a driver is asked to end: Ctrl-C by people, SIGTERM by whoever runs pods and jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deaf", "draining", "unwinding"]

_ASKING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def draining(stop: Callable[[], None]) -> Iterator[None]:
    """The first signal drains, a second one breaks off; only the main thread may say so.

    Parameters
    ----------
    stop : called at the first signal; the run goes on until what is in flight is done.
    """
    if not _may():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ASKING}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def drain(*_: Any) -> None:
        restore()
        stop()

    for number in _ASKING:
        signal.signal(number, drain)
    try:
        yield
    finally:
        restore()


@contextmanager
def unwinding() -> Iterator[Callable[[], None]]:
    """SIGTERM breaks off as Ctrl-C does, so that workers are given back and locks let go.

    By default it ends a process on the spot, and the first process of a container not at all. A
    handler of the caller's own stays.

    Yields
    ------
    A function to call when the work is done: of signals that come later there is nothing to stop.
    """
    if not _may():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _ASKING}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    try:
        yield deaf
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deaf() -> None:
    """Pass over signals from here on: the work is done, and its process about to end."""
    if _may():
        for number in _ASKING:
            signal.signal(number, lambda *_: None)


def _may() -> bool:
    return threading.current_thread() is threading.main_thread()
