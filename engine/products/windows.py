"""UGS: 1 m images to scores, window by window, and to a map - halos, arrays, parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.cube.access import Access
from engine.cube.images import Image, in_order, read_image
from engine.cube.read import Failure
from engine.errors import CardError, RecipeError
from engine.grid.grid import Tile
from engine.infer.windows import NO_SCORE, Lattice, segment_image, to_percent
from engine.legend import UGS, Reason
from engine.maps.mask import Boundary, inside
from engine.maps.shares import NO_GREEN, classify_green, green_fraction
from engine.models.card import ModelCard
from engine.models.inputs import prepare_image
from engine.products.cells import REASON_ATTRS
from engine.products.composite import RESOURCES, gaps_of
from engine.products.sources import Frames, ItemIndex, frames_in
from engine.recipes.run import Device, GridChoice, Recipe
from engine.runs.stage import Input, Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["CELL", "green_stages", "require_segmenter"]

CELL = 100
"""Side of a cell of the green fraction, in metres."""

_READ = 1.5  # bytes of a square metre, between JPEG and lossless files
_SLACK = 10.0  # metres about windows that resampling may look at


@dataclass(frozen=True)
class _Ground:
    """What a tile takes from outside: frames, the best first, and polygons as WKB.

    `boundary` is None where nothing is masked.
    """

    frames: Frames
    area: tuple[bytes, ...]
    boundary: tuple[bytes, ...] | None


_SEEN, _LOST = 1, 2
"""States of an image's pixel: data; in a frame that could not be read; else 0, in none."""


@dataclass(frozen=True)
class KeepImages:
    """1 m images -> image/bands, image/state; for recipes that keep them."""

    bands: tuple[str, ...]
    resolution: float
    strip: int  # rows at once
    access: Access

    def __call__(self, task: TileTask) -> Iterator[Output]:
        frames: Frames = task.parts[0].payload or ()
        n = task.grid.pixels(self.resolution)
        bands, state = np.zeros((len(self.bands), n, n), np.uint8), np.zeros((n, n), np.uint8)
        failures: list[Failure] = []
        fetched = 0
        top, left = _corner(task, self.resolution)
        for first in range(0, n if frames else 0, self.strip):
            rows = slice(first, min(first + self.strip, n))
            box = _box(
                task,
                self.resolution,
                slice(top + rows.start, top + rows.stop),
                slice(left, left + n),
            )
            near = frames_in(frames, box.boundingbox.bbox)
            image = read_image(near, self.bands, box, task.grid.anchor, access=self.access)
            bands[:, rows], state[rows] = image.bands, _state(image)
            failures += image.failures
            fetched += image.fetched
        flags, note = gaps_of(tuple(dict.fromkeys(failures)))
        arrays = {"image/bands": bands, "image/state": state}
        yield Output(arrays, flags=flags, note=note, bytes_read=fetched)


@dataclass(frozen=True)
class ScoreWindows:
    """1 m images -> scores/probability, scores/reason.

    Images are read from their files and not stored, or, without an access, from the stage before.
    Windows lie on multiples of their stride from the grid's anchor and run where they meet a
    pixel that is wanted: in the area, inside of the boundary.
    """

    card: ModelCard
    device: Device
    precision: str
    access: Access | None

    def __call__(self, task: TileTask) -> Iterator[Output]:
        # torch costs a process a second and 150 MB: the driver and readers do without
        from engine.infer.predict import get_predictor

        ground: _Ground = task.parts[0].payload
        metres = self.card.resolution
        n = task.grid.pixels(metres)
        percent = np.full((n, n), NO_SCORE, np.uint8)
        reason, wanted = self._wanted(task, ground)
        failures: list[Failure] = []
        fetched = 0
        top, left = _corner(task, metres)

        def read(rows: slice, cols: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
            nonlocal fetched
            if self.access is None:
                bands, state = self._stored(task, rows, cols)
            else:
                box = _box(task, metres, rows, cols)
                near = frames_in(ground.frames, box.boundingbox.bbox)
                image = read_image(near, self.card.bands, box, task.grid.anchor, access=self.access)
                failures.extend(image.failures)
                fetched += image.fetched
                bands, state = image.bands, _state(image)
            here = slice(max(rows.start - top, 0), min(rows.stop - top, n))
            there = slice(left - cols.start, left - cols.start + n)
            part = state[here.start + top - rows.start : here.stop + top - rows.start, there]
            reason[here][(part == _LOST) & wanted[here]] = Reason.READ_FAILED
            return prepare_image(bands, state == _SEEN, self.card), state == _SEEN

        if wanted.any():
            strips = segment_image(
                read,
                slice(top, top + n),
                slice(left, left + n),
                wanted,
                get_predictor(self.card, self.device, self.precision).segment,
                Lattice(self.card.patch, self.card.overlap),
            )
            for rows, logits, scored in strips:
                percent[rows] = to_percent(logits, scored)
                reason[rows][scored] = Reason.DATA
        flags, note = gaps_of(tuple(dict.fromkeys(failures)))
        arrays = {"scores/probability": percent, "scores/reason": reason}
        yield Output(arrays, flags=flags, note=note, bytes_read=fetched)

    def _stored(
        self, task: TileTask, rows: slice, cols: slice
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """A window of the stored image; windows reach up to their own side beyond the tile."""
        halo = self.card.patch
        top, left = _corner(task, self.card.resolution)
        strip = slice(rows.start - top + halo, rows.stop - top + halo)
        part = slice(cols.start - left + halo, cols.stop - left + halo)
        bands = task.read("image/bands", halo, rows=strip)[:, :, part]
        return bands, task.read("image/state", halo, rows=strip)[:, part]

    def _wanted(
        self, task: TileTask, ground: _Ground
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Why pixels have no score until an image says otherwise, and which are to have one."""
        metres = self.card.resolution
        n = task.grid.pixels(metres)
        reason = np.full((n, n), Reason.NO_SCENE, np.uint8)
        if ground.boundary is not None:
            masked = inside(ground.boundary, task.grid, task.tile, metres)
            reason[~masked] = Reason.OUTSIDE_MASK
        area = inside(ground.area, task.grid, task.tile, metres)
        defined = task.defined(metres)
        if defined is not None:
            area &= defined
        reason[~area] = Reason.OUTSIDE_AREA
        return reason, reason == Reason.NO_SCENE


@dataclass(frozen=True)
class MapGreen:
    """scores -> map/classes, map/reason."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        classes = classify_green(task.read("scores/probability"))
        yield Output({"map/classes": classes, "map/reason": task.read("scores/reason")})


@dataclass(frozen=True)
class ShareCells:
    """map -> fraction/green, of each cell of 100 m."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        yield Output({"fraction/green": green_fraction(task.read("map/classes"), CELL)})


def _corner(task: TileTask, metres: float) -> tuple[int, int]:
    """First row and column of a tile, in pixels from the grid's anchor."""
    west, _, _, north = task.grid.tile_bounds(task.tile)
    x0, y0 = task.grid.anchor
    return round((y0 - north) / metres), round((west - x0) / metres)


def _box(task: TileTask, metres: float, rows: slice, cols: slice) -> GeoBox:
    """Where pixels lie that are counted from the grid's anchor."""
    x0, y0 = task.grid.anchor
    corner = Affine(metres, 0, x0 + cols.start * metres, 0, -metres, y0 - rows.start * metres)
    return GeoBox((rows.stop - rows.start, cols.stop - cols.start), corner, task.grid.crs)


def _state(image: Image) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = np.where(
        image.valid, _SEEN, np.where(image.lost, _LOST, 0)
    ).astype(np.uint8)
    return found


def require_segmenter(card: ModelCard, choice: GridChoice) -> None:
    """Refuse a card or a grid that green space cannot be made with.

    Raises
    ------
    CardError, RecipeError
    """
    if not card.segments:
        raise CardError(
            "product ugs needs a segmenter",
            got=f"{card.name}: {card.architecture}",
            expected="ugsnet or unet",
        )
    if card.resolution != 1.0:
        raise CardError("product ugs is made at 1 m", got=f"{card.name}: {card.resolution:g} m")
    card.check_cube(card.bands, choice.resolution)
    if choice.tile % CELL:
        raise RecipeError(
            "grid.tile is no whole number of cells of 100 m",
            got=f"{choice.tile} px",
            expected="a multiple of 100 px",
            remedy="leave grid.tile out: 4000",
        )
    if card.patch * card.resolution > choice.tile_metres:
        raise RecipeError(
            "grid.tile is smaller than the model's window",
            got=f"{choice.tile} px",
            expected=f"{card.patch} px or more",
        )


def green_stages(
    recipe: Recipe,
    card: ModelCard,
    index: ItemIndex,
    access: Access,
    area: Boundary,
    boundary: Boundary | None,
) -> list[Stage]:
    """The stages of green space.

    Parameters
    ----------
    recipe : Recipe
    card : of a segmenter.
    index : of the frames.
    access : how they are opened.
    area : the wanted area's own polygons.
    boundary : of the product mask, optional
    """
    choice, images = recipe.model, recipe.images
    assert choice is not None
    assert images is not None
    metres, n = card.resolution, recipe.grid.tile
    cells = round(recipe.grid.tile_metres / CELL)
    outside = int(Reason.OUTSIDE_AREA)
    order = partial(in_order, order=images.order)
    # a pixel's windows begin up to a window before it
    reach = (card.patch - 1) * metres + _SLACK

    def kept(tile: Tile) -> list[Part]:
        """Frames of tiles that some window looks at."""
        if boundary is not None and boundary.near(tile, reach)[0] == ():
            return [Part()]
        return index.about(tile, _SLACK, order)

    def ground(tile: Tile) -> list[Part]:
        frames = Part() if images.keep else index.about(tile, reach, order)[0]
        near, inner = area.near(tile)
        polygons, outer = (None, b"") if boundary is None else boundary.near(tile)
        if polygons == () or not near:
            frames = Part()  # nothing is looked at: what is there does not matter
        digest = hashlib.blake2b(frames.fingerprint + inner + outer, digest_size=16).digest()
        return [Part(0, digest, _Ground(frames.payload or (), near, polygons))]

    def spec(path: str, fill: int, **more: Any) -> ArraySpec:
        return ArraySpec(path, "uint8", metres, recipe.grid.chunk_pixels, fill, **more)

    percent = {"units": "percent", "valid_max": 100}
    classes = {
        "flag_values": [c.code for c in UGS],
        "flag_meanings": " ".join(c.name for c in UGS),
        "flag_colors": " ".join(f"#{c.colour}" for c in UGS),
    }
    first = []
    if images.keep:
        leading = (("band", card.bands),)
        first = [
            Stage(
                "image",
                KeepImages(card.bands, metres, card.patch, access),
                (spec("image/bands", 0, leading=leading), spec("image/state", 0)),
                parts=kept,
                outside="frame",
                gigabytes=1.0 + 3 * (len(card.bands) + 1) * n * n / 1e9,
                guess=0.5,
                reads=_READ,
            )
        ]
    window = card.patch**2 * 4 * 256 / 1e9  # of activations, roughly, in each thread
    return [
        *first,
        Stage(
            "scores",
            ScoreWindows(card, choice.device, choice.precision, None if images.keep else access),
            (
                spec("scores/probability", NO_SCORE, attrs=percent),
                spec("scores/reason", 255, outside=outside, attrs=REASON_ATTRS),
            ),
            tuple(Input(stage.name, card.patch * metres) for stage in first),
            parameters={
                "model": card.key,
                "precision": choice.precision,
                "mask": None if recipe.mask is None else recipe.mask.outside,
            },
            parts=ground,
            outside="frame, boundary or area",
            resource=RESOURCES[choice.device],
            # two rows of windows, as pixels and as numbers, and the tile's own planes
            gigabytes=1.5
            + 2 * window
            + 2 * card.patch * (n + 2 * card.patch) * len(card.bands) * 6 / 1e9
            + 8 * n * n / 1e9,
            guess=10.0,
            reads=0.0 if images.keep else _READ,
        ),
        Stage(
            "map",
            MapGreen(),
            (
                spec("map/classes", NO_GREEN, attrs=classes),
                spec("map/reason", 255, outside=outside, attrs=REASON_ATTRS),
            ),
            (Input("scores"),),
            gigabytes=0.5 + 8 * n * n / 1e9,
            guess=0.05,
        ),
        Stage(
            "fraction",
            ShareCells(),
            (ArraySpec("fraction/green", "uint8", float(CELL), cells, NO_GREEN, attrs=percent),),
            (Input("map"),),
            gigabytes=0.5 + 8 * n * n / 1e9,
            guess=0.02,
        ),
    ]
