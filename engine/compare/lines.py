"""Evaluate a class of a map that is a network of lines, roads say: completeness and correctness.

Lengths of centrelines are compared, not areas (Wiedemann, Heipke, Mayer and Jamet 1998, "Empirical
evaluation of automatically extracted road axes"): how much of the reference lies within a buffer
about the map's lines, and how much of the map's lies within one about the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from engine.compare.estimates import bootstrap
from engine.compare.folder import map_of, read_folder
from engine.compare.report import evaluation, write_accuracy
from engine.compare.squares import MapLayer, onto, require_places
from engine.compare.thinning import halo_of, links_of, passes_for, thin
from engine.errors import MetricError
from engine.grid.area import reproject
from engine.labels.rasters import require_plain, require_upright
from engine.runs.layers import RasterLayer
from engine.vectors.lines import read_lines
from engine.vectors.read import file_of

__all__ = ["LineEvaluation", "evaluate_lines"]

_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole
_REPEATS = 500
_RASTERS = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".png")


@dataclass(frozen=True)
class LineEvaluation:
    """What was found.

    Attributes
    ----------
    figures : completeness, correctness, quality and f1, of lengths over all of the ground; 0 to 1,
        NaN where nothing was there to be counted.
    intervals : of each figure its mean and the bounds of 95 % over resampled squares of 1 km.
    lengths : km of lines: reference, found (of it), map, right (of the map).
    buffer : metres.
    widest : metres; what is wider is no line.
    wide : km2 on the map, of the class, that are no line.
    groups : squares with a line.
    notes : what is in doubt, one line each.
    """

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float, float]]
    lengths: dict[str, float]
    buffer: float
    widest: float
    wide: float
    groups: int
    notes: tuple[str, ...] = ()


class _Lines(NamedTuple):
    """Pieces of lines: middles (n, 2), row and column of the map, of whose pixels the centres are
    whole numbers; lengths (n,) in pixels."""

    xy: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float64]


def evaluate_lines(
    product: str | Path,
    reference: str | Path,
    line: str | int,
    *,
    buffer: float = 5.0,
    widest: float = 40.0,
    codes: Sequence[int] | None = None,
    unknown: Sequence[int] | None = None,
    within: str | Path | None = None,
    out: str | Path | None = None,
) -> LineEvaluation:
    """Compare the centrelines of a class with a reference.

    Parameters
    ----------
    product : a product folder with that class, or a raster of codes, projected.
    reference : file of lines, or a raster of codes whose centrelines are made as the map's are.
    line : the class, by its name in the map's legend or by its code.
    buffer : metres within which two lines are one.
    widest : metres; what is wider on the map is no line: a yard, a car park.
    codes : of a reference raster, those that are lines; by default that of the map.
    unknown : of a reference raster, those that say nothing, beside its nodata.
    within : raster; only ground where it is not 0 is compared.
    out : folder for ``accuracy.json``; by default nowhere.

    Raises
    ------
    MetricError
        Where a file cannot be read, the class is not in the legend, or the reference has no line
        on ground that the map knows.
    """
    if not (0 < buffer <= 100 and 0 < widest <= 200):
        raise MetricError(
            "the buffer or the greatest width of a line cannot be meant",
            got=f"buffer {buffer:g} m, widest {widest:g} m",
            expected="over 0 to 100 m, and over 0 to 200 m",
        )
    product, reference = Path(product), Path(reference)
    path, code = map_of(product), _code_of(product, line)
    raster = _is_raster(reference)
    if not raster and (codes is not None or unknown is not None):
        raise MetricError(
            "codes are of a reference raster",
            got=f"{reference.name} is a file of lines",
            remedy="leave --codes and --unknown out",
        )
    wanted = (code,) if codes is None else tuple(codes)
    if both := sorted(set(wanted) & set(unknown or ())):
        raise MetricError("codes of the reference are both lines and unknown", got=both)
    try:
        with ExitStack() as files:
            mine = files.enter_context(rasterio.open(path))
            others = {"reference": reference} if raster else {}
            others |= {} if within is None else {"within": Path(within)}
            opened = {n: files.enter_context(rasterio.open(p)) for n, p in others.items()}
            for file in (mine, *opened.values()):
                require_plain(file, MetricError)
            require_places(mine, *opened.values(), metres=True)
            require_upright(mine, MetricError)
            layers: dict[str, RasterLayer] = {"map": MapLayer(mine)}
            for name, file in opened.items():
                layers[name] = RasterLayer(files.enter_context(onto(mine, file)))
            judge = _Judge(mine, code, wanted, tuple(unknown or ()), buffer, widest)
            if not raster:
                judge.given = _read_lines(reference, mine, judge.resolution / 2)
            found, wide, notes = judge.run(layers)
    except rasterio.errors.RasterioError as error:
        raise MetricError("a raster cannot be read", got=error) from error
    result = _evaluation(found, wide, buffer, widest, notes)
    if out is not None:
        with evaluation(out) as part:
            _write(result, path, reference, part, code)
    return result


def _evaluation(
    found: csr_array, wide: float, buffer: float, widest: float, notes: Sequence[str]
) -> LineEvaluation:
    total = np.asarray(found.sum(axis=0), np.float64).reshape(2, 2)
    names = ("found", "reference", "right", "map")
    sums = total[0, 0], total[0].sum(), total[1, 0], total[1].sum()
    lengths = dict(zip(names, (float(value) for value in sums), strict=True))
    if not lengths["reference"]:
        raise MetricError(
            "the reference has no line where the map has data",
            got=f"{lengths['map']:.3f} km of lines on the map",
            remedy="check that both cover one place, and which codes are lines (--codes)",
        )
    intervals = bootstrap(found, _REPEATS, judge=_figures, bounds=(0.025, 0.975))
    return LineEvaluation(
        _figures(total), intervals, lengths, buffer, widest, wide, found.shape[0], tuple(notes)
    )


def _figures(lengths: npt.ArrayLike) -> dict[str, float]:
    """Of lengths: of the reference found and missed, of the map right and wrong."""
    (found, missed), (right, wrong) = np.asarray(lengths, np.float64).reshape(2, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        complete, correct = found / (found + missed), right / (right + wrong)
        # of the reference's scale: the map's own length cancels
        share = np.divide(1.0, 1.0 / complete + 1.0 / correct - 1.0) if right else 0.0 * complete
        f1 = 2 * complete * correct / (complete + correct)
    values = {"completeness": complete, "correctness": correct, "quality": share, "f1": f1}
    return {name: float(value) for name, value in values.items()}


def _code_of(product: Path, line: str | int) -> int:
    """Of a class by its name in the map's legend; a code is one as it is."""
    folder = read_folder(product)
    legend = () if folder is None else folder.legend
    known = {land.name: land.code for land in legend} | {str(c.code): c.code for c in legend}
    if str(line) in known:
        return known[str(line)]
    if folder is None and str(line).isdecimal():
        return int(line)
    raise MetricError(
        "the map has no such class of lines",
        got=str(line),
        expected=", ".join(f"{c.name} ({c.code})" for c in legend) or "a code of the raster",
    )


def _is_raster(path: Path) -> bool:
    if not file_of(path).exists():
        raise MetricError("there is no such reference", got=str(path))
    return path.suffix.lower() in _RASTERS


def _read_lines(path: Path, file: rasterio.DatasetReader, step: float) -> _Lines:
    """A file's lines, in pieces no longer than a step."""
    middles, lengths = [np.zeros((0, 2))], [np.zeros(0)]
    bounds = shapely.box(*file.bounds)
    for layer in read_lines(path, MetricError):
        for shape in layer.lines:
            moved = reproject(shape, layer.crs, file.crs.to_wkt())
            for part in shapely.get_parts(shapely.intersection(moved, bounds)):
                if part.geom_type != "LineString" or not part.length:
                    continue
                n = int(np.ceil(part.length / step))
                at = (np.arange(n) + 0.5) * (part.length / n)
                middles.append(shapely.get_coordinates(shapely.line_interpolate_point(part, at)))
                lengths.append(np.full(n, part.length / n))
    if len(middles) == 1:
        raise MetricError(
            "the reference has no line on the map's ground",
            got=path.name,
            expected=f"lines within {', '.join(f'{v:g}' for v in file.bounds)} of {file.crs}",
        )
    x, y = np.concatenate(middles).T
    cols, rows = ~file.transform * (x, y)
    size = abs(file.res[0])
    return _Lines(np.stack([rows - 0.5, cols - 0.5], axis=1), np.concatenate(lengths) / size)


class _Judge:
    """Lengths by square of ground, each square by itself with enough ground about it."""

    given: _Lines | None = None
    """Lines of the reference, where they are not made of a raster."""

    def __init__(
        self,
        file: rasterio.DatasetReader,
        code: int,
        codes: tuple[int, ...],
        unknown: tuple[int, ...],
        buffer: float,
        widest: float,
    ) -> None:
        unit = file.crs.linear_units_factor[1]
        self.resolution = float(file.res[0])  # in units of the CRS
        if abs(file.res[0] / file.res[1] - 1) > 1e-6:
            raise MetricError("the map has pixels that are not square", got=file.res)
        self.transform, self.nodata = file.transform, file.nodata
        self.unit, self.buffer = unit, buffer / unit
        self.code, self.codes, self.unknown = code, codes, unknown
        self.passes = passes_for(widest / unit, self.resolution)
        self.halo = halo_of(self.passes) + int(np.ceil(self.buffer / self.resolution)) + 1
        self.side = max(round(_GROUND / unit / self.resolution), 1)

    def run(self, layers: Mapping[str, RasterLayer]) -> tuple[csr_array, float, list[str]]:
        """Lengths (square, 4) in km, km2 that are too wide, notes."""
        height, width = layers["map"].shape
        rows, wide, bare = [np.zeros(4)], 0, 0
        for top in range(0, height, self.side):
            for left in range(0, width, self.side):
                lengths, too_wide = self._square(layers, top, left)
                wide += too_wide
                bare += int(not lengths[:2].any() and bool(lengths[2:].any()))
                if lengths.any():
                    rows.append(lengths * self.unit / 1000)
        notes = []
        if self.given is not None and bare:
            notes.append(
                f"{bare} squares of 1 km have lines on the map and none in the reference: where "
                "nobody looked they count as wrong; --within limits the ground"
            )
        found = csr_array(np.stack(rows[1:] or rows))
        return found, wide * (self.resolution * self.unit) ** 2 / 1e6, notes

    def _square(
        self, layers: Mapping[str, RasterLayer], top: int, left: int
    ) -> tuple[npt.NDArray[np.float64], int]:
        """Lengths of a square in units of the CRS (4,), and pixels that are too wide."""
        codes = self._read(layers["map"], top, left)
        silent = ~np.isfinite(codes)
        if self.nodata is not None:
            silent |= codes == self.nodata
        known, theirs = ~silent, None
        if "reference" in layers:
            values = self._read(layers["reference"], top, left)
            theirs = np.isin(values, self.codes)
            known &= np.isfinite(values) & ~np.isin(values, self.unknown)
        if "within" in layers:
            places = self._read(layers["within"], top, left)
            known &= np.isfinite(places) & (places != 0)
        if not known.any():
            return np.zeros(4), 0
        ours, wide = self._centrelines(codes == self.code)
        pieces = self._given_at(top, left) if theirs is None else self._centrelines(theirs)[0]
        lengths = []
        for some, others in ((pieces, ours), (ours, pieces)):
            here = self._counted(some, known)
            near = self._near(some.xy[here], others.xy)
            lengths += [some.lengths[here][near].sum(), some.lengths[here][~near].sum()]
        inner = slice(self.halo, self.halo + self.side)
        return np.array(lengths) * self.resolution, int((wide & known)[inner, inner].sum())

    def _read(self, layer: RasterLayer, top: int, left: int) -> npt.NDArray[np.float64]:
        """A square with its halo; NaN beyond the raster."""
        n = self.side + 2 * self.halo
        found = np.full((n, n), np.nan)
        there, here = [], []
        for first, length in zip((top - self.halo, left - self.halo), layer.shape, strict=True):
            low, high = max(first, 0), min(first + n, length)
            there.append(slice(low, high))
            here.append(slice(low - first, high - first))
        found[here[0], here[1]] = layer.read(*there)
        return found

    def _centrelines(self, mask: npt.NDArray[np.bool_]) -> tuple[_Lines, npt.NDArray[np.bool_]]:
        """Of a mask with halo: pieces in pixels from the mask's corner, and what is too wide."""
        links, wide = links_of(thin(mask, self.passes))
        return _Lines(np.stack([links.rows, links.cols], axis=1), links.lengths), wide

    def _given_at(self, top: int, left: int) -> _Lines:
        """The reference's pieces about a square, as those of a mask: in pixels from its corner."""
        assert self.given is not None, "the reference has lines"
        corner = np.array([top - self.halo, left - self.halo])
        n = self.side + 2 * self.halo
        at = self.given.xy - corner
        here = ((at > -1) & (at < n)).all(axis=1)
        return _Lines(at[here], self.given.lengths[here])

    def _counted(self, lines: _Lines, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """Which pieces lie in the square itself, on ground that both know."""
        at = np.floor(lines.xy + 0.5).astype(np.int64)
        mine = ((at >= self.halo) & (at < self.halo + self.side)).all(axis=1)
        mine[mine] &= known[tuple(at[mine].T)]
        return np.flatnonzero(mine)

    def _near(self, xy: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> Any:
        """Which pieces have one of the others within the buffer."""
        if not len(xy) or not len(others):
            return np.zeros(len(xy), bool)
        apart, _ = cKDTree(others).query(xy)
        return apart <= self.buffer / self.resolution


def _write(found: LineEvaluation, path: Path, reference: Path, out: Path, code: int) -> None:
    report = {
        "class": code,
        "figures": found.figures,
        "intervals_95": found.intervals,
        "kilometres": found.lengths,
        "buffer_m": found.buffer,
        "widest_m": found.widest,
        "wide_km2": found.wide,
        "groups": found.groups,
        "notes": found.notes,
    }
    write_accuracy(out, path, reference, report)
