"""Which cells of a map lie where its model was trained: accuracy there flatters the map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.io import MemoryFile
from scipy.ndimage import maximum_filter

from engine.compare.folder import read_folder
from engine.compare.squares import Positions, Strata
from engine.errors import AreaError
from engine.grid.moving import move_of
from engine.models.footprint import Footprint, read_footprint

__all__ = ["TRAINED", "footprint_of", "say_overlap", "trained_stratum"]

TRAINED = "training"
"""Name of the stratum: 0 apart from the training, 1 within the model's reach of it."""

_DEGREE = 111_320.0  # metres of a degree along a meridian


def footprint_of(product: Path) -> tuple[Footprint | None, bool]:
    """The footprint of the model that made a map, and whether the map is one of natmap's."""
    folder = read_folder(product)
    return (None, False) if folder is None else (read_footprint(folder.path), True)


@contextmanager
def trained_stratum(path: Path, footprint: Footprint | None) -> Iterator[dict[str, Strata]]:
    """The stratum by name, as long as the context lasts; none where nothing is known."""
    if footprint is None:
        yield {}
        return
    with rasterio.open(path) as file:
        form = {"driver": "GTiff", "height": file.height, "width": file.width, "count": 1}
        form |= {"dtype": "uint8", "crs": file.crs, "transform": file.transform, "tiled": True}
        cells = _cells(file, footprint)
    with MemoryFile() as memory:
        with memory.open(**form, compress="deflate") as written:
            written.write(cells, 1)
        yield {TRAINED: Strata(Path(memory.name), 2, _as_they_are)}


def _as_they_are(file: rasterio.DatasetReader) -> Positions:
    return lambda values: values.astype(np.int64)


def _cells(file: rasterio.DatasetReader, footprint: Footprint) -> npt.NDArray[np.uint8]:
    """1 where the patch of a cell shares ground with one that was trained on."""
    down, across = (_reach(file, footprint.reach, axis) for axis in (0, 1))
    found = np.zeros((file.height + 2 * down, file.width + 2 * across), np.uint8)
    back = ~file.transform
    for place in footprint.places:
        try:
            move = move_of(place.crs, file.crs.to_wkt())
            xy = place.xy if move is None else move.points(place.xy)
        except AreaError:
            continue
        xy = xy[np.isfinite(xy).all(axis=1)]
        cols = np.floor(back.a * xy[:, 0] + back.b * xy[:, 1] + back.c).astype(np.int64) + across
        rows = np.floor(back.d * xy[:, 0] + back.e * xy[:, 1] + back.f).astype(np.int64) + down
        here = (rows >= 0) & (rows < found.shape[0]) & (cols >= 0) & (cols < found.shape[1])
        found[rows[here], cols[here]] = 1
    wide = maximum_filter(found, (2 * down + 1, 2 * across + 1), mode="constant")
    cells: npt.NDArray[np.uint8] = wide[down : down + file.height, across : across + file.width]
    return cells


def _reach(file: rasterio.DatasetReader, metres: float, axis: int) -> int:
    """Cells along an axis at which two patches still share ground."""
    size = float(file.res[1 - axis])  # across comes first
    if file.crs.is_geographic:
        middle = math.radians((file.bounds.top + file.bounds.bottom) / 2)
        size *= _DEGREE * (math.cos(middle) if axis else 1.0)
    else:
        size *= float(file.crs.linear_units_factor[1])
    return max(math.ceil(metres / size - 1e-9) - 1, 0)


def say_overlap(
    footprint: Footprint | None, known: bool, counts: npt.NDArray[np.int64] | None
) -> list[str]:
    """What to tell of the judged cells that trained the model.

    Parameters
    ----------
    footprint, known : as `footprint_of` gives them.
    counts : judged cells and those that are right, apart from the training and within it: (2, 2).
    """
    if footprint is None or counts is None:
        unknown = "whether judged cells trained the model is unknown: it kept no footprint"
        return [unknown] if known else []
    notes = []
    (apart, apart_right), (within, within_right) = counts.tolist()
    if within:
        rest = f"{apart_right / apart:.3f} of the {apart} others" if apart else "no cell is left"
        notes.append(
            f"{within / (within + apart):.0%} of the judged cells lie within {footprint.reach:g} m "
            f"of ground that trained the model, which flatters it: accuracy "
            f"{within_right / within:.3f} there, {rest}"
        )
    if not footprint.whole:
        notes.append("the model started from one of which nobody knows where it was trained")
    return notes
