"""Publish: the map of a store as a product folder."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from engine.catalog.snapshot import read_snapshot
from engine.errors import PublishError, RecipeError
from engine.files import scratch
from engine.grid import Tile
from engine.legend import Reason
from engine.models.card import ModelCard
from engine.models.footprint import FOOTPRINT
from engine.pipeline.made import Made, made_of
from engine.pipeline.prepare import Prepared, prepare
from engine.pipeline.status import last_usage
from engine.pipeline.verbs import load
from engine.products.product import SNAPSHOT
from engine.products.registry import find_product
from engine.publishing.product import Facts, write_product
from engine.publishing.rights import rights_of
from engine.publishing.scenes import SceneModel
from engine.publishing.sources import sources_of
from engine.publishing.upload import upload
from engine.recipes.run import Recipe
from engine.runs.schedule import Schedule
from engine.store.ledger import State
from engine.store.location import Folder, Location, location_of, one_in_the_other
from engine.store.provenance import frozen_in
from engine.store.reading import Reader
from engine.store.repository import Store

__all__ = ["publish"]

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SLIVER = 1e-3  # of a pixel: an area that reaches no further into one leaves it out


def publish(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    base: Path | None = None,
    tag: str | None = None,
    as_made: bool = False,
) -> Path | str:
    """Write COG, STAC, preview and report into the recipe's product folder.

    Parameters
    ----------
    recipe : a Recipe, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    tag : str, optional
        Name this state of the store as a release; an existing one is published as it was.
    as_made : bool
        Publish a map that the recipe would make otherwise, and state what made it.

    Returns
    -------
    The product folder, or its address where it is in a bucket.

    Raises
    ------
    NatmapError
        Also where no tile of a layer belongs to the map. Where some do not, the layer has no data
        there, and the report says so. And where the recipe would make another map than the store
        holds, but for `as_made`.
    """
    recipe, base = load(recipe, base)
    if recipe.publish is None:
        raise RecipeError(
            "the recipe does not say where to publish",
            got="no publish",
            expected="publish: FOLDER",
        )
    if tag is not None and not _TAG.fullmatch(tag):
        raise PublishError(
            "a release cannot have this name",
            got=tag,
            expected="letters, digits, dots, hyphens and underscores, 100 at most",
        )
    base = base or Path()
    place = location_of(recipe.store, base)
    target = location_of(recipe.publish, base)
    if one_in_the_other(place, target):
        raise PublishError(
            "the product and the store lie within one another",
            got=f"publish: {target}, store: {place}",
            expected="two folders beside one another",
        )
    store = Store.open(place)
    at = tag if tag is not None and tag in store.tags() else None
    state = store.reader(at)  # all of one commit, whatever a run adds meanwhile
    with frozen_in(zarr.open_group(state.store, mode="r")) as frozen:
        return _publish(recipe, base, store, state, tag, at, frozen, as_made)


def _publish(
    recipe: Recipe,
    base: Path,
    store: Store,
    state: Reader,
    tag: str | None,
    at: str | None,
    frozen: Mapping[str, Path],
    as_made: bool,
) -> Path | str:
    """Publish a state of a store, that `at` a release or a present one; `tag` names it.

    `frozen` are catalogues in the store, of the last run, by the recipe's section.
    """
    assert recipe.publish is not None, "`publish` looked"
    place, target = location_of(recipe.store, base), location_of(recipe.publish, base)
    product, root = find_product(recipe.product), zarr.open_group(state.store, mode="r")
    names = product.snapshots(recipe)
    beside = {} if names.keys() <= frozen.keys() else _catalogues(place, names, at)
    known = {**beside, **frozen}
    catalogues = {name: known[name] for name in names if name in known}
    # The frozen items are the catalogue: publishing asks no server.
    prepared = replace(prepare(_frozen(recipe, catalogues), base), recipe=recipe)
    if not any(stage.name == "map" for stage in prepared.stages):
        raise RecipeError(
            "the recipe makes no map to publish", got="no model", expected="model: {card: …}"
        )
    notes = prepared.resolved.notes
    own_items = at is None or not beside or place.beside(_of_release(at, SNAPSHOT)) is not None
    if not own_items:
        notes = (*notes, f"{tag} kept no items of its own: those of the last run are listed")
    names_then = product.before if store.version == 1 else {}
    specs = [replace(spec, path=names_then.get(spec.path, spec.path)) for spec in prepared.specs]
    store.require_identity(prepared.grid, specs, band_names=prepared.band_names)
    items = [
        item for path in catalogues.values() for item in read_snapshot(path) if not item.suspect
    ]
    schedule = prepared.schedule(store, reader=state)
    made = made_of(prepared, schedule, root, items, as_made=as_made, own_items=own_items)
    missing, more = _missing(prepared, schedule)
    if tag is not None and at is None:  # a name that is given cannot be taken back
        _keep(place, tag, {names[section]: path for section, path in beside.items()})
        store.tag(tag, state.snapshot_id)
    reader = _Reader(prepared, schedule, root, missing, names_then)
    form = prepared.resolved.form
    facts = Facts(
        name=recipe.name,
        period=made.period,
        periods=tuple((label, p.start, p.end) for label, p in made.periods.items()),
        sources=sources_of(made.items),
        software=made.software,
        model=made.model,
        card=made.card,
        version=tag or state.snapshot_id,
        rights=rights_of(
            f"{form.title}: {recipe.name}",
            recipe.publication,
            made.items,
            made.card,
            made.model,
            [(each.name, each.card) for each in made.cities]
            + [(each.name, each.card) for each in _of_scenes(made)],
        ),
        recipe=made.recipe,
        seconds=_seconds(prepared, schedule),
        throughput=last_usage(schedule.ledger, recipe.price_per_worker_hour),
        notes=(*notes, *more, *made.notes),
        item=product.item,
        runs=made.runs,
        footprint=_footprint(made.card),
        cities=made.cities,
        scenes=made.scenes,
    )
    if isinstance(target, Folder):
        return write_product(target.path, form, reader.box, reader, facts, stamp=reader.stamp)
    with scratch() as part:
        folder = write_product(part / "product", form, reader.box, reader, facts)
        upload(folder, target)
    return str(target)


def _of_scenes(made: Made) -> tuple[SceneModel, ...]:
    """Models of scenes beside the product's own."""
    return () if made.scenes is None else made.scenes.models[1:]


def _seconds(prepared: Prepared, schedule: Schedule) -> dict[str, float]:
    """Seconds of work by stage."""
    return {
        stage.name: sum(
            float(record["seconds"]) for _, _, record in schedule.ledger.records(stage.name)
        )
        for stage in prepared.stages
    }


def _footprint(card: ModelCard | None) -> Path | None:
    """Where the model of a map was trained, as its card's folder keeps it."""
    path = None if card is None else card.folder / FOOTPRINT
    return path if path is not None and path.is_file() else None


def _catalogues(place: Location, names: Mapping[str, str], tag: str | None) -> dict[str, Path]:
    """Frozen items by the recipe's section: of the last run, or as a release was published with.

    Raises
    ------
    PublishError
        Where those of the main source are gone.
    """
    kept = tag is not None and place.beside(_of_release(tag, SNAPSHOT)) is not None
    found = {}
    for section, name in names.items():
        path = place.beside(_of_release(tag, name) if kept and tag is not None else name)
        if path is not None:
            found[section] = path
        elif name == SNAPSHOT:
            raise PublishError(
                "the store's frozen catalogue is gone",
                got=f"{place}.{SNAPSHOT}",
                remedy="`natmap run` writes it again",
            )
    return found


def _keep(place: Location, tag: str, catalogues: Mapping[str, Path]) -> None:
    """Keep a release's catalogues: the next run freezes others in their place."""
    for name, path in catalogues.items():
        with place.replace(_of_release(tag, name)) as copy:
            shutil.copyfile(path, copy)


def _of_release(tag: str, name: str) -> str:
    return f"release-{tag}.{name}"


def _frozen(recipe: Recipe, catalogues: Mapping[str, Path]) -> Recipe:
    """The recipe with what the last run found as its catalogues."""
    update = {
        section: getattr(recipe, section).model_copy(update={"catalog": str(path.resolve())})
        for section, path in catalogues.items()
        if hasattr(getattr(recipe, section), "catalog")  # published embeddings are searched by none
    }
    return recipe.model_copy(update=update)


def _missing(
    prepared: Prepared, schedule: Schedule
) -> tuple[dict[str, npt.NDArray[np.bool_]], list[str]]:
    """Tiles of the map where a layer of another stage does not belong to it, and notes of them.

    A run that was stopped, or told to end with the map, leaves tiles without shares of
    green, or with those of the map before.
    """
    mapped = prepared.resolved.support.meets(0.0) & (schedule.ledger.states("map") == State.DONE)
    if not mapped.any():
        raise PublishError("there is no map yet", got=prepared.place, remedy="`natmap run` first")
    missing: dict[str, npt.NDArray[np.bool_]] = {}
    notes = []
    for layer in prepared.resolved.form.layers:
        stage = layer.array.partition("/")[0]
        if stage == "map":
            continue
        after = any(source.stage == "map" for source in schedule.stages[stage].inputs)
        later = stage if after else "map"  # its record says what it was made from
        gone = np.zeros_like(mapped)
        for row, col in np.argwhere(mapped).tolist():
            gone[row, col] = not schedule.made_from_inputs(later, Tile(row, col))
        if not gone.any():
            continue
        name = f"{prepared.recipe.name}{layer.suffix}.tif"
        if (gone == mapped).all():
            raise PublishError(
                "a layer of the product is not there yet, or is another map's",
                got=f"{name}: not made from the map in any of its {mapped.sum()} tiles",
                remedy="`natmap run` without --until, then publish; a release under a new name",
            )
        missing[layer.key] = gone
        notes.append(
            f"{name} has no data in {gone.sum()} of {mapped.sum()} tiles of the map: "
            f"stage {stage} was not made for it there; `natmap run` makes it"
        )
    return missing, notes


class _Reader:
    """Parts of the map's layers, cut to the area, with the ledger's word on tiles that failed.

    `missing` are tiles, by layer, whose layer does not belong to their map; `names` are other names
    that the store has for arrays.
    """

    def __init__(
        self,
        prepared: Prepared,
        schedule: Schedule,
        root: zarr.Group,
        missing: Mapping[str, npt.NDArray[np.bool_]],
        names: Mapping[str, str],
    ) -> None:
        grid, form = prepared.grid, prepared.resolved.form
        self._arrays: dict[str, Any] = {
            layer.key: root[names.get(layer.array, layer.array)] for layer in form.layers
        }
        self._scales: dict[str, Any] = {
            layer.key: root[layer.scaled_by] for layer in form.layers if layer.scaled_by
        }
        self._missing = missing
        self._factors = {layer.key: layer.factor for layer in form.layers}
        specs = {spec.path: spec for spec in prepared.specs}
        self._pixel = specs[form.layer("map").array].resolution
        unit = self._pixel * form.coarsest
        west, south, east, north = prepared.resolved.area.bounds()
        left, _, _, top = grid.bounds
        # whole pixels of the coarsest layer, so that all layers cover the same ground
        self._first_col = int(np.floor((west - left) / unit + _SLIVER)) * form.coarsest
        self._first_row = int(np.floor((top - north) / unit + _SLIVER)) * form.coarsest
        width = int(np.ceil((east - left) / unit - _SLIVER)) * form.coarsest - self._first_col
        height = int(np.ceil((top - south) / unit - _SLIVER)) * form.coarsest - self._first_row
        whole = grid.geobox(self._pixel)
        self.box = whole[
            self._first_row : self._first_row + height, self._first_col : self._first_col + width
        ]
        self._tile = grid.pixels(self._pixel)
        states = schedule.ledger.states("map")
        needed = prepared.resolved.support.meets(0.0)
        override = np.full(grid.shape, -1, np.int16)
        override[~needed] = Reason.OUTSIDE_AREA
        override[needed & (states == State.NONE)] = Reason.NOT_COMPUTED
        for _, tile, record in schedule.ledger.records("map"):
            if record["state"] in (State.FAILED, State.BLOCKED):
                override[tile] = record["reason"]
        self._override = override
        self._digests = {
            layer.key: schedule.ledger.column(layer.array.partition("/")[0], "digest")
            for layer in form.layers
        }
        self._area = hashlib.sha256(prepared.resolved.area.geometry.wkb).digest()
        self._support, self._unmade = prepared.resolved.support, needed & (override >= 0)

    def stamp(self, key: str, rows: slice, cols: slice) -> bytes:
        """What decides a part of a layer: the digests of its tiles, and what is said of them."""
        tile = self._tile // self._factors[key]
        first, left = (at // self._factors[key] for at in (self._first_row, self._first_col))
        tiles = np.s_[
            (first + rows.start) // tile : -(-(first + rows.stop) // tile),
            (left + cols.start) // tile : -(-(left + cols.stop) // tile),
        ]
        gone = self._missing.get(key)
        parts = [self._digests[key][tiles], self._override[tiles], self._unmade[tiles]]
        parts += [] if gone is None else [gone[tiles]]
        return self._area + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    def __call__(self, key: str, rows: slice, cols: slice) -> npt.NDArray[Any]:
        array, factor = self._arrays[key], self._factors[key]
        tile = self._tile // factor
        first, left = self._first_row // factor, self._first_col // factor
        first, last = first + rows.start, first + rows.stop
        left, right = left + cols.start, left + cols.stop
        found: npt.NDArray[Any] = np.array(array[..., first:last, left:right])
        fill = array.fill_value
        if key in self._scales:
            found, fill = found * self._scales[key][first:last, left:right], np.nan
        tiles = np.ix_(np.arange(first, last) // tile, np.arange(left, right) // tile)
        gone = self._override[tiles]
        found[..., gone >= 0] = gone[gone >= 0] if key == "reason" else fill
        if key in self._missing:
            found[..., self._missing[key][tiles]] = fill
        if key == "reason":
            # what lies outside the area is that first, also in a tile that failed
            down = slice(first // tile, -(-last // tile))
            across = slice(left // tile, -(-right // tile))
            for row, col in np.argwhere(self._unmade[down, across]).tolist():
                where = Tile(row + down.start, col + across.start)
                outside = ~self._support.mask(where, self._pixel)
                y, x = where.row * tile - first, where.col * tile - left
                here = found[max(y, 0) : y + tile, max(x, 0) : x + tile]
                part = outside[max(-y, 0) :, max(-x, 0) :]
                here[part[: here.shape[0], : here.shape[1]]] = Reason.OUTSIDE_AREA
        return found
