"""What a cluster is made of: a word, an address, or a settings file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from dask.utils import parse_bytes
from pydantic import Field, model_validator

from engine.errors import RecipeError, RunError
from engine.recipes.base import Strict, read_recipe

__all__ = ["ClusterSettings", "Group", "Tls", "load_cluster", "require_memory"]

_ADDRESS = re.compile(r"^(tcp|tls)://[^/\s@?]+:\d+$")
_WORDS = ("local", "slurm", "kubernetes", "ssh")


class Tls(Strict):
    """Certificates that scheduler, workers and driver show each other; files in PEM form."""

    ca: str
    cert: str
    key: str


class Group(Strict):
    """Workers of one kind. Each has one task slot, and one more beside a GPU to read ahead."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    workers: int = Field(1, ge=1, description="jobs, pods, or workers on each host")
    cores: int = Field(2, ge=1, description="of one worker")
    memory: str = Field("8GB", description="of one worker, as in 16GB")
    gpus: int = Field(0, ge=0, le=1, description="1: this group takes the GPU stages")
    hosts: tuple[str, ...] = Field((), description="ssh only")
    gpus_of_host: int | None = Field(
        None,
        ge=1,
        description="ssh only: GPUs of each host, where its workers are more and share them; by "
        "default each worker has one of its own",
    )
    queue: str | None = Field(None, description="slurm only: the partition")
    account: str | None = Field(None, description="slurm only")
    walltime: str | None = Field(None, description="slurm only, as in 04:00:00")
    directives: tuple[str, ...] = Field((), description="slurm only: more #SBATCH lines")
    prologue: tuple[str, ...] = Field((), description="slurm only: shell lines before the worker")

    @property
    def gigabytes(self) -> float:
        """Memory of one worker."""
        return float(parse_bytes(self.memory)) / 1e9

    @property
    def slots(self) -> int:
        """Tasks that a worker has at once."""
        return 2 if self.gpus else 1

    @model_validator(mode="after")
    def _shared(self) -> Group:
        if self.gpus_of_host is not None and not (self.gpus and self.hosts):
            raise ValueError("gpus_of_host: goes with gpus: 1 and hosts")
        return self


class ClusterSettings(Strict):
    """A cluster. Credentials for stores and catalogues are the workers' own environment."""

    kind: Literal["local", "slurm", "kubernetes", "ssh", "address"]
    address: str | None = Field(None, description="address only: tcp://host:port or tls://")
    interface: str | None = Field(None, description="network that all hosts share, as in ib0")
    host: str | None = Field(
        None, description="name or address under which workers find the driver"
    )
    port: int = Field(0, ge=0, le=65535, description="of the scheduler; 0: any")
    tls: bool | Tls = Field(
        True,
        description="true: certificates made for this run; false: whoever reaches the ports of "
        "scheduler and workers can run code as their user",
    )
    folder: str | None = Field(
        None,
        description="slurm, ssh: shared by all hosts, for certificates and logs; by default "
        "~/natmap-slurm or ~/natmap-ssh",
    )
    groups: tuple[Group, ...] = ()
    patience: float = Field(3600, gt=0, description="seconds that workers may wait in a queue")
    image: str | None = Field(None, description="kubernetes only: container image with natmap")
    namespace: str = Field("default", description="kubernetes only")
    secret: str | None = Field(None, description="kubernetes only: environment of the workers")

    @property
    def protocol(self) -> str:
        """How scheduler and workers of a cluster that natmap starts are spoken to."""
        return "tls://" if self.tls else "tcp://"

    @property
    def shared(self) -> Path | None:
        """The folder that all hosts share; None where this cluster needs none.

        By default in the user's home, which SLURM's hosts share as a rule: a job's log that
        points into the driver's own /tmp is lost on every other host.
        """
        if self.kind not in ("slurm", "ssh"):
            return None
        if self.folder is None and self.kind == "ssh" and self.tls is not True:
            return None
        return Path(self.folder or f"~/natmap-{self.kind}").expanduser()

    @model_validator(mode="after")
    def _whole(self) -> ClusterSettings:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("address: is for kind address, which needs it")
        if self.address is not None and not _ADDRESS.match(self.address):
            raise ValueError("address: must be tcp://host:port or tls://host:port")
        secure = self.address is not None and self.address.startswith("tls://")
        if secure and not isinstance(self.tls, Tls):
            raise ValueError("tls: a tls:// scheduler needs tls: {ca, cert, key}")
        if self.kind == "address" and "tls" in self.model_fields_set and self.tls and not secure:
            raise ValueError("tls: a scheduler with TLS has an address of tls://host:port")
        if self.kind in ("slurm", "ssh", "kubernetes") and not self.groups:
            raise ValueError(f"groups: {self.kind} needs at least one")
        if self.kind == "ssh" and not all(group.hosts for group in self.groups):
            raise ValueError("groups: ssh needs hosts in each group")
        if self.kind == "kubernetes" and not self.image:
            raise ValueError("image: kubernetes needs one")
        if self.kind != "ssh" and any(group.gpus_of_host for group in self.groups):
            raise ValueError("groups: gpus_of_host is for kind ssh")
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("groups: two have one name")
        return self


def load_cluster(text: str, workers: int | None = None) -> ClusterSettings:
    """Settings from what ``--cluster`` was given.

    Parameters
    ----------
    text : ``local``, ``slurm`` (one group of plain workers in the default partition), an address,
        or a settings file; ``deploy/`` has one for each kind.
    workers : of ``--workers``, for the words; a file says it itself.

    Raises
    ------
    RecipeError
    """
    if text == "local":
        return ClusterSettings(kind="local")
    if text == "slurm":
        group = Group(name="workers", workers=workers or 2)
        return ClusterSettings(kind="slurm", groups=(group,))
    if _ADDRESS.match(text):
        if text.startswith("tls://"):
            raise RecipeError(
                "a scheduler with TLS needs certificates",
                got=text,
                remedy="--cluster FILE with kind: address, address: …, tls: {ca, cert, key}",
            )
        return ClusterSettings(kind="address", address=text)
    if text in _WORDS or not Path(text).is_file():
        raise RecipeError(
            "there is no such cluster" if text not in _WORDS else f"{text} needs a settings file",
            got=text,
            expected="local, slurm, tcp://host:port, or a settings file",
            remedy="--cluster FILE; deploy/ has one to start from for each kind",
        )
    found = read_recipe(ClusterSettings, Path(text), template="cluster")
    if isinstance(found.tls, Tls):
        base = Path(text).resolve().parent
        paths = {name: str(base / path) for name, path in found.tls.model_dump().items()}
        for name, path in paths.items():
            if not Path(path).is_file():
                raise RecipeError(f"tls.{name}: there is no such file", got=path)
        found = found.model_copy(update={"tls": Tls(**paths)})
    return found


def require_memory(settings: ClusterSettings, gigabytes: float | None) -> None:
    """Refuse groups whose workers are too small for the widest task.

    Raises
    ------
    RunError
    """
    for group in settings.groups:
        if gigabytes is not None and gigabytes * group.slots > group.gigabytes:
            at_once = f", of which it has {group.slots} at once" if group.slots > 1 else ""
            raise RunError(
                "a task needs more memory than a worker has",
                got=f"{gigabytes:.1f} GB for a task, {group.memory} for a worker of {group.name}"
                + at_once,
                remedy="give the group more memory, or choose a smaller grid.tile",
            )
