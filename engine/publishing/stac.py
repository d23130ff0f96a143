"""The product as a STAC collection: items of COGs, linked to the images they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.warp import transform_bounds, transform_geom

from engine.legend import REASON_TEXTS
from engine.publishing.documents import write_json
from engine.publishing.forms import Form, Layer
from engine.publishing.rights import SCIENTIFIC, Rights
from engine.publishing.sheets import Sheet, coarser
from engine.publishing.styles import style_files
from engine.publishing.vectors import EMBEDDINGS, Embedded

__all__ = ["write_stac"]

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/version/v1.2.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_MLM_REQUIRED = {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"}
_MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"


def write_stac(
    folder: Path,
    name: str,
    box: GeoBox,
    form: Form,
    sheets: Sequence[Sheet],
    *,
    period: tuple[date, date],
    derived: Sequence[Mapping[str, str]],
    software: Mapping[str, str],
    model: Mapping[str, Any],
    weights: Mapping[str, Any] | None,
    version: str,
    rights: Rights,
    checksums: Mapping[str, str],
    embedded: Embedded | None = None,
    told: Mapping[str, Any] | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write ``collection.json`` and an item for each sheet, ``items/NAME.json``, by the rasters.

    Parameters
    ----------
    folder : the product's, rasters in it.
    name : the run's.
    box : of the whole product.
    form : what it consists of.
    sheets : its parts, whose rasters are written.
    period : first and last day of imagery.
    derived : links to the items that it is derived from, relative ones from the folder itself.
    software : name to version.
    model : MLM fields of the model used.
    weights : the model's file as an asset of role ``mlm:model``, its address as in `derived`;
        without it, or without one of
        the fields that the MLM extension requires, that extension is not declared.
    version : of the release.
    rights : terms of use, and who is to be named.
    checksums : SHA-256 of each raster, by the name of its file.
    embedded : of a product of embeddings, what its extension says.
    told : more properties of the items.
    others : more assets of the items, by their keys, as `weights`.
    """
    crs = CRS.from_user_input(str(box.crs))
    start, end = (
        f"{day}T{hour}Z" for day, hour in zip(period, ("00:00:00", "23:59:59"), strict=True)
    )
    described = weights is not None and set(model) >= _MLM_REQUIRED
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    terms = rights.to_stac()
    extensions = [*_EXTENSIONS, *([_MLM] if described else [])]
    extensions += [SCIENTIFIC] if "sci:citation" in terms else []
    extensions += [EMBEDDINGS] if embedded is not None else []
    lineage = ". ".join([f"{form.words} of {name}, made with natmap", *rights.credits])
    (folder / "items").mkdir(exist_ok=True)
    for sheet in sheets:
        part = box[sheet.rows, sheet.cols]
        item = {
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": extensions,
            "id": sheet.name,
            "collection": name,
            **_place(part, crs),
            "properties": {
                "datetime": None,
                "start_datetime": start,
                "end_datetime": end,
                "created": now,
                **terms,
                **_projection(crs),
                "proj:shape": list(part.shape),
                "proj:transform": list(part.transform)[:6],
                "processing:level": "L4",
                **({"processing:software": dict(software)} if software else {}),
                "processing:lineage": lineage,
                "processing:datetime": now,
                "version": version,
                **_without_bands(model),
                **(embedded.item if embedded is not None else {}),
                **(told or {}),
            },
            "links": [
                {"rel": "root", "href": "../collection.json", "type": "application/json"},
                {"rel": "collection", "href": "../collection.json", "type": "application/json"},
                {"rel": "parent", "href": "../collection.json", "type": "application/json"},
                {
                    "rel": "processing-execution",
                    "href": "../report.json",
                    "type": "application/json",
                },
                *rights.links,
                *(map(_from_items, derived) if len(sheets) == 1 else ()),
                *(map(_from_items, embedded.links(derived)) if embedded is not None else ()),
            ],
            "assets": {
                layer.key: _asset(folder, sheet, layer, box, checksums) for layer in form.layers
            }
            | _styles("../", sheet.name, ".tif", form)
            | {
                "preview": {
                    "href": "../preview.png",
                    "type": "image/png",
                    "roles": ["overview"],
                    "title": "Preview",
                }
            }
            | ({"model": _from_items(weights)} if weights is not None else {})
            | {key: _from_items(asset) for key, asset in (others or {}).items()}
            | ({"embeddings": _from_items(embedded.asset)} if embedded is not None else {}),
        }
        write_json(folder / "items" / f"{sheet.name}.json", item)
    collection = {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [e for e in extensions if e in (SCIENTIFIC, EMBEDDINGS)],
        "id": name,
        "description": f"{form.title} at {box.resolution.x:g} m, made by natmap.",
        "license": "other",  # STAC asks for a word here; item and report say where none is stated
        **terms,
        **(embedded.collection if embedded is not None else {}),
        "keywords": list(form.keywords),
        "extent": {
            "spatial": {"bbox": [_place(box, crs)["bbox"]]},
            "temporal": {"interval": [[start, end]]},
        },
        "links": [
            {"rel": "root", "href": "./collection.json", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./items/{s.name}.json", "type": "application/geo+json"}
                for s in sheets
            ),
            *rights.links,
            # of several sheets once, and not with each
            *(derived if len(sheets) > 1 else ()),
            *(embedded.links(derived, weights) if embedded is not None else ()),
        ],
    }
    if len(sheets) > 1:
        collection["assets"] = {
            f"{layer.key}-mosaic": {
                "href": f"./{name}{layer.suffix}.vrt",
                "type": "application/xml",
                "title": f"{layer.title}: all sheets",
                "roles": ["data", "virtual"],
            }
            for layer in form.layers
        } | _styles("./", name, ".vrt", form)
    write_json(folder / "collection.json", collection)


def _from_items(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A link or an asset whose relative address is the folder's, as items have it."""
    href = str(entry["href"])
    return {**entry, "href": f".{href}" if href.startswith("./") else href}


def _styles(way: str, name: str, end: str, form: Form) -> dict[str, dict[str, Any]]:
    """Files that say what the values of rasters are, beside these."""
    kinds = {
        "metadata": ("Names and colours for GDAL", ["metadata"]),
        "style": ("Style for QGIS", ["style"]),
    }
    return {
        f"{layer.key}-{kind}": {
            "href": f"{way}{file}",
            "type": "application/xml",
            "title": f"{layer.title}: {kinds[kind][0]}",
            "roles": kinds[kind][1],
        }
        for layer in form.layers
        for kind, file in style_files(f"{name}{layer.suffix}{end}", layer).items()
    }


def _place(box: GeoBox, crs: CRS) -> dict[str, Any]:
    """Footprint and bounding box in degrees."""
    west, south, east, north = box.boundingbox.bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    outline = {"type": "Polygon", "coordinates": [ring]}
    return {
        "geometry": transform_geom(crs.to_wkt(), "EPSG:4326", outline),
        "bbox": list(transform_bounds(crs.to_wkt(), "EPSG:4326", west, south, east, north)),
    }


def _projection(crs: CRS) -> dict[str, Any]:
    authority = crs.to_authority()
    if authority is None:
        return {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    return {"proj:code": ":".join(authority)}


def _without_bands(model: Mapping[str, Any]) -> dict[str, Any]:
    """MLM asks that named input bands be bands of the item, but this item's are its rasters'; so
    the network's are told in words, and their dimension is the channel."""
    fields = dict(model)
    inputs = []
    for entry in fields.get("mlm:input", ()):
        plain = {key: value for key, value in entry.items() if key != "bands"}
        if bands := entry.get("bands"):
            plain["description"] = "bands " + ", ".join(bands)
            shape = plain["input"]
            order = ["channel" if name == "bands" else name for name in shape["dim_order"]]
            plain["input"] = {**shape, "dim_order": order}
        inputs.append(plain)
    if inputs:
        fields["mlm:input"] = inputs
    if fields.get("mlm:hyperparameters") == {}:
        del fields["mlm:hyperparameters"]  # the extension wants at least one
    return fields


def _asset(
    folder: Path, sheet: Sheet, layer: Layer, box: GeoBox, checksums: Mapping[str, str]
) -> dict[str, Any]:
    path = folder / f"{sheet.name}{layer.suffix}.tif"
    checksum = checksums[path.name]
    band: dict[str, Any] = {
        "name": layer.key,
        "data_type": layer.dtype,
        "raster:spatial_resolution": float(box.resolution.x) * layer.factor,
    }
    if layer.nodata is not None:
        band["nodata"] = "nan" if math.isnan(layer.nodata) else layer.nodata
    bands = [band | {"name": name} for name in layer.bands] or [band]
    asset: dict[str, Any] = {
        "href": f"../{path.name}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": layer.title,
        "roles": ["data"],
        "bands": bands,
        "file:checksum": "1220" + checksum,
        "file:size": path.stat().st_size,
    }
    if layer.factor > 1:  # the item's own are those of its finest raster
        whole = coarser(box, layer.factor)[sheet.within(layer)]
        asset |= {"proj:shape": list(whole.shape), "proj:transform": list(whole.transform)[:6]}
    if layer.classes:
        asset["classification:classes"] = [
            {"value": c.code, "name": c.name, "title": c.title, "color_hint": c.colour}
            for c in layer.classes
        ] + [{"value": layer.nodata, "name": "nodata", "title": "No data", "nodata": True}]
    elif layer.key == "reason":
        asset["classification:classes"] = [
            {"value": int(r), "name": r.name.lower(), "title": text}
            for r, text in REASON_TEXTS.items()
        ]
    return asset
