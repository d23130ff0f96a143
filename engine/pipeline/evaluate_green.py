"""Evaluate a map of green space against a raster that knows: labels, or a land cover product."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from engine.errors import MetricError
from engine.metrics import binary, bootstrap
from engine.product.ugs import NO_GREEN

__all__ = ["GreenEvaluation", "evaluate_green", "green_map"]

_STRIP = 1000  # pixels down that are compared at once
_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole
_REPEATS = 500


@dataclass(frozen=True)
class GreenEvaluation:
    """What was found; pixels of the map are what is counted.

    Attributes
    ----------
    figures : precision, recall, f1, iou, oa, pooled over all pixels (UGS-1m, equations 7 to 11).
    intervals : of each figure its mean and the bounds of 95 % over resampled squares of 1 km.
    counts : int64 (2, 2), rows reference, columns map: not green, green.
    areas : km2 of green space on the map and in the reference, where both know.
    green : codes of the reference that were taken for green.
    unknown : pixels of the map that the reference says nothing of.
    groups : squares.
    """

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float, float]]
    counts: npt.NDArray[np.int64]
    areas: dict[str, float]
    green: tuple[int, ...]
    unknown: int
    groups: int


def green_map(path: Path) -> Path | None:
    """The raster of a product folder of green space; None where it is something else.

    Raises
    ------
    MetricError
        Where the folder has lost its raster.
    """
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        if report["recipe"]["product"] != "ugs":
            return None
        name = report["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for raster in (path / f"{name}.tif", path / f"{name}.vrt"):  # of sheets their mosaic
        if raster.exists():
            return raster
    raise MetricError(
        "the product folder lacks its raster",
        got=str(path),
        expected=f"{name}.tif, or {name}.vrt of sheets",
        remedy="publish it again",
    )


def evaluate_green(
    product: str | Path,
    reference: str | Path,
    *,
    green: Sequence[int] = (1,),
    unknown: Sequence[int] = (255,),
    within: str | Path | None = None,
    out: str | Path | None = None,
) -> GreenEvaluation:
    """Compare a map of green space with a raster of labels or of land cover.

    Parameters
    ----------
    product : a product folder of green space, or any raster of 1, 0 and 255.
    reference : raster; on another grid its nearest pixel counts.
    green : its codes that are green space: 1 of labels; of land cover forest, grass and shrub.
    unknown : its codes that say nothing; its nodata is another.
    within : raster; only pixels where it is not 0.
    out : folder for ``accuracy.json``; by default nowhere.

    Raises
    ------
    MetricError
        Where a raster cannot be read, or both know no pixel together.
    """
    path = green_map(Path(product)) or Path(product)
    blocks: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros((2, 2), np.int64))
    silent = 0
    try:
        with ExitStack() as open_files:
            mine = open_files.enter_context(rasterio.open(path))
            theirs = open_files.enter_context(rasterio.open(reference))
            _require(mine, theirs)
            form = {"crs": mine.crs, "transform": mine.transform, "resampling": Resampling.nearest}
            form |= {"height": mine.height, "width": mine.width}
            nothing = theirs.nodata if theirs.nodata is not None else unknown[0] if unknown else 0
            with WarpedVRT(theirs, nodata=nothing, **form) as view:
                where = None
                if within is not None:
                    places = open_files.enter_context(rasterio.open(within))
                    where = open_files.enter_context(WarpedVRT(places, **form))
                none = [*unknown, nothing]
                side = max(round(_GROUND / mine.res[0]), 1)
                for top in range(0, mine.height, _STRIP):
                    window = Window(0, top, mine.width, min(_STRIP, mine.height - top))
                    found, truth = mine.read(1, window=window), view.read(1, window=window)
                    known = ~np.isin(truth, none)
                    if where is not None:
                        known &= where.read(1, window=window) != 0
                    silent += int(((found != NO_GREEN) & ~known).sum())
                    both = known & (found != NO_GREEN)
                    pairs = 2 * np.isin(truth, list(green)) + (found == 1)
                    for left in range(0, mine.width, side):
                        here = np.s_[:, left : left + side]
                        part = np.bincount(pairs[here][both[here]], minlength=4)
                        if part.any():
                            blocks[f"{top // side} {left // side}"] += part.reshape(2, 2)
            square_km = abs(mine.res[0] * mine.res[1]) / 1e6
    except rasterio.errors.RasterioError as error:
        raise MetricError("a raster cannot be read", got=error) from error
    if not blocks:
        raise MetricError(
            "map and reference know no pixel together",
            got=f"{silent} pixels of the map, none labelled",
            remedy="check that both cover one place, and which codes say nothing",
        )
    counts = np.sum(list(blocks.values()), axis=0)
    result = GreenEvaluation(
        binary(counts),
        bootstrap(blocks, _REPEATS, judge=binary, bounds=(0.025, 0.975)),
        counts,
        {
            "map": float(counts[:, 1].sum()) * square_km,
            "reference": float(counts[1].sum()) * square_km,
        },
        tuple(green),
        silent,
        len(blocks),
    )
    if out is not None:
        _write(result, path, Path(reference), Path(out))
    return result


def _require(mine: rasterio.DatasetReader, theirs: rasterio.DatasetReader) -> None:
    for file in (mine, theirs):
        if file.crs is None:
            raise MetricError("a raster does not say which CRS it is in", got=file.name)
    if mine.crs.is_geographic:
        raise MetricError(
            "the map is in degrees", got=mine.name, expected="a projected CRS, as natmap's are"
        )


def _write(found: GreenEvaluation, path: Path, reference: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)

    def plain(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 4)

    report = {
        "schema": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "map": path.name,
        "reference": reference.name,
        "reference_codes_that_are_green": list(found.green),
        "figures": {name: plain(value) for name, value in found.figures.items()},
        "intervals_95": {name: [plain(v) for v in vs] for name, vs in found.intervals.items()},
        "green_km2": {name: plain(value) for name, value in found.areas.items()},
        "groups": found.groups,
        "mapped_pixels_without_reference": found.unknown,
        "confusion": found.counts.tolist(),
    }
    (out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
