"""Evaluate: a finished map against a truth, a reference raster or polygons."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox

from engine.compare.folder import map_of
from engine.errors import MetricError
from engine.labels.sampling import Samples, cells_of_areas, cells_of_raster
from engine.labels.training_areas import read_training_areas
from engine.legend import LCZ
from engine.metrics import Accuracy, assess, bootstrap, confusion
from engine.publishing.charts import draw_confusion

__all__ = ["Evaluation", "evaluate"]

_BLOCK = 20  # cells of a block of ground that is drawn as a whole
_REPEATS = 200
_DISSENT = (0, 1, 10, 25)  # percent; where bins of accuracy by dissent begin


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes
    ----------
    accuracy : Accuracy
    counts : int64 (17, 17), rows reference, columns map
    intervals : of each figure (mean, lower quartile, upper quartile) over resampled groups:
        polygons, or blocks of 2 km of a raster.
    missed : labelled cells where the map has no class.
    groups : how many.
    by_observations : cells and overall accuracy by the number of days that a cell was seen on,
        of a product folder.
    by_dissent : the same by the percent of a cell's observations that depart from the composite,
        from each bound up to the next: a cloud that the scene classification missed shows here.
    folder : where the report was written, None if nowhere.
    """

    accuracy: Accuracy
    counts: npt.NDArray[np.int64]
    intervals: dict[str, tuple[float, float, float]]
    missed: int
    groups: int
    by_observations: dict[int, tuple[int, float]]
    by_dissent: dict[int, tuple[int, float]]
    folder: Path | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The single figures of `accuracy` by name, NaN where nothing was counted."""
        return self.accuracy.figures()


def evaluate(
    product: str | Path,
    reference: str | Path,
    *,
    within: str | Path | None = None,
    layer: str = "map",
    out: str | Path | None = None,
) -> Evaluation:
    """Compare a map with what is known.

    Parameters
    ----------
    product : a product folder of natmap, or any raster of codes 1 to 17.
    reference : raster of codes, or training areas (KML, KMZ, GeoJSON, GPKG).
    within : raster, optional; only cells where it is not 0.
    layer : "map" (filtered, masked) or "classes" (unfiltered, unmasked) of a product folder.
    out : folder for ``accuracy.json``, ``classes.csv`` and ``confusion.png``; by default nowhere.

    Returns
    -------
    Evaluation

    Raises
    ------
    MetricError, LabelError
        Where map or reference cannot be read, or share no cell.
    """
    path = map_of(Path(product), layer)
    try:
        with rasterio.open(path) as file:
            codes = file.read(1)
            if file.crs is None:
                raise MetricError("the map does not say which CRS it is in", got=path.name)
            cells = GeoBox(codes.shape, file.transform, str(file.crs.to_wkt()))
    except rasterio.RasterioIOError as error:
        raise MetricError("the map cannot be read", got=error) from error
    samples = _samples(Path(reference), cells, within)
    found = codes[samples["row"], samples["col"]]
    counts = confusion(samples["lcz"], found)
    if not counts.sum():
        raise MetricError(
            "map and reference share no cell with a class",
            got=f"{len(samples)} labelled cells, none mapped",
            remedy="evaluate --layer classes is not masked; or check that both cover one place",
        )
    groups: dict[str, npt.NDArray[np.int64]] = {}
    for number in np.unique(samples["group"]):
        here = samples["group"] == number
        part = confusion(samples["lcz"][here], found[here])
        if part.sum():
            groups[str(number)] = part
    result = Evaluation(
        assess(counts),
        counts,
        bootstrap(groups, _REPEATS),
        int((found == 0).sum()),
        len(groups),
        _by_layer(path, "observations", samples, found),
        _by_layer(path, "dissent", samples, found),
        None if out is None else Path(out),
    )
    if out is not None:
        _write(result, path, Path(reference), Path(out))
    return result


def _by_layer(
    path: Path, name: str, samples: Samples, found: npt.NDArray[Any]
) -> dict[int, tuple[int, float]]:
    beside = path.with_name(path.name.replace("-classes", "").removesuffix(".tif"))
    layer = beside.with_name(f"{beside.name}-{name}.tif")
    if not layer.is_file():
        return {}
    with rasterio.open(layer) as file:
        values = file.read(1)[samples["row"], samples["col"]]
        known = (found > 0) & (values != (-1 if file.nodata is None else file.nodata))
    if name == "dissent":
        bounds = np.array(_DISSENT)
        values = bounds[np.searchsorted(bounds, np.minimum(values, 100), side="right") - 1]
    return {
        int(value): (int(here.sum()), float((found[here] == samples["lcz"][here]).mean()))
        for value in np.unique(values[known])
        if (here := known & (values == value)).any()
    }


def _samples(reference: Path, cells: GeoBox, within: str | Path | None) -> Samples:
    if reference.suffix.lower() in (".tif", ".tiff", ".vrt", ".img"):
        samples = cells_of_raster(reference, cells, within=within)
        # neighbours are no independent witnesses: blocks of ground are drawn as a whole
        samples["group"] = samples["row"] // _BLOCK * 100_000 + samples["col"] // _BLOCK
        return samples
    samples = cells_of_areas(read_training_areas(reference).areas, cells)
    if within is not None:
        allowed = cells_of_raster(within, cells, classes=False)
        place = samples["row"] * cells.shape[1] + samples["col"]
        samples = samples[np.isin(place, allowed["row"] * cells.shape[1] + allowed["col"])]
    return samples


def _rows(parts: dict[int, tuple[int, float]]) -> dict[str, dict[str, float]]:
    return {str(k): {"cells": cells, "oa": round(oa, 4)} for k, (cells, oa) in parts.items()}


def _write(found: Evaluation, path: Path, reference: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {
        name: None if math.isnan(value) else round(value, 4)
        for name, value in found.figures.items()
    }
    report = {
        "schema": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "map": path.name,
        "reference": reference.name,
        "figures": figures,
        "quartiles": {
            name: [None if math.isnan(v) else round(v, 4) for v in values]
            for name, values in found.intervals.items()
        },
        "groups": found.groups,
        "by_observations": _rows(found.by_observations),
        "by_dissent_percent": _rows(found.by_dissent),
        "labelled_cells_without_a_class": found.missed,
        "confusion": found.counts.tolist(),
    }
    (out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with (out / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["lcz", "title", "reference_cells", "map_cells", "f1", "users", "producers"]
        )
        for k, zone in enumerate(LCZ):
            values = (found.accuracy.f1, found.accuracy.users, found.accuracy.producers)
            writer.writerow(
                [
                    zone.label,
                    zone.title,
                    int(found.counts[k].sum()),
                    int(found.counts[:, k].sum()),
                    *("" if math.isnan(v[k]) else f"{v[k]:.4f}" for v in values),
                ]
            )
    draw_confusion(found.counts, out / "confusion.png", f"{path.stem}: share of the reference, %")
