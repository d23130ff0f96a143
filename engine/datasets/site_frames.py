"""Sites, and the frames of a catalogue that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from engine.addresses import public_address
from engine.cube.images import in_order
from engine.errors import AreaError, LabelError
from engine.grid.area import reproject
from engine.items import Item
from engine.vectors.shapes import read_shapes

__all__ = ["FrameOfSite", "Site", "as_stac", "frames_of", "read_sites"]

_WGS84 = "EPSG:4326"
_MOST = 1_000_000  # sites of a file


@dataclass(frozen=True)
class Site:
    """A place to be labelled.

    Attributes
    ----------
    name : of the file's field `id` or `name`, else its number from 1.
    ground : point or polygon, in metres of the CRS that was asked for.
    degrees : the same in longitude and latitude.
    """

    name: str
    ground: BaseGeometry
    degrees: BaseGeometry

    @property
    def xy(self) -> tuple[float, float]:
        """Of a polygon a point inside of it."""
        point = self.ground if self.ground.geom_type == "Point" else self.ground.centroid
        if not self.ground.intersects(point):
            point = self.ground.representative_point()
        return float(point.x), float(point.y)


class FrameOfSite(NamedTuple):
    """A frame that shows a site.

    Attributes
    ----------
    site, frame : names.
    rank : from 1, in the order in which a mosaic would take them.
    covered : share of the site's square that the frame's footprint covers, 0 to 1.
    resolution : metres of a pixel by the item, None where it does not say.
    """

    site: str
    rank: int
    frame: str
    date: str
    cloud_cover: float | None
    off_nadir: float | None
    resolution: float | None
    covered: float


def read_sites(path: Path, crs: str) -> list[Site]:
    """Points and polygons of a file.

    Parameters
    ----------
    path : GeoPackage, GeoJSON, FlatGeobuf or a shapefile; ``file.gpkg#layer`` of several layers.
    crs : that they are moved to.

    Raises
    ------
    LabelError
        Where it cannot be read, does not say its CRS, has other shapes, two sites of one name, or
        a site lies where the CRS does not reach.
    """
    layers = read_shapes(path, LabelError, "file of sites", ("id", "name"))
    if len(layers) > 1:
        names = [layer.name for layer in layers]
        raise LabelError(
            "the file of sites has several layers",
            got=", ".join(names),
            remedy=f"name one: {path.name}#{names[0]}",
        )
    shapes = layers[0].shapes if layers else np.array([], object)
    if not 0 < len(shapes) <= _MOST:
        raise LabelError(
            f"{path.name} has no site, or too many", got=len(shapes), expected=f"1 to {_MOST:,}"
        )
    told = layers[0].key or list(range(1, len(shapes) + 1))
    return _sites(shapes, [_text(value) for value in told], layers[0].crs, crs, path)


def _text(value: Any) -> str:
    """A name; of a number that is whole, without its point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or value != value else str(value)


def _sites(
    shapes: npt.NDArray[Any], names: list[str], source: CRS, crs: str, file: Path
) -> list[Site]:
    kinds = ("Point", "Polygon", "MultiPolygon")
    for number, one in enumerate(shapes, 1):
        if one is None or one.is_empty or one.geom_type not in kinds:
            got = "nothing" if one is None or one.is_empty else one.geom_type
            raise LabelError(
                f"site {number} of {file.name} is neither a point nor a polygon", got=got
            )
    often = [name for name in set(names) if names.count(name) > 1 or not name]
    if often:
        raise LabelError(
            f"sites of {file.name} do not have names of their own",
            got=", ".join(repr(name) for name in sorted(often)[:5]),
            remedy="give each its own id, or leave the field out: then they are numbered",
        )
    found = []
    for name, one in zip(names, shapes, strict=True):
        try:
            ground, degrees = reproject(one, source, crs), reproject(one, source, _WGS84)
        except AreaError as error:
            raise LabelError(
                f"site {name} of {file.name} lies where the grid's CRS does not reach",
                got=str(error.got),
                expected=crs,
            ) from error
        found.append(Site(name, ground, degrees))
    return found


def frames_of(
    sites: Sequence[Site],
    items: Sequence[Item],
    crs: str,
    *,
    side: float = 0.0,
    order: str | Sequence[str] = "newest",
    most: int | None = None,
) -> list[list[FrameOfSite]]:
    """The frames whose footprint shows each site, the best first.

    Parameters
    ----------
    sites : from `read_sites`, in `crs`.
    items : of a search.
    crs : in metres.
    side : of the square about a site that is wanted, in metres; 0 for the point itself.
    order : as `engine.cube.images.in_order` takes it.
    most : of each site.

    Returns
    -------
    A list for each site; it is empty where no frame shows it.
    """
    sorted_ = in_order(items, order)
    feet = [reproject(shape(item.geometry), _WGS84, crs) for item in sorted_]
    tree = shapely.STRtree(feet)
    found = []
    for site in sites:
        x, y = site.xy
        half = side / 2
        square = shapely.box(x - half, y - half, x + half, y + half)
        here = []
        for k in np.sort(tree.query(shapely.Point(x, y), predicate="intersects")).tolist():
            covered = 1.0
            if side:
                covered = shapely.area(shapely.intersection(feet[k], square)) / side**2
            here.append((sorted_[k], covered))
        found.append(
            [
                FrameOfSite(
                    site.name,
                    rank,
                    item.id,
                    item.datetime.isoformat(),
                    item.cloud_cover,
                    item.off_nadir,
                    _resolution(item),
                    round(min(covered, 1.0), 4),
                )
                for rank, (item, covered) in enumerate(here[:most], 1)
            ]
        )
    return found


def _resolution(item: Item) -> float | None:
    """Metres of the finest pixel that the item states, where its grid is in metres."""
    sizes = [
        abs(asset.transform[0])
        for asset in item.assets.values()
        if asset.transform is not None
        and asset.crs is not None
        and CRS.from_user_input(asset.crs).is_projected
    ]
    return min(sizes) if sizes else None


def as_stac(items: Sequence[Item]) -> dict[str, Any]:
    """Items as a STAC item collection; addresses are without what signs them.

    Parameters
    ----------
    items : in any order; they are told by id.
    """
    return {
        "type": "FeatureCollection",
        "features": [_stac_item(item) for item in sorted(items, key=lambda item: item.id)],
    }


def _stac_item(item: Item) -> dict[str, Any]:
    told: dict[str, Any] = {"datetime": item.datetime.isoformat().replace("+00:00", "Z")}
    extensions = []
    if item.cloud_cover is not None:
        told["eo:cloud_cover"] = item.cloud_cover
        extensions.append("https://stac-extensions.github.io/eo/v1.1.0/schema.json")
    if item.off_nadir is not None:
        told["view:off_nadir"] = item.off_nadir
        extensions.append("https://stac-extensions.github.io/view/v1.0.0/schema.json")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": extensions,
        "id": item.id,
        "geometry": mapping(shape(item.geometry)),
        "bbox": list(item.bbox),
        "properties": told,
        "links": [],
        "assets": {
            name: {"href": public_address(asset.href), "roles": ["data"]}
            for name, asset in item.assets.items()
        },
    }
