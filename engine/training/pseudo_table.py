"""Labels and pseudo-labels of several cities in one table, and as GeoParquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from engine.datasets.embedded import Embedded
from engine.grid.moving import move_of

__all__ = ["corner_of", "in_one_table", "owners_of", "squares", "write_parquet"]

_WGS84 = "EPSG:4326"


def owners_of(cities: Sequence[Embedded], ids: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """City and position among its cells of cells of the pool, which has one city after another."""
    firsts = np.cumsum([0, *(len(city.rows) for city in cities)])
    number = np.searchsorted(firsts, ids, side="right") - 1
    return number, ids - firsts[number]


def in_one_table(found: pa.Table, cities: Sequence[Embedded]) -> pa.Table:
    """Labels and what was propagated, with their cities.

    Parameters
    ----------
    found : table of a propagation; `cell` is of the pool, and becomes the city's own.
    cities : of the pool.
    """
    number, place = owners_of(cities, found["cell"].to_numpy())
    rows = [_rows(cities, number, place, found.drop_columns("cell"))]
    for k, city in enumerate(cities):
        position, codes = city.labelled()
        n = len(codes)
        given = pa.table(
            {
                "code": pa.array(codes, pa.uint8()),
                "confidence": pa.array(np.ones(n), pa.float32()),
                "votes": pa.nulls(n, found.schema.field("votes").type),
                "distance": pa.nulls(n, pa.float64()),
                "energy": pa.nulls(n, pa.float64()),
                "source": pa.array(["label"] * n, pa.string()),
            }
        )
        rows.append(_rows(cities, np.full(n, k), position, given))
    return pa.concat_tables(rows)


def _rows(cities: Sequence[Embedded], number: Any, place: Any, more: pa.Table) -> pa.Table:
    names = np.array([city.name for city in cities], object)[number]
    ids = np.zeros(len(number), np.int64)
    for k in np.unique(number).tolist():
        here = number == k
        ids[here] = cities[k].ids[place[here]]
    head = {
        "city": pa.array(names, pa.string()),
        "cell": pa.array(ids, pa.int64()),
        "model": pa.array([cities[0].digest] * len(names), pa.string()),
    }
    return pa.table({**head, **{name: more[name] for name in more.column_names}})


def write_parquet(table: pa.Table, cities: Sequence[Embedded], path: Path) -> None:
    """The table as GeoParquet, each cell with its outline in degrees."""
    shapes = np.empty(len(table), object)
    names, ids = np.array(table["city"].to_pylist(), object), table["cell"].to_numpy()
    for city in cities:
        here = np.flatnonzero(names == city.name)
        shapes[here] = squares(city, ids[here])
    frame = geopandas.GeoDataFrame(table.to_pandas(), geometry=shapes, crs=_WGS84)
    frame.to_parquet(path)


def squares(city: Embedded, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Outlines of a city's cells in degrees; those across 180 go on beyond it."""
    row, col = np.divmod(ids, city.cells.shape[1])
    west, north = corner_of(city, row, col)
    shapes = shapely.box(west, north - city.side, west + city.side, north)
    move = move_of(str(city.cells.crs), _WGS84)
    if move is not None:
        shapes = shapely.transform(shapely.segmentize(shapes, move.spacing), move.points)
    left, _, right, _ = shapely.bounds(shapes).T
    across = right - left > 180
    shapes[across] = shapely.transform(
        shapes[across], lambda xy: np.stack([xy[:, 0] % 360, xy[:, 1]], 1)
    )
    return np.asarray(shapes)


def corner_of(city: Embedded, row: Any, col: Any) -> tuple[Any, Any]:
    """West and north edge of a cell, or of many."""
    corner = city.cells.transform
    return corner.c + col * city.side, corner.f - row * city.side
