"""Cells of a store whose vectors are most like that of a place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from pyproj import Transformer

from engine.datasets.embedded import made_by, require_whole
from engine.datasets.stored_vectors import StoredVectors
from engine.errors import LabelError, StoreError
from engine.legend import Reason
from engine.store.copying import grid_of
from engine.store.ledger import Ledger
from engine.store.location import location_of
from engine.store.repository import Store

__all__ = ["cosine", "find_cells", "is_store"]

_ARRAYS = (
    ("embedding/vectors", "embedding/reason"),
    ("scores/embedding", "scores/reason"),
)
_PLACE = re.compile(r"^\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*$")
_AT_ONCE = 65_536  # cells


def is_store(place: str | Path) -> bool:
    """Whether it is a store: one of a bucket, or a folder with a repository."""
    text = str(place)
    if "://" in text:
        return True
    return Path(text).is_dir() and Store.exists(text)


def find_cells(
    like: str, place: str | Path, most: int, tell: Callable[[str], None] = lambda text: None
) -> list[tuple[float, int, float, float]]:
    """The cells whose vectors have the least angle to that of a place's cell.

    Parameters
    ----------
    like : "longitude,latitude" in degrees.
    place : the store.
    most : cells.
    tell : hears of tiles that failed.

    Returns
    -------
    Of each 1 - cosine, number (row times width plus column), longitude and latitude of the centre;
    the most alike first, the cell itself left out.

    Raises
    ------
    LabelError
        Where `like` is no place, or lies where there is no vector.
    StoreError, RecipeError
        Where the store has no embedding, not a whole one, or one of several models.
    """
    store = Store.open(location_of(str(place), Path.cwd()))
    reader = store.reader()
    root: Any = zarr.open_group(reader.store, mode="r")
    name, reason = next(((a, b) for a, b in _ARRAYS if a in root), ("", ""))
    if not name:
        raise StoreError(
            "the store has no embedding", got=str(store.place), remedy="natmap embed RECIPE"
        )
    ledger, stage = Ledger.of(reader), name.partition("/")[0]
    made_by(ledger, store, stage)
    if stage == "embedding":
        for note in require_whole(ledger, store, "RECIPE"):
            tell(f"note: {note}")
    side = float(store.identity["arrays"][name]["resolution"])
    box = grid_of(store).geobox(side)
    row, col = _cell(like, box)
    known = np.asarray(root[reason]) == Reason.DATA
    if not (0 <= row < known.shape[0] and 0 <= col < known.shape[1] and known[row, col]):
        raise LabelError(
            "the place has no vector",
            got=f"{like}: row {row}, column {col} of {known.shape[0]} x {known.shape[1]} cells",
            expected="a place inside the area, where there is data",
        )
    rows, cols = (values.astype(np.int64) for values in np.nonzero(known))
    scale = f"{name}_scale"
    table = StoredVectors(
        root[name], np.asarray(root[scale]) if scale in root else None, rows, cols
    )
    itself = int(np.flatnonzero((rows == row) & (cols == col))[0])
    wanted = table[np.array([itself])][0]
    parts = [
        cosine(table[slice(first, first + _AT_ONCE)], wanted)
        for first in range(0, len(table), _AT_ONCE)
    ]
    distance = np.concatenate(parts)
    order = np.argsort(distance, kind="stable")  # NaN last
    order = order[(order != itself) & ~np.isnan(distance[order])][:most]
    at = box.transform
    x, y = at.c + (cols[order] + 0.5) * at.a, at.f + (rows[order] + 0.5) * at.e
    east, north = Transformer.from_crs(str(box.crs), "EPSG:4326", always_xy=True).transform(x, y)
    numbers = rows[order] * box.shape[1] + cols[order]
    return [
        (float(distance[k]), int(n), float(e), float(s))
        for k, n, e, s in zip(order, numbers, east, north, strict=True)
    ]


def cosine(
    vectors: npt.NDArray[np.floating[Any]], wanted: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """1 - cosine of the angle of each vector to one; of a vector of zeros it is 1.

    Sums are of each row alone, in float64: those beside it change no bit.

    Parameters
    ----------
    vectors : (n, features), finite or NaN.
    wanted : (features,)
    """
    rows, one = np.asarray(vectors, np.float64), np.asarray(wanted, np.float64)
    inner = (rows * one).sum(axis=1)
    size = np.sqrt((rows * rows).sum(axis=1) * (one * one).sum())
    return np.asarray(1 - np.divide(inner, size, out=np.zeros_like(inner), where=size != 0))


def _cell(like: str, box: Any) -> tuple[int, int]:
    told = _PLACE.match(like)
    if told is None:
        raise LabelError(
            "a store is searched for what is like a place",
            got=like,
            expected="longitude,latitude in degrees, as in 13.40,52.52",
        )
    lon, lat = float(told[1]), float(told[2])
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise LabelError(
            "this is no longitude,latitude", got=like, expected="-180 to 180, -90 to 90"
        )
    x, y = Transformer.from_crs("EPSG:4326", str(box.crs), always_xy=True).transform(lon, lat)
    if not (np.isfinite(x) and np.isfinite(y)):
        raise LabelError("the place is beyond the store's CRS", got=like, expected=str(box.crs))
    at = box.transform
    return int((y - at.f) // at.e), int((x - at.c) // at.a)
