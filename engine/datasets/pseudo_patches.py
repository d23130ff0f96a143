"""Pseudo-labels of cells as places of patches on a composite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from odc.geo.geobox import GeoBox
from scipy.spatial import cKDTree

from engine.datasets.pseudo_labels import LABELS, read_columns
from engine.errors import LabelError
from engine.grid.moving import move_of

__all__ = ["PseudoCells", "find_pseudo_cells"]


@dataclass(frozen=True)
class PseudoCells:
    """Pseudo-labels that lie on a composite.

    Attributes
    ----------
    rows, cols : int64 (n,), of the pixel above and to the left of the middle of each cell.
    xy : float64 (n, 2), lower right corners of those pixels in metres: the middles of patches.
    codes : uint8 (n,), 1 to 17.
    confidence : float32 (n,), over 0 to 1.
    side : of a cell, in metres.
    """

    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]
    xy: npt.NDArray[np.float64]
    codes: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    side: float

    def __len__(self) -> int:
        return len(self.codes)

    def only(self, where: npt.NDArray[np.bool_]) -> PseudoCells:
        """Some of them."""
        names = ("rows", "cols", "xy", "codes", "confidence")
        return replace(self, **{name: getattr(self, name)[where] for name in names})

    def without(self, labelled: npt.NDArray[np.float64], cell: float) -> PseudoCells:
        """Those that share no ground with labelled cells: what a person says counts more.

        Parameters
        ----------
        labelled : float64 (n, 2), centres of labelled cells in metres.
        cell : side of a labelled cell, in metres.
        """
        if not len(labelled):
            return self
        apart, _ = cKDTree(labelled).query(self.xy, p=np.inf)
        return self.only(apart >= (self.side + cell) / 2)


def find_pseudo_cells(path: Path, pixels: GeoBox, place: str) -> tuple[PseudoCells, int]:
    """Read a propagation's GeoParquet, and keep the cells that lie on a composite.

    Rows of source ``label`` are left out: they are the labels that it started from. A cell is
    where its outline is; a patch is cut about its centre, to the nearest pixel.

    Parameters
    ----------
    path : the file, or the folder of a propagation.
    pixels : of the composite.
    place : its name. Where a city of the propagation has it, its cells alone are taken: two years
        of a city lie on one ground.

    Returns
    -------
    The cells, and how many lie elsewhere.

    Raises
    ------
    LabelError
        Where they cannot be read, say what no label can, or none lies on the composite.
    """
    columns, name = read_columns(path, ("city", "code", "confidence", "source", "geometry"))
    named = place in columns["city"]
    pairs = zip(columns["source"], columns["city"], strict=True)
    chosen = np.flatnonzero([s != "label" and (not named or c == place) for s, c in pairs])
    shapes, crs = _outlines(path / LABELS if path.is_dir() else path)
    shapes = shapes[chosen]
    flat = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    if not (flat & ~shapely.is_empty(shapes)).all():
        raise LabelError(
            "pseudo-labels are of other shapes than cells",
            got=f"{name}: {int((~flat).sum())} of {len(shapes)} are not polygons",
            expected="pseudo-labels.parquet of natmap propagate",
        )
    move = move_of(crs, str(pixels.crs))
    if move is not None:
        shapes = shapely.transform(shapes, move.points)
    west, south, east, north = shapely.bounds(shapes).T
    sure = [1.0 if columns["confidence"][k] is None else columns["confidence"][k] for k in chosen]
    left, top, step = pixels.transform.c, pixels.transform.f, pixels.resolution.x
    cols = np.rint(((west + east) / 2 - left) / step)
    rows = np.rint((top - (south + north) / 2) / step)
    height, width = pixels.shape
    inside = np.isfinite(cols) & np.isfinite(rows)  # the others are beyond the projection
    inside &= (cols > 0) & (cols < width) & (rows > 0) & (rows < height)
    if not inside.any():
        raise LabelError(
            "no pseudo-label lies on the composite",
            got=f"{name}: {len(chosen)} pseudo-labels",
            expected=f"some within {', '.join(f'{v:g}' for v in pixels.boundingbox)} of "
            f"{pixels.crs}",
            remedy="name the propagation of this city, or leave pseudo out",
        )
    here = np.flatnonzero(inside)
    found = PseudoCells(
        rows[here].astype(np.int64) - 1,
        cols[here].astype(np.int64) - 1,
        np.stack([left + cols[here] * step, top - rows[here] * step], axis=1),
        np.array([columns["code"][k] for k in chosen[here]], np.uint8),
        np.array([sure[k] for k in here], np.float32),
        float(np.rint(np.median(np.sqrt(shapely.area(shapes[here]))) / step) * step),
    )
    places = np.stack([found.rows, found.cols])
    if np.unique(places, axis=1).shape[1] < len(found):
        raise LabelError(
            "a cell has two pseudo-labels",
            got=f"{name}, of cities that share ground",
            expected=", ".join(sorted({columns["city"][k] for k in chosen[here]})),
            remedy="set the label's place to one of these cities",
        )
    every = sum(source != "label" for source in columns["source"])
    return found, every - len(found)


def _outlines(file: Path) -> tuple[npt.NDArray[np.object_], str]:
    """Outlines of all rows, and their CRS."""
    try:
        frame = geopandas.read_parquet(file, columns=["geometry"])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LabelError(
            "pseudo-labels cannot be read",
            got=f"{file.name}: {error}",
            expected="GeoParquet, as natmap propagate writes it",
        ) from error
    if frame.crs is None:
        raise LabelError(
            "pseudo-labels have no CRS",
            got=file.name,
            expected="GeoParquet, as natmap propagate writes it",
        )
    return np.asarray(frame.geometry.to_numpy(), object), str(frame.crs)
