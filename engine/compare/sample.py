"""Judge a finished map by a sample drawn on it: what to look at, and what the looking tells."""

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
from engine.compare.estimates import Stratified, stratified
from engine.compare.folder import map_of, read_folder
from engine.compare.overlap import TRAINED, footprint_of, say_overlap, trained_stratum
from engine.compare.report import plain, write_json
from engine.errors import LabelError, MetricError, RecipeError
from engine.files import together
from engine.grid.area import reproject
from engine.labels.design import Allocation, allocate, draw
from engine.labels.rasters import read_shown, require_plain
from engine.legend import LCZ, parse_class
from engine.maps.shares import NO_GREEN

__all__ = ["Filled", "Judged", "is_sample", "judge", "read_sample", "sample"]

_CELLS, _DESIGN = "sample.geojson", "design.json"


@dataclass(frozen=True)
class Judged:
    """Design-based estimates.

    Attributes
    ----------
    classes : codes that map or sample have, ascending; the order of all figures.
    counts : int64 (map class, reference class)
    estimates : Stratified
        Areas in km2.
    mapped : km2 of each class on the map.
    notes : of cells that lie where the model was trained, one line each.
    """

    classes: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    estimates: Stratified
    mapped: npt.NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The single figures: cells looked at, overall accuracy, half of its 95 % interval."""
        found = self.estimates
        return {"cells": float(self.counts.sum()), "oa": found.oa, "oa_ci": found.oa_ci}

    def to_json(self) -> dict[str, Any]:
        """As JSON values; half-widths of 95 % intervals end in ``_ci``."""
        found = self.estimates
        names = ("users", "users_ci", "producers", "producers_ci", "areas", "areas_ci")
        told: dict[str, Any] = plain(
            {
                "schema": 1,
                "cells": int(self.counts.sum()),
                "classes": [LCZ[code - 1].label for code in self.classes],
                "oa": found.oa,
                "oa_ci": found.oa_ci,
                **{name: getattr(found, name) for name in names},
                "mapped": self.mapped,
                "counts": self.counts,
                "notes": self.notes,
            }
        )
        return told


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


def sample(
    product: str | Path,
    out: str | Path,
    *,
    purpose: str = "accuracy",
    standard_error: float = 0.01,
    users: float = 0.8,
    least: int = 50,
    layer: str = "map",
    seed: int = 0,
) -> Allocation:
    """Draw the cells by which a map is to be judged.

    Writes ``sample.geojson``, each cell as a square with an empty ``lcz`` for whoever looks at it
    to fill in, and ``design.json``, which knows what the map says and is better not opened before.

    Parameters
    ----------
    product : a product folder of local climate zones, or any raster of codes 1 to 17.
    out : folder; one that holds a sample is not overwritten.
    purpose : what the sample is for; "accuracy" is the only one so far.
    standard_error, users, least : as `engine.labels.design.allocate` takes them.
    layer : of a product folder, "map" or "classes".
    seed : int

    Raises
    ------
    RecipeError
        Where there is no such purpose.
    MetricError, LabelError
    """
    if purpose != "accuracy":
        raise RecipeError("no such purpose of a sample", got=purpose, expected="accuracy")
    out = Path(out)
    if (out / _CELLS).exists():
        raise LabelError(
            "the folder holds a sample already",
            got=out / _CELLS,
            remedy="somebody may have filled it in: name another folder, or remove it",
        )
    path, codes, box, cell_km2 = _read(product, layer)
    found = allocate(codes, standard_error, users=users, least=least)
    rows, cols = draw(codes, found, seed)
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
        "schema": 1,
        "map": path.name,
        "sha256": _hash(path),
        "cell_km2": cell_km2,
        "cells": {str(c): int(n) for c, n in zip(found.classes, found.cells, strict=True)},
        "sizes": {str(c): int(n) for c, n in zip(found.classes, found.sizes, strict=True)},
        "mapped": [int(codes[row, col]) for row, col in zip(rows, cols, strict=True)],
        "at": np.stack([rows, cols], axis=1).tolist(),
        "seed": seed,
    }
    text = {"type": "FeatureCollection", "features": features}
    with together(out, mark=_CELLS) as part:
        (part / _DESIGN).write_text(json.dumps(design) + "\n", encoding="utf-8")
        (part / _CELLS).write_text(json.dumps(text) + "\n", encoding="utf-8")
    return found


def is_sample(folder: Path) -> bool:
    """Whether a folder is one that `sample` wrote."""
    return (folder / _DESIGN).is_file()


def judge(
    product: str | Path, folder: str | Path, *, layer: str = "map", out: str | Path | None = None
) -> Judged:
    """Estimate a map's accuracy and the classes' true areas from a sample that was filled in.

    Parameters
    ----------
    product : the map that the sample was drawn on.
    folder : what `sample` wrote; ``lcz`` holds 1 to 17, or 1 to 10 and A to G.
    layer : as for `sample`.
    out : folder for ``estimates.json``; by default nowhere.

    Raises
    ------
    LabelError
        Where cells are missing, empty, or hold what is not a class.
    MetricError
        Where the sample was drawn on another map.
    """
    folder = Path(folder)
    filled = read_sample(folder)
    design, reference = filled.design, filled.reference
    path, *_ = _read(product, layer)
    if _hash(path) != design["sha256"]:
        raise MetricError(
            "the sample was drawn on another map",
            got=path.name,
            expected=f"{design['map']} as it was then",
            remedy="judge that one, or draw a new sample; labels can be copied by place",
        )
    mapped = np.array(design["mapped"])
    strata = sorted(map(int, design["cells"]))
    classes = sorted(set(strata) | set(reference.tolist()))
    position = {code: k for k, code in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row, col in zip(mapped.tolist(), reference.tolist(), strict=True):
        counts[position[row], position[col]] += 1
    areas = np.array([design["cells"].get(str(c), 0) * design["cell_km2"] for c in classes])
    sizes, cells = design["sizes"], design["cells"]
    whole = [sizes.get(str(c), 0) == cells.get(str(c)) for c in classes]
    notes = _overlap(Path(product), path, design.get("at"), reference == mapped)
    found = Judged(tuple(classes), counts, stratified(counts, areas, whole), areas, tuple(notes))
    if out is not None:
        with together(Path(out)) as part:
            write_json(part / "estimates.json", found.to_json())
    return found


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


def _overlap(product: Path, path: Path, at: Any, right: npt.NDArray[np.bool_]) -> list[str]:
    """What to tell of cells that lie within the model's reach of its training.

    `at` are rows and columns of the cells, None of samples that were drawn before these were kept.
    """
    footprint, known = footprint_of(product)
    if at is None and footprint is not None:
        return ["whether judged cells trained the model is unknown: the sample kept no places"]
    with trained_stratum(path, footprint) as strata:
        if footprint is None:
            return say_overlap(None, known, None)
        each = strata[TRAINED]
        with rasterio.open(each.path) as file:
            where = each.of(file)(file.read(1))[tuple(np.array(at).T)]
    counts = np.array([[(where == k).sum(), (right & (where == k)).sum()] for k in (0, 1)])
    return say_overlap(footprint, known, counts)


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


def _read(product: str | Path, layer: str) -> tuple[Path, npt.NDArray[np.uint8], GeoBox, float]:
    """A map's path, its codes, grid, and a cell's area in km2.

    The codes all at once: those of a country's cells of 100 m are 10 MB.
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
    return path, codes, box, cell_km2


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


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
