"""The kernels as tasks: each reads its windows, calls the room's pure function, yields arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox

from engine.cube.access import PLAIN, Access
from engine.cube.clouds import dilation_halo, find_usable
from engine.cube.composite import count_dissent, explain, reduce_days
from engine.cube.read import Failure, read_days
from engine.infer.cells import score_cells
from engine.legend import Reason
from engine.maps.cells import cell_dissent, cell_observations, cell_reason, classify
from engine.maps.filter import RadiusRule, filter_halo, gaussian_filter, majority_filter
from engine.maps.mask import inside
from engine.models.card import ModelCard
from engine.prefetch import ahead
from engine.recipes.run import Device
from engine.runs.stage import NO_FLAGS, Output
from engine.runs.task import TileTask
from engine.store.ledger import Flag

__all__ = [
    "RESOURCES",
    "SEASON",
    "ComposeScenes",
    "ComposeUnread",
    "MakeMap",
    "ReadScenes",
    "ScoreCells",
    "gaps_of",
]


SEASON = 40
"""Days that a composite is planned for: a strip of all of them is held at once."""

RESOURCES: dict[Device, Literal["cpu", "gpu", "auto"]] = {
    "auto": "auto",
    "cpu": "cpu",
    "cuda": "gpu",
}
"""What a stage with a network asks of its worker, by the recipe's device."""


@dataclass(frozen=True)
class ReadScenes:
    """Items of each stale day -> scenes/bands, scenes/scl, scenes/source."""

    bands: tuple[str, ...]
    resolution: float
    access: Access

    def __call__(self, task: TileTask) -> Iterator[Output]:
        box = task.grid.tile_geobox(task.tile, self.resolution)
        days = [part.payload for part in task.parts]
        read = read_days(days, self.bands, box, task.grid.anchor, access=self.access)
        for part, day in zip(task.parts, read, strict=True):
            flags, note = gaps_of(day.failures)
            arrays: dict[str, npt.NDArray[Any]] = {
                "scenes/bands": day.bands,
                "scenes/scl": day.scl,
                "scenes/source": day.source,
            }
            yield Output(arrays, part.index, flags, note, day.fetched)


@dataclass(frozen=True)
class Composer:
    """What both ways to a composite share."""

    method: str
    resolution: float
    dilation: float
    snow: bool
    strip: int  # rows at once
    blue: int = 0  # position of the band that shows missed clouds best

    @property
    def halo(self) -> int:
        """Pixels of scene classification around the tile."""
        return dilation_halo(self.dilation, self.resolution)

    def compose(
        self,
        out: dict[str, npt.NDArray[Any]],
        top: int,
        bands: npt.NDArray[np.uint16],
        scl: npt.NDArray[np.uint8],
        suspect: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Fill rows from `top` on: bands (time, band, y, x), scl with its halo."""
        rows = slice(top, top + bands.shape[2])
        usable = np.stack(
            [find_usable(day, self.resolution, self.dilation, snow=self.snow) for day in scl]
        )
        seen = usable.sum(axis=0).astype(np.uint16)
        h = self.halo
        core = scl[:, h : scl.shape[1] - h, h : scl.shape[2] - h]
        reduced = reduce_days(self.method, bands, usable)
        out["composite/bands"][:, rows] = reduced
        out["composite/observations"][rows] = seen
        blue = self.blue
        out["composite/dissent"][rows] = count_dissent(bands[:, blue], usable, reduced[blue])
        inside = None if suspect is None else suspect[rows]
        out["composite/reason"][rows] = explain(seen, core, inside)

    def blank(self, task: TileTask, suspects: tuple[bytes, ...]) -> tuple[Any, Any]:
        """Arrays of a tile without any day, and where suspect items were left out."""
        spec = next(s for s in task.outputs if s.name == "bands")
        n = task.grid.pixels(self.resolution)
        suspect = _suspect(task.grid.tile_geobox(task.tile, self.resolution), suspects)
        none = np.zeros((0, n, n), np.uint8)
        seen = np.zeros((n, n), np.uint16)
        out = {
            "composite/bands": np.zeros((*spec.lead_shape, n, n), np.uint16),
            "composite/observations": seen,
            "composite/dissent": np.zeros((n, n), np.uint8),
            "composite/reason": explain(seen, none, suspect),
        }
        return out, suspect


@dataclass(frozen=True)
class ComposeScenes(Composer):
    """Stored scenes -> composite/bands, its observations, their dissent, the reasons."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        days = task.input_parts["scenes"]
        out, suspect = self.blank(task, task.parts[0].payload or ())
        n, halo = task.grid.pixels(self.resolution), self.halo

        def read(top: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            rows = slice(top, min(top + self.strip, n))
            wide = slice(rows.start, rows.stop + 2 * halo)
            bands = task.read("scenes/bands", 0, days, rows)
            return bands, task.read("scenes/scl", halo, days, wide)

        for top, coming in ahead(read, range(0, n if days else 0, self.strip)):
            bands, scl = coming.result()
            self.compose(out, top, bands, scl, suspect)
        yield Output(out)


@dataclass(frozen=True)
class ComposeUnread(Composer):
    """Items -> composite, strip by strip, without storing scenes."""

    bands: tuple[str, ...] = ()
    access: Access = PLAIN

    def __call__(self, task: TileTask) -> Iterator[Output]:
        days, suspects = task.parts[0].payload
        out, suspect = self.blank(task, suspects or ())
        n, halo = task.grid.pixels(self.resolution), self.halo
        padded = task.grid.tile_geobox(task.tile, self.resolution, halo)
        failures: list[Failure] = []
        fetched = 0
        # few days leave room for more rows: blocks of files that two strips share are read twice
        strip = self.strip * max(SEASON // max(len(days), 1), 1)
        for top in range(0, n if days else 0, strip):
            box = padded[top : min(top + strip, n) + 2 * halo, :]
            height, width = box.shape
            bands = np.empty(
                (len(days), len(self.bands), height - 2 * halo, width - 2 * halo), np.uint16
            )
            scl = np.empty((len(days), height, width), np.uint8)
            read = read_days(days, self.bands, box, task.grid.anchor, access=self.access)
            for position, day in enumerate(read):
                failures += day.failures
                fetched += day.fetched
                bands[position] = day.bands[:, halo : height - halo, halo : width - halo]
                scl[position] = day.scl
            self.compose(out, top, bands, scl, suspect)
        flags, note = gaps_of(tuple(dict.fromkeys(failures)))
        yield Output(out, flags=flags, note=note, bytes_read=fetched)


def gaps_of(failures: tuple[Failure, ...]) -> tuple[Flag, str | None]:
    """What the ledger notes of items that could not be read."""
    flags = NO_FLAGS
    for failure in failures:
        flags |= Flag.TRANSIENT_GAP if failure.transient else Flag.STRUCTURAL_GAP
    return flags, "; ".join(failure.error for failure in failures) or None


def _suspect(box: GeoBox, suspects: tuple[bytes, ...]) -> npt.NDArray[np.bool_] | None:
    if not suspects:
        return None
    height, width = box.shape
    x = box.transform.c + (np.arange(width) + 0.5) * box.transform.a
    y = box.transform.f + (np.arange(height) + 0.5) * box.transform.e
    found = np.zeros(box.shape, bool)
    for raw in suspects:
        extent = shapely.from_wkb(raw)
        shapely.prepare(extent)
        found |= shapely.intersects_xy(extent, x[None, :], y[:, None])
    return found


@dataclass(frozen=True)
class ScoreCells:
    """composite -> scores/classes, or embedding/features."""

    card: ModelCard
    order: tuple[int, ...]  # positions of the card's bands among the cube's
    device: Device
    precision: str
    group: str  # scores or embedding

    def __call__(self, task: TileTask) -> Iterator[Output]:
        # torch costs a process a second and 150 MB: the driver and readers do without
        from engine.infer.predict import get_predictor

        halo = self.card.halo
        stored = task.read("composite/bands", halo)[list(self.order)]
        seen = task.read("composite/observations", halo)
        predictor = get_predictor(self.card, self.device, self.precision)
        found = score_cells(stored, seen > 0, self.card, predictor, task.defined(self.card.cell))
        if self.group == "embedding":
            yield Output({"embedding/features": found.features})
            return
        spec = next(s for s in task.outputs if s.name == "classes")
        yield Output({"scores/classes": found.scores.astype(spec.dtype)})


@dataclass(frozen=True)
class MakeMap:
    """scores (fused ones, if so), composite -> map/*: argmax, class filter, mask, reasons."""

    codes: tuple[int, ...]
    cell: float
    factor: int  # pixels of the composite in a cell
    method: str
    rule: RadiusRule
    radius: int
    masked: bool
    scores: str = "scores"  # stage whose scores make the map

    @property
    def halo(self) -> int:
        """Cells of scores that the filter reads around the tile."""
        return filter_halo(self.method, self.cell, self.rule, self.radius)

    def __call__(self, task: TileTask) -> Iterator[Output]:
        halo = self.halo
        scores = task.read(f"{self.scores}/classes", halo)
        padded, confidence = classify(scores, self.codes)
        core = np.s_[halo : padded.shape[0] - halo, halo : padded.shape[1] - halo]
        classes, confidence = padded[core], confidence[core]
        match self.method:
            case "gaussian":
                filtered = gaussian_filter(padded, self.cell, self.rule)
            case "majority":
                filtered = majority_filter(padded, self.radius)
            case _:
                filtered = classes.copy()
        reason = cell_reason(classes, task.read("composite/reason"), self.factor)
        explained = reason.copy()
        if self.masked:
            product = inside(task.parts[0].payload, task.grid, task.tile, self.cell)
            filtered = np.where(product, filtered, 0).astype(np.uint8)
            explained[~product & (explained == Reason.DATA)] = Reason.OUTSIDE_MASK
        seen = task.read("composite/observations")
        yield Output(
            {
                "map/classes": classes,
                "map/filtered": filtered,
                "map/confidence": confidence,
                "map/observations": cell_observations(seen, self.factor),
                "map/dissent": cell_dissent(task.read("composite/dissent"), seen, self.factor),
                "map/reason": explained,
            }
        )
