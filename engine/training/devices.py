"""Training on one device, or on several with a process for each."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessRaisedException

from engine.errors import RunError

__all__ = ["add_up", "spread"]

Job = TypeVar("Job")
Found = TypeVar("Found")
Tell = Callable[[Any], None]
Step = Callable[[int, int, int], None]


def spread(
    work: Callable[[Fabric, Job, Tell, Step], Found],
    job: Job,
    device: str,
    devices: int,
    precision: str,
    tell: Tell,
    step: Step,
) -> Found:
    """Run a training's loop on so many devices.

    Parameters
    ----------
    work : the loop, a module's function; of several processes the first one's answer counts.
    job : what it works on; picklable.
    device : "auto", "cpu" or "cuda"; devices : how many.
    precision : "float32" or "bfloat16".
    tell, step : hear what the loop, of the first process, says.

    Raises
    ------
    RunError
        Where a process of several fails.
    """
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        strategy="ddp_spawn" if devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        # one process that starts its own: a job of SLURM's is no reason to take its tasks for ours
        plugins=LightningEnvironment(),
    )
    if devices == 1:
        fabric.launch()
        return work(fabric, job, tell, step)
    queue = get_context("spawn").SimpleQueue()  # a callback cannot go to another process

    def listen() -> None:
        while (heard := queue.get()) is not None:
            if len(heard) == 1:
                tell(*heard)
            else:
                step(*heard)

    listener = Thread(target=listen, daemon=True)
    listener.start()
    launch: Any = fabric.launch
    try:
        found: Found = pickle.loads(
            launch(partial(_one, work, job, queue))
        )  # our own process wrote it
    except ProcessRaisedException as error:
        raise RunError(
            "training on several devices failed",
            got=str(error).strip().splitlines()[-1],
            remedy="try it with training.devices: 1, which says more",
        ) from error
    finally:
        queue.put(None)
        listener.join()
    return found


def _one(
    work: Callable[[Fabric, Job, Tell, Step], Found], job: Job, queue: Any, fabric: Fabric
) -> bytes:
    """One of several processes. Its answer is bytes: the library takes all else apart."""
    if not fabric.is_global_zero:
        work(fabric, job, lambda heard: None, lambda epoch, batch, batches: None)
        return b""
    found = work(fabric, job, lambda heard: queue.put((heard,)), lambda *heard: queue.put(heard))
    return pickle.dumps(found)


def add_up(fabric: Fabric, value: float) -> float:
    """The sum over all processes."""
    if fabric.world_size == 1:
        return value
    total: Any = fabric.all_reduce(torch.tensor(value, dtype=torch.float64), reduce_op="sum")
    return float(total)
