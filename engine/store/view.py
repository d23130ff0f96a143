"""The store as xarray sees it: one DataTree, a node for each group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from engine.errors import RecipeError
from engine.store.arrays import nodata_of
from engine.store.ledger import recorded_days
from engine.store.repository import Store

__all__ = ["open_store"]

_UNDECLARED = {"scenes/source": 0}
"""Nodata of arrays of older stores which say nothing that would tell it."""

Chunks = int | Literal["auto"] | Mapping[str, Any] | None


def open_store(
    path: str | Path,
    tag: str | None = None,
    *,
    decode: bool = True,
    chunks: Chunks = None,
    days: Literal["present", "all"] = "present",
) -> xr.DataTree:
    """Open a store for reading.

    Every array that has a nodata value declares it as ``_FillValue``, where rioxarray finds it, in
    stores of any age. Decoding masks quantities by it: reflectance and percent become float, with
    NaN where nothing is known, so that a mean is one of what is known. Classes, flags, reasons
    and keys of items stay integers, their nodata in `attrs`: ``classes == 6`` and ``isin`` go on
    working, and ``classes.where(classes != classes.rio.nodata)`` masks them. Counts (observations,
    dissent of the composite) have no nodata: 0 is a count.

    Parameters
    ----------
    path : folder of the store, or ``s3://bucket/prefix``.
    tag : str, optional
        A release; by default what was committed last.
    decode : bool
        True: quantities as said. False: all as it is stored, reflectance as uint16, reflectance x
        1e4 + 1000 with 0 for nodata, percent as uint8 with 255 for nodata.
    chunks : int, "auto" or mapping of dim to int, optional
        As `xarray.open_zarr` takes them: Dask arrays of such chunks, of a mapping those that are
        stored along dims that it leaves out (``{}``: along all). By default no Dask: each access
        reads what it needs.
    days : {"present", "all"}
        Of groups that keep days apart: those that some run has recorded, as the ledger tells; or
        the whole axis, 2015 to 2044, on which most days were never written. A day whose items
        were withdrawn stays present: its pixels stay in the store.

    Returns
    -------
    DataTree with a node for each group (scenes, composite, scores, map, ...); lazily read, dims
    ``time, band, class, y, x``, ``spatial_ref`` as in CF.

    Raises
    ------
    StoreError
        Where there is no store or no such release.
    RecipeError
        Where `days` is neither "present" nor "all".
    """
    if days not in ("present", "all"):
        raise RecipeError("no such choice of days", got=days, expected="present or all")
    store = Store.open(path)
    session = store.reader(tag)
    groups = sorted({array.partition("/")[0] for array in store.identity["arrays"]})
    nodes: dict[str, xr.Dataset] = {}
    for group in groups:
        data = xr.open_zarr(
            session.store, group=group, consolidated=False, mask_and_scale=False, chunks=None
        )
        data = _declare(data, zarr.open_group(session.store, path=group, mode="r"))
        for dim in set(data.dims) & set(data.variables):
            labels = data[dim].attrs.pop("labels", None)
            if labels is not None:
                data = data.assign_coords({dim: (dim, np.array(json.loads(labels)))})
        if days == "present" and "time" in data.dims:
            data = data.isel(time=recorded_days(session, group))
        if decode:
            data = _decode(data)
        if "spatial_ref" in data:  # a result for the whole area has no position
            data = data.set_coords("spatial_ref")
        nodes[f"/{group}"] = _chunked(data, chunks)
    tree = xr.DataTree.from_dict(nodes, name=Path(path).name)
    tree.attrs["crs"] = store.identity["crs"]
    tree.attrs["snapshot"] = session.snapshot_id
    return tree


def _declare(data: xr.Dataset, group: zarr.Group) -> xr.Dataset:
    """Every variable with its nodata in `attrs`."""
    for name, values in data.data_vars.items():
        if name == "spatial_ref":
            continue
        stored: Any = group[str(name)]
        nodata = nodata_of(str(stored.dtype), float(stored.fill_value), values.attrs)
        if nodata is None:
            nodata = _UNDECLARED.get(stored.path)
        if nodata is not None:
            values.attrs["_FillValue"] = values.dtype.type(nodata)
    return data


def _decode(data: xr.Dataset) -> xr.Dataset:
    """Quantities masked and scaled; whatever lists flags or counts, or names items, as it is."""
    quantities = [
        name
        for name, values in data.data_vars.items()
        if "_FillValue" in values.attrs and values.attrs.get("units") in ("1", "percent")
    ]
    return data.assign(xr.decode_cf(data[quantities]).data_vars)


def _chunked(data: xr.Dataset, chunks: Chunks) -> xr.Dataset:
    """As Dask arrays, where chunks are asked for; only days that are shown enter the graph."""
    if chunks is None:
        return data
    if not isinstance(chunks, Mapping):
        return data.chunk(chunks)
    stored: dict[str, int] = {}
    for values in data.data_vars.values():
        stored |= values.encoding.get("preferred_chunks", {})
    wanted = {dim: size for dim, size in {**stored, **chunks}.items() if dim in data.dims}
    return data.chunk(wanted)
