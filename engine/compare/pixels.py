"""Evaluate a map of green space against a raster that knows: labels, or a land cover product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

from engine.compare.estimates import bootstrap
from engine.compare.folder import map_of
from engine.compare.overlap import footprint_of, say_overlap
from engine.compare.report import evaluation, write_accuracy
from engine.compare.squares import Positions, count_squares, some_values
from engine.errors import MetricError
from engine.labels.land_cover import land_cover as find_cover
from engine.maps.shares import NO_GREEN
from engine.metrics import binary

__all__ = ["GreenEvaluation", "evaluate_green"]

_REPEATS = 500
_SHOWN = 10  # codes of a reference that an error lists


@dataclass(frozen=True)
class GreenEvaluation:
    """What was found; pixels of the map are what is counted.

    Attributes
    ----------
    figures : precision, recall, f1, iou, oa, pooled over all pixels (UGS-1m, equations 7 to 11).
    intervals : of each figure its mean and the bounds of 95 % over resampled squares of 1 km.
    counts : int64 (2, 2), rows reference, columns map: not green, green.
    areas : km2 of green space on the map and in the reference, where both know.
    area_intervals : of these the same as of figures: km2 that the ground compared would have, were
        its shares of green those of the squares drawn.
    green : codes of the reference that were taken for green.
    unknown : pixels of the map that the reference says nothing of.
    groups : squares.
    notes : what is in doubt, one line each.
    """

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float, float]]
    counts: npt.NDArray[np.int64]
    areas: dict[str, float]
    area_intervals: dict[str, tuple[float, float, float]]
    green: tuple[int, ...]
    unknown: int
    groups: int
    notes: tuple[str, ...] = ()


def evaluate_green(
    product: str | Path,
    reference: str | Path,
    *,
    green: Sequence[int] | None = None,
    unknown: Sequence[int] | None = None,
    land_cover: str | None = None,
    within: str | Path | None = None,
    out: str | Path | None = None,
) -> GreenEvaluation:
    """Compare a map of green space with a raster of labels or of land cover.

    Parameters
    ----------
    product : a product folder of green space, or any raster of 1, 0 and 255.
    reference : raster; on another grid its nearest pixel counts.
    green : its codes that are green space; all others are not. By default it holds labels: 1 is
        green space, 0 is not, and there are no others.
    unknown : its codes that say nothing, by default 255; its nodata and what it masks are others.
    land_cover : in place of `green`, a product of `engine.labels.land_cover.LAND_COVER`, which
        knows its codes; `unknown` adds to them.
    within : raster; only pixels where it is not 0.
    out : folder for ``accuracy.json``; by default nowhere.

    Raises
    ------
    MetricError
        Where a raster cannot be read or holds other values, codes contradict each other, the
        reference has no green space, or both know no pixel together.
    """
    path = map_of(Path(product))
    codes = _codes_of(green, unknown, land_cover)
    nodata: float | None = None

    def of_reference(file: rasterio.DatasetReader) -> Positions:
        nonlocal nodata
        _require_green(file, codes)
        nodata = file.nodata
        return codes.of_reference

    found = count_squares(path, reference, within, 2, _green_of_map, of_reference)
    counts, square_km = found.counts, found.square_km
    if not counts[1].any():
        seen = some_values(path, reference, _green_of_map, codes.of_reference)
        raise MetricError(
            "the reference has no green space where the map has data",
            got=f"codes {_listed(seen)}",
            expected=f"green space as {_listed(codes.green)}",
            remedy="say which codes are green space (--green 10,20,30, or --land-cover), or "
            "compare where there is some",
        )
    if not counts[0].any() and nodata == 0:
        raise MetricError(
            "the reference knows nothing but green space where the map has data",
            got=f"{int(counts[1].sum())} pixels of green space, {found.silent} that say nothing",
            expected="pixels that are not green as well: without them precision is 1 whatever the "
            "map says",
            remedy="where all else is not green, take the nodata value 0 off the reference",
        )
    area = float(counts.sum()) * square_km

    def judge(drawn: npt.ArrayLike) -> dict[str, float]:
        pixels = np.asarray(drawn, np.float64)
        return binary(pixels) | {
            # a share of what was drawn: squares cut by the border must not make less area
            "map": float(pixels[:, 1].sum() / pixels.sum()) * area,
            "reference": float(pixels[1].sum() / pixels.sum()) * area,
        }

    figures = judge(counts)
    intervals = bootstrap(found.squares, _REPEATS, judge=judge, bounds=(0.025, 0.975))
    result = GreenEvaluation(
        binary(counts),
        {name: interval for name, interval in intervals.items() if name not in _AREAS},
        counts,
        {name: figures[name] for name in _AREAS},
        {name: intervals[name] for name in _AREAS},
        codes.green,
        found.silent,
        found.squares.shape[0],
        # trainings of segmenters keep no footprint yet
        tuple(say_overlap(*footprint_of(Path(product)), None)),
    )
    if out is not None:
        with evaluation(out) as part:
            _write(result, path, Path(reference), part)
    return result


_AREAS = ("map", "reference")


class _Codes(NamedTuple):
    """What the reference's values mean; `known` are all it may hold, None where any will do."""

    green: tuple[int, ...]
    unknown: tuple[int, ...]
    known: tuple[int, ...] | None

    def of_reference(self, truth: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """1 green space, 0 not, -1 unknown; values are float, NaN beyond the reference."""
        known = np.isfinite(truth) & ~np.isin(truth, self.unknown)
        if (parts := known & (truth != np.floor(truth))).any():
            raise MetricError(
                "the reference holds fractions, which are no codes",
                got=_listed(np.unique(truth[parts])[:_SHOWN]),
                expected="whole numbers, one for each class",
                remedy="write it as classes: 1 green, 0 not green, 255 no data",
            )
        if self.known is not None and (strange := known & ~np.isin(truth, self.known)).any():
            raise MetricError(
                "the reference holds other codes than its product, or labels, may have",
                got=_listed(np.unique(truth[strange])[:_SHOWN]),
                expected=_listed(sorted(self.known)),
                remedy="name the product (--land-cover), or the codes: --green and --unknown",
            )
        return np.where(known, np.isin(truth, self.green), -1).astype(np.int64)


def _codes_of(
    green: Sequence[int] | None, unknown: Sequence[int] | None, name: str | None
) -> _Codes:
    if name is not None:
        if green is not None:
            raise MetricError(
                "green space is named twice",
                got=f"--green {_listed(green)} and --land-cover {name}",
                expected="one of them",
            )
        cover = find_cover(name)
        none = (*cover.unknown, *(unknown or ()))
        codes = _Codes(cover.green, none, (*cover.green, *cover.other, *none))
    else:
        silent = (255,) if unknown is None else tuple(unknown)
        codes = _Codes((1,), silent, (0, 1, *silent))
        if green is not None:
            codes = _Codes(tuple(green), silent, None)
    both = sorted(set(codes.green) & set(codes.unknown))
    if both:
        raise MetricError(
            "codes of the reference are both green space and unknown",
            got=f"{_listed(both)}; unknown: {_listed(codes.unknown)}",
            expected="each code to mean one thing",
            remedy='say which codes say nothing: --unknown 0,250, or --unknown "" where none does',
        )
    return codes


def _green_of_map(file: rasterio.DatasetReader) -> Positions:
    """1 green space, 0 not, -1 none: 255, the map's own nodata, NaN."""
    if file.nodata in (0, 1):
        raise MetricError(
            "the map declares a class of green space as nodata",
            got=f"{file.name}: nodata {file.nodata:g}",
            expected="1 green, 0 not green, 255 no data",
            remedy="take the nodata value off the file, or say where it has none with another",
        )
    silent = (NO_GREEN,) if file.nodata is None else (NO_GREEN, file.nodata)

    def positions(found: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        known = np.isfinite(found) & ~np.isin(found, silent)
        strange = known & (found != 0) & (found != 1)
        if strange.any():
            raise MetricError(
                "the map holds values that are not classes of green space",
                got=_listed(np.unique(found[strange])[:_SHOWN]),
                expected="1 green, 0 not green, 255 no data",
                remedy="give the product folder, or its N.tif: not its probability or fraction",
            )
        return np.where(known, np.where(known, found, 0).astype(np.int64), -1)

    return positions


def _listed(codes: Iterable[float]) -> str:
    return ", ".join(f"{code:g}" for code in codes) or "none"


def _require_green(theirs: rasterio.DatasetReader, codes: _Codes) -> None:
    if theirs.nodata in codes.green:
        raise MetricError(
            "the reference declares as nodata what is to be green space",
            got=f"{theirs.name}: nodata {theirs.nodata:g}",
            expected=f"green space as {_listed(codes.green)}, and another nodata or none",
            remedy="take the nodata value off the file, or say which codes are green space",
        )


def _write(found: GreenEvaluation, path: Path, reference: Path, out: Path) -> None:
    report = {
        "reference_codes_that_are_green": found.green,
        "figures": found.figures,
        "intervals_95": found.intervals,
        "green_km2": found.areas,
        "green_km2_intervals_95": found.area_intervals,
        "groups": found.groups,
        "mapped_pixels_without_reference": found.unknown,
        "confusion": found.counts,
        "notes": found.notes,
    }
    write_accuracy(out, path, reference, report)
