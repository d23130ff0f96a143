"""Labels and composites to a patch set, split; or a set that was imported, as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from engine.datasets.patch_splits import Labelled, split_labelled, what_is_empty
from engine.datasets.patches import BLOCK, PatchSet, Place, cut, join, open_patches, write_patches
from engine.datasets.splits import UNUSED
from engine.datasets.stored_ground import StoredGround
from engine.datasets.vector_pixels import VectorPixels
from engine.errors import LabelError
from engine.files import sweep
from engine.items import is_ground
from engine.labels.sampling import (
    Samples,
    areas_without_cells,
    cells_of_areas,
    cells_of_raster,
    small_areas,
    thin,
)
from engine.labels.training_areas import TrainingArea, read_training_areas
from engine.models.card_parts import of_vectors
from engine.products.lcz import LczRecipe
from engine.products.published import PublishedSource
from engine.products.registry import load_recipe
from engine.recipes.classifying import ClassifierRecipe, PatchLabels
from engine.recipes.embeddings import Embeddings
from engine.store.location import location_of
from engine.store.repository import Store
from engine.vectors.read import file_of, files_of

__all__ = ["cut_patches", "with_channels"]

_CELL = 100.0
_FORM = 2  # of what is cut: raised where the same labels give other patches


def cut_patches(
    recipe: ClassifierRecipe,
    base: Path,
    *,
    sees: Callable[[int], int] = lambda patch: 0,
    tell: Callable[[str], None] = lambda text: None,
) -> PatchSet:
    """The recipe's patch set, split; cut anew where labels or composites changed.

    Without labels it is one that was imported: it stays as it is on disk.

    Parameters
    ----------
    recipe : ClassifierRecipe
    base : folder of its relative paths.
    sees : pixels beyond a patch of so many that the model looks at.
    tell : hears of steps, of labels that give nothing, and of what the split leaves empty.

    Raises
    ------
    LabelError
    """
    where = base / recipe.patches
    sweep(where.parent)
    if not recipe.labels:
        if not (where / "zarr.json").exists():
            raise LabelError(
                "the recipe names no labels, and there is no patch set that was imported",
                got=str(where),
                remedy="name labels, or import a set into that folder first",
            )
        return _split(recipe, open_patches(where), sees, tell)
    sources = [_Source(label, base) for label in recipe.labels]
    key = _key(recipe, sources)
    if (where / "zarr.json").exists():
        attrs: Any = zarr.open_group(str(where), mode="r").attrs
        if attrs.get("natmap:key") == key:
            for note in attrs.get("natmap:notes", ()):
                tell(f"note: {note}")
            return _split(recipe, open_patches(where), sees, tell)
        tell("labels or composites have changed: cutting patches again")
    labelled = [source.labelled(recipe) for source in sources]
    for note in dict.fromkeys(note for each in labelled for note in each.notes):
        tell(f"note: {note}")
    crs = tuple(str(source.crs) for source in sources)
    ahead = _together([each.as_labels for each in labelled], [s.name for s in sources], crs)
    reach = _reach(recipe, recipe.patch, _resolution(sources), sees)
    lacks = what_is_empty(recipe.split, ahead, split_labelled(recipe.split, ahead, reach), reach)
    for note in lacks:
        tell(f"note: {note}")
    parts, notes = [], [note for each in labelled for note in each.notes]
    for source, each in zip(sources, labelled, strict=True):
        tell(f"cutting patches of {source.name}")
        part, more = source.cut(recipe, each)
        parts.append(part)
        notes += more
        for note in more:
            tell(f"note: {note}")
    found = _split(recipe, join(parts), sees, tell, told=lacks)
    told = {"natmap:notes": list(dict.fromkeys(notes)), "natmap:key": key}
    write_patches(where, found, **told)
    return replace(open_patches(where), split=found.split)


def with_channels(recipe: ClassifierRecipe, base: Path) -> ClassifierRecipe:
    """The recipe with all channels of the published vectors that it cuts, where it names no bands.

    Raises
    ------
    NatmapError
        Where they cannot be opened, or some labels are of vectors and some are not.
    """
    sources = [load_recipe(base / label.recipe) for label in recipe.labels]
    kinds = {isinstance(s, LczRecipe) and s.embeddings is not None for s in sources}
    if len(kinds) > 1:
        raise LabelError(
            "labels are of published embeddings, and of composites",
            got=", ".join(source.name for source in sources),
            expected="all of the one, or all of the other",
        )
    if kinds == {True} and recipe.model.architecture == "unet":
        raise LabelError(
            "a segmenter of zones learns from composites",
            got="labels of published embeddings",
            expected="a network of patches, or a forest",
        )
    if kinds != {True} or "bands" in recipe.model.model_fields_set:
        return recipe
    first = sources[0]
    assert isinstance(first, LczRecipe), "it has vectors"
    assert first.embeddings is not None, "it has vectors"
    found = PublishedSource(first.embeddings, (base / recipe.labels[0].recipe).parent)
    model = recipe.model.model_copy(update={"bands": found.channels})
    return recipe.model_copy(update={"model": model})


class _Cells(NamedTuple):
    """Labelled cells of one place, not cut yet; areas that they are of, if any."""

    samples: Samples
    cells: GeoBox
    areas: tuple[TrainingArea, ...]
    notes: tuple[str, ...]

    @property
    def xy(self) -> npt.NDArray[np.float64]:
        """Centres of the cells in metres."""
        left, top = self.cells.transform.c, self.cells.transform.f
        rows, cols = self.samples["row"], self.samples["col"]
        return np.stack([left + (cols + 0.5) * _CELL, top - (rows + 0.5) * _CELL], axis=1)

    @property
    def as_labels(self) -> tuple[Any, Any, Any]:
        return self.samples["lcz"], self.xy, self.samples["group"]


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
        self.nodes: Any = None
        self.vectors = found.embeddings is not None
        if found.embeddings is not None:
            self._open_vectors(found.embeddings, path)
        else:
            self._open_composite(path)

    def _open_vectors(self, wanted: Embeddings, path: Path) -> None:
        """Published vectors, on the grid that a map of them has."""
        self.pixels = VectorPixels(self.recipe, wanted, path.parent)
        self.names, self.ground = list(self.pixels.channels), StoredGround(None)
        if not of_vectors(self.names):
            raise LabelError(
                f"the published vectors of {self.name} are called as bands of imagery are",
                got=", ".join(self.names[:5]),
                expected="channels with names of their own, as A00",
            )
        self.crs, self.bounds = self.recipe.grid.crs, self.pixels.bounds
        self.stamp, self.period = self.pixels.stamp, str(wanted.year)

    def _open_composite(self, path: Path) -> None:
        self.store = location_of(self.recipe.store, path.parent)
        if not Store.exists(self.store):
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            )
        store = Store.open(self.store)
        session = store.reader()
        root = zarr.open_group(session.store, mode="r")
        try:
            self.bands: Any = root["composite/bands"]
            self.seen: Any = root["composite/observations"]
        except KeyError:
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            ) from None
        assert self.recipe.imagery is not None, "it has imagery or embeddings"
        self.names = [str(band) for band in store.identity["band_names"]]
        self.ground = StoredGround(root)
        self.nodes = root.get("instances/nodes") if self.recipe.images else None
        self.crs, self.bounds = store.identity["crs"], tuple(store.identity["bounds"])
        labels = self.recipe.cube.labels
        told = ", ".join(f"{label} {period}" for label, period in labels.items())
        self.stamp = str(session.snapshot_id)
        self.period = told or str(self.recipe.imagery.period)

    def read(
        self, rows: slice, cols: slice, wanted: list[int], ground: tuple[str, ...]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Pixels of the composite, nothing valid beyond it; or of published vectors."""
        if self.vectors:
            return self.pixels.read(rows, cols, wanted)
        height, width = self.seen.shape
        shape = rows.stop - rows.start, cols.stop - cols.start
        values = np.zeros((len(wanted) + len(ground), *shape), np.uint16)
        valid = np.zeros(values.shape[1:], bool)
        top, bottom = max(rows.start, 0), min(rows.stop, height)
        left, right = max(cols.start, 0), min(cols.stop, width)
        if top < bottom and left < right:
            here = np.s_[
                top - rows.start : bottom - rows.start, left - cols.start : right - cols.start
            ]
            part = self.bands[:, top:bottom, left:right]
            values[: len(wanted), *here] = part[wanted]
            if ground:
                values[len(wanted) :, *here] = self.ground.read(
                    ground, slice(top, bottom), slice(left, right)
                )
            valid[here] = self.seen[top:bottom, left:right] > 0
        return values, valid

    def labelled(self, recipe: ClassifierRecipe) -> _Cells:
        """The cells that the labels name, and notes of those that name none."""
        cells = GeoBox.from_bbox(self.bounds, self.crs, resolution=_CELL, tight=True)
        label, notes = self.label, list[str]()
        areas: tuple[TrainingArea, ...] = ()
        if label.areas is not None:
            read = read_training_areas(self.base / label.areas, field=label.field)
            areas, notes = read.areas, list(read.notes)
            side = recipe.patch * self.recipe.grid.resolution
            samples = cells_of_areas(areas, cells, patch=side)
            notes += areas_without_cells(areas, samples, cells)
            if (small := small_areas(areas, cells, side)) is not None:
                notes.append(small)
        else:
            assert label.raster is not None
            within = None if label.within is None else self.base / label.within
            samples = cells_of_raster(self.base / label.raster, cells, within=within)
        if label.most is not None:
            samples = thin(samples, label.most, recipe.split.seed)
        return _Cells(samples, cells, areas, tuple(notes))

    def cut(self, recipe: ClassifierRecipe, labelled: _Cells) -> tuple[PatchSet, list[str]]:
        """The patches about labelled cells, and notes of areas that lost all of theirs."""
        ground = tuple(band for band in recipe.model.bands if is_ground(band))
        self.ground.require(ground, self.name, str(self.base / self.label.recipe))
        imagery = [band for band in recipe.model.bands if band not in ground]
        if any(band not in self.names for band in imagery):
            raise LabelError(
                f"the composite of {self.name} lacks bands of the model"
                if not self.vectors
                else f"the published vectors of {self.name} lack channels of the model",
                got=", ".join(self.names),
                expected=", ".join(imagery),
            )
        wanted = [self.names.index(band) for band in imagery]
        samples, cells = labelled.samples, labelled.cells
        step = round(_CELL / self.recipe.grid.resolution)
        x, good = cut(
            lambda rows, cols: self.read(rows, cols, wanted, ground),
            samples["row"],
            samples["col"],
            len(recipe.model.bands),
            patch=recipe.patch,
            context=recipe.context,
            step=step,
            vectors=self.vectors,
            block=self.pixels.block if self.vectors else BLOCK,
        )
        if not good.any():
            raise LabelError(
                f"no patch of {self.name} can be cut",
                got=f"{len(samples)} labelled cells, none with enough valid pixels",
                remedy="make the composite of the labelled ground, and look at its observations",
            )
        notes = []
        if labelled.areas and self.label.most is None:
            before = areas_without_cells(labelled.areas, samples, cells)
            why = "its patches lack valid pixels"
            after = areas_without_cells(labelled.areas, samples[good], cells, why)
            notes = [note for note in after if note not in before]
        samples, x = samples[good], x[good]
        xy = labelled._replace(samples=samples).xy
        place = Place(self.name, self.period, self.crs)
        found = PatchSet(
            x,
            samples["lcz"],
            xy,
            samples["group"],
            np.zeros(len(x), np.uint16),
            np.full(len(x), UNUSED, np.uint8),
            recipe.model.bands,
            recipe.patch,
            recipe.context,
            self.recipe.grid.resolution,
            (place,),
            None if self.nodes is None else self._graphs(samples["row"], samples["col"]),
            None if self.nodes is None else self.recipe.instances.made,
            self.ground.ranges_of(ground),
        )
        return found, notes

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


def _split(
    recipe: ClassifierRecipe,
    patches: PatchSet,
    sees: Callable[[int], int],
    tell: Callable[[str], None],
    told: Sequence[str] = (),
) -> PatchSet:
    """The patches, split as the recipe chooses; what is empty is said unless it was said before."""
    names = tuple(place.name for place in patches.places)
    crs = tuple("" if place.crs == "unknown" else place.crs for place in patches.places)
    labels = Labelled(
        patches.y, patches.xy, patches.group, patches.place, names, patches.split, crs
    )
    reach = _reach(recipe, patches.patch, patches.resolution, sees)
    split = split_labelled(recipe.split, labels, reach, tell)
    for note in what_is_empty(recipe.split, labels, split, reach):
        if note not in told:
            tell(f"note: {note}")
    return replace(patches, split=split)


def _together(
    parts: Sequence[tuple[Any, Any, Any]], names: Sequence[str], crs: tuple[str, ...]
) -> Labelled:
    y, xy, group = (np.concatenate(values) for values in zip(*parts, strict=True))
    place = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(p[0]) for p in parts])
    return Labelled(y, xy, group, place, tuple(names), np.full(len(y), UNUSED, np.uint8), crs)


def _reach(
    recipe: ClassifierRecipe, patch: int, resolution: float, sees: Callable[[int], int]
) -> float:
    """Side of what the model sees of a patch, in metres; never more than what is stored."""
    return (patch + 2 * min(sees(patch), recipe.context)) * resolution


def _resolution(sources: Sequence[_Source]) -> float:
    return max(source.recipe.grid.resolution for source in sources)


def _key(recipe: ClassifierRecipe, sources: list[_Source]) -> str:
    """What decides the patch set."""
    digest = hashlib.sha256()
    # sets that were cut when all patches had 32 px keep their key
    decides = {"labels", "context"} | ({"patch"} if recipe.patch != 32 else set())
    digest.update(recipe.model_dump_json(include=decides).encode())
    digest.update(f"{_FORM} {recipe.split.seed}".encode())
    digest.update(json.dumps(recipe.model.bands).encode())
    for source in sources:
        digest.update(source.stamp.encode())
        for name in (source.label.areas, source.label.raster, source.label.within):
            if name is not None:
                path = source.base / name
                if not file_of(path).is_file():
                    raise LabelError("there is no such file of labels", got=str(path))
                for each in files_of(path):
                    digest.update(each.read_bytes())
    return digest.hexdigest()
