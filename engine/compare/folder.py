"""What natmap published, read again: which product a folder holds, and where its layers lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import MetricError
from engine.products.product import Product
from engine.products.registry import find_product

__all__ = ["ProductFolder", "map_of", "read_folder"]


@dataclass(frozen=True)
class ProductFolder:
    """A product folder.

    Attributes
    ----------
    path : of the folder.
    name : of the run.
    product_name : of the product that it is of.
    """

    path: Path
    name: str
    product_name: str

    @property
    def product(self) -> Product[Any]:
        """The product that it is of.

        Raises
        ------
        RecipeError
            Where that is not installed.
        """
        return find_product(self.product_name)

    def layer(self, key: str) -> Path:
        """The raster of a layer: its file, or of sheets their mosaic.

        Raises
        ------
        MetricError
            Where the product has no such layer, or the folder has lost it.
        """
        layers = {layer.key: layer for layer in self.product.form.layers}
        if key not in layers:
            raise MetricError("no such layer", got=key, expected=", ".join(layers))
        suffix = layers[key].suffix
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
    """
    folder = path.parent if path.is_file() else path
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        name, of = str(report["name"]), str(report["recipe"]["product"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if path.is_file() and not path.name.startswith(name):
        return None
    return ProductFolder(folder, name, of)


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
            "the folder is no product of natmap",
            got=str(path),
            remedy="give the map's file, or publish first",
        )
    classes = [known.key for known in folder.product.form.layers if known.classes]
    if layer not in classes:
        raise MetricError(
            "no such layer to evaluate", got=layer, expected=" or ".join(classes) or "none"
        )
    return folder.layer(layer)
