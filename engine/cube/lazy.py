"""The lazy cube of notebooks: stackstac lays out the graph, the block reader reads.

stackstac 0.5.1 knows ``proj:epsg`` and 1.0 ``raster:bands`` only, and what it does not know it
ignores without a word: a wrong extent, an offset left out, an item dropped. Its own reader takes
GDAL's kernel and approximation from each chunk. So it is told where each asset lies in terms it
cannot mistake, and is given a reader of ours: a value is the one that a run would store.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import stackstac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from engine.cube.access import Access
from engine.cube.clouds import NO_SCL
from engine.cube.given import Place
from engine.cube.radiometry import ATTRS, encode
from engine.cube.read import read_asset
from engine.errors import CatalogError, GridError
from engine.items import SCL, Asset, Item, Sign, unsigned

__all__ = ["lazy_cube"]

Bounds = tuple[float, float, float, float]


def lazy_cube(
    items: Sequence[Item],
    bands: Sequence[str],
    *,
    crs: str,
    resolution: float,
    bounds: Bounds,
    anchor: tuple[float, float] | None = None,
    sign: Sign = unsigned,
    hosts: frozenset[str] | None = None,
    chunk: int = 1024,
) -> xr.Dataset:
    """A lazy view of items on a grid, equal to what the block reader gives for each of them.

    Parameters
    ----------
    items : of one source; those beside the bounds are left out.
    bands : B-names.
    crs : of the cube, with an EPSG code.
    resolution : metres.
    bounds : west, south, east, north in `crs`, on the lattice.
    anchor : (x, y) of the grid; the north-west corner of the bounds where not given.
    sign : Sign
        Makes an address ready for reading, just before it is opened.
    hosts : that may be private, as of an `Access`.
    chunk : pixels.

    Returns
    -------
    Dataset of ``bands`` (time, band, y, x) uint16 in the stored convention, 0 where nodata, and
    ``scl`` (time, y, x) uint8, 255 all over an item that has none; time is one entry per item, in
    order of id, and ``solar_day`` the day that it counts as. ``spatial_ref`` holds the CRS as in
    CF. Computing it raises `ReadError` where an asset cannot be read.

    Raises
    ------
    GridError
        Where the CRS has no EPSG code.
    CatalogError
        Where no item meets the bounds, or none has one of the bands.
    """
    epsg = CRS.from_user_input(crs).to_epsg()
    if epsg is None:
        raise GridError(
            "the lazy cube needs a CRS with an EPSG code", got=crs, remedy="use natmap run"
        )
    items = sorted(
        (item for item in items if _meets(item, bounds, crs, resolution)), key=lambda item: item.id
    )
    if not items:
        raise CatalogError("no item meets the bounds", got=bounds, remedy="look at crs and bounds")
    for name in (*bands, SCL):
        if not any(name in item.assets for item in items):
            raise CatalogError(f"no item has {name}", got=[item.id for item in items[:3]])
    plain = [_plain(item, (*bands, SCL), bounds, crs, resolution) for item in items]

    def stack(names: Sequence[str], dtype: str) -> Any:
        with warnings.catch_warnings():
            # stackstac calls what numpy and pandas have moved on from
            warnings.simplefilter("ignore")
            return stackstac.stack(
                plain,
                assets=list(names),
                epsg=int(epsg),
                resolution=resolution,
                bounds=bounds,
                chunksize=chunk,
                dtype=np.dtype(dtype),
                fill_value=np.dtype(dtype).type(0),
                rescale=False,
                snap_bounds=False,
                xy_coords="center",
                sortby_date=False,
                reader=partial(
                    BlockReader,
                    items={item.id: item for item in items},
                    anchor=anchor or (bounds[0], bounds[3]),
                    sign=sign,
                    hosts=hosts,
                ),
            )

    stored, classes = stack(bands, "uint16"), stack([SCL], "uint8")
    unclassed = np.array([SCL not in item.assets for item in items])
    scl = classes.data[:, 0]
    if unclassed.any():
        scl = da.where(unclassed[:, None, None], np.uint8(NO_SCL), scl)
    coords = {
        "time": [np.datetime64(item.datetime.replace(tzinfo=None), "ns") for item in items],
        "id": ("time", [item.id for item in items]),
        "solar_day": ("time", np.array([item.solar_day for item in items], "datetime64[ns]")),
        "band": list(bands),
        **Place(crs, resolution, bounds[0], bounds[3]).coords(*stored.shape[-2:]),
    }
    where = {"grid_mapping": "spatial_ref"}
    return xr.Dataset(
        {
            "bands": (("time", "band", "y", "x"), stored.data, {**ATTRS, **where}),
            "scl": (("time", "y", "x"), scl, {"_FillValue": np.uint8(0), **where}),
        },
        coords=coords,
        attrs={"crs": crs},
    )


class BlockReader:
    """stackstac's reader protocol over the block reader; pickles with its one item."""

    def __init__(
        self,
        *,
        url: str,
        spec: Any,
        items: Mapping[str, Item],
        anchor: tuple[float, float],
        sign: Sign,
        hosts: frozenset[str] | None = None,
        **_: Any,  # what GDAL's reader would want
    ) -> None:
        item_id, self._name = url.rsplit("/", 1)
        self._item, self._anchor, self._access = items[item_id], anchor, Access(sign, hosts=hosts)
        self._crs, self._transform = f"EPSG:{spec.epsg}", Affine(*spec.transform[:6])

    def read(self, window: Window, **_: Any) -> npt.NDArray[Any]:
        """The asset on a window of the cube, in the stored convention; classes as they are."""
        box = GeoBox(
            (round(window.height), round(window.width)),
            self._transform * Affine.translation(window.col_off, window.row_off),
            self._crs,
        )
        dn, valid = read_asset(self._item, self._name, box, self._anchor, access=self._access)
        if self._name == SCL:
            return np.where(valid, dn, 0).astype(np.uint8)
        asset = self._item.assets[self._name]
        return encode(dn, asset.scale, asset.offset, valid)

    def close(self) -> None:
        """Nothing stays open between reads."""


def _plain(
    item: Item, names: Sequence[str], bounds: Bounds, crs: str, resolution: float
) -> dict[str, Any]:
    """An item as stackstac understands it; an address is a key that the reader looks up."""
    epsg = CRS.from_user_input(crs).to_epsg()
    return {
        "type": "Feature",
        "id": item.id,
        "properties": {"datetime": item.datetime.isoformat(), "proj:epsg": epsg},
        "assets": {
            name: {
                "href": f"{item.id}/{name}",
                "proj:bbox": _extent(item.assets[name], crs, resolution) or bounds,
                "proj:epsg": epsg,
            }
            for name in names
            if name in item.assets
        },
        "links": [],
    }


def _meets(item: Item, bounds: Bounds, crs: str, resolution: float) -> bool:
    extents = [_extent(asset, crs, resolution) for asset in item.assets.values()]
    return any(
        at is None
        or (at[0] < bounds[2] and at[2] > bounds[0] and at[1] < bounds[3] and at[3] > bounds[1])
        for at in extents
    )


def _extent(asset: Asset, crs: str, resolution: float) -> Bounds | None:
    """Where an asset lies at most, in the cube's CRS; None where only its file knows."""
    if asset.crs is None or asset.transform is None or asset.shape is None:
        return None
    across, _, west, _, down, north = asset.transform
    box = west, north + down * asset.shape[0], west + across * asset.shape[1], north
    left, bottom, right, top = transform_bounds(asset.crs, crs, *box)
    # between the points that were projected an edge may bulge, by far less than this
    margin = 10 * resolution
    return left - margin, bottom - margin, right + margin, top + margin
