"""Where an item may have data: its footprint, and the frame that it claims for its files."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.errors import AreaError, ReadError
from engine.grid.area import reproject
from engine.items import Item

__all__ = ["SLACK", "claimed_frame", "footprint", "require_reach"]

SLACK = 5_000.0
"""Metres that a footprint may miss: published ones are simplified outlines of the data."""

_BULGE = 300.0  # metres by which the edge of a scene of 110 km leaves the line between its corners


def claimed_frame(item: Item, crs: str) -> tuple[BaseGeometry, float] | None:
    """The ground of an item's files as it claims it, and the side of a pixel in metres.

    None where the item does not say it, or it cannot be in the CRS asked for.

    Parameters
    ----------
    item : Item
    crs : of the result.
    """
    asset = next((a for a in item.assets.values() if a.crs and a.transform and a.shape), None)
    if asset is None or asset.transform is None or asset.shape is None or asset.crs is None:
        return None
    a, _, c, _, e, f = asset.transform
    height, width = asset.shape
    x, y = sorted((c, c + width * a)), sorted((f, f + height * e))
    box = shapely.box(x[0], y[0], x[1], y[1])
    try:
        frame = reproject(shapely.segmentize(box, 5_000.0), asset.crs, crs)
    except AreaError:
        return None
    return frame, math.sqrt(frame.area / (height * width))


def _polygon(item: Item, crs: str) -> BaseGeometry:
    return reproject(shape(item.geometry), "EPSG:4326", crs)


def footprint(item: Item, geobox: GeoBox) -> npt.NDArray[np.bool_]:
    """Where an item may have data, bool (y, x), by pixel centre.

    Its footprint has straight lines in degrees, beyond which a scene's edge bulges: it is
    widened by that, and cut by the frame of the files where the item claims one.
    """
    crs = str(geobox.crs)
    polygon = _polygon(item, crs).buffer(_BULGE)
    if (claimed := claimed_frame(item, crs)) is not None:
        polygon = shapely.intersection(polygon, claimed[0])
    shapely.prepare(polygon)
    height, width = geobox.shape
    transform = geobox.transform
    x = transform.c + (np.arange(width) + 0.5) * transform.a
    y = transform.f + (np.arange(height) + 0.5) * transform.e
    inside: npt.NDArray[np.bool_] = shapely.intersects_xy(polygon, x[None, :], y[:, None])
    return inside


def require_reach(item: Item, geobox: GeoBox) -> None:
    """Refuse files without a pixel of a window that lies well inside of their item's footprint.

    A window at the border of a footprint may hold nothing, and nothing is wrong.

    Raises
    ------
    ReadError
    """
    polygon = _polygon(item, str(geobox.crs))
    core = polygon.buffer(-min(SLACK, 0.05 * math.sqrt(polygon.area)))
    window = shapely.box(*geobox.boundingbox)
    if shapely.intersection(core, window).area > window.area / 2:
        raise ReadError(
            f"the files of {item.id} do not reach a place that its footprint holds",
            got="no pixel of any of its bands",
            expected="files and footprint of one ground",
            remedy="the item's footprint or its files' georeference is wrong; tell the catalogue",
        )
