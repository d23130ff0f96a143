"""Verbs that write, each on a folder of its own, and what readers take of what they wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
import zarr

import engine
from engine.compare.folder import read_folder
from engine.datasets.patches import open_patches
from engine.errors import CardError, LabelError
from engine.models.card import load_card
from engine.models.footprint import read_footprint
from engine.models.registry import load_weights
from engine.store.ledger import Ledger, State
from engine.store.repository import Store
from support.shared import mapped

Result = Mapping[str, Any]
_TIMES = {"made", "created", "updated", "processing:datetime", "seconds", "finished"}


def stamp(path: Path) -> Any:
    """A file's content, without when it was made."""
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in _TIMES}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return timeless(json.loads(path.read_text()))


def files(folder: Path) -> dict[str, Any]:
    """What people see: not the scratch of a killed process, which the next one removes."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [path for path in found if not any(q.startswith(".natmap-") for q in path.parts)]
    return {path.as_posix(): stamp(folder / path) for path in shown}


def read_product(folder: Path) -> Result | None:
    return None if read_folder(folder / "product") is None else files(folder / "product")


def read_evaluation(folder: Path) -> Result | None:
    judged = folder / "judged"
    return files(judged) if (judged / "accuracy.json").exists() else None


def read_changes(folder: Path) -> Result | None:
    changes = folder / "changes"
    return files(changes) if (changes / "changes.json").exists() else None


def read_catalogue(folder: Path) -> Result | None:
    path = folder / "images-stac" / "catalog.json"
    if not path.exists():
        return None
    catalogue = stamp(path)
    items = [stamp(path.parent / link["href"]) for link in catalogue["links"]]
    return {"catalogue": catalogue, "items": items}


def read_model(folder: Path) -> Result | None:
    """The card that its readers take, with all beside it, and the patches it learnt from."""
    try:
        patches = open_patches(folder / "patches")
    except LabelError:
        return None
    assert patches.x[:].any(axis=(1, 2, 3)).all()  # no chunk that was not written
    try:
        card = load_card(folder / "model")
    except CardError:
        return None
    load_weights(card)
    assert read_footprint(folder / "model") is not None
    return {k: v for k, v in files(folder / "model").items() if not k.startswith(("state", "."))}


def read_store(folder: Path) -> Result:
    """All arrays of the days that are there, without the ledger and the table of runs."""
    tree = engine.open_store(folder / "store", decode=False)
    return {
        f"{node.path}/{name}": hashlib.sha256(
            np.ascontiguousarray(values.values).tobytes()
        ).hexdigest()
        for node in tree.subtree
        for name, values in node.data_vars.items()
    }


@dataclass(frozen=True)
class Verb:
    """A verb on a folder: how it is called before and now, and what readers take of it."""

    words: str
    read: Callable[[Path], Result | None]
    before: str = ""
    gap: bool = False
    """Whether the old result may be gone for a moment, so that no reader takes a mixture."""


VERBS = {
    "publish": Verb("publish recipe.yaml --tag v2", read_product),
    "evaluate": Verb(
        "evaluate product truth/truth-lcz.tif --layer classes --out judged",
        read_evaluation,
        "evaluate product truth/truth-lcz.tif --out judged",
        gap=True,
    ),
    "ingest": Verb("ingest images --scale 0.0002", read_catalogue, "ingest images", gap=True),
    "train": Verb("train train.yaml", read_model, "train before.yaml", gap=True),
    "prune": Verb("prune store --keep-days 0", read_store),
}
MORE = {
    "diff": Verb("diff store v1 --out changes", read_changes, "publish recipe.yaml --tag v1"),
}
"""Those that CI leaves out."""


def prepare(folder: Path) -> Path:
    """A mapped country, images to describe, and two trainings."""
    mapped(folder)
    (folder / "images").mkdir()
    form = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:3035", "transform": rasterio.Affine(1, 0, 4e6, 0, -1, 3e6)}
    for day in range(1, 7):
        path = folder / "images" / f"2024-06-0{day}.tif"
        with rasterio.open(path, "w", **form, **place, photometric="RGB") as file:
            file.write(np.full((3, 8, 8), day, np.uint8))
    for name, seed in (("before", 1), ("train", 2)):
        recipe = {
            "name": "small",
            "labels": [{"recipe": "recipe.yaml", "raster": "truth/truth-lcz.tif"}],
            "patches": "patches",
            "context": 0,
            "split": {"by": "block", "side": 800, "shares": [0.6, 0.2, 0.2], "seed": seed},
            "model": {
                "architecture": "mscnn",
                "parameters": {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8},
            },
            "training": {"epochs": 3, "batch": 32, "draws": 64},
            "out": "model",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def committed(folder: Path) -> Result:
    """Digests of the tiles that a store's ledger has as done."""
    if not Store.exists(folder / "store"):
        return {}
    reader = Store.open(folder / "store").reader()
    root: Any = zarr.open_group(reader.store, mode="r")
    if "ledger" not in root:
        return {}
    forms = {name: array.ndim == 4 for name, array in root["ledger"].arrays()}
    ledger = Ledger(root["ledger/map"].shape[:2], forms)
    ledger.load(reader, root)
    return {
        f"{stage} {tile} {part}": int(record["digest"])
        for stage in forms
        for part, tile, record in ledger.records(stage)
        if record["state"] == State.DONE
    }


def tiles(records: Result) -> int:
    """Tiles of stages; those of scenes have a record for each day."""
    return len({name.rpartition(" ")[0] for name in records})
