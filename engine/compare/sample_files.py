"""The files of a sample by which a map of zones is judged, and the map that it is drawn on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from odc.geo.geobox import GeoBox

from engine.compare.cells import of_map
from engine.compare.folder import map_of, read_folder
from engine.errors import LabelError, MetricError, RecipeError
from engine.files import together
from engine.grid.area import reproject
from engine.labels.rasters import read_shown, require_plain
from engine.legend import LCZ, parse_class
from engine.maps.shares import NO_GREEN

__all__ = [
    "Filled",
    "ZoneMap",
    "hash_of",
    "is_sample",
    "read_sample",
    "read_zones",
    "require_no_sample",
    "weights_of",
    "write_cells",
]

_CELLS, _DESIGN = "sample.geojson", "design.json"


@dataclass(frozen=True)
class ZoneMap:
    """A map of local climate zones.

    Attributes
    ----------
    path : its raster.
    codes : uint8 (y, x), 0 for none.
    box : grid of its cells.
    cell_km2 : area of a cell.
    """

    path: Path
    codes: npt.NDArray[np.uint8]
    box: GeoBox
    cell_km2: float


@dataclass(frozen=True)
class Filled:
    """A sample that was filled in.

    Attributes
    ----------
    design : as `sample` wrote it.
    reference : int64 (n,), code of each cell, in the design's order.
    features : of GeoJSON, in any order.
    """

    design: dict[str, Any]
    reference: npt.NDArray[np.int64]
    features: tuple[Any, ...]


def read_zones(product: str | Path, layer: str = "map") -> ZoneMap:
    """A map of local climate zones, all at once: a country's cells of 100 m are 10 MB.

    Raises
    ------
    MetricError
        Where it is none, cannot be read, or its cells have no area.
    """
    folder = read_folder(Path(product))
    if folder is not None and folder.legend != LCZ:
        raise _not_of_zones(Path(product))
    path = map_of(Path(product), layer)
    try:
        with rasterio.open(path) as file:
            if _is_green(file):
                raise _not_of_zones(path)
            if file.crs is None or not file.crs.is_projected:
                raise MetricError(
                    "the map's cells have no area", got=f"{path.name}: {file.crs}",
                    expected="a projected CRS",
                )  # fmt: skip
            require_plain(file, MetricError)
            values = read_shown(file)
            codes = (of_map(file)(values) + 1).astype(np.uint8)
            box = GeoBox(codes.shape, file.transform, str(file.crs.to_wkt()))
            metres = file.crs.linear_units_factor[1]
            cell_km2 = abs(file.transform.determinant) * metres**2 / 1e6
    except rasterio.errors.RasterioError as error:
        raise MetricError("the map cannot be read", got=error) from error
    return ZoneMap(path, codes, box, cell_km2)


def require_no_sample(out: Path) -> None:
    """Refuse a folder that holds a sample.

    Raises
    ------
    LabelError
    """
    for name in (_CELLS, "sites.gpkg"):
        if (out / name).exists():
            raise LabelError(
                "the folder holds a sample already",
                got=out / name,
                remedy="somebody may have filled it in: name another folder, or remove it",
            )


def write_cells(
    out: Path,
    map_: ZoneMap,
    rows: npt.NDArray[np.int64],
    cols: npt.NDArray[np.int64],
    design: dict[str, Any],
) -> None:
    """Write a sample's cells, and its design with what the map says of them.

    Parameters
    ----------
    out : folder.
    map_ : ZoneMap
    rows, cols : int64 (n,), cells in the order in which they are looked at.
    design : what else is told, the strata among it.
    """
    path, codes, box = map_.path, map_.codes, map_.box
    features = []
    for number, (row, col) in enumerate(zip(rows.tolist(), cols.tolist(), strict=True), 1):
        square = box[row : row + 1, col : col + 1].extent.geom
        place = reproject(square, str(box.crs), "EPSG:4326")
        features.append(
            {
                "type": "Feature",
                "id": number,
                "properties": {"id": number, "lcz": None},
                "geometry": json.loads(shapely.to_geojson(place)),
            }
        )
    design = {
        **design,
        "map": path.name,
        "sha256": hash_of(path),
        "cell_km2": map_.cell_km2,
        "mapped": [int(codes[row, col]) for row, col in zip(rows, cols, strict=True)],
        "at": np.stack([rows, cols], axis=1).tolist(),
    }
    text = {"type": "FeatureCollection", "features": features}
    with together(out, mark=_CELLS) as part:
        (part / _DESIGN).write_text(json.dumps(design) + "\n", encoding="utf-8")
        (part / _CELLS).write_text(json.dumps(text) + "\n", encoding="utf-8")


def is_sample(folder: Path) -> bool:
    """Whether a folder is one that `sample` wrote."""
    return (folder / _DESIGN).is_file()


def read_sample(folder: Path) -> Filled:
    """A sample that was filled in.

    Raises
    ------
    LabelError
        Where it cannot be read, or cells are missing, empty, or hold what is not a class.
    """
    try:
        design: dict[str, Any] = json.loads((folder / _DESIGN).read_text(encoding="utf-8"))
        features = json.loads((folder / _CELLS).read_text(encoding="utf-8"))["features"]
        told = _told(features)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelError(
            "the sample cannot be read",
            got=f"{folder}: {type(error).__name__}: {error}",
            expected=f"{_CELLS} and {_DESIGN}, as `natmap sample --for accuracy` writes them",
        ) from error
    reference = np.zeros(len(design["mapped"]), np.int64)
    empty = 0
    for number in range(1, len(reference) + 1):
        value = told.get(number)
        if value in (None, ""):
            empty += 1
            continue
        try:
            reference[number - 1] = parse_class(value)
        except RecipeError as error:
            raise LabelError(
                f"cell {number} of the sample holds what is not a class",
                got=repr(value),
                expected="1 to 17, or 1 to 10 and A to G",
            ) from error
    if empty:
        raise LabelError(
            "cells of the sample have no class yet",
            got=f"{empty} of {len(reference)}",
            remedy=f"fill in `lcz` in {folder / _CELLS}; leaving the hard ones out would flatter "
            "the map",
        )
    return Filled(design, reference, tuple(features))


def weights_of(design: dict[str, Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The stratum of each cell of a sample, and how many cells it stands for.

    Raises
    ------
    KeyError, TypeError, ValueError, ZeroDivisionError
        Where the design is not as it was written.
    """
    if "strata" in design:
        stratum = np.array(design["stratum"], np.int64)
        each = np.array([one["cells"] / one["size"] for one in design["strata"]])
        return stratum, each[stratum]
    stratum = np.array(design["mapped"], np.int64)
    return stratum, np.array([design["cells"][str(c)] / design["sizes"][str(c)] for c in stratum])


def _told(features: Any) -> dict[int, Any]:
    """What was filled in, by a cell's number.

    Software that somebody filled it in with may have made texts or fractions of numbers.
    """
    told: dict[int, Any] = {}
    for feature in features:
        fields = feature["properties"]
        number = float(fields.get("id", feature.get("id")))
        if number != int(number):
            raise ValueError(f"a cell's id is not a number: {number}")
        value = fields.get("lcz")
        if told.setdefault(int(number), value) != value:
            raise ValueError(f"cell {int(number)} is there twice, with different classes")
    return told


def _is_green(file: rasterio.DatasetReader) -> bool:
    """Whether a raster holds what maps of green space hold; in those of zones 0 is no class."""
    windows = (window for _, window in file.block_windows(1))
    return file.nodata != 0 and all(
        np.isin(file.read(1, window=window), (0, 1, NO_GREEN)).all() for window in windows
    )


def _not_of_zones(path: Path) -> MetricError:
    return MetricError(
        "samples are drawn on maps of local climate zones only",
        got=f"{path}: a map of green space, 0, 1 and {NO_GREEN}",
        expected="codes 1 to 17, and 0 declared as nodata",
        remedy="green space is judged by a raster of labels or of land cover: `natmap evaluate "
        "PRODUCT REFERENCE`",
    )


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
