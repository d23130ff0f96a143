"""What a run is told and runs with, as the store's table of runs keeps it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from distributed import Client

from engine.addresses import public
from engine.errors import RecipeError, RunError
from engine.pipeline.made_cities import told_of
from engine.pipeline.made_scenes import scenes_told
from engine.pipeline.prepare import Prepared
from engine.products.product import Product
from engine.products.registry import PRODUCTS, find_product

__all__ = ["SOFTWARE", "facts_of", "items_of", "require_product", "software_here"]

SOFTWARE = ("natmap", "dask", "numpy", "rasterio", "torch", "zarr", "icechunk")
"""Packages that decide what a map holds."""


def software_here() -> dict[str, str]:
    """Versions of `SOFTWARE` on this machine."""
    return {name: version(name) for name in SOFTWARE}


def facts_of(prepared: Prepared) -> dict[str, Any]:
    """Recipe, card and software of a run, without secrets, and when it began."""
    card = prepared.resolved.card
    facts: dict[str, Any] = public(
        {
            "recipe": prepared.recipe.model_dump(mode="json"),
            "card": None if card is None else {"name": card.name, "key": card.key},
            "software": software_here(),
        }
    )
    if cities := told_of(prepared):
        facts["cities"] = cities
    if scenes := scenes_told(prepared):
        facts["scenes"] = scenes
    return facts | {"started": datetime.now(UTC).isoformat(timespec="seconds")}


def items_of(prepared: Prepared) -> dict[str, tuple[str, bytes]]:
    """Frozen catalogues by the recipe's section: a name made of their items, and their bytes."""
    found = {}
    for section, file in prepared.product.snapshots(prepared.recipe).items():
        path = prepared.place.beside(file)
        answer = prepared.resolved.found.get(section)
        if path is None or answer is None:
            continue
        said = [
            (i.id, i.stamp, i.suspect, i.link, i.licence, i.attribution, i.citation)
            for i in answer.items
        ]
        told = json.dumps(said)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        found[section] = (f"{section}-{digest}", path.read_bytes())
    return found


def require_product(client: Client, product: Product[Any]) -> None:
    """Refuse workers that lack the package of a product that is not natmap's.

    Raises
    ------
    RunError
    """
    if product.name in PRODUCTS:
        return
    told = client.run(_lacks, product.name)
    missing = {address: text for address, text in told.items() if text}
    if missing:
        address, text = sorted(missing.items())[0]
        raise RunError(
            f"{len(missing)} of {len(told)} workers lack product {product.name}",
            got=f"{address}: {text}",
            remedy="install the package that brings it where workers run",
        )


def _lacks(name: str) -> str | None:
    try:
        find_product(name)
    except RecipeError as error:
        return str(error)
    return None
