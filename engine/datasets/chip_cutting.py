"""Labelled chips for the training of a segmenter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
import zarr
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from engine.catalog.boundaries import read_boundaries
from engine.datasets.chip_splits import split_chips
from engine.datasets.chips import (
    UNKNOWN,
    ChipSet,
    chip_set_of,
    import_ugset,
    open_chips,
    require_masks,
    unsplit,
    write_chips,
)
from engine.datasets.ground import INVALID, KNOWN, Ground, Window, open_ground
from engine.errors import LabelError
from engine.files import sweep
from engine.labels.rasters import onto, require_plain
from engine.recipes.segmenting import ChipLabels, SegmenterRecipe
from engine.texture.scene_file import read_scenes
from engine.vectors.read import files_of

__all__ = ["cut_chips"]


def cut_chips(
    recipe: SegmenterRecipe,
    base: Path,
    *,
    scenes_of: Callable[[Sequence[ChipSet]], list[npt.NDArray[np.int64]]] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ChipSet:
    """The recipe's chip set, split; cut anew where labels, images or choices changed.

    Parameters
    ----------
    recipe : SegmenterRecipe
    base : folder of its relative paths.
    scenes_of : the scene of each chip of several places, for a split by frame.
    tell : hears of the cutting.

    Raises
    ------
    LabelError
    """
    where = base / recipe.chips
    sweep(where.parent)
    sources = [
        _Source(label, base, recipe) if label.chips is None else _Given(label, base, recipe)
        for label in recipe.labels
    ]
    told: list[Any] = [recipe.side, recipe.split.model_dump(), [s.stamp for s in sources]]
    if recipe.named:
        told.append([recipe.known, recipe.silent])
    if recipe.split.by == "block":
        told.append(2)  # version of the split: 1 took pixels for metres, and left out what touches
    dealt = recipe.split.by == "frame"
    if dealt and any(source.crs is None for source in sources):
        raise LabelError(
            "imported chips have no place to split blocks by", remedy="split.by: own, or place"
        )
    if dealt and recipe.scenes is not None:
        told.append(recipe.scenes.model_dump(exclude={"balance", "file", "only"}))
        if recipe.scenes.file is not None:
            told.append(read_scenes(base / recipe.scenes.file).key)
    text = json.dumps(told)
    key = hashlib.sha256(text.encode()).hexdigest()
    if (where / "zarr.json").exists():
        if zarr.open_group(str(where), mode="r")["chips"].attrs.get("key") == key:
            return open_chips(where)
        tell("labels, images, area or grid have changed: cutting chips again")
    parts = []
    for source in sources:
        tell(f"cutting chips of {source.name}")
        parts.append(source.cut())
        if not recipe.named and not (parts[-1].y == 1).any():
            raise LabelError(
                f"there is no green pixel in the chips of {source.name}",
                got=f"{len(parts[-1])} chips",
                expected="1 green, 0 not, 255 unknown",
                remedy="write a raster of 0 and 255 again as 0 and 1, or leave the place out",
            )
    sides = {part.side for part in parts}
    if len(sides) > 1:
        raise LabelError(
            "chips are not of one size",
            got=", ".join(map(str, sorted(sides))),
            remedy="set side to that of the imported set",
        )
    if len({(part.resolution, part.x.dtype) for part in parts}) > 1:
        raise LabelError(
            "chips are of images of different kinds",
            got=", ".join(f"{p.places[0]}: {p.resolution:g} m, {p.x.dtype}" for p in parts),
            expected="one resolution, and either images or composites",
        )
    if any(part.ranges != parts[0].ranges for part in parts):
        raise LabelError(
            "features of two places have other ranges",
            got=", ".join(str(dict(part.ranges)) for part in parts),
            remedy="give them one range in both recipes",
        )
    _require_classes(recipe, parts)
    scenes = scenes_of(parts) if dealt and scenes_of is not None else None
    codes = split_chips(recipe.split, parts, [source.crs for source in sources], scenes)
    parts = [replace(part, split=found) for part, found in zip(parts, codes, strict=True)]
    write_chips(where, *parts, key=key)
    return open_chips(where)


def _require_classes(recipe: SegmenterRecipe, parts: Sequence[ChipSet]) -> None:
    if recipe.named and sum(any((p.y == code).any() for p in parts) for code in recipe.codes) < 2:
        raise LabelError(
            "the labels show fewer than two classes",
            expected=", ".join(f"{c.code} {c.name}" for c in recipe.named),
            remedy="look at which codes the rasters of the labels hold",
        )


class _Source:
    """One place with its labels, or an imported set."""

    def __init__(self, label: ChipLabels, base: Path, recipe: SegmenterRecipe) -> None:
        self._label, self._base, self._side = label, base, recipe.side
        self._seed = recipe.split.seed
        self._known, self._ignored = recipe.known, recipe.silent
        stamp = [label.model_dump_json(), *recipe.model.bands]
        if label.recipe is None:
            assert label.ugset is not None
            self.name = label.place or Path(label.ugset).name
            stamp += _files(base / label.ugset)
            self._city: Ground | None = None
        else:
            self._city = open_ground(base / label.recipe, recipe.model.bands)
            self.name = label.place or self._city.name
            stamp += self._city.stamp
        for name in (label.raster, label.polygons):
            if name is not None:
                stamp += map(_stamp, files_of(base / name))
        if self.within is not None:
            stamp.append(hashlib.sha256(shapely.to_wkb(shapely.union_all(self.within))).hexdigest())
        self.stamp = stamp

    @property
    def crs(self) -> str | None:
        """Of its chips' centres; None where nobody knows."""
        return None if self._city is None else self._city.grid.crs

    @cached_property
    def within(self) -> list[BaseGeometry] | None:
        """Polygons of what has been looked at; None: everything.

        Raises
        ------
        LabelError
            Where none of them is in the place.
        """
        name, city = self._label.within, self._city
        if name is None or city is None:
            return None
        crs, area = city.grid.crs, city.area.geometry
        found, _ = read_boundaries(name, crs, area, self._base, what="within")
        if not found:
            raise LabelError(
                f"within misses {self.name}: nothing there would be labelled",
                got=f"within: {name}, none of its polygons in the area of the map recipe",
                expected="polygons that cover some of it",
            )
        return found

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
            if image.valid.mean() < 1 - INVALID:
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
            self._city.metres,
            dict(self._city.ranges),
            self._city.grid.crs,
        )

    def _masks(self, city: Ground) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Windows in an order of chance with their labels, those that are labelled enough."""
        windows = city.windows(city.area.geometry, self._side)
        order = np.random.default_rng(self._seed).permutation(len(windows))
        label = self._label
        if label.raster is not None:
            with rasterio.open(self._base / label.raster) as file:
                if file.crs is None:
                    raise LabelError("the labels have no georeference", got=label.raster)
                require_plain(file, LabelError)
                for k in order:
                    told = _warped(file, city.box(windows[k], self._side))
                    told[np.isin(told, self._ignored)] = UNKNOWN
                    require_masks(told, self.name, self._known)
                    box = city.box(windows[k], self._side)
                    mask = self._looked_at(told.astype(np.uint8), box)
                    if (mask != UNKNOWN).mean() >= KNOWN:
                        yield windows[k], mask
            return
        assert label.polygons is not None
        crs, area = city.grid.crs, city.area.geometry
        green, _ = read_boundaries(label.polygons, crs, area, self._base, what="polygons")
        for k in order:
            box = city.box(windows[k], self._side)
            mask = self._looked_at(_burnt(green, box), box)
            if (mask != UNKNOWN).mean() >= KNOWN:
                yield windows[k], mask

    def _looked_at(self, mask: npt.NDArray[np.uint8], box: GeoBox) -> npt.NDArray[np.uint8]:
        """A mask, unknown beyond what has been looked at."""
        if self.within is None:
            return mask
        return np.where(_burnt(self.within, box) == 1, mask, np.uint8(UNKNOWN)).astype(np.uint8)


class _Given:
    """One place whose chips `natmap frames` has cut, with labels in them."""

    def __init__(self, label: ChipLabels, base: Path, recipe: SegmenterRecipe) -> None:
        assert label.chips is not None
        folder = chip_set_of(base / label.chips)
        if folder is None:
            raise LabelError(
                "there is no chip set",
                got=label.chips,
                expected="a folder of natmap frames --cut SIDE --labels RASTER",
            )
        self._chips, self._recipe, self._most = open_chips(folder), recipe, label.most
        if len(self._chips.places) != 1:
            raise LabelError(
                "the chips are of several places: blocks of ground could not be told apart",
                got=f"{label.chips}: {', '.join(self._chips.places[:4])}",
                expected="the chips of one recipe",
            )
        self.name = label.place or self._chips.places[0]
        self.crs = self._chips.crs
        self.stamp = [label.model_dump_json(), *recipe.model.bands, *_files(folder)]

    def cut(self) -> ChipSet:
        """Its chips that are labelled enough."""
        recipe, chips = self._recipe, self._chips
        wanted = recipe.model.bands
        lacking = [band for band in wanted if band not in chips.bands]
        if lacking or chips.side != recipe.side:
            raise LabelError(
                f"the chips of {self.name} are not those that the recipe wants",
                got=f"{chips.side} px, bands {', '.join(chips.bands)}",
                expected=f"{recipe.side} px, bands {', '.join(wanted)}",
                remedy="cut them so (natmap frames --cut, --bands), or set side and model.bands",
            )
        y = np.asarray(chips.y[:])
        y = np.where(np.isin(y, recipe.silent), UNKNOWN, y).astype(np.uint8)
        require_masks(y, self.name, recipe.known)
        rows = np.flatnonzero((y != UNKNOWN).mean(axis=(1, 2)) >= KNOWN)
        rows = np.random.default_rng(recipe.split.seed).permutation(rows)[: self._most]
        if not len(rows):
            raise LabelError(
                f"there is no chip in {self.name}",
                got=f"{len(chips)} chips, none of them labelled by half or more",
                remedy="cut them with labels: natmap frames --labels RASTER",
            )
        x, _, seen = chips.take(rows)
        bands = [chips.bands.index(band) for band in wanted]
        return replace(
            chips,
            x=x[:, bands],
            y=y[rows],
            seen=np.ones(y[rows].shape, bool) if seen is None else seen,
            xy=chips.xy[rows],
            place=np.zeros(len(rows), np.uint16),
            split=unsplit(len(rows)),
            bands=wanted,
            places=(self.name,),
            ranges={band: span for band, span in chips.ranges.items() if band in wanted},
        )


def _warped(file: rasterio.DatasetReader, box: GeoBox) -> npt.NDArray[np.float64]:
    """Labels of a window, nearest; 255 beyond the file and where it says nothing."""
    with onto(file, str(box.crs), box.transform, (box.shape[0], box.shape[1])) as view:
        found: npt.NDArray[np.float64] = view.read(1)
    return np.where(np.isfinite(found), found, UNKNOWN)


def _burnt(shapes: Sequence[BaseGeometry], box: GeoBox) -> npt.NDArray[np.uint8]:
    """1 where a pixel's centre lies in a shape."""
    near = [s for s in shapes if s.intersects(shapely.box(*box.boundingbox.bbox))]
    if not near:
        return np.zeros(box.shape, np.uint8)
    found: npt.NDArray[np.uint8] = rasterio.features.rasterize(
        near, box.shape, transform=box.transform, dtype="uint8"
    )
    return found


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
