"""The frozen catalogue: one search's items as stac-geoparquet next to the store, unsigned."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import stac_geoparquet.arrow
from pyproj import CRS

from engine.errors import CatalogError
from engine.items import Item
from engine.store.digests import BLANK, MARK, is_sealed, seal

__all__ = ["read_snapshot", "write_snapshot"]

_OWN = "natmap:item"


def write_snapshot(items: Iterable[Item], path: str | Path) -> None:
    """Write items.

    Each row is a valid STAC item for anybody's tools; the decided form is kept beside it, as it is.
    """
    rows = [_row(item) for item in sorted(items, key=lambda item: item.id)]
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(rows).read_all()
    path = Path(path)
    stac_geoparquet.arrow.to_parquet(table, path)  # with metadata of its own alone
    table = pq.read_table(path)
    metadata = {**(table.schema.metadata or {}), MARK.encode(): BLANK.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    seal(path)


def read_snapshot(path: str | Path) -> tuple[Item, ...]:
    """Read what `write_snapshot` wrote.

    Raises
    ------
    CatalogError
        Where the file is missing, of another origin, or not as it was written.
    """
    try:
        content = Path(path).read_bytes()
        if is_sealed(content) is False:
            raise ValueError("it is damaged: its content is not that of its digest")
        table = pq.read_table(pa.BufferReader(content), columns=[_OWN])
        column = table.column(_OWN).to_pylist()
    except (OSError, KeyError, ValueError) as error:
        raise CatalogError(
            "the frozen items cannot be read",
            got=f"{path}: {error}",
            remedy="`natmap run` writes them anew; those of a release come back from a copy only",
        ) from error
    return tuple(Item.from_dict(json.loads(text)) for text in column)


def _row(item: Item) -> dict[str, object]:
    west, south, east, north = item.bbox
    crs = next((a.crs for a in item.assets.values() if a.crs), None)
    properties: dict[str, object] = {
        "datetime": item.datetime.isoformat().replace("+00:00", "Z"),
        _OWN: json.dumps(item.to_dict(), sort_keys=True),
    }
    if crs and CRS.from_user_input(crs).to_epsg():
        properties["proj:code"] = f"EPSG:{CRS.from_user_input(crs).to_epsg()}"
    if item.cloud_cover is not None:
        properties["eo:cloud_cover"] = item.cloud_cover
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": item.id,
        "collection": item.collection,
        "geometry": item.geometry,
        "bbox": [west, south, east, north],
        "properties": properties,
        "links": [],
        "assets": {
            name: {"href": asset.href, "roles": ["data"]} for name, asset in item.assets.items()
        },
    }
