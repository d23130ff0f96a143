"""Workers of this machine are out of the terminal's reach: only the driver ends them.

Ctrl-C, or a terminal that is closed, reaches every process of it, and would take the tiles in
flight with it.
"""

from __future__ import annotations

import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

__all__ = ["PRELOAD", "dask_setup", "shielded_loop"]

PRELOAD = __name__
"""What Dask is told to load in a worker."""


@contextmanager
def shielded_loop() -> Iterator[IOLoop]:
    """A running loop whose thread, and all processes that it starts, get no SIGINT and no SIGHUP.

    A process inherits which signals its starter blocks, so it is safe from its first instruction
    on. The thread's own process still gets the signal, in its main thread.
    """
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        # it unblocks SIGINT when it starts, in whichever thread first needs it; and it must outlive
        # a terminal that is closed
        _start_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()


def _start_tracker() -> None:
    """Start the process that frees what a killed driver leaves; it does so without a word."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def dask_setup(worker: Any) -> None:
    """Give a worker a session of its own: what is sent to the driver's group passes it by."""
    os.setsid()
