"""How a driver is asked to end: Ctrl-C by people, SIGTERM by whoever runs pods and jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["draining", "unwinding"]

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
def unwinding() -> Iterator[None]:
    """SIGTERM breaks off as Ctrl-C does, so that workers are given back and locks let go.

    By default it ends a process on the spot, and the first process of a container not at all. A
    handler of the caller's own stays.
    """
    if not _may() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _may() -> bool:
    return threading.current_thread() is threading.main_thread()
