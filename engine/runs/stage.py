"""Stage: a pure kernel, what it reads with how wide a halo, and the arrays it writes.

The kernel gets a `TileTask`, reads windows from it and yields `Output`. It never sees Dask, the
ledger or another tile; so the same kernel serves a notebook.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import GridError, RunError
from engine.grid.area import parts_of
from engine.grid.grid import Grid, Tile
from engine.store.arrays import ArraySpec
from engine.store.ledger import Flag

if TYPE_CHECKING:
    from engine.runs.task import TileTask

__all__ = ["Input", "Output", "Part", "Stage", "link"]

NO_FLAGS = Flag(0)


@dataclass(frozen=True)
class Part:
    """What a stage takes from outside the store for one tile (and one day).

    Parameters
    ----------
    index : int
        Position on the time axis for a daily stage, else 0.
    fingerprint : bytes
        Of all in `payload` that decides the result.
    payload : object
        Picklable; handed to the kernel as it is.
    """

    index: int = 0
    fingerprint: bytes = b""
    payload: Any = None


@dataclass(frozen=True)
class Input:
    """An upstream stage and how many metres around its tile a kernel reads of it."""

    stage: str
    halo: float = 0.0


@dataclass(frozen=True)
class Output:
    """What a kernel made of one tile (and day).

    Parameters
    ----------
    arrays : mapping of array path to ndarray
        One for each of the stage's outputs, of the tile's own shape.
    part : int
        The part it belongs to.
    flags : Flag
        Gaps, for the ledger.
    note : str or None
        What went wrong where something did.
    bytes_read : int
        Of images, from outside the store.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    part: int = 0
    flags: Flag = NO_FLAGS
    note: str | None = None
    bytes_read: int = 0


@dataclass(frozen=True)
class Stage:
    """One step of a product.

    Parameters
    ----------
    name : str
        Also its row in the ledger.
    kernel : callable of TileTask giving Outputs
        Picklable (a module's function, or a frozen dataclass with ``__call__``).
    outputs : tuple of ArraySpec
    inputs : tuple of Input
    version : int
        Raised whenever the kernel's result changes.
    parameters : mapping
        JSON values that decide the result; in the fingerprint.
    parts : callable of Tile giving Parts, optional
        What comes from outside the store; by default one empty part.
    outside : str
        What the parts are, for people: item, boundary.
    upstream : str
        What it means, for people, that inputs differ before anything ran.
    daily : bool
        True where each part is a day of the time axis with a ledger row of its own.
    resource : {"cpu", "gpu", "auto"}
        What a worker must offer; auto: a GPU where the cluster has any, decided once it is open.
    gigabytes : float
        Memory that a task needs at most.
    guess : float, optional
        Seconds that two cores take for a square kilometre, where no run has told yet.
    reads : float
        Bytes of images that a square metre takes, likewise, of a stage whose outputs do not tell.
    cell : float, optional
        In which the area is measured for it, in metres: a cell belongs to the area when its centre
        does. By default the run's, where that is a whole number of the stage's pixels; else the
        stage's coarsest pixel.
    """

    name: str
    kernel: Callable[[TileTask], Iterable[Output]]
    outputs: tuple[ArraySpec, ...]
    inputs: tuple[Input, ...] = ()
    version: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[Tile], Sequence[Part]] | None = None
    outside: str = "item"
    upstream: str = "changed input"
    daily: bool = False
    resource: Literal["cpu", "gpu", "auto"] = "cpu"
    gigabytes: float = 1.0
    guess: float | None = None
    reads: float = 0.0
    cell: float | None = None

    def __post_init__(self) -> None:
        strange = [spec.path for spec in self.outputs if spec.group != self.name]
        if strange or any(spec.daily != self.daily for spec in self.outputs):
            raise RunError(
                f"outputs of stage {self.name} do not belong to it",
                got=strange or "daily and undated arrays mixed",
                expected=f"arrays in group {self.name}, daily={self.daily}",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Version and parameters, as JSON gives them back."""
        found: dict[str, Any] = json.loads(
            json.dumps({"code version": self.version, **self.parameters}, sort_keys=True)
        )
        return found

    @property
    def fingerprint(self) -> bytes:
        """Eight bytes over name, version and parameters."""
        text = json.dumps([self.name, self.version, dict(self.parameters)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    def parts_of(self, tile: Tile) -> tuple[Part, ...]:
        """The tile's parts, by index."""
        if self.parts is None:
            return (Part(),)
        return tuple(sorted(self.parts(tile), key=lambda part: part.index))


@dataclass(frozen=True)
class Links:
    """What follows from the stages taken together, by stage name.

    Attributes
    ----------
    reach : metres around the area on which a stage must be defined (halos downstream, summed).
    border : metres of a tile's edge that a neighbour reads.
    cell : metres in which the area is measured for it.
    consumers : stages that read it, with their halo.
    """

    reach: dict[str, float]
    border: dict[str, float]
    cell: dict[str, float]
    consumers: dict[str, list[tuple[str, float]]]


def link(stages: Sequence[Stage], grid: Grid, cell: float) -> Links:
    """Derive reach, border and cell of every stage from the halos downstream of it.

    Parameters
    ----------
    stages : in the order of the data's flow.
    grid : Grid
    cell : in which the run's area is measured, in metres.

    Raises
    ------
    RunError
        Where stages are out of order, or a halo is wider than a tile.
    GridError
        Where a tile is not a whole number of a stage's cells, or a cell of its pixels.
    """
    cells = {stage.name: _cell_of(stage, cell) for stage in stages}
    _require_whole(stages, cells, grid)
    names = [stage.name for stage in stages]
    reach, border = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    consumers: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
    for position in range(len(stages) - 1, -1, -1):
        stage = stages[position]
        for source in stage.inputs:
            if source.stage not in names[:position]:
                raise RunError(
                    f"stage {stage.name} reads a stage that does not come before it",
                    got=source.stage,
                    expected=names[:position],
                )
            if source.halo > grid.tile_size:
                raise RunError(
                    f"the halo of stage {stage.name} is wider than a tile",
                    got=f"{source.halo:g} m, tiles of {grid.tile_size:g} m",
                    remedy="choose a larger grid.tile",
                )
            consumers[source.stage].append((stage.name, source.halo))
            border[source.stage] = max(border[source.stage], source.halo)
            reach[source.stage] = max(reach[source.stage], reach[stage.name] + source.halo)
    return Links(reach, border, cells, consumers)


def _cell_of(stage: Stage, cell: float) -> float:
    sides = [spec.resolution for spec in stage.outputs]
    if stage.cell is None:
        return cell if all(parts_of(cell, side) for side in sides) else max(sides)
    return stage.cell


def _require_whole(stages: Sequence[Stage], cells: Mapping[str, float], grid: Grid) -> None:
    """Every tile is a whole number of every stage's cells: no cell is cut by a tile's edge."""
    for stage in stages:
        for spec in stage.outputs:
            if parts_of(cells[stage.name], spec.resolution) is None:
                raise GridError(
                    f"a cell of stage {stage.name} is not a whole number of its pixels",
                    got=f"cells of {cells[stage.name]:g} m, {spec.path} of {spec.resolution:g} m",
                    expected=f"a multiple of {spec.resolution:g} m",
                    remedy="give the stage a cell that its pixels divide",
                )
    cut = [name for name, side in cells.items() if parts_of(grid.tile_size, side) is None]
    if cut:
        whole = math.lcm(*(max(round(1000 * side), 1) for side in cells.values())) / 1000
        raise GridError(
            f"a tile is not a whole number of the cells of stage {', '.join(cut)}",
            got=f"tiles of {grid.tile_size:g} m, cells of "
            + ", ".join(f"{cells[name]:g} m" for name in cut),
            expected=f"a multiple of {whole:g} m",
            remedy=f"set grid.tile to {max(round(grid.tile_size / whole), 1) * whole:g} m, in "
            "pixels of grid.resolution",
        )


def pixels(metres: float, resolution: float) -> int:
    """Whole pixels that cover a length."""
    return int(np.ceil(metres / resolution - 1e-9))
