"""Images of a map recipe to chips: labelled ones for a training, others for an adaptation."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.catalog.boundaries import read_boundaries, read_mask, resolve_area
from engine.cube.images import Image, in_order, read_image
from engine.datasets.chip_splits import split_chips
from engine.datasets.chips import (
    UNKNOWN,
    ChipSet,
    Images,
    import_ugset,
    open_chips,
    require_masks,
    unsplit,
    write_chips,
)
from engine.errors import LabelError, RecipeError
from engine.grid.area import Area, reproject
from engine.grid.grid import Grid
from engine.products.registry import load_recipe
from engine.products.sources import ImageSource
from engine.products.ugs import UgsRecipe
from engine.recipes.segmenting import GreenLabels, GreenRecipe

__all__ = ["City", "cut_chips"]

_INVALID = 0.1  # share of a chip from which it is none
_KNOWN = 0.5  # share of a chip that somebody has labelled, or that lies in the boundary

Window = tuple[int, int]  # first row and column, in pixels from the grid's anchor


class City:
    """A map recipe's images, at 1 m on its grid.

    Parameters
    ----------
    path : of the recipe.
    bands : B-names, in the order wanted.

    Raises
    ------
    RecipeError
        Where the recipe makes another product.
    """

    def __init__(self, path: Path, bands: Sequence[str]) -> None:
        recipe = load_recipe(path)
        if not isinstance(recipe, UgsRecipe):
            raise RecipeError(
                "the recipe maps something else",
                got=f"{path}: product {recipe.product}",
                expected="product: ugs",
            )
        self.name, self.bands = recipe.name, tuple(bands)
        self.recipe: UgsRecipe = recipe
        crs = recipe.grid.crs
        self.area: Area = resolve_area(recipe.area, crs, path.parent)[0]
        self.grid = Grid.fit(
            self.area.bounds(),
            crs=crs,
            tile_size=recipe.grid.tile_metres,
            anchor=recipe.grid.origin,
        )
        near = self.area.grown(1000.0)  # of chips that reach beyond it
        source = ImageSource(recipe.images, path.parent)
        found, _ = source.find(near, bands, self.grid)
        self._access = source.access
        self._frames = in_order(found.items, recipe.images.order)
        boxes = [_box_of(item.geometry, crs) for item in self._frames]
        self._boxes = shapely.STRtree(boxes)
        self._base = path.parent

    @property
    def stamp(self) -> list[str]:
        """What decides the images, and which windows of them there are."""
        order = self.recipe.images.order
        grid = (self.grid.crs, self.grid.anchor, self.recipe.grid.resolution)
        area = hashlib.sha256(shapely.to_wkb(self.area.geometry)).hexdigest()
        return [str(order), str(grid), area, *(item.stamp for item in self._frames)]

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

    def windows(self, within: BaseGeometry, side: int) -> list[Window]:
        """Windows of a lattice of `side` pixels that lie in a shape by half or more."""
        west, south, east, north = within.bounds
        x0, y0 = self.grid.anchor
        rows = range(int((y0 - north) // side), int((y0 - south) // side) + 1)
        cols = range(int((west - x0) // side), int((east - x0) // side) + 1)
        found = []
        shapely.prepare(within)
        for row in rows:
            for col in cols:
                left, top = x0 + col * side, y0 - row * side
                square = shapely.box(left, top - side, left + side, top)
                if within.contains(square) or (
                    within.intersects(square)
                    and within.intersection(square).area >= _KNOWN * square.area
                ):
                    found.append((row * side, col * side))
        return found

    def box(self, window: Window, side: int) -> GeoBox:
        """Where a window lies."""
        x0, y0 = self.grid.anchor
        corner = Affine(1, 0, x0 + window[1], 0, -1, y0 - window[0])
        return GeoBox((side, side), corner, self.grid.crs)

    def read(self, window: Window, side: int) -> Image:
        """A window's image."""
        box = self.box(window, side)
        square = shapely.box(*box.boundingbox.bbox).buffer(10.0)
        near = sorted(int(i) for i in self._boxes.query(square, predicate="intersects"))
        frames = [self._frames[i] for i in near]
        return read_image(frames, self.bands, box, self.grid.anchor, access=self._access)

    def draw(self, side: int, most: int, seed: int) -> Images:
        """Chips without labels, drawn by chance in the boundary, and where they have data.

        Raises
        ------
        LabelError
            Where there are none.
        """
        windows = self.windows(self.boundary(), side)
        order = np.random.default_rng(seed).permutation(len(windows))
        found: list[Image] = []
        for k in order:
            image = self.read(windows[k], side)
            if image.valid.mean() >= 1 - _INVALID:
                found.append(image)
            if len(found) == most:
                break
        if not found:
            raise LabelError(
                f"{self.name} has no chip to adapt to",
                got=f"{len(windows)} windows in the boundary, none with images",
                remedy="look at the recipe's images, area and mask",
            )
        return np.stack([image.bands for image in found]), np.stack([i.valid for i in found])


def cut_chips(
    recipe: GreenRecipe, base: Path, *, tell: Callable[[str], None] = lambda text: None
) -> ChipSet:
    """The recipe's chip set, split; cut anew where labels, images or choices changed.

    Raises
    ------
    LabelError
    """
    where = base / recipe.chips
    sources = [_Source(label, base, recipe) for label in recipe.labels]
    text = json.dumps([recipe.side, recipe.split.model_dump(), [s.stamp for s in sources]])
    key = hashlib.sha256(text.encode()).hexdigest()
    if (where / "zarr.json").exists():
        if zarr.open_group(str(where), mode="r")["chips"].attrs.get("key") == key:
            return open_chips(where)
        tell("labels, images, area or grid have changed: cutting chips again")
    parts = []
    for source in sources:
        tell(f"cutting chips of {source.name}")
        parts.append(source.cut())
        if not (parts[-1].y == 1).any():
            raise LabelError(
                f"there is no green pixel in the chips of {source.name}",
                got=f"{len(parts[-1])} chips",
                expected="1 green, 0 not, 255 unknown",
                remedy="write a raster of 0 and 255 anew as 0 and 1, or leave the place out",
            )
    sides = {part.side for part in parts}
    if len(sides) > 1:
        raise LabelError(
            "chips are not of one size",
            got=", ".join(map(str, sorted(sides))),
            remedy="set side to that of the imported set",
        )
    codes = split_chips(recipe.split, parts, [source.crs for source in sources])
    parts = [replace(part, split=found) for part, found in zip(parts, codes, strict=True)]
    write_chips(where, *parts, key=key)
    return open_chips(where)


class _Source:
    """One place with its labels, or an imported set."""

    def __init__(self, label: GreenLabels, base: Path, recipe: GreenRecipe) -> None:
        self._label, self._base, self._side = label, base, recipe.side
        self._seed = recipe.split.seed
        stamp = [label.model_dump_json(), *recipe.model.bands]
        if label.recipe is None:
            assert label.ugset is not None
            self.name = label.place or Path(label.ugset).name
            stamp += _files(base / label.ugset)
            self._city = None
        else:
            self._city = City(base / label.recipe, recipe.model.bands)
            self.name = label.place or self._city.name
            stamp += self._city.stamp
        for name in (label.raster, label.polygons, label.within):
            if name is not None:
                stamp += map(_stamp, _parts(base / name))
        self.stamp = stamp

    @property
    def crs(self) -> str | None:
        """Of its chips' centres; None where nobody knows."""
        return None if self._city is None else self._city.grid.crs

    def cut(self) -> ChipSet:
        """Its chips."""
        if self._city is None:
            assert self._label.ugset is not None
            found = import_ugset(self._base / self._label.ugset)
            return replace(found, places=(self.name,))
        images, masks, seen, centres = [], [], [], []
        most = self._label.most
        for window, mask in self._masks(self._city):
            image = self._city.read(window, self._side)
            if image.valid.mean() < 1 - _INVALID:
                continue
            images.append(image.bands)
            seen.append(image.valid)
            masks.append(np.where(image.valid, mask, UNKNOWN).astype(np.uint8))
            west, south, east, north = self._city.box(window, self._side).boundingbox.bbox
            centres.append(((west + east) / 2, (south + north) / 2))
            if most is not None and len(images) == most:
                break
        if not images:
            raise LabelError(
                f"there is no chip in {self.name}",
                expected="labels where there are images",
                remedy="look at the area of the map recipe and at where the labels lie and are not "
                "255, unknown",
            )
        n = len(images)
        return ChipSet(
            np.stack(images),
            np.stack(masks),
            np.array(centres, np.float64),
            np.zeros(n, np.uint16),
            unsplit(n),
            self._city.bands,
            (self.name,),
            np.stack(seen),
        )

    def _masks(self, city: City) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Windows in an order of chance with their labels, those that are labelled enough."""
        windows = city.windows(city.area.geometry, self._side)
        order = np.random.default_rng(self._seed).permutation(len(windows))
        label = self._label
        if label.raster is not None:
            with rasterio.open(self._base / label.raster) as file:
                if file.crs is None:
                    raise LabelError("the labels have no georeference", got=label.raster)
                for k in order:
                    mask = _warped(file, city.box(windows[k], self._side))
                    require_masks(mask, self.name)
                    if (mask != UNKNOWN).mean() >= _KNOWN:
                        yield windows[k], mask
            return
        assert label.polygons is not None
        assert label.within is not None
        crs, area = city.grid.crs, city.area.geometry
        green = read_boundaries(str(self._base / label.polygons), crs, area, self._base)[0]
        within = read_boundaries(str(self._base / label.within), crs, area, self._base)[0]
        for k in order:
            box = city.box(windows[k], self._side)
            mask = np.where(_burnt(within, box), _burnt(green, box), np.uint8(UNKNOWN)).astype(
                np.uint8
            )
            if (mask != UNKNOWN).mean() >= _KNOWN:
                yield windows[k], mask


def _warped(file: rasterio.DatasetReader, box: GeoBox) -> npt.NDArray[np.uint8]:
    """Labels of a window, nearest; 255 beyond the file."""
    height, width = box.shape
    form = {"crs": str(box.crs), "transform": box.transform, "height": height, "width": width}
    with WarpedVRT(file, resampling=Resampling.nearest, nodata=UNKNOWN, **form) as view:
        found: npt.NDArray[np.uint8] = view.read(1)
        return found


def _burnt(shapes: Sequence[BaseGeometry], box: GeoBox) -> npt.NDArray[np.uint8]:
    """1 where a pixel's centre lies in a shape."""
    near = [s for s in shapes if s.intersects(shapely.box(*box.boundingbox.bbox))]
    if not near:
        return np.zeros(box.shape, np.uint8)
    found: npt.NDArray[np.uint8] = rasterio.features.rasterize(
        near, box.shape, transform=box.transform, dtype="uint8"
    )
    return found


def _box_of(geometry: object, crs: str) -> BaseGeometry:
    return reproject(shape(geometry), "EPSG:4326", crs).buffer(100.0).envelope


def _parts(path: Path) -> list[Path]:
    """A file of labels, and of a shapefile what lies beside it: outlines, table, index, CRS."""
    if path.suffix.lower() != ".shp":
        return [path]
    beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    return [path, *(p for p in beside if p.suffix.lower() in (".dbf", ".prj", ".shx"))]


def _stamp(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LabelError("the labels cannot be read", got=f"{path}: {error}") from error


def _files(folder: Path) -> list[str]:
    """Names, sizes and times of a folder's files: gigabytes, that are not read to know them."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{p.relative_to(folder)} {at.st_size} {at.st_mtime_ns}" for p, at in found]
