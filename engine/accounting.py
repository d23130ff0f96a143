"""Where the time of a task goes: seconds, CPU seconds and bytes of its steps.

Code that reads, computes or writes says what it does (`spent`); who runs a task opens an account
(`Account.open`) and reads it when the task has ended. Without an account nothing is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Literal, NamedTuple, TypeVar, get_args

__all__ = ["STEPS", "Account", "Pool", "Spent", "Step", "add", "spent"]

T = TypeVar("T")

Step = Literal[
    "search",
    "sign",
    "network",
    "read",
    "warp",
    "mask",
    "composite",
    "load",
    "prepare",
    "forward",
    "blend",
    "write",
    "commit",
    "other",
]
"""What a task does: `search` a catalogue; `sign` addresses; wait for the `network`; `read` files
and decode them; `warp` them to the grid; `mask` clouds; `composite` days; `load` arrays of the
store; `prepare` a network's input; run it `forward`; `blend` windows, classes and shares; `write`
and digest arrays; `commit`; and what is none of these."""

STEPS: tuple[Step, ...] = get_args(Step)


class Spent(NamedTuple):
    """What a step took.

    Attributes
    ----------
    seconds : of all threads together, waiting included; so they may exceed the task's own.
    cpu : CPU seconds.
    bytes : that it moved, where it moves any.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    bytes: int = 0

    def __add__(self, other: object) -> Spent:
        if not isinstance(other, Spent):
            return NotImplemented
        return Spent(self.seconds + other.seconds, self.cpu + other.cpu, self.bytes + other.bytes)


class Account:
    """Sums of one task, from any of its threads.

    Attributes
    ----------
    cpu : CPU seconds of the process while the account was open. Of several that are open at once
        each has an equal share, so that the sum over all is what the process took.
    """

    def __init__(self) -> None:
        self.cpu = 0.0
        self._steps: dict[Step, Spent] = {}
        self._lock = threading.Lock()

    def add(self, step: Step, seconds: float = 0.0, cpu: float = 0.0, size: int = 0) -> None:
        """Add to a step."""
        with self._lock:
            self._steps[step] = self._steps.get(step, Spent()) + Spent(seconds, cpu, size)

    def steps(self, seconds: float) -> dict[Step, Spent]:
        """What each step took of a task that took so many `seconds`.

        ``other`` is what no step explains. CPU of threads that belong to libraries, such as those
        that compress arrays, cannot be told apart and is in it.
        """
        with self._lock:
            found = dict(self._steps)
        known = sum(found.values(), Spent())
        rest = Spent(max(seconds - known.seconds, 0.0), max(self.cpu - known.cpu, 0.0), 0)
        if any(rest):
            found["other"] = rest + found.get("other", Spent())
        return {step: found[step] for step in STEPS if step in found}

    @contextmanager
    def open(self) -> Iterator[Account]:
        """Let `spent` count here, in this thread and in those of its pools (`Pool`)."""
        token = _current.set(self)
        _process.enter(self)
        try:
            yield self
        finally:
            _process.leave(self)
            _current.reset(token)


class _Process:
    """Shares the CPU time of this process among the accounts that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Account] = []
        self._seen = 0.0

    def enter(self, account: Account) -> None:
        with self._lock:
            self._share()
            self._open.append(account)

    def leave(self, account: Account) -> None:
        with self._lock:
            self._share()
            self._open.remove(account)

    def _share(self) -> None:
        now = time.process_time()
        for account in self._open:
            account.cpu += (now - self._seen) / len(self._open)
        self._seen = now


_process = _Process()
_current: ContextVar[Account | None] = ContextVar("account", default=None)
_innermost = threading.local()


class spent:  # noqa: N801  # it reads as a statement: `with spent("warp"):`
    """Count the body as a step for whatever account is open; a step within it counts for itself.

    Parameters
    ----------
    step : what the body does.
    size : bytes that it moves.
    """

    __slots__ = ("_account", "_began", "_cpu", "_inner", "_inner_cpu", "_outer", "size", "step")

    def __init__(self, step: Step, size: int = 0) -> None:
        self.step, self.size = step, size

    def __enter__(self) -> spent:
        self._account = _current.get()
        if self._account is not None:
            self._outer: spent | None = getattr(_innermost, "step", None)
            _innermost.step = self
            self._inner = self._inner_cpu = 0.0
            self._began, self._cpu = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self._account is None:
            return
        seconds, cpu = time.perf_counter() - self._began, time.thread_time() - self._cpu
        outer = _innermost.step = self._outer
        if outer is not None:
            outer._inner += seconds
            outer._inner_cpu += cpu
        # inner connections may have waited side by side, for longer than this step took
        own = max(seconds - self._inner, 0.0), max(cpu - self._inner_cpu, 0.0)
        self._account.add(self.step, *own, self.size)


def add(step: Step, seconds: float = 0.0, size: int = 0) -> None:
    """Count what was measured elsewhere; taken from the step that is being counted here."""
    account = _current.get()
    if account is None:
        return
    account.add(step, seconds, 0.0, size)
    outer: spent | None = getattr(_innermost, "step", None)
    if outer is not None:
        outer._inner += seconds


class Pool(ThreadPoolExecutor):
    """Threads whose work counts for the account of whoever hands it to them."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As `ThreadPoolExecutor.submit`."""
        return super().submit(copy_context().run, fn, *args, **kwargs)
