"""GPUs and the workers beside them: one process for each, and no process beside another's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distributed import Client, SpecCluster

from engine.clusters.settings import Group

__all__ = ["VISIBLE", "Seats", "asks_for_gpu", "dismiss", "gpus_here", "send_away"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
_REQUESTS = ("--gres=gpu", "--gres gpu", "--gpus", "-G", "--tres-per")


def gpus_here() -> list[str]:
    """The GPUs of this machine that its processes may use, as CUDA_VISIBLE_DEVICES names them.

    NVIDIA's driver is asked: torch, which knows better, costs a second.
    """
    told = os.environ.get(VISIBLE)
    if told == "" or shutil.which("nvidia-smi") is None:
        return []
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = sum(line.startswith("GPU ") for line in found.stdout.splitlines())
    if told is None or not count:
        return [str(number) for number in range(count)]
    names = []
    for name in map(str.strip, told.split(",")):
        # CUDA reads up to the first that is not there
        if not name or name.startswith("-") or (name.isdecimal() and int(name) >= count):
            break
        names.append(name)
    return names


class Seats:
    """Gives each worker of a host a GPU of its own, counted over all groups of workers."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, host: str, group: Group) -> dict[str, str]:
        """Environment of the host's next worker of a group: the GPUs that it may see.

        Where the group says that a host has fewer GPUs than workers, they share them in turn, and
        each takes its part of the memory.
        """
        if not group.gpus:
            return {VISIBLE: ""}
        number = self._taken[host]
        self._taken[host] += 1
        if group.gpus_of_host is None:
            return {VISIBLE: str(number)}
        share = -(-group.workers // group.gpus_of_host)
        return {
            VISIBLE: str(number % group.gpus_of_host),
            # what the libraries take beside PyTorch's own memory is left free
            "NATMAP_GPU_SHARE": f"{0.9 / share if share > 1 else 1:.3f}",
        }


def asks_for_gpu(directives: Sequence[str]) -> bool:
    """Whether SLURM's directives of a group ask for a GPU themselves."""
    return any(word in line for line in directives for word in _REQUESTS)


def send_away(client: Client, address: str) -> None:
    """Let a scheduler part with a worker at once; what it had in work runs elsewhere."""
    scheduler: Any = client.scheduler
    client.sync(
        scheduler.unregister,
        address=address,
        expected=True,  # else the death would be charged to its tiles
        close=True,
        stimulus_id=f"natmap-dismiss-{address}",
    )


def dismiss(cluster: SpecCluster, client: Client, address: str, name: str) -> None:
    """Send a worker away for good: no look at what is missing starts it again."""
    specs: dict[Any, Any] = cluster.worker_spec
    for key in [key for key in specs if str(key) == name]:
        specs.pop(key, None)
    send_away(client, address)
    cluster.scale(len(specs))  # which gives back the process, or the job, of what was taken out
