"""What a run could not be faster than, measured by other code in the same round.

Each file's blocks that meet a tile (halo included) decoded once with rasterio; the network on
tensors in memory; the store's arrays written by zarr into plain folders; their bytes copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
import zarr
from rasterio.windows import Window

from engine.cube.gdal import is_remote
from engine.grid.area import reproject
from engine.infer.predict import get_predictor
from engine.items import SCL, Item
from engine.models.card import ModelCard
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = [
    "Arrays",
    "Blocks",
    "Clock",
    "arrays_of",
    "clock",
    "copy_arrays",
    "probe_network",
    "write_arrays",
]

_LEAST = 0.5  # CPU seconds that a network is probed for


@dataclass(frozen=True)
class Clock:
    """Wall and CPU seconds of this process."""

    seconds: float
    cpu: float


def clock(work: Callable[[], Any]) -> Clock:
    """Time a call."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Clock(time.perf_counter() - began, time.process_time() - cpu)


@dataclass
class Blocks:
    """Blocks of image files that tasks need, each once, whatever tasks share them.

    Attributes
    ----------
    windows : of each file the blocks (row, column) that are needed.
    bytes : of the blocks, decoded.
    days : of the tasks that keep days apart.
    """

    windows: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    bytes: int = 0
    days: set[int] = field(default_factory=set)

    def note(self, task: TileTask) -> None:
        """Add what a task reads; nothing of tasks that read the store, or files far away."""
        if any(spec.daily for spec in task.outputs):
            self.days |= {part.index for part in task.parts}
        kernel: Any = task.kernel
        bands = tuple(getattr(kernel, "bands", ())) or tuple(
            getattr(getattr(kernel, "card", None), "bands", ())
        )
        resolution = float(getattr(kernel, "resolution", 0) or task.outputs[0].resolution)
        halo = int(getattr(kernel, "halo", 0)) * resolution
        west, south, east, north = task.grid.tile_bounds(task.tile)
        box = shapely.box(west - halo, south - halo, east + halo, north + halo)
        for item in _items(tuple(part.payload for part in task.parts)):
            for name in (*bands, SCL):
                asset = item.assets.get(name)
                if asset is not None and not is_remote(asset.href):
                    self._add(asset.href, box, task.grid.crs)

    def _add(self, path: str, box: shapely.Polygon, crs: str) -> None:
        with rasterio.open(path) as file:
            left, bottom, right, top = reproject(box, crs, file.crs.to_wkt()).bounds
            rows, cols = rasterio.transform.rowcol(
                file.transform, [left, right], [top, bottom], op=float
            )
            height, width = file.block_shapes[0]
            first = max(int(min(rows)), 0) // height, max(int(min(cols)), 0) // width
            last = (
                min(int(max(rows)), file.height - 1) // height,
                min(int(max(cols)), file.width - 1) // width,
            )
        known = self.windows.setdefault(path, set())
        known |= {
            (row, col)
            for row in range(first[0], last[0] + 1)
            for col in range(first[1], last[1] + 1)
        }

    def decode(self) -> None:
        """Decode each block once, in this thread."""
        self.bytes = 0
        for path, blocks in self.windows.items():
            with rasterio.Env(GDAL_CACHEMAX=0), rasterio.open(path) as file:
                height, width = file.block_shapes[0]
                for row, col in sorted(blocks):
                    window = Window(
                        col * width,
                        row * height,
                        min(width, file.width - col * width),
                        min(height, file.height - row * height),
                    )
                    self.bytes += file.read(1, window=window).nbytes


def _items(payload: Any) -> Iterator[Item]:
    if isinstance(payload, Item):
        yield payload
    elif isinstance(payload, tuple | list):
        for each in payload:
            yield from _items(each)


def probe_network(card: ModelCard, device: Any, precision: str) -> tuple[Clock, int]:
    """The network on prepared input in memory, for half a CPU second or three times.

    Returns
    -------
    (time of it, bytes of the input)
    """
    predictor = get_predictor(card, device, precision)
    rng = np.random.default_rng(0)
    bands = len(card.bands)
    run: Callable[[], Any]
    if card.segments:
        windows = rng.random((8, bands, card.patch, card.patch), np.float32)
        run, size = (lambda: predictor.segment(windows)), windows.nbytes
    elif card.context:
        side = (card.block - 1) * card.step + card.patch + 2 * card.context
        blocks = [rng.random((bands, side, side), np.float32) for _ in range(4)]
        run, size = (lambda: list(predictor.dense(blocks))), sum(b.nbytes for b in blocks)
    else:
        batch = rng.random((card.block**2, bands, card.patch, card.patch), np.float32)
        run, size = (lambda: predictor(batch)), batch.nbytes
    run()  # what a first call costs is not the network's
    total, times = Clock(0.0, 0.0), 0
    while times < 3 or total.seconds < _LEAST:
        took = clock(run)
        total = Clock(total.seconds + took.seconds, total.cpu + took.cpu)
        times += 1
    return total, size * times


Arrays = list[tuple[Any, npt.NDArray[Any]]]
"""Arrays of a store, and their values in memory."""


def arrays_of(root: zarr.Group, specs: Iterable[ArraySpec], days: Sequence[int]) -> Arrays:
    """Arrays of a store, read into memory; of daily ones these days."""
    found: Arrays = []
    for spec in specs:
        array: Any = root[spec.path]
        parts = [np.asarray(array[day]) for day in days] if spec.daily else [array[...]]
        values = np.stack(parts) if spec.daily else np.asarray(parts[0])
        found.append((array, values))
    return found


def write_arrays(arrays: Arrays, folder: Path) -> None:
    """Write arrays with the chunks and codecs that they have in the store, into plain folders."""
    group: Any = zarr.open_group(str(folder), mode="w")
    for number, (array, values) in enumerate(arrays):
        made = group.create_array(
            f"a{number}",
            shape=values.shape,
            chunks=array.chunks,
            dtype=values.dtype,
            fill_value=array.fill_value,
            filters=array.filters,
            compressors=array.compressors,
            serializer=array.serializer,
        )
        made[...] = values


def copy_arrays(arrays: Arrays) -> None:
    """Copy the bytes of arrays in memory."""
    for _, values in arrays:
        np.copyto(np.empty_like(values), values)
