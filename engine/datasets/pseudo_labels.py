"""Pseudo-labels that a propagation wrote, as labels of embedded cells that count less."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from engine.datasets.embedded import Embedded
from engine.errors import LabelError
from engine.grid.moving import move_of
from engine.legend import LCZ

__all__ = ["LABELS", "Pseudo", "digest_of", "read_columns", "read_pseudo_labels"]

LABELS = "pseudo-labels.parquet"
"""Of a propagation's folder."""

_COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "city": pa.types.is_string,
    "cell": pa.types.is_integer,
    "code": pa.types.is_integer,
    "confidence": pa.types.is_floating,
    "source": pa.types.is_string,
    "model": pa.types.is_string,
    "geometry": pa.types.is_binary,
}
_WGS84 = "EPSG:4326"
_OF_CELLS = ("city", "cell", "code", "confidence", "source", "model", "geometry")
_SOURCES = ("label", "pseudo", "mask", "osm")
_TOLD = ("mask", "osm")  # by a mask or a map, whatever the vectors say


@dataclass(frozen=True)
class Pseudo:
    """Pseudo-labels of some cities.

    Attributes
    ----------
    city : int64 (n,), position among the cities.
    place : int64 (n,), of the cell among those of its city that have a vector.
    codes : int64 (n,)
    weights : float64 (n,), the confidence; 1 of what a mask or a map says.
    without : cells more that a mask or a map labels, and that have no vector to learn from.
    """

    city: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    without: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: npt.NDArray[Any]) -> Pseudo:
        """Some of them."""
        return Pseudo(
            self.city[rows], self.place[rows], self.codes[rows], self.weights[rows], self.without
        )


def read_pseudo_labels(path: Path, cities: Sequence[Embedded]) -> Pseudo:
    """Read a propagation's GeoParquet; its rows of source ``label`` are left out.

    Parameters
    ----------
    path : the file, or the folder of a propagation.
    cities : whose cells they are of.

    Raises
    ------
    LabelError
        Where they are of other cities, cells or vectors, or say what no label can.
    """
    columns, name = read_columns(path, _OF_CELLS)
    _require(columns, cities, name)
    wanted = [k for k, source in enumerate(columns["source"]) if source != "label"]
    names = {city.name: number for number, city in enumerate(cities)}
    own = np.array([names[columns["city"][k]] for k in wanted], np.int64)
    cells = np.array([columns["cell"][k] for k in wanted], np.int64)
    place = np.full(len(wanted), -1, np.int64)
    for number, city in enumerate(cities):
        place[own == number] = city.find(cells[own == number])
    # water that the source tells has no vector, and a map gives it its class without a head
    told = np.array([columns["source"][k] in _TOLD for k in wanted], bool)
    there = np.flatnonzero((place >= 0) | ~told)
    without, own, cells, place = len(wanted) - len(there), own[there], cells[there], place[there]
    wanted = [wanted[k] for k in there.tolist()]
    if (place < 0).any():
        first = int(np.flatnonzero(place < 0)[0])
        raise LabelError(
            "pseudo-labels of cells that have no vector",
            got=f"{int((place < 0).sum())}, the first of them cell {cells[first]} of "
            f"{cities[own[first]].name}",
            remedy="the embedding was made anew: natmap propagate again",
        )
    _require_ground(columns["geometry"], wanted, own, place, cities, name)
    if len({*zip(own.tolist(), place.tolist(), strict=True)}) < len(place):
        raise LabelError("a cell has two pseudo-labels", got=name)
    weights = [columns["confidence"][k] for k in wanted]
    return Pseudo(
        own,
        place,
        np.array([columns["code"][k] for k in wanted], np.int64),
        np.array([1.0 if weight is None else weight for weight in weights], np.float64),
        without,
    )


def _require_ground(
    outlines: Sequence[bytes | None],
    rows: Sequence[int],
    own: npt.NDArray[np.int64],
    place: npt.NDArray[np.int64],
    cities: Sequence[Embedded],
    name: str,
) -> None:
    """Refuse cells that lie elsewhere than those of the cities: numbers of cells are of one grid.

    A city that was embedded again over another area keeps its name and its settings, and its
    cells have other numbers.
    """
    try:
        shapes = shapely.from_wkb([outlines[k] for k in rows])
    except (shapely.errors.ShapelyError, TypeError) as error:
        raise LabelError(
            "outlines of pseudo-labels cannot be read",
            got=f"{name}: {str(error)[:200]}",
            expected="GeoParquet of natmap propagate",
        ) from error
    centres = shapely.get_coordinates(shapely.centroid(np.asarray(shapes, object)))
    if len(centres) != len(rows):
        raise LabelError(
            "pseudo-labels have no outlines",
            got=f"{name}: {len(rows) - len(centres)} rows without one",
            expected="GeoParquet of natmap propagate",
        )
    for number, city in enumerate(cities):
        mine = np.flatnonzero(own == number)
        move = move_of(_WGS84, str(city.cells.crs))
        xy = centres[mine] if move is None else move.points(centres[mine])
        off = np.abs(xy - city.xy[place[mine]]).max(axis=1, initial=0.0)
        wrong = np.flatnonzero(~(off < city.side / 2))
        if len(wrong):
            raise LabelError(
                f"pseudo-labels of {city.name} lie elsewhere than its cells",
                got=f"{name}: {len(wrong)} of {len(mine)}, the first {off[wrong[0]]:.0f} m away",
                expected="pseudo-labels of this embedding, over this area",
                remedy="natmap propagate again, with the embeddings of this recipe",
            )


def digest_of(path: Path) -> str:
    """Of the file's bytes.

    Raises
    ------
    LabelError
        Where there is none.
    """
    file = path / LABELS if path.is_dir() else path
    if not file.is_file():
        raise LabelError(
            "there is no such file of pseudo-labels",
            got=str(file),
            remedy="natmap propagate writes it",
        )
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, list[Any]], str]:
    """Columns of a propagation's file as lists, and the file's name.

    Parameters
    ----------
    path : the file, or the folder of a propagation.
    names : of the columns, `code`, `confidence` and `source` among them.

    Raises
    ------
    LabelError
        Where they cannot be read, have gaps or another type, or say what no label can.
    """
    file = path / LABELS if path.is_dir() else path
    try:
        table = pq.read_table(file, columns=list(names))
    except (OSError, pa.ArrowException) as error:
        raise LabelError(
            "pseudo-labels cannot be read",
            got=f"{file.name}: {error}",
            expected="pseudo-labels.parquet of natmap propagate",
        ) from error
    odd = [name for name in names if not _COLUMNS[name](table[name].type)]
    odd += [n for n in names if n not in odd and n != "confidence" and table[n].null_count]
    if odd:
        raise LabelError(
            "columns of the pseudo-labels have another type, or gaps",
            got=", ".join(f"{name}: {table[name].type}" for name in odd),
            expected="pseudo-labels.parquet of natmap propagate",
        )
    columns = {name: table[name].to_pylist() for name in names}
    codes = {*columns["code"]} - {land.code for land in LCZ}
    sources = {*columns["source"]} - {*_SOURCES}
    weights = [w for w in columns["confidence"] if w is not None and not 0 < w <= 1]
    if strange := [*codes, *sources, *weights]:
        raise LabelError(
            "pseudo-labels say what no label can",
            got=f"{file.name}: {', '.join(map(str, strange[:5]))}",
            expected=f"codes 1 to 17, confidence over 0 to 1, source of {', '.join(_SOURCES)}",
        )
    return columns, file.name


def _require(columns: dict[str, list[Any]], cities: Sequence[Embedded], name: str) -> None:
    """Refuse rows of other cities or vectors."""
    strange = {*columns["city"]} - {city.name for city in cities}
    if strange:
        raise LabelError(
            "pseudo-labels are of a city that the recipe lacks",
            got=f"{name}: {', '.join(sorted(strange))}",
            expected=", ".join(city.name for city in cities),
            remedy="add it to cities: its vectors are needed",
        )
    if {*columns["model"]} - {cities[0].digest}:
        raise LabelError(
            "pseudo-labels were made with other vectors than the cities have",
            got=f"{name}: {', '.join(sorted(model[:12] for model in {*columns['model']}))}",
            expected=cities[0].digest[:12],
            remedy="natmap propagate again, with the embeddings of this recipe",
        )
