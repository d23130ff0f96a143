"""Where patches are cut: a place's composite or published vectors, and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from engine.datasets.patches import BLOCK, NO_GROUP, PatchSet, Place, cut
from engine.datasets.pseudo_patches import PseudoCells, find_pseudo_cells
from engine.datasets.sparse import CELL
from engine.datasets.splits import UNUSED
from engine.datasets.stored_ground import StoredGround
from engine.datasets.vector_pixels import VectorPixels
from engine.errors import LabelError
from engine.items import is_ground
from engine.labels.sampling import (
    SAMPLE,
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
from engine.products.registry import load_recipe
from engine.recipes.classifying import ClassifierRecipe, PatchLabels
from engine.recipes.embeddings import Embeddings
from engine.store.location import location_of
from engine.store.repository import Store

__all__ = ["LabelledCells", "PatchSource"]


class LabelledCells(NamedTuple):
    """Labelled cells of one place, not cut yet, their areas, and pseudo-labels, if any."""

    samples: Samples
    cells: GeoBox
    areas: tuple[TrainingArea, ...]
    notes: tuple[str, ...]
    pseudo: PseudoCells | None = None

    @property
    def xy(self) -> npt.NDArray[np.float64]:
        """Centres of the cells in metres."""
        left, top = self.cells.transform.c, self.cells.transform.f
        rows, cols = self.samples["row"], self.samples["col"]
        return np.stack([left + (cols + 0.5) * CELL, top - (rows + 0.5) * CELL], axis=1)

    @property
    def as_labels(self) -> tuple[Any, Any, Any, Any]:
        """Codes, centres, groups of labels and after them of pseudo-labels; which are these."""
        lcz, xy, group = self.samples["lcz"], self.xy, self.samples["group"]
        if self.pseudo is None:
            return lcz, xy, group, np.zeros(len(lcz), bool)
        n, more = len(lcz), len(self.pseudo)
        return (
            np.concatenate([lcz, self.pseudo.codes]),
            np.concatenate([xy, self.pseudo.xy]),
            np.concatenate([group, np.full(more, NO_GROUP)]),
            np.arange(n + more) >= n,
        )


class PatchSource:
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

    def labelled(self, recipe: ClassifierRecipe) -> LabelledCells:
        """The cells that the labels name, and notes of those that name none."""
        cells = GeoBox.from_bbox(self.bounds, self.crs, resolution=CELL, tight=True)
        label, notes = self.label, list[str]()
        samples = np.zeros(0, SAMPLE)
        areas: tuple[TrainingArea, ...] = ()
        if label.areas is not None:
            read = read_training_areas(self.base / label.areas, field=label.field)
            areas, notes = read.areas, list(read.notes)
            side = recipe.patch * self.recipe.grid.resolution
            samples = cells_of_areas(areas, cells, patch=side)
            notes += areas_without_cells(areas, samples, cells)
            if (small := small_areas(areas, cells, side)) is not None:
                notes.append(small)
        elif label.raster is not None:
            within = None if label.within is None else self.base / label.within
            samples = cells_of_raster(self.base / label.raster, cells, within=within)
        if label.most is not None:
            samples = thin(samples, label.most, recipe.split.seed)
        found = LabelledCells(samples, cells, areas, tuple(notes))
        if label.pseudo is None:
            return found
        pseudo, note = self._pseudo(label.pseudo, recipe, found.xy)
        return found._replace(pseudo=pseudo, notes=(*found.notes, note))

    def _pseudo(
        self, name: str, recipe: ClassifierRecipe, labelled: npt.NDArray[np.float64]
    ) -> tuple[PseudoCells, str]:
        """Pseudo-labels that lie here and that no label contradicts, and a note of them."""
        pixel = self.recipe.grid.resolution
        pixels = GeoBox.from_bbox(self.bounds, self.crs, resolution=pixel, tight=True)
        here, elsewhere = find_pseudo_cells(self.base / name, pixels, self.name)
        if here.side > recipe.patch * pixel:
            raise LabelError(
                "pseudo-labels are of larger ground than a patch shows",
                got=f"cells of {here.side:g} m, patches of {recipe.patch * pixel:g} m",
                remedy="embed with smaller cells, or set a larger patch",
            )
        found = here.without(labelled, CELL)
        return found, (
            f"{self.name}: {len(found)} pseudo-labels; left out: {elsewhere} elsewhere, "
            f"{len(here) - len(found)} on labelled ground"
        )

    def cut(self, recipe: ClassifierRecipe, labelled: LabelledCells) -> tuple[PatchSet, list[str]]:
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
        pixels = round(CELL / self.recipe.grid.resolution)
        x, good = self._cut(recipe, wanted, ground, samples["row"], samples["col"], pixels)
        pseudo = labelled.pseudo
        if pseudo is not None:
            more, usable = self._cut(recipe, wanted, ground, pseudo.rows, pseudo.cols, 1)
            x, pseudo = np.concatenate([x[good], more[usable]]), pseudo.only(usable)
        else:
            x = x[good]
        if not len(x):
            raise LabelError(
                f"no patch of {self.name} can be cut",
                got=f"{len(samples)} labelled cells, none with enough valid pixels",
                remedy="label ground where the source has vectors, of the year of embeddings"
                if self.vectors
                else "make the composite of the labelled ground, and look at its observations",
            )
        notes = []
        if labelled.areas and self.label.most is None:
            before = areas_without_cells(labelled.areas, samples, cells)
            why = "its patches lack valid pixels"
            after = areas_without_cells(labelled.areas, samples[good], cells, why)
            notes = [note for note in after if note not in before]
        samples = samples[good]
        y, xy, group, guessed = labelled._replace(samples=samples, pseudo=pseudo).as_labels
        sure = None
        if pseudo is not None:
            sure = np.full(len(x), np.nan, np.float32)
            sure[guessed] = pseudo.confidence
        place = Place(self.name, self.period, self.crs)
        found = PatchSet(
            x,
            y,
            xy,
            group,
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
            sure,
            0.0 if pseudo is None else pseudo.side,
            self.pixels.model if self.vectors else "",
        )
        return found, notes

    def _cut(
        self,
        recipe: ClassifierRecipe,
        wanted: list[int],
        ground: tuple[str, ...],
        rows: npt.NDArray[np.int64],
        cols: npt.NDArray[np.int64],
        step: int,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Patches about cells of so many pixels, and which of them are examples."""
        pixels = round(CELL / self.recipe.grid.resolution)
        block = (self.pixels.block if self.vectors else BLOCK) * pixels // step
        return cut(
            lambda rows, cols: self.read(rows, cols, wanted, ground),
            rows,
            cols,
            len(recipe.model.bands),
            patch=recipe.patch,
            context=recipe.context,
            step=step,
            vectors=self.vectors,
            block=block,
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
