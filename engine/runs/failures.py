"""What a failed task means: its exception, a dead worker, a full disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import get_worker

from engine.errors import DeviceError, RunError, StoreError, first_line

__all__ = ["DIED", "as_device_error", "blaming_gpus", "error_of", "full", "is_full"]

DIED = "its worker died: out of memory, stopped from outside, or lost with its machine"
_OF_GPUS = (
    *("CUDA error", "CUDA driver error", "device-side assert", "Failed to initialize NVML"),
    *(
        "CUBLAS_STATUS_",
        "CUSOLVER_STATUS_",
        "CUFFT_",
        "CUDNN_STATUS_",
        "cuDNN error",
        "CUDNN error",
    ),
    *("CUDA failure", "CUDA out of memory", "No CUDA GPUs are available", "no CUDA-capable device"),
)
"""Words of PyTorch, onnxruntime and NVIDIA's libraries for what went wrong on a GPU."""
_NO_ROOM = ("No space left", "os error 28)", "Disk quota exceeded", "QuotaExceeded")


def error_of(result: Any) -> BaseException:
    """The exception of a failed future, in each form that distributed gives it."""
    if isinstance(result, BaseException):
        return result
    if isinstance(result, tuple) and len(result) > 1 and isinstance(result[1], BaseException):
        return result[1]
    return RunError("a task ended without a result", got=repr(result))


def as_device_error(error: BaseException) -> DeviceError | None:
    """What says that a worker's GPU failed, and whose; None of all other errors.

    It is told by words, as its classes would need torch; the driver need not have it.
    """
    if not isinstance(error, DeviceError) and not any(word in str(error) for word in _OF_GPUS):
        return None
    try:
        address, name = get_worker().address, str(get_worker().name)
    except ValueError:  # a kernel that runs on no worker, as in a notebook
        address = name = ""
    if isinstance(error, DeviceError):
        found = DeviceError(error.what, got=error.got, expected=error.expected, remedy=error.remedy)
    else:
        found = DeviceError(
            "the worker's GPU failed",
            got=first_line(error),
            remedy="look at the machine's driver and its log (nvidia-smi, dmesg)",
        )
    found.address, found.worker = address, name
    return found


@contextmanager
def blaming_gpus() -> Iterator[None]:
    """On a worker: what its GPU raises is told as the worker's fault, and not the tile's.

    Raises
    ------
    DeviceError
    """
    try:
        yield
    except Exception as error:
        broken = as_device_error(error)
        if broken is None:
            raise
        raise broken from error


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
