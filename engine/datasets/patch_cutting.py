"""Labels and composites to a patch set, split; or a set that was imported, as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from engine.datasets.patches import PatchSet, Place, cut, join, open_patches, write_patches
from engine.datasets.splits import (
    UNUSED,
    find_leaks,
    split_by_block,
    split_by_group,
    split_by_pool,
)
from engine.errors import LabelError
from engine.labels.sampling import cells_of_areas, cells_of_raster, thin
from engine.labels.training_areas import read_training_areas
from engine.products.lcz import LczRecipe
from engine.products.registry import load_recipe
from engine.recipes.classifying import ClassifierRecipe, PatchLabels
from engine.store.location import location_of
from engine.store.repository import Store

__all__ = ["cut_patches"]

_CELL = 100.0


def cut_patches(
    recipe: ClassifierRecipe, base: Path, *, tell: Callable[[str], None] = lambda text: None
) -> PatchSet:
    """The recipe's patch set, split; cut anew where labels, composites or choices changed.

    Without labels it is one that was imported: it stays as it is on disk.
    """
    where = base / recipe.patches
    if not recipe.labels:
        if not (where / "zarr.json").exists():
            raise LabelError(
                "the recipe names no labels, and there is no patch set that was imported",
                got=str(where),
                remedy="name labels, or import a set into that folder first",
            )
        found = open_patches(where)
        return replace(found, split=_split(recipe, found))
    sources = [_Source(label, base) for label in recipe.labels]
    key = _key(recipe, sources)
    if (where / "zarr.json").exists():
        if zarr.open_group(str(where), mode="r").attrs.get("natmap:key") == key:
            return open_patches(where)
        tell("labels or composites have changed: cutting patches again")
    parts = []
    for source in sources:
        tell(f"cutting patches of {source.name}")
        parts.append(source.cut(recipe))
    found = join(parts)
    found = replace(found, split=_split(recipe, found))
    write_patches(where, found)
    zarr.open_group(str(where), mode="r+").attrs["natmap:key"] = key
    return open_patches(where)


class _Source:
    """One place: its labels and its composite."""

    def __init__(self, label: PatchLabels, base: Path) -> None:
        path = base / label.recipe
        self.label, self.base = label, base
        found = load_recipe(path)
        if not isinstance(found, LczRecipe):
            raise LabelError(
                "patches are cut from composites of scenes",
                got=f"{path}: product {found.product}",
                expected="product: lcz",
            )
        self.recipe: LczRecipe = found
        self.name = label.place or self.recipe.name
        self.store = location_of(self.recipe.store, path.parent)
        if not Store.exists(self.store):
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            )
        store = Store.open(self.store)
        self.identity = store.identity
        self.session = store.reader()
        root = zarr.open_group(self.session.store, mode="r")
        try:
            self.bands: Any = root["composite/bands"]
            self.seen: Any = root["composite/observations"]
        except KeyError:
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            ) from None
        self.names = [str(band) for band in self.identity["band_names"]]
        self.nodes: Any = root.get("instances/nodes") if self.recipe.images else None

    def read(
        self, rows: slice, cols: slice, wanted: list[int]
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
        """Pixels of the composite, nothing valid beyond it."""
        height, width = self.seen.shape
        values = np.zeros((len(wanted), rows.stop - rows.start, cols.stop - cols.start), np.uint16)
        valid = np.zeros(values.shape[1:], bool)
        top, bottom = max(rows.start, 0), min(rows.stop, height)
        left, right = max(cols.start, 0), min(cols.stop, width)
        if top < bottom and left < right:
            here = np.s_[
                top - rows.start : bottom - rows.start, left - cols.start : right - cols.start
            ]
            part = self.bands[:, top:bottom, left:right]
            values[:, *here] = part[wanted]
            valid[here] = self.seen[top:bottom, left:right] > 0
        return values, valid

    def cut(self, recipe: ClassifierRecipe) -> PatchSet:
        missing = [band for band in recipe.model.bands if band not in self.names]
        if missing:
            raise LabelError(
                f"the composite of {self.name} lacks bands of the model",
                got=", ".join(self.names),
                expected=", ".join(recipe.model.bands),
            )
        wanted = [self.names.index(band) for band in recipe.model.bands]
        identity = self.identity
        cells = GeoBox.from_bbox(
            tuple(identity["bounds"]), identity["crs"], resolution=_CELL, tight=True
        )
        label = self.label
        if label.areas is not None:
            areas = read_training_areas(self.base / label.areas).areas
            samples = cells_of_areas(areas, cells)
        else:
            assert label.raster is not None
            within = None if label.within is None else self.base / label.within
            samples = cells_of_raster(self.base / label.raster, cells, within=within)
        if label.most is not None:
            samples = thin(samples, label.most, recipe.split.seed)
        step = round(_CELL / self.recipe.grid.resolution)
        x, good = cut(
            lambda rows, cols: self.read(rows, cols, wanted),
            samples["row"],
            samples["col"],
            len(wanted),
            context=recipe.context,
            step=step,
        )
        if not good.any():
            raise LabelError(
                f"no patch of {self.name} can be cut",
                got=f"{len(samples)} labelled cells, none with enough valid pixels",
                remedy="make the composite of the labelled ground, and look at its observations",
            )
        samples, x = samples[good], x[good]
        left, top = cells.transform.c, cells.transform.f
        xy = np.stack(
            [left + (samples["col"] + 0.5) * _CELL, top - (samples["row"] + 0.5) * _CELL], axis=1
        )
        period = self.recipe.imagery.period
        place = Place(self.name, f"{period.first}/{period.last}", identity["crs"])
        return PatchSet(
            x,
            samples["lcz"],
            xy,
            samples["group"],
            np.zeros(len(x), np.uint16),
            np.full(len(x), UNUSED, np.uint8),
            recipe.model.bands,
            32,
            recipe.context,
            self.recipe.grid.resolution,
            (place,),
            None if self.nodes is None else self._graphs(samples["row"], samples["col"]),
            None if self.nodes is None else self.recipe.instances.made,
        )

    def _graphs(
        self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float16]:
        """Packed graphs of cells, (n, 50, 5)."""
        found = np.zeros((len(rows), *self.nodes.shape[:2]), np.float16)
        side = self.nodes.chunks[-1]
        tiles = np.stack([rows // side, cols // side])
        for row, col in np.unique(tiles, axis=1).T.tolist():
            here = (tiles[0] == row) & (tiles[1] == col)
            top, left = row * side, col * side
            part = self.nodes[:, :, top : top + side, left : left + side]
            found[here] = part[:, :, rows[here] - top, cols[here] - left].transpose(2, 0, 1)
        if not found.any():
            raise LabelError(
                "the recipe has 1 m images, and no labelled cell has instances of them",
                got=str(self.store),
                remedy=f"natmap run {self.base / self.label.recipe} --until instances",
            )
        return found


def _split(recipe: ClassifierRecipe, patches: PatchSet) -> npt.NDArray[np.uint8]:
    choice = recipe.split
    reach = (patches.patch + 2 * patches.context) * patches.resolution
    if choice.by == "own":
        if not (patches.split != UNUSED).any():
            raise LabelError(
                "the patch set has no split of its own",
                got=recipe.patches,
                remedy="split by: pool, or by: place",
            )
        return patches.split
    if choice.by == "pool":
        return split_by_pool(patches.y, choice.shares, choice.seed)
    if choice.by == "place":
        names = [place.name for place in patches.places]
        for name in (*choice.validation, *choice.test):
            if name not in names:
                raise LabelError("no such place to split by", got=name, expected=", ".join(names))
        code = np.array(
            [2 if n in choice.test else 1 if n in choice.validation else 0 for n in names], np.uint8
        )
        return code[patches.place]
    if not np.isfinite(patches.xy).all():
        raise LabelError(
            "patches without coordinates cannot be split so that none share ground",
            got=f"split by: {choice.by}",
            remedy="split by: own, place or pool; the last is what tests flatter a model with",
        )
    found = np.full(len(patches), UNUSED, np.uint8)
    for number in range(len(patches.places)):
        here = patches.place == number
        xy = patches.xy[here]
        if choice.by == "group":
            found[here] = split_by_group(
                patches.group[here], patches.y[here], xy, reach, choice.shares, choice.seed
            )
        else:
            found[here] = split_by_block(
                xy, reach, choice.side, choice.shares, choice.seed + 1009 * number
            )
        leaks = find_leaks(xy, found[here], reach)
        assert leaks == 0, f"{leaks} pairs of patches leak"
    return found


def _key(recipe: ClassifierRecipe, sources: list[_Source]) -> str:
    """What decides the patch set."""
    digest = hashlib.sha256()
    digest.update(recipe.model_dump_json(include={"labels", "context", "split"}).encode())
    digest.update(json.dumps(recipe.model.bands).encode())
    for source in sources:
        digest.update(str(source.session.snapshot_id).encode())
        for name in (source.label.areas, source.label.raster, source.label.within):
            if name is not None:
                path = source.base / name
                if not path.is_file():
                    raise LabelError("there is no such file of labels", got=str(path))
                digest.update(path.read_bytes())
    return digest.hexdigest()
