"""Where networks run: which device, how exactly it computes, and what its errors mean.

Only errors and words are looked at here, so that all of it runs on machines without a GPU too.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from engine.environment import number
from engine.errors import DeviceError
from engine.recipes.sections import Device

__all__ = ["be_exact", "choose_device", "is_out_of_memory", "name_of", "with_room"]

Found = TypeVar("Found")

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_NO_MEMORY = (
    "out of memory",  # of the allocator, and of CUDA itself
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says where its handle finds no room
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)


def choose_device(asked: Device) -> Literal["cpu", "cuda"]:
    """The device of this machine to run on.

    Raises
    ------
    DeviceError
        Where a GPU is asked for and PyTorch finds none.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        raise DeviceError(
            f"no GPU on {socket.gethostname()} that PyTorch can use",
            got="PyTorch without CUDA" if built is None else f"PyTorch for CUDA {built}, no GPU",
            expected="a GPU: device is cuda, or a worker offers one",
            remedy="install PyTorch with CUDA, or look at the GPU's driver and "
            "CUDA_VISIBLE_DEVICES; or set device to cpu",
        )
    return asked


def be_exact(*, strict: bool = True) -> None:
    """Let this process compute the same bits again: before its first product of matrices on a GPU.

    cuBLAS reads its workspace's form when it starts, so the variable is set first. TensorFloat-32
    is off: convolutions would take it by default, and round their inputs to 10 bits.

    Parameters
    ----------
    strict : an operation without a deterministic form on the device raises; else it warns.
    """
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    # as `use_deterministic_algorithms`, which imports torch's compiler: three seconds a process
    torch.set_deterministic_debug_mode("error" if strict else "warn")
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    share = number("NATMAP_GPU_SHARE")
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def name_of(device: str) -> str:
    """The kind of device, for the record: ``cpu``, or what its maker calls a GPU."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had too little memory, whichever of its libraries says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _NO_MEMORY)


def with_room(
    run: Callable[[int], Found], size: int, what: str, keep: Callable[[int], None]
) -> Found:
    """Run with as many at once as fit a GPU's memory: halved until they do.

    Parameters
    ----------
    run : of how many at once.
    size : to begin with.
    what : one of them is called, for the error.
    keep : hears of each smaller size, to begin with it the next time.

    Raises
    ------
    DeviceError
        Where not even one fits.
    """
    while True:
        try:
            return run(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise DeviceError(
                    f"one {what} does not fit the GPU's memory",
                    got=str(error).partition("\n")[0],
                    remedy="give the GPU to fewer processes, take one with more memory, or set "
                    "device to cpu",
                ) from error
        # Here, and not above: what the failed pass held is let go with the error's traceback.
        gc.collect()
        torch.cuda.empty_cache()
        size //= 2
        keep(size)
