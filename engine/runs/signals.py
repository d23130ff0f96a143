"""How a process is asked to end: Ctrl-C by people, SIGTERM by whoever runs pods and jobs, SIGHUP by
a terminal that is closed.

What is ignored stays ignored: SIGHUP under nohup, SIGINT of a shell's background jobs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deaf", "draining", "last_work", "listen", "unwinding"]

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_last = False


@contextmanager
def draining(stop: Callable[[], None]) -> Iterator[None]:
    """The first signal drains, a second one breaks off; only the main thread may say so.

    Parameters
    ----------
    stop : called at the first signal, between any two steps of what runs: it may set a flag, no
        more.
    """
    if not _may():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ASKING}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is drain:
                signal.signal(number, handler)

    def drain(*_: Any) -> None:
        restore()
        stop()

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, drain)
    try:
        yield
    finally:
        restore()


@contextmanager
def unwinding() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP break off as Ctrl-C does, so that workers are given back and locks let go.

    By default they end a process on the spot, and the first process of a container not at all. A
    handler of the caller's own stays.

    Yields
    ------
    A function to call when the work is done: of signals that come later there is nothing to stop.
    """
    if not _may():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _ASKING}
    finished = False

    def done() -> None:
        nonlocal finished
        finished = True
        deaf()

    listen()
    try:
        yield done
    finally:
        if not (finished and _last):
            for number, handler in before.items():
                signal.signal(number, handler)


def listen() -> None:
    """Let SIGTERM and SIGHUP break off as Ctrl-C does, where nobody has said otherwise."""
    if _may():
        for number in _ASKING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)


def last_work() -> None:
    """Say that the next work is the last of this process: once done, it stays deaf."""
    global _last
    _last = True


def deaf() -> None:
    """Pass over signals from here on: the work is done, and its process about to end.

    They are ignored by the system: a handler of Python's is gone before the interpreter is, and
    taking down what large libraries hold takes it a while.
    """
    if _may():
        for number in _ASKING:
            signal.signal(number, signal.SIG_IGN)


def _may() -> bool:
    return threading.current_thread() is threading.main_thread()
