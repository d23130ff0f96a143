"""The lazy cube of notebooks: stackstac behind the normal form of items.

stackstac 0.5.1 knows ``proj:epsg`` and 1.0 ``raster:bands`` only, and what it does not know it
ignores without a word: a wrong extent, an offset left out. So it is handed dicts that say all in
its own terms, raw digital numbers come back, and scale and offset are applied here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import stackstac
import xarray as xr
from pyproj import CRS
from rasterio.enums import Resampling

from engine.cube.radiometry import ATTRS, encode
from engine.errors import GridError
from engine.items import SCL, Asset, Item

__all__ = ["lazy_cube"]


def lazy_cube(
    items: Sequence[Item],
    bands: Sequence[str],
    *,
    crs: str,
    resolution: float,
    bounds: tuple[float, float, float, float],
    chunk: int = 1024,
) -> xr.Dataset:
    """A lazy view of items on a grid.

    On a grid aligned with the files it is bit-equal to the block reader. Elsewhere stackstac's
    reader takes GDAL's kernel and approximation from each chunk, so a value depends on the chunk
    and is up to some hundred DN from exact bilinear on steep edges; runs do not use it.

    Parameters
    ----------
    items : of one source or several.
    bands : B-names.
    crs : of the cube, with an EPSG code.
    resolution : metres.
    bounds : west, south, east, north in `crs`, on the lattice.
    chunk : pixels.

    Returns
    -------
    Dataset of ``bands`` (time, band, y, x) uint16 in the stored convention, 0 where nodata, and
    ``scl`` (time, y, x) uint8; time is one entry per item, in order of id.

    Raises
    ------
    GridError
        Where the CRS has no EPSG code.
    """
    epsg = CRS.from_user_input(crs).to_epsg()
    if epsg is None:
        raise GridError(
            "the lazy cube needs a CRS with an EPSG code", got=crs, remedy="use natmap run"
        )
    items = sorted(items, key=lambda item: item.id)
    common: dict[str, Any] = {
        "epsg": int(epsg),
        "resolution": resolution,
        "bounds": bounds,
        "chunksize": chunk,
        "dtype": np.dtype("uint16"),
        "fill_value": np.uint16(0),
        "rescale": False,
        "snap_bounds": False,
        "xy_coords": "center",
        "sortby_date": False,
    }
    with warnings.catch_warnings():
        # stackstac calls what numpy and pandas have moved on from
        warnings.simplefilter("ignore")
        raw = stackstac.stack(
            [_plain(item, bands) for item in items],
            assets=list(bands),
            resampling=Resampling.bilinear,
            **common,
        )
        classes = stackstac.stack(
            [_plain(item, [SCL]) for item in items],
            assets=[SCL],
            resampling=Resampling.nearest,
            **common,
        )
    planes = []
    for t, item in enumerate(items):
        planes.append(
            da.stack([_encode(raw.data[t, b], item.assets[name]) for b, name in enumerate(bands)])
        )
    coords = {
        "time": [np.datetime64(item.datetime.replace(tzinfo=None), "ns") for item in items],
        "id": ("time", [item.id for item in items]),
        "band": list(bands),
        "y": raw.y.values,
        "x": raw.x.values,
    }
    return xr.Dataset(
        {
            "bands": (("time", "band", "y", "x"), da.stack(planes), dict(ATTRS)),
            "scl": (("time", "y", "x"), classes.data[:, 0].astype("uint8")),
        },
        coords=coords,
        attrs={"crs": crs},
    )


def _encode(plane: Any, asset: Asset) -> Any:
    return plane.map_blocks(
        lambda dn: encode(dn, asset.scale, asset.offset, dn != 0), dtype="uint16"
    )


def _plain(item: Item, bands: Sequence[str]) -> dict[str, Any]:
    """An item as stackstac understands it: proj:epsg, 1.0 raster:bands, files with a place."""
    assets: dict[str, Any] = {}
    for name in bands:
        asset = item.assets.get(name)
        if asset is None:
            continue
        assets[name] = {
            "href": _placed(asset),
            "proj:epsg": CRS.from_user_input(asset.crs).to_epsg() if asset.crs else None,
            "proj:transform": list(asset.transform) if asset.transform else None,
            "proj:shape": list(asset.shape) if asset.shape else None,
            "raster:bands": [{"scale": 1.0, "offset": 0.0, "nodata": 0}],
        }
    epsg = next((a["proj:epsg"] for a in assets.values() if a["proj:epsg"]), None)
    return {
        "type": "Feature",
        "id": item.id,
        "bbox": list(item.bbox),
        "properties": {"datetime": item.datetime.isoformat(), "proj:epsg": epsg},
        "assets": assets,
        "links": [],
    }


def _placed(asset: Asset) -> str:
    """The address; a local file without georeference gets the item's through a virtual raster."""
    import rasterio

    if asset.href.startswith(("http://", "https://", "/vsi", "s3://")):
        return asset.href
    with rasterio.open(asset.href) as file:
        if file.crs is not None or asset.crs is None or not asset.transform or not asset.shape:
            return asset.href
    a, _, west, _, e, north = asset.transform
    east, south = west + a * asset.shape[1], north + e * asset.shape[0]
    corners = f"{west},{north},{east},{south}"
    return f"vrt://{asset.href}?a_srs={asset.crs}&a_ullr={corners}&a_nodata=0"
