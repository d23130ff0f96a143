"""A card as STAC's Machine Learning Model extension has it: as a file, and in a product's items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.licences import stac_licence
from engine.models.card import ModelCard
from engine.models.weights import ONNX

__all__ = ["mlm_fields", "weights_asset", "write_card"]

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]


def write_card(card: ModelCard, folder: str | Path) -> Path:
    """Write a card as ``card.json``; the weights are there already."""
    path = Path(folder) / "card.json"
    path.write_text(json.dumps(_format(card), indent=2) + "\n", encoding="utf-8")
    return path


def mlm_fields(card: ModelCard) -> dict[str, Any]:
    """What the MLM extension says of a model: properties of an item, ``mlm:name`` and on."""
    side = card.patch + 2 * card.context
    task = _task(card)
    classes = {c.code: c for c in card.legend}
    across = [side, side] if card.segments else []
    fields: dict[str, Any] = {
        "mlm:name": card.name,
        "mlm:architecture": card.architecture,
        "mlm:framework": "ONNX" if card.architecture == ONNX else "PyTorch",
        "mlm:tasks": [task],
        "mlm:input": [
            {
                "name": "image" if card.segments or card.multilabel else "reflectance",
                "bands": list(card.bands),
                "input": {
                    "shape": [-1, len(card.bands), side, side],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": _scaling(card),
            }
        ],
        "mlm:output": [
            {
                "name": "features" if card.encodes else card.output,
                "tasks": [task],
                "result": {
                    "shape": [-1, len(card.classes) or card.features, *across],
                    "dim_order": [
                        "batch",
                        "feature" if card.encodes else "class",
                        *(("height", "width") if across else ()),
                    ],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": c.code, "name": c.name, "color_hint": c.colour}
                    for c in (classes[code] for code in card.classes)
                ],
            }
        ],
    }
    if card.parameters:
        fields["mlm:hyperparameters"] = card.parameters
    return fields


def weights_asset(card: ModelCard) -> dict[str, Any]:
    """The weights as a STAC asset."""
    kind = ONNX if card.architecture == ONNX else "safetensors"
    return {
        "href": card.weights,
        "type": f"application/octet-stream; framework={kind}",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": kind,
        "file:checksum": "1220" + card.sha256,
    }


def _format(card: ModelCard) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": card.name,
        "geometry": None,
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",
            "end_datetime": "2044-12-31T00:00:00Z",
            "version": card.version,
            **({"license": licence} if (licence := stac_licence(card.licence)) else {}),
            "description": card.provenance,
            # the extension wants named input bands to be the item's own
            "bands": [{"name": band} for band in card.bands],
            **mlm_fields(card),
            "natmap:card": json.loads(card.model_dump_json(exclude=card.idle)),
        },
        "links": [],
        "assets": {
            "model": weights_asset(card),
            **{
                file.name: {
                    "href": file.name,
                    "type": "application/octet-stream",
                    "roles": ["mlm:weights"],
                    "file:checksum": "1220" + file.sha256,
                }
                for file in card.data
            },
        },
    }


def _task(card: ModelCard) -> str:
    """One of the extension's tasks; that of features alone is a search for what is similar."""
    if card.encodes:
        return "similarity-search"
    return "semantic-segmentation" if card.segments else "scene-classification"


def _scaling(card: ModelCard) -> list[dict[str, Any]] | None:
    if card.mean is None or card.std is None:
        return None
    return [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(card.mean, card.std, strict=True)
    ]
