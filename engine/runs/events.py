"""What a run tells its listeners: the progress bar, the log, the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.accounting import Spent, Step
from engine.grid.grid import Tile
from engine.runs.usage import Usage

__all__ = [
    "Committed",
    "Event",
    "Listener",
    "PlainCluster",
    "RunFinished",
    "RunStarted",
    "Silence",
    "Stopping",
    "TileBlocked",
    "TileDone",
    "TileFailed",
    "TileRetried",
    "TileSlow",
    "WorkerRetired",
    "WorkerSilent",
    "WorkersLost",
]


@dataclass(frozen=True)
class RunStarted:
    """`open` tiles are not settled, over all stages; not all of them need prove stale.

    `dashboard` is the address of Dask's, where it has one.
    """

    run: str
    open: int
    dashboard: str | None = None


@dataclass(frozen=True)
class PlainCluster:
    """The scheduler at `address` asks nobody for a certificate."""

    address: str


@dataclass(frozen=True)
class TileDone:
    """A tile came back from its worker; `note` tells of gaps.

    Bytes are those of images that were read, and of chunks as they are stored; `spent` is what each
    step of the work took, `cpu` CPU seconds of all threads, `megabytes` the most memory that the
    worker has had, and `square_km` the tile's ground (of several days as often).
    """

    stage: str
    tile: Tile
    seconds: float
    bytes_read: int
    bytes_written: int
    note: str | None = None
    spent: Mapping[Step, Spent] = field(default_factory=dict)
    cpu: float = 0.0
    megabytes: int = 0
    square_km: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class TileRetried:
    """A tile failed and will be tried again."""

    stage: str
    tile: Tile
    attempt: int
    error: str


@dataclass(frozen=True)
class TileFailed:
    """A tile failed for good in this run."""

    stage: str
    tile: Tile
    error: str


@dataclass(frozen=True)
class TileBlocked:
    """A tile cannot run because what it is made from failed."""

    stage: str
    tile: Tile


@dataclass(frozen=True)
class Committed:
    """`tiles` more are safe; `open` are left.

    `rate` is that of the run so far in km2 a second, `limiting` the step that takes the most of
    the workers' time.
    """

    tiles: int
    open: int
    seconds: float
    rate: float = 0.0
    limiting: str | None = None


@dataclass(frozen=True)
class WorkersLost:
    """No worker is left; new ones were asked for."""


@dataclass(frozen=True)
class Silence:
    """No tile came back for `seconds`; `tiles` are the stages and tiles sent longest ago."""

    seconds: float
    tiles: tuple[tuple[str, Tile], ...]


@dataclass(frozen=True)
class TileSlow:
    """A worker has had a tile for `seconds`, far longer than others of its stage took."""

    stage: str
    tile: Tile
    worker: str
    seconds: float


@dataclass(frozen=True)
class WorkerSilent:
    """A worker has given no sign of life for `seconds`: it is frozen, or cut off."""

    worker: str
    address: str
    seconds: float
    tiles: tuple[tuple[str, Tile], ...]


@dataclass(frozen=True)
class WorkerRetired:
    """A worker's GPU failed; it takes no further tile, and the one that it had is not charged."""

    worker: str
    address: str
    error: str


@dataclass(frozen=True)
class Stopping:
    """No new tiles are started; `in_flight` are waited for."""

    in_flight: int


@dataclass(frozen=True)
class RunFinished:
    """The end: how many tiles ran, failed, were blocked, and whether it was stopped before."""

    done: int
    failed: int
    blocked: int
    stopped: bool
    seconds: float
    usage: Usage | None = None


Event = (
    RunStarted
    | PlainCluster
    | TileDone
    | TileRetried
    | TileFailed
    | TileBlocked
    | Committed
    | WorkersLost
    | Silence
    | TileSlow
    | WorkerRetired
    | WorkerSilent
    | Stopping
    | RunFinished
)
Listener = Callable[[Event], None]
