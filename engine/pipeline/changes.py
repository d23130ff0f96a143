"""What changed between two releases of a store, and what of its past may go."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from engine.errors import PublishError, RecipeError
from engine.grid.grid import Grid
from engine.legend import LCZ
from engine.publishing.cog import Layer, write_cog
from engine.store.repository import Store

__all__ = ["Difference", "Pruned", "diff", "prune"]

_STRIP = 1024  # cells down that are compared at once
_CHANGES = Layer("changes", "", "Old class x 100 + new class; 0 unchanged", "uint16", 0, "mode")


@dataclass(frozen=True)
class Difference:
    """Two maps of one store, compared.

    Attributes
    ----------
    cells : int64 (18, 18)
        Cells by old (rows) and new class (columns); 0 is none.
    square_km : of a cell.
    folder : where raster and tables were written, None if nowhere.
    """

    old: str
    new: str
    cells: npt.NDArray[np.int64]
    square_km: float
    folder: Path | None

    @property
    def changed(self) -> int:
        """Cells whose class is another one, or that gained or lost theirs."""
        return int(self.cells.sum() - np.trace(self.cells))

    @property
    def largest(self) -> list[tuple[int, int, int]]:
        """(old, new, cells) of all changes, the largest first."""
        moved = self.cells - np.diag(np.diag(self.cells))
        order = np.argsort(-moved, axis=None, kind="stable")
        found = [(int(i) // 18, int(i) % 18, int(moved.flat[i])) for i in order]
        return [change for change in found if change[2]]


def diff(
    store: str | Path, old: str, new: str | None = None, *, out: str | Path | None = None
) -> Difference:
    """Compare the maps of two releases.

    Parameters
    ----------
    store : folder, or ``s3://bucket/prefix``.
    old, new : tags; without `new`, what was committed last.
    out : folder for ``changes.tif`` (old class x 100 + new class, 0 unchanged), ``changes.csv`` (a
        row for each pair of classes, in km2) and ``changes.json``; by default nowhere.

    Raises
    ------
    StoreError
        Where there is no such store or release.
    PublishError
        Where a release has no map, or `out` cannot be written.
    """
    opened = Store.open(store)
    maps = [_map(opened, tag) for tag in (old, new)]
    box, cell = _box(opened)
    cells = np.zeros((18, 18), np.int64)
    for top in range(0, box.shape[0], _STRIP):
        before, after = (np.asarray(m[top : top + _STRIP], np.int64) for m in maps)
        pairs = np.bincount((before * 18 + after).ravel(), minlength=18 * 18)
        cells += pairs.reshape(18, 18)
    folder = None if out is None else Path(out)
    found = Difference(old, new or "now", cells, cell**2 / 1e6, folder)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)

            def read(rows: slice) -> npt.NDArray[np.uint16]:
                before, after = (np.asarray(m[rows], np.uint16) for m in maps)
                return np.where(before == after, 0, before * 100 + after).astype(np.uint16)

            write_cog(folder / "changes.tif", _CHANGES, box, read, {"TIFFTAG_SOFTWARE": "natmap"})
            _write_tables(found, folder)
        except OSError as error:
            raise PublishError("the changes cannot be written", got=error) from error
    return found


def _map(store: Store, tag: str | None) -> Any:
    root = zarr.open_group(store.reader(tag).store, mode="r")
    try:
        return root["map/filtered"]
    except KeyError:
        raise PublishError("there is no map to compare", got=f"{store.place}, {tag}") from None


def _box(store: Store) -> tuple[GeoBox, float]:
    known = store.identity
    cell = float(known["arrays"]["map/filtered"]["resolution"])
    west, south, east, north = known["bounds"]
    grid = Grid.fit(
        (west, south, east, north),
        crs=known["crs"],
        tile_size=known["tile_size"],
        anchor=tuple(known["anchor"]),
    )
    return grid.geobox(cell), cell


def _write_tables(found: Difference, folder: Path) -> None:
    labels = {0: "none", **{zone.code: zone.label for zone in LCZ}}
    rows = [
        (labels[old], labels[new], cells, round(cells * found.square_km, 4))
        for old, new, cells in found.largest
    ]
    with (folder / "changes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["old", "new", "cells", "km2"])
        writer.writerows(rows)
    report = {
        "schema": 1,
        "old": found.old,
        "new": found.new,
        "cells": int(found.cells.sum()),
        "changed": found.changed,
        "changes": [dict(zip(("old", "new", "cells", "km2"), row, strict=True)) for row in rows],
    }
    (folder / "changes.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Pruned:
    """What pruning freed.

    Attributes
    ----------
    snapshots : commits that can no longer be opened.
    gigabytes : freed.
    releases : tags, which all stay.
    """

    snapshots: int
    gigabytes: float
    releases: tuple[str, ...]


def prune(store: str | Path, *, keep_days: float = 7.0) -> Pruned:
    """Forget commits older than some days, and free what only they hold; releases stay.

    Parameters
    ----------
    store : folder, or ``s3://bucket/prefix``.
    keep_days : of history, at least 0.

    Raises
    ------
    LockedError
        Where a run is at work: its workers' chunks would be taken for waste.
    RecipeError
        Where `keep_days` is negative.
    """
    if keep_days < 0:
        raise RecipeError("days to keep cannot be negative", got=keep_days)
    opened = Store.open(store)
    cut = datetime.now(UTC) - timedelta(days=keep_days)
    snapshots, freed = opened.prune(cut)
    return Pruned(snapshots, freed / 1e9, tuple(opened.tags()))
