"""What a finished map holds, counted by one fold over its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from engine.legend import Reason
from engine.publishing.forms import Form
from engine.runs.fold import Fold
from engine.runs.layers import fold_layers
from engine.runs.tables import Block, Column, Table

__all__ = ["Read", "count"]

Read = Callable[[str, slice, slice], npt.NDArray[Any]]
"""(key of a layer, rows, columns) in the layer's own pixels -> its values."""

_LEAF = 1024  # pixels of a block whose floats are summed at once
_CODES, _DAYS = 256, 65_536


def count(form: Form, box: GeoBox, read: Read) -> Table:
    """Count a map's layers.

    Parameters
    ----------
    form : of the product.
    box : of its layer ``map``.
    read : gives a part of a layer.

    Returns
    -------
    ``reason`` int64 (256,): pixels by reason. Of classes ``map`` int64 (256,): pixels by code. Of
    continuous values ``known`` int64, ``total``, ``low``, ``high`` float64: how many, their sum,
    least and greatest. Where the product has days, of the wanted pixels: ``dissent`` int64 (256,)
    by percent, ``days`` int64 (65536,) by the number of clear days.
    """
    keys = ["map", "reason", *(["dissent", "observations"] if form.observed else [])]
    metres, (height, width) = float(box.resolution.x), box.shape
    layers = {key: _Part(read, key, (height, width), metres) for key in keys}
    return fold_layers(_tally(form, metres), layers)


@dataclass(frozen=True)
class _Part:
    """A layer of a product, as a fold reads it."""

    source: Read
    key: str
    shape: tuple[int, int]
    resolution: float
    fill: float = 0

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        return self.source(self.key, rows, cols)


def _tally(form: Form, metres: float) -> Fold:
    columns = [Column("reason", "int64", (("code", tuple(range(_CODES))),))]
    if form.scale is None:
        columns.append(Column("map", "int64", (("code", tuple(range(_CODES))),)))
    else:
        columns += [Column("known", "int64")]
        columns += [Column(name, "float64") for name in ("total", "low", "high")]
    if form.observed:
        columns.append(Column("dissent", "int64", (("percent", tuple(range(_CODES))),)))
        columns.append(Column("days", "int64", (("days", tuple(range(_DAYS))),)))

    def part(block: Block) -> Table:
        here = block.inside("map")
        why = block.read("reason")[here]
        found = {"reason": _bins(why, _CODES)}
        values = block.read("map")[here]
        found |= {"map": _bins(values, _CODES)} if form.scale is None else _spread(values, form)
        if form.observed:
            wanted = (why != Reason.OUTSIDE_AREA) & (why != Reason.OUTSIDE_MASK)
            found["dissent"] = _bins(block.read("dissent")[here][wanted], _CODES)
            found["days"] = _bins(block.read("observations")[here][wanted], _DAYS)
        return found

    leaf = None if form.scale is None else _LEAF * metres
    return Fold("tally", (), tuple(columns), part, _merge, leaf=leaf)


def _bins(values: npt.NDArray[Any], most: int) -> npt.NDArray[np.int64]:
    return np.bincount(values, minlength=most).astype(np.int64)


def _spread(values: npt.NDArray[Any], form: Form) -> dict[str, npt.NDArray[Any]]:
    """Of continuous values; NaN is none, whatever the nodata."""
    known = values[(values != form.nodata) & ~np.isnan(values)].astype(np.float64)
    return {
        "known": np.array(known.size, np.int64),
        "total": np.array(known.sum()),
        "low": np.array(known.min(initial=np.inf)),
        "high": np.array(known.max(initial=-np.inf)),
    }


def _merge(one: Table, other: Table) -> Table:
    how = {"low": np.minimum, "high": np.maximum}
    return {name: how.get(name, np.add)(values, other[name]) for name, values in one.items()}
