"""Labels and composites to a patch set, split; or a set that was imported, as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from engine.datasets.patch_sources import PatchSource
from engine.datasets.patch_splits import Labelled, split_labelled, what_is_empty
from engine.datasets.patches import PatchSet, join, open_patches, write_patches
from engine.datasets.pseudo_labels import digest_of
from engine.datasets.splits import UNUSED
from engine.errors import LabelError
from engine.files import sweep
from engine.products.lcz import LczRecipe
from engine.products.published import PublishedSource
from engine.products.registry import load_recipe
from engine.recipes.classifying import ClassifierRecipe
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
    sources = [PatchSource(label, base) for label in recipe.labels]
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
            remedy="set model.architecture to mscnn or forest, or label composites",
        )
    if kinds != {True} or "bands" in recipe.model.model_fields_set:
        return recipe
    first = sources[0]
    assert isinstance(first, LczRecipe), "it has vectors"
    assert first.embeddings is not None, "it has vectors"
    found = PublishedSource(first.embeddings, (base / recipe.labels[0].recipe).parent)
    model = recipe.model.model_copy(update={"bands": found.channels})
    return recipe.model_copy(update={"model": model})


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
        patches.y, patches.xy, patches.group, patches.place, names, patches.split, crs,
        patches.pseudo,
    )  # fmt: skip
    reach = _reach(recipe, patches.patch, patches.resolution, sees)
    split = split_labelled(recipe.split, labels, reach, tell)
    for note in what_is_empty(recipe.split, labels, split, reach):
        if note not in told:
            tell(f"note: {note}")
    return replace(patches, split=split)


def _together(
    parts: Sequence[tuple[Any, Any, Any, Any]], names: Sequence[str], crs: tuple[str, ...]
) -> Labelled:
    y, xy, group, pseudo = (np.concatenate(values) for values in zip(*parts, strict=True))
    place = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(p[0]) for p in parts])
    unused = np.full(len(y), UNUSED, np.uint8)
    return Labelled(y, xy, group, place, tuple(names), unused, crs, pseudo)


def _reach(
    recipe: ClassifierRecipe, patch: int, resolution: float, sees: Callable[[int], int]
) -> float:
    """Side of what the model sees of a patch, in metres; never more than what is stored."""
    return (patch + 2 * min(sees(patch), recipe.context)) * resolution


def _resolution(sources: Sequence[PatchSource]) -> float:
    return max(source.recipe.grid.resolution for source in sources)


def _key(recipe: ClassifierRecipe, sources: list[PatchSource]) -> str:
    """What decides the patch set."""
    digest = hashlib.sha256()
    # sets that were cut when all patches had 32 px keep their key
    decides = {"labels", "context"} | ({"patch"} if recipe.patch != 32 else set())
    same = {"labels": {n: {"pseudo"} for n, s in enumerate(sources) if s.label.pseudo is None}}
    digest.update(recipe.model_dump_json(include=decides, exclude=same).encode())
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
        if source.label.pseudo is not None:
            digest.update(digest_of(source.base / source.label.pseudo).encode())
    return digest.hexdigest()
