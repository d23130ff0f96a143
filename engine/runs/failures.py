"""What a failed task means: its exception, a dead worker, a full disk."""

from __future__ import annotations

import errno
from typing import Any

from engine.errors import RunError, StoreError, first_line

__all__ = ["DIED", "error_of", "full", "is_full"]

DIED = "its worker died: out of memory, stopped from outside, or lost with its machine"
_NO_ROOM = ("No space left", "os error 28)", "Disk quota exceeded", "QuotaExceeded")


def error_of(result: Any) -> BaseException:
    """The exception of a failed future, in each form that distributed gives it."""
    if isinstance(result, BaseException):
        return result
    if isinstance(result, tuple) and len(result) > 1 and isinstance(result[1], BaseException):
        return result[1]
    return RunError("a task ended without a result", got=repr(result))


def is_full(error: BaseException) -> bool:
    """Whether a disk is full; what passes through other languages keeps only the words."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error) for word in _NO_ROOM)


def full(error: BaseException) -> StoreError:
    return StoreError(
        "no room is left on a disk; all that was committed is kept",
        got=first_line(error),
        remedy="make room where the store lies, or in the workers' scratch folder, then run the "
        "same command again; `natmap prune` frees what only old states need",
    )
