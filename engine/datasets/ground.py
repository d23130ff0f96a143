"""Ground that chips are cut from: images of 1 m, or a stored composite, on a map recipe's grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import shapely
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.catalog.boundaries import read_mask, resolve_area
from engine.cube.images import in_order, read_image
from engine.datasets.chips import Images
from engine.datasets.stored_ground import StoredGround
from engine.errors import LabelError, RecipeError, StoreError
from engine.grid.area import Area, reproject
from engine.grid.grid import Grid
from engine.items import is_ground
from engine.models.card_parts import Ranges
from engine.products.registry import load_recipe
from engine.products.sources import ImageSource
from engine.recipes.sections import Images as ImagesChoice
from engine.store.location import location_of
from engine.store.repository import Store

__all__ = ["INVALID", "KNOWN", "City", "Composite", "Ground", "Pixels", "Window", "open_ground"]

INVALID = 0.1
"""Share of a chip from which it is none."""
KNOWN = 0.5
"""Share of a chip that somebody has labelled, or that lies in the boundary."""

Window = tuple[int, int]  # first row and column, in pixels from the grid's anchor


class Ground(Protocol):
    """What chips are cut from, on the grid of a map recipe."""

    name: str
    bands: tuple[str, ...]
    ranges: Ranges
    area: Area
    grid: Grid
    metres: float

    @property
    def stamp(self) -> list[str]:
        """What decides the pixels, and which windows of them there are."""

    def windows(self, within: BaseGeometry, side: int) -> list[Window]:
        """Windows of a lattice of `side` pixels that lie in a shape by half or more."""

    def box(self, window: Window, side: int) -> GeoBox:
        """Where a window lies."""

    def read(self, window: Window, side: int) -> Pixels:
        """A window's pixels."""


class _Lattice:
    """Windows on a grid, from its anchor."""

    grid: Grid
    metres: float = 1.0
    ranges: Ranges = MappingProxyType({})

    def windows(self, within: BaseGeometry, side: int) -> list[Window]:
        """Windows of a lattice of `side` pixels that lie in a shape by half or more."""
        west, south, east, north = within.bounds
        x0, y0 = self.grid.anchor
        step = side * self.metres
        rows = range(int((y0 - north) // step), int((y0 - south) // step) + 1)
        cols = range(int((west - x0) // step), int((east - x0) // step) + 1)
        found = []
        shapely.prepare(within)
        for row in rows:
            for col in cols:
                left, top = x0 + col * step, y0 - row * step
                square = shapely.box(left, top - step, left + step, top)
                if within.contains(square) or (
                    within.intersects(square)
                    and within.intersection(square).area >= KNOWN * square.area
                ):
                    found.append((row * side, col * side))
        return found

    def box(self, window: Window, side: int) -> GeoBox:
        """Where a window lies."""
        x0, y0 = self.grid.anchor
        m = self.metres
        corner = Affine(m, 0, x0 + window[1] * m, 0, -m, y0 - window[0] * m)
        return GeoBox((side, side), corner, self.grid.crs)


class City(_Lattice):
    """A map recipe's images, at 1 m on its grid.

    Parameters
    ----------
    path : of the recipe.
    bands : B-names, in the order wanted.
    beside : take images that lie beside the imagery of a coarser map too.

    Raises
    ------
    RecipeError
        Where the recipe makes another product.
    """

    def __init__(self, path: Path, bands: Sequence[str], *, beside: bool = False) -> None:
        recipe = load_recipe(path)
        images = getattr(recipe, "images", None)
        if not isinstance(images, ImagesChoice) or (
            recipe.grid.resolution != 1.0 and not beside
        ):  # fmt: skip
            raise RecipeError(
                "the recipe maps something else",
                got=f"{path}: product {recipe.product} at {recipe.grid.resolution:g} m",
                expected="product: ugs, or another one that is made of images at 1 m",
            )
        self.name, self.bands = recipe.name, tuple(bands)
        self.recipe, self._order = recipe, images.order
        crs = recipe.grid.crs
        self.area: Area = resolve_area(recipe.area, crs, path.parent)[0]
        self.grid = Grid.fit(
            self.area.bounds(),
            crs=crs,
            tile_size=recipe.grid.tile_metres,
            anchor=recipe.grid.origin,
        )
        near = self.area.grown(1000.0)  # of chips that reach beyond it
        source = ImageSource(images, path.parent)
        found, _ = source.find(near, bands, self.grid)
        self._access = source.access
        self._frames = in_order(found.items, images.order)
        boxes = [_box_of(item.geometry, crs) for item in self._frames]
        self._boxes = shapely.STRtree(boxes)
        self._base = path.parent

    @property
    def stamp(self) -> list[str]:
        """What decides the images, and which windows of them there are."""
        area = hashlib.sha256(shapely.to_wkb(self.area.geometry)).hexdigest()
        return [*self._told, area, *(item.stamp for item in self._frames)]

    @property
    def _told(self) -> list[str]:
        """The order of the frames and the grid."""
        grid = (self.grid.crs, self.grid.anchor, self.recipe.grid.resolution)
        return [str(self._order), str(grid)]

    def stamp_near(self, within: BaseGeometry, reach: float) -> list[str]:
        """What decides the images within `reach` metres of a shape, of all frames there."""
        near = self._boxes.query(shapely.box(*within.bounds).buffer(reach), predicate="intersects")
        return [*self._told, *(self._frames[k].stamp for k in sorted(near.tolist()))]

    def boundary(self) -> BaseGeometry:
        """Of the recipe's mask, cut by its area; without a mask the area.

        Raises
        ------
        RecipeError
            Where the mask misses the area.
        """
        if self.recipe.mask is None:
            return self.area.geometry
        polygons, _ = read_mask(self.recipe.mask.boundaries, self.area, self._base)
        return shapely.intersection(shapely.union_all(polygons), self.area.geometry)

    def read(self, window: Window, side: int) -> Pixels:
        """A window's image."""
        box = self.box(window, side)
        square = shapely.box(*box.boundingbox.bbox).buffer(10.0)
        near = sorted(int(i) for i in self._boxes.query(square, predicate="intersects"))
        frames = [self._frames[i] for i in near]
        found = read_image(frames, self.bands, box, self.grid.anchor, access=self._access)
        return Pixels(found.bands, found.valid)

    def draw(
        self,
        side: int,
        most: int,
        seed: int,
        within: BaseGeometry | None = None,
        name: str | None = None,
    ) -> Images:
        """Chips without labels, drawn by chance in the boundary, and where they have data.

        Parameters
        ----------
        side : of a chip, px.
        most : chips.
        seed : of the draw.
        within : in place of the boundary, in the grid's CRS.
        name : of the place, in errors; by default the recipe's.

        Raises
        ------
        LabelError
            Where there are none.
        """
        windows = self.windows(self.boundary() if within is None else within, side)
        order = np.random.default_rng(seed).permutation(len(windows))
        found: list[Pixels] = []
        for k in order:
            image = self.read(windows[k], side)
            if image.valid.mean() >= 1 - INVALID:
                found.append(image)
            if len(found) == most:
                break
        if not found:
            raise LabelError(
                f"{name or self.name} has no chip to adapt to",
                got=f"{len(windows)} windows of {side} px that lie in its boundary by half, none "
                "with images",
                remedy="look at the recipe's images, area and mask",
            )
        return np.stack([image.bands for image in found]), np.stack([i.valid for i in found])


class Composite(_Lattice):
    """A map recipe's composite, as it is stored.

    Parameters
    ----------
    path : of the recipe.
    bands : B-names, in the order wanted, then those of features.

    Raises
    ------
    RecipeError, LabelError
        Where the recipe makes no composite, none is there yet, or it lacks a band.
    """

    def __init__(self, path: Path, bands: Sequence[str]) -> None:
        recipe = load_recipe(path)
        if getattr(recipe, "embeddings", None) is not None:
            raise LabelError(
                "a segmenter learns from composites, or from images of 1 m",
                got=f"{path}: published embeddings",
                expected="a recipe of imagery, whose composite has been made",
                remedy="give imagery in that recipe, in place of embeddings",
            )
        self.name, self.bands = recipe.name, tuple(bands)
        self.metres = recipe.grid.resolution
        place = location_of(recipe.store, path.parent)
        try:
            store = Store.open(place)
            session = store.reader()
            root: Any = zarr.open_group(session.store, mode="r")
            self._bands, self._seen = root["composite/bands"], root["composite/observations"]
        except (KeyError, StoreError) as error:
            raise LabelError(
                "there is no composite to cut chips from",
                got=str(place),
                remedy=f"natmap run {path} --until composite",
            ) from error
        known = [str(name) for name in store.identity["band_names"]]
        features = tuple(name for name in bands if is_ground(name))
        imagery = [name for name in bands if name not in features]
        if missing := set(imagery) - set(known):
            raise LabelError(
                f"the composite of {self.name} lacks bands of the model",
                got=", ".join(known),
                expected=", ".join(sorted(missing)),
            )
        self._wanted = [known.index(name) for name in imagery]
        self._ground, self._features = StoredGround(root), features
        self._ground.require(features, self.name, str(path))
        self.ranges = self._ground.ranges_of(features)
        self.area = resolve_area(recipe.area, recipe.grid.crs, path.parent)[0]
        self.grid = Grid.fit(
            tuple(store.identity["bounds"]),
            crs=recipe.grid.crs,
            tile_size=recipe.grid.tile_metres,
            anchor=recipe.grid.origin,
        )
        west, _, _, north = self.grid.bounds
        x0, y0 = self.grid.anchor
        self._corner = round((y0 - north) / self.metres), round((west - x0) / self.metres)
        self._snapshot = session.snapshot_id

    @property
    def stamp(self) -> list[str]:
        """What decides the pixels, and which windows of them there are."""
        area = hashlib.sha256(shapely.to_wkb(self.area.geometry)).hexdigest()
        return [self._snapshot, area, str(self.metres)]

    def read(self, window: Window, side: int) -> Pixels:
        """A window's pixels; nothing is valid beyond the composite."""
        top, left = window[0] - self._corner[0], window[1] - self._corner[1]
        height, width = self._seen.shape
        bands = np.zeros((len(self.bands), side, side), np.uint16)
        valid = np.zeros((side, side), bool)
        rows = slice(max(top, 0), max(min(top + side, height), 0))
        cols = slice(max(left, 0), max(min(left + side, width), 0))
        if rows.start < rows.stop and cols.start < cols.stop:
            here = np.s_[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
            count = len(self._wanted)
            bands[:count, *here] = self._bands[:, rows, cols][self._wanted]
            if self._features:
                bands[count:, *here] = self._ground.read(self._features, rows, cols)
            valid[here] = self._seen[rows, cols] > 0
        return Pixels(bands, valid)


class Pixels(NamedTuple):
    """A window: bands (band, y, x) and where they have data (y, x)."""

    bands: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


def open_ground(path: Path, bands: Sequence[str]) -> Ground:
    """What a recipe's chips are cut from: images at 1 m, or its composite.

    Raises
    ------
    RecipeError, LabelError
    """
    recipe = load_recipe(path)
    images = getattr(recipe, "images", None) is not None and recipe.grid.resolution == 1.0
    if images and any(map(is_ground, bands)):
        raise RecipeError(
            "a model of images of 1 m looks at no features",
            got=", ".join(filter(is_ground, bands)),
            remedy="leave them out of model.bands",
        )
    return City(path, bands) if images else Composite(path, bands)


def _box_of(geometry: object, crs: str) -> BaseGeometry:
    return reproject(shape(geometry), "EPSG:4326", crs).buffer(100.0).envelope
