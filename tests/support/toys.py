"""A toy product of three stages, its brute-force twin, and ways to go wrong on purpose.

``scenes`` (daily, from outside the store) -> ``composite`` (halo 20 m) -> ``map`` (halo 100 m):
the shape of the real product with arithmetic that fits on a line. Values depend on absolute
coordinates only, so every layout must give the same map.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import zarr
from scipy.ndimage import maximum_filter, uniform_filter
from shapely import affinity

from engine.errors import ReadError
from engine.grid import Area, Grid, Support, Tile
from engine.runs.schedule import Schedule
from engine.runs.stage import Input, Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec
from engine.store.ledger import Ledger
from engine.store.repository import Store

CRS = "EPSG:5179"
FINE, CELL = 10.0, 100.0


@dataclass(frozen=True)
class Mishap:
    """What goes wrong, where and how often."""

    kind: str  # raise | kill | hungry | slow | foreign | structural
    stage: str
    tile: Tile
    times: int = 10**9
    memory: str = ""  # a folder in which the times are counted, across processes

    def happens(self, task: TileTask) -> bool:
        if task.stage != self.stage or task.tile != self.tile:
            return False
        for n in range(self.times):
            try:
                (Path(self.memory) / f"{self.kind}-{self.stage}-{self.tile}-{n}").touch(
                    exist_ok=False
                )
            except FileExistsError:
                continue
            return True
        return False


@dataclass(frozen=True)
class Kernel:
    """A kernel with mishaps."""

    compute: Callable[[TileTask], Iterable[Output]]
    mishaps: tuple[Mishap, ...] = ()
    delay: float = 0.0

    def __call__(self, task: TileTask) -> Iterator[Output]:
        time.sleep(self.delay)
        for mishap in self.mishaps:
            if mishap.happens(task):
                if mishap.kind == "raise":
                    raise RuntimeError("a toy mishap")
                if mishap.kind == "structural":
                    raise ReadError("a toy file is damaged", transient=False)
                if mishap.kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if mishap.kind == "hungry":
                    held = []
                    while True:  # until the nanny sees it, which looks ten times a second
                        held.append(np.ones(2_000_000))
                        time.sleep(0.02)
                if mishap.kind == "slow":
                    time.sleep(5)
                if mishap.kind == "foreign":
                    root: Any = task.__dict__["_root"]
                    root[task.outputs[0].path][-1, -1] = 1
        yield from self.compute(task)


def noise(task_grid: Grid, tile: Tile, day: int) -> np.ndarray:
    """Values 1..250 that depend on absolute pixel coordinates and the day."""
    n = task_grid.pixels(FINE)
    west, _, _, north = task_grid.tile_bounds(tile)
    x = np.arange(n) + round(west / FINE)
    y = round(-north / FINE) + np.arange(n)
    return field_at(x, y, day)


def field_at(x: np.ndarray, y: np.ndarray, day: int) -> np.ndarray:
    mixed = x[None, :].astype(np.uint64) * 2654435761 + y[:, None].astype(np.uint64) * 40503
    return ((mixed ^ np.uint64(day * 7919)) % np.uint64(250) + np.uint64(1)).astype(np.uint16)


def read_scenes(task: TileTask) -> Iterator[Output]:
    for part in task.parts:
        values = noise(task.grid, task.tile, part.index) + np.uint16(part.payload)
        yield Output({"scenes/bands": values[None]}, part.index)


def make_composite(task: TileTask) -> Iterator[Output]:
    days = [task.read("scenes/bands", 2, day)[0] for day in task.input_parts["scenes"]]
    total = np.sum(days, axis=0, dtype=np.uint32) if days else None
    if total is None:
        n = task.grid.pixels(FINE)
        yield Output({"composite/bands": np.zeros((n, n), np.uint32)})
        return
    yield Output({"composite/bands": maximum_filter(total, 5, mode="constant")[2:-2, 2:-2]})


def make_map(task: TileTask) -> Iterator[Output]:
    pixels = task.read("composite/bands", 10).astype(np.int64)
    n = pixels.shape[0] // 10
    cells = pixels.reshape(n, 10, n, 10).sum(axis=(1, 3))
    around = sum(
        cells[1 + dy : n - 1 + dy, 1 + dx : n - 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    )
    yield Output({"map/classes": around.astype(np.int64)})


@dataclass(frozen=True)
class Toy:
    """A toy country."""

    area: Area
    tile: int = 160  # px of 10 m
    days: tuple[int, ...] = (3000, 3005)
    shifts: dict[tuple[Tile, int], int] = field(default_factory=dict)
    mishaps: tuple[Mishap, ...] = ()
    delay: float = 0.0
    anchor: tuple[float, float] = (0.0, 0.0)

    @property
    def grid(self) -> Grid:
        return Grid.fit(
            self.area.bounds(200.0), crs=CRS, tile_size=self.tile * FINE, anchor=self.anchor
        )

    @property
    def support(self) -> Support:
        return Support(self.area, self.grid, CELL)

    def parts(self, tile: Tile) -> Sequence[Part]:
        return [
            Part(day, f"item-{day}-{shift}".encode(), shift)
            for day in self.days
            for shift in [self.shifts.get((tile, day), 0)]
        ]

    def stages(self) -> list[Stage]:
        chunk = 80 if self.tile % 80 == 0 else self.tile

        def kernel(compute: Callable[[TileTask], Iterable[Output]]) -> Kernel:
            return Kernel(compute, self.mishaps, self.delay)

        return [
            Stage(
                "scenes",
                kernel(read_scenes),
                (
                    ArraySpec(
                        "scenes/bands",
                        "uint16",
                        FINE,
                        chunk,
                        0,
                        daily=True,
                        leading=(("band", ("B02",)),),
                    ),
                ),
                parts=self.parts,
                daily=True,
            ),
            Stage(
                "composite",
                kernel(make_composite),
                (ArraySpec("composite/bands", "uint32", FINE, chunk, 0),),
                (Input("scenes", 20.0),),
            ),
            Stage(
                "map",
                kernel(make_map),
                (ArraySpec("map/classes", "int64", CELL, self.tile // 10, -1),),
                (Input("composite", 100.0),),
            ),
        ]

    def open(self, path: str | Path, until: str | None = None) -> tuple[Store, Schedule]:
        """Make or open the store and its schedule."""
        stages = self.stages()
        specs = [spec for stage in stages for spec in stage.outputs]
        if Store.exists(path):
            store = Store.open(path)
            store.require_identity(self.grid, specs)
        else:
            store = Store.create(path, self.grid, specs)
        ledger = open_ledger(store, stages, self.grid)
        return store, Schedule(stages, self.support, ledger, until=until)

    def expected(self) -> np.ndarray:
        """The map by brute force: one array, no tiles."""
        grid = self.grid
        west, _, _, north = grid.bounds
        height, width = grid.array_shape(FINE)
        x = np.arange(width) + round(west / FINE)
        y = round(-north / FINE) + np.arange(height)
        area = self._inside()
        n = grid.pixels(FINE)
        total = np.zeros((height, width), np.uint32)
        for day in self.days:
            plane = field_at(x, y, day)
            for (tile, when), shift in self.shifts.items():
                if when == day:
                    plane[tile.row * n : (tile.row + 1) * n, tile.col * n : (tile.col + 1) * n] += (
                        np.uint16(shift)
                    )
            total += np.where(_grow(area, 2, 10), plane, 0)
        composite = maximum_filter(total, 5, mode="constant") * _grow(area, 1, 10)
        cells = composite.astype(np.int64).reshape(height // 10, 10, width // 10, 10).sum((1, 3))
        around = np.rint(uniform_filter(cells.astype(float), 3, mode="constant") * 9)
        return np.where(area, around, -1).astype(np.int64)

    def _inside(self) -> np.ndarray:
        grid = self.grid
        west, _, _, north = grid.bounds
        rows, cols = grid.array_shape(CELL)
        x = west + (np.arange(cols) + 0.5) * CELL
        y = north - (np.arange(rows) + 0.5) * CELL
        xx, yy = np.meshgrid(x, y)
        return np.array(shapely.intersects_xy(self.area.geometry, xx, yy))


def _grow(mask: np.ndarray, cells: int, factor: int) -> np.ndarray:
    wide = maximum_filter(mask, 2 * cells + 1, mode="constant")
    return np.repeat(np.repeat(wide, factor, 0), factor, 1)


def open_ledger(store: Store, stages: Sequence[Stage], grid: Grid) -> Ledger:
    ledger = Ledger(grid.shape, {stage.name: stage.daily for stage in stages})
    session = store.writer()
    root = zarr.open_group(session.store, mode="r+")
    if "ledger" not in root:
        ledger.create(root)
        session.commit("make the ledger")
    reader = store.reader()
    ledger.load(reader, zarr.open_group(reader.store, mode="r"))
    return ledger


def read_map(store: Store) -> np.ndarray:
    array: Any = zarr.open_group(store.reader().store, mode="r")["map/classes"]
    return np.asarray(array[:])


def crop(values: np.ndarray, grid: Grid, bounds: tuple[float, float, float, float]) -> np.ndarray:
    """Cells of a grid's array within bounds, so that layouts of other extents compare."""
    west, _, _, north = grid.bounds
    left, top = round((bounds[0] - west) / CELL), round((north - bounds[3]) / CELL)
    right, bottom = round((bounds[2] - west) / CELL), round((north - bounds[1]) / CELL)
    return values[top:bottom, left:right]


def square(tiles: int, tile: int = 160) -> Area:
    side = tiles * tile * FINE
    return Area(shapely.box(0, -side, side, 0), CRS)


def blob(scale: float = 1) -> Area:
    """A curved border with a hole and an island; 23 tiles of 160 px, 71 at twice the size."""
    disc = shapely.Point(4000, -3900).buffer(3300)
    hole = shapely.Point(4300, -3700).buffer(700)
    island = shapely.Point(8300, -800).buffer(430)
    whole = shapely.union(disc.difference(hole), island)
    return Area(affinity.scale(whole, scale, scale, origin=(0, 0)), CRS)


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
