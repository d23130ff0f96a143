"""What natmap published, read again: which product a folder holds, and where its layers lie."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import MetricError
from engine.legend import LandClass
from engine.products.product import Product
from engine.products.registry import find_product
from engine.publishing.forms import Layer

__all__ = ["ProductFolder", "map_of", "read_folder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUFFIX = re.compile(r"[A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class ProductFolder:
    """A product folder.

    Attributes
    ----------
    path : of the folder.
    name : of the run.
    product_name : of the product that it is of.
    layers : by key.
    """

    path: Path
    name: str
    product_name: str
    layers: Mapping[str, Layer]

    @property
    def product(self) -> Product[Any]:
        """The product that it is of.

        Raises
        ------
        RecipeError
            Where that is not installed.
        """
        return find_product(self.product_name)

    @property
    def legend(self) -> tuple[LandClass, ...]:
        """Classes of the map; () where its values are continuous."""
        return self.layers["map"].classes

    def layer(self, key: str) -> Path:
        """The raster of a layer: its file, or of sheets their mosaic.

        Raises
        ------
        MetricError
            Where the product has no such layer, or the folder has lost it.
        """
        if key not in self.layers:
            raise MetricError("no such layer", got=key, expected=", ".join(self.layers))
        suffix = self.layers[key].suffix
        for raster in (self.path / f"{self.name}{suffix}{end}" for end in (".tif", ".vrt")):
            if raster.exists():
                return raster
        raise MetricError(
            "the product folder lacks its raster",
            got=str(self.path),
            expected=f"{self.name}{suffix}.tif, or {self.name}{suffix}.vrt of sheets",
            remedy="publish it again",
        )


def read_folder(path: Path) -> ProductFolder | None:
    """The product folder that a path is, or that its file lies in; None where it is none.

    A file is of the folder's product where its name begins with the run's.

    Raises
    ------
    RecipeError
        Where the folder is of before folders told their layers, and its product is not installed.
    """
    folder = path.parent if path.is_file() else path
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        name, product = str(report["name"]), str(report["recipe"]["product"])
        told = report.get("form")
        layers = None if told is None else [_layer(entry) for entry in told["layers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _NAME.fullmatch(name) or (path.is_file() and not path.name.startswith(name)):
        return None
    if layers is None:
        form = find_product(product).form
        layers = list(form.layers) if form else []
    found = {layer.key: layer for layer in layers}
    return ProductFolder(folder, name, product, found) if "map" in found else None


def _layer(told: Mapping[str, Any]) -> Layer:
    """A layer as a report tells it; what is not needed to read it is left out."""
    if not _SUFFIX.fullmatch(told["suffix"]):
        raise ValueError(f"not the end of a file's name: {told['suffix']!r}")
    nodata = told["nodata"]
    return Layer(
        str(told["key"]),
        told["suffix"],
        str(told["title"]),
        str(told["dtype"]),
        None if nodata is None else float(nodata),
        classes=tuple(LandClass(**entry) for entry in told["classes"]),
        factor=int(told["factor"]),
        bands=tuple(map(str, told["bands"])),
    )


def map_of(path: Path, layer: str = "map") -> Path:
    """The raster of classes of a product folder, or the path itself where it is a file.

    Raises
    ------
    MetricError
        Where there is no such map or layer of classes, or the folder is none of natmap.
    """
    if not path.exists():
        raise MetricError("there is no such map", got=str(path))
    if path.is_file():
        return path
    folder = read_folder(path)
    if folder is None:
        raise MetricError(
            "the folder is not a product of natmap",
            got=str(path),
            remedy="give the map's file, or publish first",
        )
    classes = [known.key for known in folder.layers.values() if known.classes]
    if layer not in classes:
        raise MetricError(
            "no such layer to evaluate", got=layer, expected=" or ".join(classes) or "none"
        )
    return folder.layer(layer)
