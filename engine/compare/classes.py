"""Evaluate a map of pixels in several classes against a raster of the same codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio

from engine.compare.estimates import bootstrap
from engine.compare.folder import map_of
from engine.compare.overlap import footprint_of, say_overlap
from engine.compare.report import evaluation, write_accuracy, write_table
from engine.compare.squares import Positions, count_squares, positions_of
from engine.errors import MetricError
from engine.legend import LandClass
from engine.metrics import by_class, several

__all__ = ["ClassEvaluation", "evaluate_classes"]

_REPEATS = 500


@dataclass(frozen=True)
class ClassEvaluation:
    """What was found; pixels of the map are what is counted.

    Attributes
    ----------
    legend : the map's classes, in the order of all figures by class.
    figures : oa, and f1 and iou as means over the classes that the reference has.
    intervals : of each figure its mean and the bounds of 95 % over resampled squares of 1 km.
    classes : precision, recall, f1, iou: float (n,); NaN of a class that the reference lacks.
    counts : int64 (n, n), rows reference, columns map.
    areas : km2 of each class on the map and in the reference, where both know: float (n,).
    unknown : pixels of the map that the reference says nothing of.
    groups : squares.
    notes : what is in doubt, one line each.
    """

    legend: tuple[LandClass, ...]
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float, float]]
    classes: dict[str, npt.NDArray[np.float64]]
    counts: npt.NDArray[np.int64]
    areas: dict[str, npt.NDArray[np.float64]]
    unknown: int
    groups: int
    notes: tuple[str, ...] = ()


def evaluate_classes(
    product: str | Path,
    reference: str | Path,
    legend: Sequence[LandClass],
    *,
    unknown: Sequence[int] | None = None,
    within: str | Path | None = None,
    out: str | Path | None = None,
) -> ClassEvaluation:
    """Compare a map of several classes with a raster of their codes.

    Parameters
    ----------
    product : a product folder, or a raster of the classes' codes.
    reference : raster; on another grid its nearest pixel counts.
    legend : the map's classes.
    unknown : codes of the reference that say nothing, by default 0 and 255; its nodata and what it
        masks are others.
    within : raster; only pixels where it is not 0.
    out : folder for ``accuracy.json`` and ``classes.csv``; by default nowhere.

    Raises
    ------
    MetricError
        Where a raster cannot be read or holds other codes, or both know no pixel together.
    """
    legend = tuple(legend)
    path = map_of(Path(product))
    codes = [c.code for c in legend]
    silent = (0, 255) if unknown is None else tuple(unknown)
    if both := sorted(set(codes) & set(silent) if unknown is not None else ()):
        raise MetricError(
            "codes of the reference are both a class and unknown",
            got=both,
            expected="each code to mean one thing",
        )
    silent = tuple(code for code in silent if code not in codes)

    def of_map(file: rasterio.DatasetReader) -> Positions:
        nodata = () if file.nodata is None else (file.nodata,)
        return lambda values: positions_of(values, codes, nodata, "the map")

    found = count_squares(
        path,
        reference,
        within,
        len(codes),
        of_map,
        lambda file: lambda values: positions_of(values, codes, silent, "the reference"),
    )
    counts, square_km = found.counts, found.square_km
    result = ClassEvaluation(
        legend,
        several(counts),
        bootstrap(found.squares, _REPEATS, judge=several, bounds=(0.025, 0.975)),
        by_class(counts),
        counts,
        {"map": counts.sum(axis=0) * square_km, "reference": counts.sum(axis=1) * square_km},
        found.silent,
        found.squares.shape[0],
        # trainings of segmenters keep no footprint yet
        tuple(say_overlap(*footprint_of(Path(product)), None)),
    )
    if out is not None:
        with evaluation(out) as part:
            _write(result, path, Path(reference), part)
    return result


def _write(found: ClassEvaluation, path: Path, reference: Path, out: Path) -> None:
    areas = {f"{where}_km2": values for where, values in found.areas.items()}
    report = {
        "figures": found.figures,
        "intervals_95": found.intervals,
        "classes": {
            c.name: {name: values[k] for name, values in (found.classes | areas).items()}
            for k, c in enumerate(found.legend)
        },
        "groups": found.groups,
        "mapped_pixels_without_reference": found.unknown,
        "confusion": found.counts,
        "notes": found.notes,
    }
    write_accuracy(out, path, reference, report)
    write_table(
        out / "classes.csv",
        ("code", "class", "reference_km2", "map_km2", *found.classes),
        zip(
            [c.code for c in found.legend],
            [c.name for c in found.legend],
            found.areas["reference"],
            found.areas["map"],
            *found.classes.values(),
            strict=True,
        ),
    )
