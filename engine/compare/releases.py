"""What changed between two releases of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from engine.compare.report import write_json, write_table
from engine.errors import PublishError
from engine.files import together
from engine.grid.grid import Grid
from engine.legend import LCZ, UGS, LandClass
from engine.publishing.cog import write_cog
from engine.publishing.forms import Layer
from engine.publishing.sheets import Sheet, cut_sheets, write_mosaic
from engine.runs.fold import Fold
from engine.runs.layers import fold_layers
from engine.runs.tables import Block, Column, Table
from engine.store.repository import Store
from engine.tables import html_table

__all__ = ["Difference", "ReleaseMap", "diff"]

_WIDE = 16_384  # cells across that are compared at once
_SHOWN = 15  # changes that a notebook shows
_CHANGES = Layer("changes", "", "Old class x 100 + new class; 0 unchanged", "uint16", 0, "mode")
_TAGS = {"TIFFTAG_SOFTWARE": "natmap"}


@dataclass(frozen=True, repr=False)
class Difference:
    """Two maps of one store, compared.

    Attributes
    ----------
    cells : int64 (n, n)
        Cells by old (rows) and new class (columns); 0 is none.
    titles, labels : of the classes, by position: of green space 1 is not green, 2 is green.
    square_km : of a cell.
    folder : where raster and tables were written, None if nowhere.
    """

    old: str
    new: str
    cells: npt.NDArray[np.int64]
    titles: tuple[str, ...]
    labels: tuple[str, ...]
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
        n = len(moved)
        found = [(int(i) // n, int(i) % n, int(moved.flat[i])) for i in order]
        return [change for change in found if change[2]]

    def __repr__(self) -> str:
        return f"<Difference {self.headline}>"

    def _repr_html_(self) -> str:
        rows = [
            (self.titles[old].strip(), self.titles[new].strip(), n, round(n * self.square_km, 2))
            for old, new, n in self.largest[:_SHOWN]
        ]
        notes = [] if self.folder is None else [f"raster and tables: {self.folder}"]
        return html_table(self.headline, ("was", "is", "cells", "km2"), rows, *notes)

    @property
    def headline(self) -> str:
        """What changed, in one line."""
        share = 100 * self.changed / max(int(self.cells.sum() - self.cells[0, 0]), 1)
        return (
            f"{self.old} -> {self.new}: {self.changed} cells changed "
            f"({self.changed * self.square_km:.2f} km2, {share:.2f} % of the map)"
        )


def diff(
    store: str | Path, old: str, new: str | None = None, *, out: str | Path | None = None
) -> Difference:
    """Compare the maps of two releases.

    Parameters
    ----------
    store : folder, or ``s3://bucket/prefix``.
    old, new : tags; without `new`, what was committed last.
    out : folder for ``changes.tif`` (old class x 100 + new class, 0 unchanged), ``changes.csv`` (a
        row for each pair of classes, in km2) and ``changes.json``; by default nowhere. Of over
        10^10 cells the raster is sheets of 100 km, and ``changes.vrt`` shows them as one.

    Raises
    ------
    StoreError
        Where there is no such store or release.
    PublishError
        Where a release has no map, or `out` cannot be written.
    """
    opened = Store.open(store)
    maps = [ReleaseMap(opened, tag) for tag in (old, new)]
    box, legend = maps[0].box, maps[0].legend
    cells = fold_layers(_changes(len(legend) + 1), {"old": maps[0], "new": maps[1]})["cells"]
    folder = None if out is None else Path(out)
    found = Difference(
        old,
        new or "now",
        cells,
        ("none", *(f"{c.label:>2}  {c.title}" if c in LCZ else c.title for c in legend)),
        ("none", *(c.label if c in LCZ else c.name for c in legend)),
        float(box.resolution.x) ** 2 / 1e6,
        folder,
    )
    if folder is not None:
        try:
            with together(folder, mark="changes.json") as part:
                _write(found, maps, box, part)
        except OSError as error:
            raise PublishError(
                "the changes cannot be written",
                got=error,
                remedy="make room, or name another folder with --out; the store is untouched",
            ) from error
    return found


def _changes(n: int) -> Fold:
    """Cells by old (rows) and new class (columns)."""

    def part(block: Block) -> Table:
        here = block.inside("old")
        before, after = (block.read(name)[here].astype(np.uint16) for name in ("old", "new"))
        return {"cells": np.bincount(before * n + after, minlength=n * n).reshape(n, n)}

    positions = tuple(range(n))
    return Fold(
        "changes", (), (Column("cells", "int64", (("old", positions), ("new", positions))),), part
    )


def _moved(maps: Sequence[ReleaseMap], sheet: Sheet, rows: slice) -> npt.NDArray[np.uint16]:
    """Rows of a sheet's raster, made in parts: both maps of all its width are a gigabyte."""
    down = slice(sheet.rows.start + rows.start, sheet.rows.start + rows.stop)
    found = np.zeros((rows.stop - rows.start, sheet.cols.stop - sheet.cols.start), np.uint16)
    for left in range(0, found.shape[1], _WIDE):
        across = slice(
            sheet.cols.start + left, min(sheet.cols.start + left + _WIDE, sheet.cols.stop)
        )
        before, after = (m.read(down, across).astype(np.uint16) for m in maps)
        here = found[:, left : left + _WIDE]
        np.copyto(here, before * 100 + after, where=before != after)
    return found


def _legend_of(attrs: Mapping[str, Any]) -> tuple[LandClass, ...]:
    """Classes as an array declares them; those of natmap's own legends by their titles."""
    known = {c.name: c for c in (*LCZ, *UGS)}
    told = zip(
        attrs["flag_values"],
        attrs["flag_meanings"].split(),
        attrs["flag_colors"].split(),
        strict=True,
    )
    return tuple(
        known.get(name)
        or LandClass(
            int(code), str(code), name, name.replace("_", " ").capitalize(), colour.lstrip("#")
        )
        for code, name, colour in told
    )


class ReleaseMap:
    """A release's map, its classes counted from 1.

    Parameters
    ----------
    store : Store
    tag : of the release; None: what was committed last.

    Attributes
    ----------
    legend : its classes.
    box : GeoBox
    snapshot : id of the store's state that is read.

    Raises
    ------
    PublishError
        Where it has no map of classes.
    """

    def __init__(self, store: Store, tag: str | None) -> None:
        reader = store.reader(tag)
        self.snapshot = reader.snapshot_id
        root: Any = zarr.open_group(reader.store, mode="r")
        # the final map; in stores of version 1 that of zones was called otherwise
        path = next((p for p in ("map/filtered", "map/classes") if p in root), None)
        if path is None:
            raise PublishError("there is no map to compare", got=f"{store.place}, {tag}")
        self._array = root[path]
        try:
            self.legend = _legend_of(self._array.attrs)
        except (KeyError, ValueError, AttributeError) as error:
            raise PublishError(
                "the map has no classes to compare",
                got=f"{store.place}: {path}",
                expected="an array that declares flag_values, flag_meanings and flag_colors",
            ) from error
        known = store.identity
        grid = Grid.fit(
            tuple(known["bounds"]),
            crs=known["crs"],
            tile_size=known["tile_size"],
            anchor=tuple(known["anchor"]),
        )
        self.box: GeoBox = grid.geobox(float(known["arrays"][path]["resolution"]))
        self._code = np.zeros(256, np.uint8)
        self._code[[c.code for c in self.legend]] = np.arange(1, len(self.legend) + 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.box.shape
        return int(height), int(width)

    @property
    def resolution(self) -> float:
        """Of a cell, in metres."""
        return float(self.box.resolution.x)

    fill = 0

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Positions in the legend, from 1; 0 is none."""
        found: npt.NDArray[np.uint8] = self._code[self._array[rows, cols]]
        return found


def _write(found: Difference, maps: list[ReleaseMap], box: GeoBox, folder: Path) -> None:
    sheets = cut_sheets("changes", box)
    for sheet in sheets:
        path = folder / f"{sheet.name}.tif"
        part = box[sheet.rows, sheet.cols]
        write_cog(path, _CHANGES, part, partial(_moved, maps, sheet), _TAGS)
    if len(sheets) > 1:
        write_mosaic(folder, "changes", _CHANGES, box, sheets)
    names = ("old", "new", "cells", "km2")
    rows = [
        (found.labels[old], found.labels[new], cells, cells * found.square_km)
        for old, new, cells in found.largest
    ]
    write_table(folder / "changes.csv", names, rows)
    report = {
        "old": found.old,
        "new": found.new,
        "cells": int(found.cells.sum()),
        "changed": found.changed,
        "changes": [dict(zip(names, row, strict=True)) for row in rows],
    }
    write_json(folder / "changes.json", report)
