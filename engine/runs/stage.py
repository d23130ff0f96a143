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

__all__ = ["WHOLE", "Input", "Output", "Part", "Stage", "link"]

NO_FLAGS = Flag(0)
WHOLE = Tile(0, 0)
"""Where a stage of all of the area has its one task and its one record."""


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
    """An upstream stage and how much a kernel reads of it.

    Parameters
    ----------
    stage : str
    halo : float
        Metres around its tile.
    scope : {"tile", "area"}
        Area: the result of a stage of all of the area, for which the reader waits; or, read by
        such a stage, all tiles.
    days : (int, int), optional
        Of a daily stage, the first and the last index that is read; by default all days are.
    """

    stage: str
    halo: float = 0.0
    scope: Literal["tile", "area"] = "tile"
    days: tuple[int, int] | None = None

    def reads(self, index: int) -> bool:
        """Whether a part of the upstream stage is read."""
        return self.days is None or self.days[0] <= index <= self.days[1]


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
        stage's coarsest pixel; without pixels, that of what it reads.
    scope : {"tile", "area"}
        Area: one task for all of the area, once all tiles that it reads are settled, and one record
        (at `WHOLE`). It is made of the tiles that are there, and says of how many.
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
    scope: Literal["tile", "area"] = "tile"

    def __post_init__(self) -> None:
        if any((spec.extent == "area") != (self.scope == "area") for spec in self.outputs):
            raise RunError(
                f"outputs of stage {self.name} are of another extent",
                got=[f"{spec.path}: {spec.extent}" for spec in self.outputs],
                expected="those of a stage of scope area, and no others, of extent area",
            )
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
    consumers : stages that read it, and how.
    """

    reach: dict[str, float]
    border: dict[str, float]
    cell: dict[str, float]
    consumers: dict[str, list[tuple[str, Input]]]


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
        Where stages are out of order, a halo is wider than a tile, or tiles and a result of all
        of the area are taken for each other.
    GridError
        Where a tile is not a whole number of a stage's cells, or a cell of its pixels.
    """
    cells: dict[str, float] = {}
    for stage in stages:
        cells[stage.name] = _cell_of(stage, cell, cells)
    _require_whole(stages, cells, grid)
    known = {stage.name: stage for stage in stages}
    names = [stage.name for stage in stages]
    reach, border = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    consumers: dict[str, list[tuple[str, Input]]] = {name: [] for name in names}
    for position in range(len(stages) - 1, -1, -1):
        stage = stages[position]
        for source in stage.inputs:
            if source.stage not in names[:position]:
                raise RunError(
                    f"stage {stage.name} reads a stage that does not come before it",
                    got=source.stage,
                    expected=names[:position],
                )
            _require_scope(stage, source, known[source.stage])
            if source.halo > grid.tile_size:
                raise RunError(
                    f"the halo of stage {stage.name} is wider than a tile",
                    got=f"{source.halo:g} m, tiles of {grid.tile_size:g} m",
                    remedy="choose a larger grid.tile",
                )
            consumers[source.stage].append((stage.name, source))
            if source.scope == "area":
                continue  # who reads a result asks for no more ground
            border[source.stage] = max(border[source.stage], source.halo)
            reach[source.stage] = max(reach[source.stage], reach[stage.name] + source.halo)
    return Links(reach, border, cells, consumers)


def _require_scope(stage: Stage, source: Input, read: Stage) -> None:
    """Tiles read tiles, or a result; a stage of all of the area reads all of what it reads."""
    if source.scope == "tile" and "area" not in (stage.scope, read.scope):
        return
    if source.scope == "tile" or "area" not in (stage.scope, read.scope):
        raise RunError(
            f"stage {stage.name} cannot read {read.name} like this",
            got=f"Input(scope={source.scope!r}), stages of scope {stage.scope} and {read.scope}",
            expected="scope='area' where, and only where, one of both stages is of all of the area",
        )
    if source.halo or read.daily:
        raise RunError(
            f"stage {stage.name} cannot read {read.name} like this",
            got="days" if read.daily else f"a halo of {source.halo:g} m",
            expected="neither a halo nor days where all of the area is read",
        )


def _cell_of(stage: Stage, cell: float, cells: Mapping[str, float]) -> float:
    sides = [spec.resolution for spec in stage.outputs if spec.extent == "pixels"]
    if stage.cell is not None:
        return stage.cell
    if sides:
        return cell if all(parts_of(cell, side) for side in sides) else max(sides)
    return next((cells[source.stage] for source in stage.inputs if source.stage in cells), cell)


def _require_whole(stages: Sequence[Stage], cells: Mapping[str, float], grid: Grid) -> None:
    """Every tile is a whole number of every stage's cells: no cell is cut by a tile's edge."""
    sides: list[tuple[str, float]] = []
    for stage in stages:
        cell = cells[stage.name]
        sides.append((stage.name, cell))
        for spec in stage.outputs:
            fine, coarse, what = spec.resolution, cell, "pixels"
            if spec.extent == "blocks":
                fine, coarse, what = cell, spec.resolution, "blocks"
                sides.append((stage.name, coarse))
            if spec.extent != "area" and parts_of(coarse, fine) is None:
                raise GridError(
                    f"{what} and cells of stage {stage.name} are not multiples of each other",
                    got=f"cells of {cell:g} m, {spec.path} of {spec.resolution:g} m",
                    expected=f"a multiple of {fine:g} m for {coarse:g} m",
                    remedy="give the stage another cell",
                )
    cut = [(name, side) for name, side in sides if parts_of(grid.tile_size, side) is None]
    if cut:
        whole = math.lcm(*(max(round(1000 * side), 1) for _, side in sides)) / 1000
        raise GridError(
            f"a tile is not a whole number of the cells of stage {cut[0][0]}",
            got=f"tiles of {grid.tile_size:g} m, cells of "
            + ", ".join(f"{side:g} m ({name})" for name, side in cut),
            expected=f"a multiple of {whole:g} m",
            remedy=f"set grid.tile to {max(round(grid.tile_size / whole), 1) * whole:g} m, in "
            "pixels of grid.resolution",
        )


def pixels(metres: float, resolution: float) -> int:
    """Whole pixels that cover a length."""
    return int(np.ceil(metres / resolution - 1e-9))
