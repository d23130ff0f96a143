"""Evaluate: a finished map against a truth, a reference raster or polygons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox
from scipy.sparse import csr_array

from engine.compare.estimates import bootstrap
from engine.compare.folder import map_of
from engine.compare.overlap import TRAINED, footprint_of, say_overlap, trained_stratum
from engine.compare.report import evaluation, write_accuracy, write_table
from engine.compare.squares import Positions, Strata, count_squares, onto, positions_of
from engine.errors import MetricError
from engine.labels.rasters import read_shown, require_plain
from engine.labels.sampling import Samples, areas_without_cells, cells_of_areas
from engine.labels.training_areas import read_training_areas
from engine.legend import LCZ
from engine.metrics import Accuracy, assess
from engine.publishing.charts import draw_confusion

__all__ = [
    "RASTERS",
    "REPEATS",
    "Evaluation",
    "evaluate",
    "meaning_of",
    "of_map",
    "values_at",
    "write_evaluation",
]

_BLOCK = 20  # cells of a block of ground that is drawn as a whole
_READ = 2048  # cells down and across that are read at once
REPEATS = 200
"""Draws of the groups for the quartiles of a figure."""
_DISSENT = (0, 1, 10, 25)  # percent; where bins of accuracy by dissent begin
_DAYS = 4096  # more days than any composite has
_N = len(LCZ)
RASTERS = (".tif", ".tiff", ".vrt", ".img")


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
    notes : what was left out of the reference or is in doubt, one line each.
    by_training : cells and overall accuracy apart from ground that trained the model (0) and within
        the model's reach of it (1); empty where that ground is not known.
    """

    accuracy: Accuracy
    counts: npt.NDArray[np.int64]
    intervals: dict[str, tuple[float, float, float]]
    missed: int
    groups: int
    by_observations: dict[int, tuple[int, float]]
    by_dissent: dict[int, tuple[int, float]]
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    by_training: dict[int, tuple[int, float]] = dataclasses.field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """The single figures of `accuracy` by name, NaN where nothing was counted."""
        return self.accuracy.figures()


class _Counted(NamedTuple):
    """Counts (17 * 17) by group, labelled cells without a class, counts by layer and stratum."""

    groups: csr_array
    missed: int
    strata: dict[str, npt.NDArray[np.int64]]
    notes: tuple[str, ...] = ()


def evaluate(
    product: str | Path,
    reference: str | Path,
    *,
    within: str | Path | None = None,
    layer: str = "map",
    unknown: Sequence[int] | None = None,
    field: str | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Compare a map with what is known.

    Parameters
    ----------
    product : a product folder of natmap, or any raster of codes 1 to 17.
    reference : raster of codes, or training areas (KML, KMZ, GeoJSON, GPKG).
    within : raster, optional; only cells where it is not 0.
    layer : "map" (filtered, masked) or "classes" (unfiltered, unmasked) of a product folder.
    unknown : codes of a reference raster that say nothing, beside 0 and its nodata.
    field : of training areas, the one that holds the type.
    out : folder for ``accuracy.json``, ``classes.csv`` and ``confusion.png``; by default nowhere.

    Returns
    -------
    Evaluation

    Raises
    ------
    MetricError, LabelError
        Where map or reference cannot be read or hold other codes, or share no cell.
    """
    path, reference = map_of(Path(product), layer), Path(reference)
    footprint, known = footprint_of(Path(product))
    with ExitStack() as stack:
        try:
            strata = _strata(path) | stack.enter_context(trained_stratum(path, footprint))
        except rasterio.errors.RasterioError as error:
            raise MetricError("the map cannot be read", got=error) from error
        found = _count(path, reference, within, unknown, field, strata)
    counts = np.asarray(found.groups.sum(axis=0), np.int64).reshape(_N, _N)
    trained = found.strata.get(TRAINED)
    notes = (*found.notes, *say_overlap(footprint, known, trained))
    result = Evaluation(
        assess(counts),
        counts,
        bootstrap(found.groups, REPEATS),
        found.missed,
        found.groups.shape[0],
        _shares(found.strata.get("observations"), range(_DAYS)),
        _shares(found.strata.get("dissent"), _DISSENT),
        None if out is None else Path(out),
        notes,
        _shares(trained, (0, 1)),
    )
    if out is not None:
        with evaluation(out) as part:
            write_evaluation(result, path, reference, part)
    return result


def _count(
    path: Path,
    reference: Path,
    within: str | Path | None,
    unknown: Sequence[int] | None,
    field: str | None,
    strata: Mapping[str, Strata],
) -> _Counted:
    """By squares of a raster, or by training areas.

    Raises
    ------
    MetricError, LabelError
    """
    if reference.suffix.lower() in RASTERS:
        return _count_raster(path, reference, within, (0, *(unknown or ())), strata)
    if unknown is not None:
        raise MetricError(
            "only codes of a raster can say nothing",
            got=f"{reference.name} with --unknown",
            expected="training areas without --unknown, or a reference raster",
        )
    return _count_areas(path, reference, within, field, strata)


def meaning_of(silent: Sequence[float], whose: str) -> Positions:
    """Positions of the local climate zones that values stand for; `whose` is for the message."""
    codes = [*(zone.code for zone in LCZ), *range(101, 108)]  # 101 to 107 stand for 11 to 17

    def positions(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        found = positions_of(values, codes, silent, whose)
        return np.where(found >= _N, found - 7, found)

    return positions


def of_map(file: rasterio.DatasetReader) -> Positions:
    """What a map's values mean: positions of classes; 0 is none, whatever its nodata is."""
    return meaning_of((0,) if file.nodata is None else (0, file.nodata), "the map")


def _count_raster(
    path: Path,
    reference: Path,
    within: str | Path | None,
    silent: Sequence[int],
    strata: Mapping[str, Strata],
) -> _Counted:
    """By squares: neighbours are no independent witnesses, so blocks are drawn as a whole."""
    found = count_squares(
        path,
        reference,
        within,
        _N,
        of_map,
        lambda file: meaning_of(silent, "the reference"),
        cells=_BLOCK,
        strata=strata,
    )
    return _Counted(found.squares, found.missed, found.strata)


def _count_areas(
    path: Path,
    reference: Path,
    within: str | Path | None,
    field: str | None,
    layers: Mapping[str, Strata],
) -> _Counted:
    """By training area: only what lies about labelled cells is read."""
    read = read_training_areas(reference, field=field)
    areas, notes = read.areas, list(read.notes)
    try:
        with rasterio.open(path) as file:
            if file.crs is None:
                raise MetricError("the map does not say which CRS it is in", got=path.name)
            require_plain(file, MetricError)
            cells = GeoBox((file.height, file.width), file.transform, str(file.crs.to_wkt()))
            samples = cells_of_areas(areas, cells)
            notes += areas_without_cells(areas, samples, cells)
            if within is not None:
                with rasterio.open(within) as places, onto(file, places) as view:
                    require_plain(places, MetricError)
                    values = values_at(view, samples)
                    samples = samples[np.isfinite(values) & (values != 0)]
            found = of_map(file)(values_at(file, samples))
        strata = {}
        for name, each in layers.items():
            with rasterio.open(each.path) as file:
                strata[name] = each.of(file)(values_at(file, samples))
    except rasterio.errors.RasterioError as error:
        raise MetricError("a raster cannot be read", got=error) from error
    truth, mapped = samples["lcz"].astype(np.int64) - 1, found >= 0
    if not mapped.any():
        raise MetricError(
            "map and reference share no cell with a class",
            got=f"{len(samples)} labelled cells, none mapped",
            remedy="evaluate --layer classes is not masked; or check that both cover one place",
        )
    numbers, group = np.unique(samples["group"][mapped], return_inverse=True)
    pairs = truth[mapped] * _N + found[mapped]
    ones = np.ones(len(pairs), np.int64)
    groups = csr_array((ones, (group, pairs)), shape=(len(numbers), _N**2))  # adds them up
    told = {}
    for name, stratum in strata.items():
        here, size = mapped & (stratum >= 0), layers[name].n
        some = [stratum[here], stratum[here & (found == truth)]]
        told[name] = np.stack([np.bincount(s, minlength=size) for s in some], axis=-1)
    return _Counted(groups, int((~mapped).sum()), told, tuple(notes))


def values_at(file: Any, samples: Samples) -> npt.NDArray[Any]:
    """Values of a raster's first band at cells, NaN where it is masked; read by blocks."""
    block = samples["row"] // _READ * (file.width // _READ + 1) + samples["col"] // _READ
    order = np.argsort(block, kind="stable")
    values = np.zeros(len(samples), np.float64)
    starts = np.flatnonzero(np.diff(block[order], prepend=-1))
    for here in np.split(order, starts[1:]) if len(order) else ():
        rows, cols = samples["row"][here], samples["col"][here]
        top, left = rows.min(), cols.min()
        window = (int(top), int(rows.max()) + 1), (int(left), int(cols.max()) + 1)
        values[here] = read_shown(file, window)[rows - top, cols - left]
    return values


def _strata(path: Path) -> dict[str, Strata]:
    """Layers beside a map by which its accuracy is told apart, where there are any.

    They are on its grid: a file of such a name that is not is another map's.
    """
    beside = path.stem.removesuffix("-classes")
    named = {"observations": (_DAYS, _by_days), "dissent": (len(_DISSENT), _by_dissent)}
    found = {name: path.with_name(f"{beside}-{name}{path.suffix}") for name in named}
    return {
        name: Strata(at, *named[name])
        for name, at in found.items()
        if at.is_file() and _place_of(at) == _place_of(path)
    }


def _place_of(path: Path) -> tuple[Any, ...]:
    with rasterio.open(path) as file:
        return file.crs, file.transform, file.shape


def _by_days(file: rasterio.DatasetReader) -> Positions:
    nodata = -1 if file.nodata is None else file.nodata
    return lambda days: np.where(days == nodata, -1, np.minimum(days.astype(np.int64), _DAYS - 1))


def _by_dissent(file: rasterio.DatasetReader) -> Positions:
    nodata = -1 if file.nodata is None else file.nodata

    def bins(percent: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        found = np.searchsorted(_DISSENT, np.minimum(percent, 100), side="right") - 1
        return np.where(percent == nodata, -1, found)

    return bins


def _shares(
    counts: npt.NDArray[np.int64] | None, names: Sequence[int]
) -> dict[int, tuple[int, float]]:
    """Cells and the share that is right, by stratum that has any."""
    if counts is None:
        return {}
    return {
        name: (int(cells), float(right / cells))
        for name, (cells, right) in zip(names, counts, strict=True)
        if cells
    }


def write_evaluation(found: Evaluation, path: Path, reference: Path, out: Path) -> None:
    """Write ``accuracy.json``, ``classes.csv`` and ``confusion.png`` into a folder."""

    def rows(parts: dict[int, tuple[int, float]]) -> dict[int, dict[str, float]]:
        return {k: {"cells": cells, "oa": oa} for k, (cells, oa) in parts.items()}

    report = {
        "figures": found.figures,
        "quartiles": found.intervals,
        "groups": found.groups,
        "by_observations": rows(found.by_observations),
        "by_dissent_percent": rows(found.by_dissent),
        "labelled_cells_without_a_class": found.missed,
        "by_training": rows(found.by_training),
        "notes": found.notes,
        "confusion": found.counts,
    }
    write_accuracy(out, path, reference, report)
    accuracy, names = found.accuracy, ("f1", "users", "producers")
    write_table(
        out / "classes.csv",
        ("lcz", "title", "reference_cells", "map_cells", *names),
        zip(
            [zone.label for zone in LCZ],
            [zone.title for zone in LCZ],
            found.counts.sum(axis=1),
            found.counts.sum(axis=0),
            *(getattr(accuracy, name) for name in names),
            strict=True,
        ),
    )
    draw_confusion(found.counts, out / "confusion.png", f"{path.stem}: share of the reference, %")
