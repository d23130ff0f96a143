"""Scenes of Sentinel-2 and their composite: kernels and stages, for any product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox

from engine.accounting import spent
from engine.cube.access import PLAIN, Access
from engine.cube.clouds import NO_SCL, READ_FAILED, dilation_halo, find_usable, widest_dilation
from engine.cube.composite import count_dissent, explain, reduce_days
from engine.cube.radiometry import ATTRS
from engine.cube.read import Failure, read_days
from engine.items import band_name
from engine.legend import Reason
from engine.prefetch import ahead
from engine.products.common import REASON_ATTRS, gaps_of
from engine.products.periods import StackPeriods
from engine.products.sources import SceneSource
from engine.recipes.periods import CubePeriod
from engine.recipes.sections import Cube, GridChoice
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec, day_index

__all__ = [
    "SEASON",
    "ComposeScenes",
    "ComposeUnread",
    "ReadScenes",
    "composite_stages",
]

SEASON = 40
"""Days that a composite is planned for: a strip of all of them is held at once."""

_SCL_ATTRS = {
    "long_name": "scene classification of the item that supplied the pixel",
    "flag_values": [READ_FAILED, NO_SCL],
    "flag_meanings": "read_failed item_without_scl",
}
_DISSENT = "usable days that depart from the composite in the blue: missed cloud, snow or change"


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
    group: str = "composite"  # that it writes

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
        with spent("mask"):
            usable = np.stack(
                [find_usable(day, self.resolution, self.dilation, snow=self.snow) for day in scl]
            )
        seen = usable.sum(axis=0).astype(np.uint16)
        h = self.halo
        core = scl[:, h : scl.shape[1] - h, h : scl.shape[2] - h]
        reduced = reduce_days(self.method, bands, usable)
        out[f"{self.group}/bands"][:, rows] = reduced
        out[f"{self.group}/observations"][rows] = seen
        blue = self.blue
        inside = None if suspect is None else suspect[rows]
        with spent("composite"):
            dissent = count_dissent(bands[:, blue], usable, reduced[blue])
            out[f"{self.group}/dissent"][rows] = dissent
            out[f"{self.group}/reason"][rows] = explain(seen, core, inside)

    def blank(self, task: TileTask, suspects: tuple[bytes, ...]) -> tuple[Any, Any]:
        """Arrays of a tile without any day, and where suspect items were left out."""
        spec = next(s for s in task.outputs if s.name == "bands")
        n = task.grid.pixels(self.resolution)
        suspect = _suspect(task.grid.tile_geobox(task.tile, self.resolution), suspects)
        none = np.zeros((0, n, n), np.uint8)
        seen = np.zeros((n, n), np.uint16)
        out = {
            f"{self.group}/bands": np.zeros((*spec.lead_shape, n, n), np.uint16),
            f"{self.group}/observations": seen,
            f"{self.group}/dissent": np.zeros((n, n), np.uint8),
            f"{self.group}/reason": explain(seen, none, suspect),
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
        flags, note = gaps_of(failures)
        yield Output(out, flags=flags, note=note, bytes_read=fetched)


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


def composite_stages(
    cube: Cube, choice: GridChoice, bands: tuple[str, ...], scenes: SceneSource
) -> list[Stage]:
    """The stages that end in a composite.

    Of a cube with periods each has a composite of its own, `composite-LABEL`, which is stale where
    one of its own days is; `composite` puts them one behind the other.

    Parameters
    ----------
    cube : how scenes become a composite.
    choice : of the grid.
    bands : of the scenes, as the recipe or the model names them; coordinates of the store.
    scenes : what is read; its index may follow, before the first part is asked for.
    """
    found = [_scene_stage(choice, bands, scenes)] if cube.keep_scenes else []
    if not cube.periods:
        return [*found, _composite_stage("composite", None, cube, choice, bands, scenes)]
    groups = {label: f"composite-{label}" for label in cube.labels}
    found += [
        _composite_stage(groups[label], period, cube, choice, bands, scenes)
        for label, period in cube.labels.items()
    ]
    every = tuple(f"{band}@{label}" for label in cube.labels for band in bands)
    found.append(
        Stage(
            "composite",
            StackPeriods(tuple(groups.values())),
            _arrays("composite", choice, every),
            tuple(Input(group) for group in groups.values()),
            parameters={"periods": list(groups)},
            gigabytes=1.0 + 3 * len(every) * choice.tile**2 * 2 / 1e9,
            guess=0.01,
        )
    )
    return found


def _spec(choice: GridChoice, path: str, dtype: str, fill: int, **more: Any) -> ArraySpec:
    return ArraySpec(path, dtype, choice.resolution, choice.chunk_pixels, fill, **more)


def _arrays(group: str, choice: GridChoice, bands: tuple[str, ...]) -> tuple[ArraySpec, ...]:
    """What a composite consists of."""
    spec = partial(_spec, choice)
    labels = (("band", bands),)
    return (
        spec(f"{group}/bands", "uint16", 0, leading=labels, attrs=ATTRS, codec="lz4"),
        spec(f"{group}/observations", "uint16", 0, attrs={"long_name": "usable days"}),
        spec(f"{group}/dissent", "uint8", 0, attrs={"long_name": _DISSENT}),
        spec(
            f"{group}/reason",
            "uint8",
            int(Reason.NOT_COMPUTED),
            outside=int(Reason.OUTSIDE_AREA),
            attrs=REASON_ATTRS,
        ),
    )


def _checked(scenes: SceneSource) -> dict[str, bool]:
    """Absent unless asked for: scenes read before there was such a thing stay as they are."""
    return {"verify": True} if scenes.access.verify else {}


def _scene_stage(choice: GridChoice, bands: tuple[str, ...], scenes: SceneSource) -> Stage:
    names = tuple(band_name(band) for band in bands)
    spec = partial(_spec, choice)
    labels = (("band", bands),)
    stored = (
        spec("scenes/bands", "uint16", 0, daily=True, leading=labels, attrs=ATTRS, codec="lz4"),
        spec("scenes/scl", "uint8", 0, daily=True, attrs=_SCL_ATTRS, codec="lz4"),
        spec(
            "scenes/source",
            "uint32",
            0,
            daily=True,
            attrs={"long_name": "item_key of the item", "_FillValue": 0},
            codec="lz4",
        ),
    )
    return Stage(
        "scenes",
        ReadScenes(names, choice.resolution, scenes.access),
        stored,
        parameters={"bands": names, **_checked(scenes)},
        parts=lambda tile: scenes.index.days(tile),
        daily=True,
        gigabytes=1.0 + 6 * len(bands) * choice.tile**2 * 2 / 1e9,
    )


def _composite_stage(
    name: str,
    period: CubePeriod | None,
    cube: Cube,
    choice: GridChoice,
    bands: tuple[str, ...],
    scenes: SceneSource,
) -> Stage:
    """A composite of a period's days; None: of all."""
    names = tuple(band_name(band) for band in bands)
    resolution, chunk = choice.resolution, choice.chunk_pixels
    parameters = {
        "bands": names,
        "method": cube.composite,
        "cloud_dilation": cube.cloud_dilation,
        "mask_snow": cube.mask_snow,
    }
    blue = names.index("B02") if "B02" in names else 0
    how = (cube.composite, resolution, cube.cloud_dilation, cube.mask_snow, chunk, blue, name)
    strip = SEASON * len(bands) * choice.tile * chunk * 2 * 2.5 / 1e9
    outputs = _arrays(name, choice, bands)
    holds: dict[str, Any] = {} if period is None else {"holds": period.holds}
    guess = None if period is None else 0.02  # seconds, as of a composite of all days
    if not cube.keep_scenes:
        return Stage(
            name,
            ComposeUnread(*how, bands=names, access=scenes.access),
            outputs,
            version=2,
            parameters=parameters | _checked(scenes),
            parts=lambda tile: scenes.index.whole(tile, **holds),
            gigabytes=1.0 + 2 * strip,
            guess=guess,
        )
    halo = widest_dilation(cube.cloud_dilation, resolution) * resolution
    days = None if period is None else (day_index(period.start), day_index(period.end))
    return Stage(
        name,
        ComposeScenes(*how),
        outputs,
        (Input("scenes", halo, days=days),),
        parameters=parameters,
        parts=lambda tile: scenes.index.suspects(tile, **holds),
        upstream="withdrawn item",
        gigabytes=1.0 + 1.5 * strip,  # one strip is read while another is sorted
        guess=guess,
    )
