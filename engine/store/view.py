"""The store as xarray sees it: one DataTree, a node for each group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr

from engine.store.repository import Store

__all__ = ["open_store"]


def open_store(path: str | Path, tag: str | None = None, *, decode: bool = True) -> xr.DataTree:
    """Open a store for reading.

    Parameters
    ----------
    path : folder of the store, or ``s3://bucket/prefix``.
    tag : str, optional
        A release; by default what was committed last.
    decode : bool
        True: reflectance as float with NaN; False: the stored uint16, reflectance x 1e4 + 1000
        with 0 for nodata.

    Returns
    -------
    DataTree with a node for each group (scenes, composite, scores, map, ...); lazily read, dims
    ``time, band, class, y, x``, ``spatial_ref`` as in CF.

    Raises
    ------
    StoreError
        Where there is no store or no such release.
    """
    store = Store.open(path)
    session = store.reader(tag)
    groups = sorted({array.partition("/")[0] for array in store.identity["arrays"]})
    nodes: dict[str, xr.Dataset] = {}
    for group in groups:
        data = xr.open_zarr(
            session.store, group=group, consolidated=False, mask_and_scale=decode, chunks=None
        )
        for dim in set(data.dims) & set(data.variables):
            labels = data[dim].attrs.pop("labels", None)
            if labels is not None:
                data = data.assign_coords({dim: (dim, np.array(json.loads(labels)))})
        if "spatial_ref" in data:  # what is of all of the area lies nowhere
            data = data.set_coords("spatial_ref")
        nodes[f"/{group}"] = data
    tree = xr.DataTree.from_dict(nodes, name=Path(path).name)
    tree.attrs["crs"] = store.identity["crs"]
    tree.attrs["snapshot"] = session.snapshot_id
    return tree
