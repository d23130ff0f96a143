"""Embedding vectors as Zarr, described by the conventions ``geoemb:`` (Zarr) and ``emb:`` (STAC).

The conventions: https://github.com/geo-embeddings/embeddings-zarr-convention (v1) and
https://github.com/geo-embeddings/embeddings-stac-specification (v0.0.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import zarr
from odc.geo.geobox import GeoBox
from pyproj import CRS

from engine.addresses import public_address
from engine.grid.grid import grid_mapping
from engine.infer.vectors import encode_vectors
from engine.models.card import ModelCard
from engine.publishing.forms import Form, Layer, Vectors
from engine.publishing.sources import Source
from engine.publishing.tally import Read

__all__ = ["EMBEDDINGS", "Embedded", "Provenance", "write_vectors"]

EMBEDDINGS = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"

_CHUNK, _SHARD = 64, 512  # cells
_CONVENTIONS: list[dict[str, str]] = [
    {
        "schema_url": "https://raw.githubusercontent.com/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/v1/README.md",
        "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
        "name": "geoemb:",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
    },
]


@dataclass(frozen=True)
class Provenance:
    """What vectors were made by and from.

    Attributes
    ----------
    card : of the network; None where they are statistics of pixels.
    sources : the items used.
    software : name to version.
    """

    card: ModelCard | None
    sources: Sequence[Source]
    software: Mapping[str, str]

    @property
    def model(self) -> str:
        """A URI of what made them: where the weights are, or their name and digest."""
        if self.card is None:
            return "urn:natmap:statistics:mean:std:max"
        if self.card.address is not None:
            return public_address(self.card.address)
        return f"urn:natmap:model:{quote(self.card.name)}:sha256:{self.card.sha256}"

    @property
    def source_data(self) -> list[str]:
        """A URI of each item."""
        return [s.address or f"urn:natmap:item:{quote(s.id, safe='')}" for s in self.sources]


@dataclass(frozen=True)
class Embedded:
    """What the extension ``emb:`` has on a collection and on its items.

    Attributes
    ----------
    collection, item : fields.
    asset : the Zarr store, its address from the product folder itself.
    model : URI of what made the vectors.
    """

    collection: Mapping[str, Any]
    item: Mapping[str, Any]
    asset: Mapping[str, Any]
    model: str

    def links(
        self, derived: Sequence[Mapping[str, str]], weights: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Links to model and source data; relative ones from the product folder itself."""
        yield {
            "rel": "emb:model",
            "href": self.model if weights is None else str(weights["href"]),
            "title": "what made the vectors",
        }
        for link in derived:
            yield {**link, "rel": "emb:source-data"}


def write_vectors(
    folder: Path, name: str, form: Form, box: GeoBox, read: Read, provenance: Provenance
) -> Embedded:
    """Write ``NAME-embeddings.zarr`` into a product folder.

    It has the arrays ``embeddings`` (feature, y, x), of int8 ``scales`` (y, x), NaN where there is
    no vector, and coordinates; vector = embeddings * scales. It opens with `xarray.open_zarr`.

    Parameters
    ----------
    folder : the product's.
    name : the run's.
    form : with `vectors`.
    box : of the product.
    read : gives a part of a layer.
    provenance : Provenance
    """
    vectors = form.vectors
    assert vectors is not None, "the form has vectors"
    layer = form.layer(vectors.layer)
    path = folder / f"{name}-embeddings.zarr"
    group = zarr.open_group(path, mode="w")
    group.attrs.update(_attributes(vectors, layer, box, provenance))
    arrays = _arrays(group, vectors, layer, box)
    height, width = box.shape
    for top in range(0, height, _SHARD):
        for left in range(0, width, _SHARD):
            rows = slice(top, min(top + _SHARD, height))
            cols = slice(left, min(left + _SHARD, width))
            part = read(layer.key, rows, cols).astype(np.float32)
            values, scales = encode_vectors(part, vectors.kind)
            arrays["embeddings"][:, rows, cols] = values
            if scales is not None:
                arrays["scales"][rows, cols] = scales
    return _embedded(path.name, vectors, layer, box, provenance)


def _arrays(group: zarr.Group, vectors: Vectors, layer: Layer, box: GeoBox) -> dict[str, Any]:
    height, width = box.shape
    count = len(layer.bands)
    shards = tuple(min(_SHARD, -(-n // _CHUNK) * _CHUNK) for n in (height, width))
    integers = vectors.kind == "int8"
    found = {
        "embeddings": group.create_array(
            "embeddings",
            shape=(count, height, width),
            chunks=(count, _CHUNK, _CHUNK),
            shards=(count, *shards),
            dtype=vectors.kind,
            fill_value=0 if integers else math.nan,
            dimension_names=("feature", "y", "x"),
            attributes={"grid_mapping": "spatial_ref", "long_name": layer.title},
        )
    }
    if integers:
        found["scales"] = group.create_array(
            "scales",
            shape=(height, width),
            chunks=(_CHUNK, _CHUNK),
            shards=shards,
            dtype="float32",
            fill_value=math.nan,
            dimension_names=("y", "x"),
            attributes={"grid_mapping": "spatial_ref", "long_name": "scale of each vector"},
        )
    side = float(box.resolution.x)
    west, _, _, north = box.boundingbox.bbox
    axes: dict[str, tuple[Any, dict[str, Any]]] = {
        "y": (
            north - (np.arange(height) + 0.5) * side,
            {"standard_name": "projection_y_coordinate", "units": "m"},
        ),
        "x": (
            west + (np.arange(width) + 0.5) * side,
            {"standard_name": "projection_x_coordinate", "units": "m"},
        ),
        "feature": (np.arange(count, dtype="int32"), {"names": list(layer.bands)}),
    }
    for axis, (values, attrs) in axes.items():
        array = group.create_array(
            axis,
            shape=values.shape,
            dtype=values.dtype,
            dimension_names=(axis,),
            attributes=attrs,
        )
        array[:] = values
    group.create_array(
        "spatial_ref",
        shape=(),
        dtype="int32",
        dimension_names=(),
        attributes=grid_mapping(str(box.crs), box.transform),
    )
    return found


def _attributes(
    vectors: Vectors, layer: Layer, box: GeoBox, provenance: Provenance
) -> dict[str, Any]:
    height, width = box.shape
    west, south, east, north = box.boundingbox.bbox
    crs = CRS.from_user_input(str(box.crs))
    authority = crs.to_authority()
    where: dict[str, Any] = {"proj:wkt2": crs.to_wkt()}
    if authority is not None:
        where = {"proj:code": ":".join(authority)}
    return {
        "zarr_conventions": _CONVENTIONS,
        "geoemb:type": "chip",
        "geoemb:dimensions": len(layer.bands),
        "geoemb:model": provenance.model,
        "geoemb:source_data": provenance.source_data,
        "geoemb:data_type": vectors.kind,
        "geoemb:gsd": float(box.resolution.x),
        "geoemb:chip_layout": _layout(vectors, box),
        "geoemb:build_version": " ".join(f"{k} {v}" for k, v in provenance.software.items()),
        **({"geoemb:quantization": _zarr_scale(vectors)} if vectors.kind != "float32" else {}),
        **where,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(box.transform)[:6],
        "spatial:shape": [height, width],
        "spatial:bbox": [west, south, east, north],
        "spatial:registration": "pixel",
    }


def _layout(vectors: Vectors, box: GeoBox) -> dict[str, Any]:
    step = round(float(box.resolution.x) / vectors.resolution)
    return {
        "layout_type": "regular_grid",
        "chip_size": [vectors.patch, vectors.patch],
        "stride": [step, step],
    }


def _zarr_scale(vectors: Vectors) -> dict[str, Any]:
    if vectors.kind != "int8":
        return {
            "method": "linear",
            "original_dtype": "float32",
            "quantized_dtype": vectors.kind,
            "scale": {"type": "scalar", "scale": 1.0, "offset": 0.0},
        }
    return {
        "method": "per_pixel_scale",
        "original_dtype": "float32",
        "quantized_dtype": "int8",
        "scale": {"type": "array", "array_name": "scales", "nodata": "NaN"},
    }


def _embedded(
    file: str, vectors: Vectors, layer: Layer, box: GeoBox, provenance: Provenance
) -> Embedded:
    method = "per_pixel_scale" if vectors.kind == "int8" else "none"
    card = provenance.card
    parameters: dict[str, Any] = {"chip_size": vectors.patch, "cell": float(box.resolution.x)}
    if card is not None:
        parameters["bands"] = list(card.bands)
    return Embedded(
        collection={
            "emb:type": "chip",
            "emb:dimensions": len(layer.bands),
            "data_type": vectors.kind,
            "gsd": float(box.resolution.x),
            "emb:chip_layout": _layout(vectors, box),
            "emb:temporal_resolution": "multi_temporal",
        },
        item={
            "emb:runtime_parameters": parameters,
            "emb:quantization": {
                "method": method,
                "original_dtype": "float32",
                "quantized_dtype": vectors.kind,
            },
        },
        asset={
            "href": f"./{file}",
            "type": "application/vnd.zarr; version=3",
            "roles": ["data"],
            "title": layer.title,
            "data_type": vectors.kind,
        },
        model=provenance.model,
    )
