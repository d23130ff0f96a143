"""Scores of pixels of 1 m images: kernels and stages of segmenters, window by window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from engine.infer.by_scene import LOADED, ByScene, SceneWindows, pixels_of
from engine.infer.windows import NO_SCORE, Lattice, Read, segment_image, to_percent, to_percents
from engine.legend import Reason
from engine.maps.mask import inside
from engine.models.card import SEGMENTERS, ModelCard
from engine.models.card_parts import Ranges
from engine.models.inputs import prepare_image
from engine.products.cities import Cities, Shares, shares_of
from engine.products.common import REASON_ATTRS, RESOURCES, gaps_of, precision_mark, predictor_for
from engine.products.index import Frames, frames_in
from engine.products.product import Mask, Polygons
from engine.products.scenes import SceneCards
from engine.products.sources import ImageSource
from engine.recipes.sections import Device, GridChoice, WindowModel
from engine.runs.stage import Input, Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["PERCENT", "Windowed", "leading_of", "require_segmenter", "window_stages"]

PERCENT: Mapping[str, Any] = {"units": "percent", "valid_max": 100}
"""CF attributes of an array of percent."""

_READ = 1.5  # bytes of a square metre, between JPEG and lossless files
_SLACK = 10.0  # metres about windows that resampling may look at


@dataclass(frozen=True)
class _Ground:
    """What a tile takes from outside: frames, the best first, and polygons as WKB.

    `boundary` is None where nothing is masked; `cities` have cards of their own.
    """

    frames: Frames
    area: tuple[bytes, ...]
    boundary: tuple[bytes, ...] | None
    cities: Shares = ()


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
        top, left = corner(task, self.resolution)
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
        flags, note = gaps_of(failures)
        arrays = {"image/bands": bands, "image/state": state}
        yield Output(arrays, flags=flags, note=note, bytes_read=fetched)


@dataclass(frozen=True)
class Windowed:
    """What both ways to scores of pixels share.

    Windows lie on multiples of their stride from the grid's anchor and run where they meet a
    pixel that is wanted: in the area, inside of the boundary.
    """

    card: ModelCard
    device: Device
    precision: str

    def _percent(
        self,
        task: TileTask,
        wanted: npt.NDArray[np.bool_],
        read: Read,
        by: SceneWindows | None = None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Percent (y, x) or (class, y, x), 255 none; and which pixels have them."""
        n = task.grid.pixels(self.card.resolution)
        percent = np.full(self._shape(n), NO_SCORE, np.uint8)
        known = np.zeros((n, n), bool)
        percents = to_percents if self.card.several else to_percent
        for rows, logits, scored in self._strips(task, wanted, read, by):
            percent[..., rows, :] = percents(logits, scored)
            known[rows] = scored
        return percent, known

    def _shape(self, n: int) -> tuple[int, ...]:
        """Of percent, for a tile of n pixels: with classes first where there are several."""
        return (len(self.card.classes), n, n) if self.card.several else (n, n)

    def _strips(
        self,
        task: TileTask,
        wanted: npt.NDArray[np.bool_],
        read: Read,
        by: SceneWindows | None = None,
    ) -> Iterator[tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """Blended logits of the tile, as `segment_image` yields them; none where none is wanted."""
        if not wanted.any():
            return iter(())
        n = task.grid.pixels(self.card.resolution)
        top, left = corner(task, self.card.resolution)
        where = slice(top, top + n), slice(left, left + n)
        lattice = Lattice(self.card.patch, self.card.overlap)
        if by is not None:
            strips = segment_image(read, *where, wanted, by.predict, lattice, classes=by.planes)
            return by.parted(strips)
        predict = self._network(task, self.card).segment
        classes = len(self.card.classes) if self.card.several else 0
        return segment_image(read, *where, wanted, predict, lattice, classes=classes)

    def _network(self, task: TileTask, card: ModelCard, most: int = 2) -> Any:
        return predictor_for(task, card, self.device, self.precision, most)

    def _places(
        self, task: TileTask, area: tuple[bytes, ...], boundary: tuple[bytes, ...] | None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which pixels lie in the area, where the stage is defined, and which in the boundary."""
        metres = self.card.resolution
        mine = inside(area, task.grid, task.tile, metres)
        defined = task.defined(metres)
        if defined is not None:
            mine &= defined
        if boundary is None:
            return mine, np.ones(mine.shape, bool)
        return mine, inside(boundary, task.grid, task.tile, metres)

    def _part(self, task: TileTask, rows: slice, cols: slice) -> tuple[slice, slice]:
        """Rows and columns of a window in what is read with a halo of a window's side."""
        halo = self.card.patch
        top, left = corner(task, self.card.resolution)
        return (
            slice(rows.start - top + halo, rows.stop - top + halo),
            slice(cols.start - left + halo, cols.stop - left + halo),
        )


@dataclass(frozen=True)
class ScoreWindows(Windowed):
    """1 m images -> scores/probability, scores/reason; scores/model where scenes have cards.

    Images are read from their files and not stored, or, without an access, from the stage before.
    Where cities have cards of their own, each card runs on the windows of its pixels alone, as if
    it mapped nothing else: windows of two cards are not blended. Where scenes have, windows are
    blended whosever they are.
    """

    access: Access | None = None
    scenes: ByScene | None = None

    def __call__(self, task: TileTask) -> Iterator[Output]:
        ground: _Ground = task.parts[0].payload
        metres = self.card.resolution
        n = task.grid.pixels(metres)
        reason = np.full((n, n), Reason.NO_SCENE, np.uint8)
        mine, within = self._places(task, ground.area, ground.boundary)
        reason[~within] = Reason.OUTSIDE_MASK
        reason[~mine] = Reason.OUTSIDE_AREA
        wanted = mine & within
        failures: list[Failure] = []
        percent = np.full(self._shape(n), NO_SCORE, np.uint8)
        fetched = 0
        load = partial(self._network, task, most=LOADED)
        by = SceneWindows(self.scenes, load, n) if self.scenes else None
        for card, mine in shares_of(ground.cities, self.card, wanted, task.grid, task.tile):
            part = replace(self, card=card)
            found, known, lost, size = part._scored(task, ground.frames, mine, failures, by)
            reason[lost] = Reason.READ_FAILED
            reason[known] = Reason.DATA
            percent[..., known] = found[..., known]
            fetched += size
        flags, note = gaps_of(failures)
        arrays = {"scores/probability": percent, "scores/reason": reason}
        if by is not None:
            arrays["scores/model"] = by.made
        yield Output(arrays, flags=flags, note=note, bytes_read=fetched)

    def _scored(
        self,
        task: TileTask,
        frames: Frames,
        wanted: npt.NDArray[np.bool_],
        failures: list[Failure],
        by: SceneWindows | None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.bool_], int]:
        """Percent by this card, which pixels have it, which were lost, and bytes read for it."""
        metres = self.card.resolution
        n = task.grid.pixels(metres)
        lost = np.zeros((n, n), bool)
        fetched = 0
        top, left = corner(task, metres)

        def read(rows: slice, cols: slice) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
            nonlocal fetched
            if self.access is None:
                down, across = self._part(task, rows, cols)
                bands = task.read("image/bands", self.card.patch, rows=down)[:, :, across]
                state = task.read("image/state", self.card.patch, rows=down)[:, across]
            else:
                box = _box(task, metres, rows, cols)
                near = frames_in(frames, box.boundingbox.bbox)
                image = read_image(near, self.card.bands, box, task.grid.anchor, access=self.access)
                failures.extend(image.failures)
                fetched += image.fetched
                bands, state = image.bands, _state(image)
            here = slice(max(rows.start - top, 0), min(rows.stop - top, n))
            there = slice(left - cols.start, left - cols.start + n)
            part = state[here.start + top - rows.start : here.stop + top - rows.start, there]
            lost[here] |= (part == _LOST) & wanted[here]
            seen = state == _SEEN
            if by is not None:  # whose card prepares a window is not known yet
                return pixels_of(bands, seen), seen
            return prepare_image(bands, seen, self.card), seen

        percent, known = self._percent(task, wanted, read, by)
        return percent, known, lost, fetched


def corner(task: TileTask, metres: float) -> tuple[int, int]:
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


def require_segmenter(
    card: ModelCard, choice: GridChoice, bands: tuple[str, ...], ground: Ranges | None = None
) -> None:
    """Refuse a card or a grid with which pixels cannot be scored.

    Parameters
    ----------
    card : of the model.
    choice : of the grid.
    bands : of what is looked at.
    ground : bands of features beside it, and their ranges.

    Raises
    ------
    CardError, RecipeError
    """
    if not card.segments:
        raise CardError(
            "a map of pixels needs a segmenter",
            got=f"{card.name}: {card.architecture}",
            expected=" or ".join(SEGMENTERS) + ", or onnx with task: segment",
            remedy=None
            if card.multilabel is None
            else "it says which classes occur in a whole patch: natmap tag scores the patches of a "
            "recipe's area",
        )
    card.check_cube(bands, choice.resolution, ground)
    if card.patch * card.resolution > choice.tile_metres:
        raise RecipeError(
            "grid.tile is smaller than the model's window",
            got=f"{choice.tile} px",
            expected=f"{card.patch} px or more",
        )


def leading_of(card: ModelCard) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The dim of a segmenter's classes, () of one that gives a single probability."""
    return (("class", card.classes),) if card.several else ()


def window_stages(
    choice: WindowModel,
    grid: GridChoice,
    card: ModelCard,
    images: ImageSource,
    area: Polygons,
    mask: Mask,
    cities: Cities,
    scenes: SceneCards,
) -> list[Stage]:
    """The stages that end in scores of pixels.

    Parameters
    ----------
    choice : section `model` of the recipe.
    grid : of the recipe.
    card : of a segmenter.
    images : what is read.
    area : the wanted area's own polygons.
    mask : Mask
    cities : that other cards map, or none; which are near decides a tile, and not the stage.
    scenes : that other cards map, or none; where each is, nobody knows before, hence all tiles.
    """
    card.check_precision(choice.precision)
    metres, n = card.resolution, grid.tile
    access, keep = images.access, images.images.keep
    outside = int(Reason.OUTSIDE_AREA)
    order = partial(in_order, order=images.images.order)
    # a pixel's windows begin up to a window before it
    reach = (card.patch - 1) * metres + _SLACK

    def kept(tile: Tile) -> list[Part]:
        """Frames of tiles that some window looks at."""
        if mask and mask.near(tile, reach)[0] == ():
            return [Part()]
        return images.index.about(tile, _SLACK, order)

    def ground(tile: Tile) -> list[Part]:
        frames = Part() if keep else images.index.about(tile, reach, order)[0]
        near, inner = area.near(tile)
        polygons, outer = mask.near(tile)
        shares, others = cities.near(tile)
        if polygons == () or not near:
            frames = Part()  # nothing is looked at: what is there does not matter
            shares, others = (), b""
        told = frames.fingerprint + inner + outer + others
        digest = hashlib.blake2b(told, digest_size=16).digest()
        return [Part(0, digest, _Ground(frames.payload or (), near or (), polygons, shares))]

    def spec(path: str, fill: int, **more: Any) -> ArraySpec:
        return ArraySpec(path, "uint8", metres, grid.chunk_pixels, fill, **more)

    first = []
    if keep:
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
            ScoreWindows(
                card, choice.device, choice.precision, None if keep else access, scenes.by
            ),
            (
                spec("scores/probability", NO_SCORE, attrs=PERCENT, leading=leading_of(card)),
                spec("scores/reason", 255, outside=outside, attrs=REASON_ATTRS),
                *([spec("scores/model", NO_SCORE, attrs=scenes.attrs)] if scenes else []),
            ),
            tuple(Input(stage.name, card.patch * metres) for stage in first),
            parameters={
                "model": card.key,
                "precision": precision_mark(scenes.cards or (card,), choice.precision),
                "mask": mask.parameter,
                **scenes.parameters,
            },
            parts=ground,
            outside="frame, boundary or area",
            resource=RESOURCES[choice.device],
            # two rows of windows, as pixels and as numbers, and the tile's own planes
            gigabytes=1.5
            + 2 * window
            + 2 * card.patch * (n + 2 * card.patch) * len(card.bands) * 6 / 1e9
            + (8 + (3 + len(card.classes) if cities else 0)) * n * n / 1e9
            + scenes.gigabytes(n),
            guess=10.0,
            reads=0.0 if keep else _READ,
        ),
    ]
