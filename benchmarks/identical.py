"""Compare what two versions of natmap made of the same input: every array and every raster.

    python benchmarks/identical.py OLD NEW

OLD and NEW are folders of the same layout, as `natmap demo` leaves them, or two runs of one recipe.
Stores in them may be of different versions: arrays are compared under their present names. Arrays
that only one has are named. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr

from engine.products.registry import PRODUCTS
from engine.store.ledger import recorded_days
from engine.store.repository import Store


def present_name(store: Store, path: str) -> str:
    """What an array is called today."""
    if store.version > 1 or "map/filtered" not in store.identity["arrays"]:
        return path
    then = {before: now for now, before in PRODUCTS["lcz"].before.items()}
    return then.get(path, path)


def arrays(folder: Path) -> dict[str, Any]:
    """Arrays of the newest state by present name; of daily ones the days that exist."""
    store = Store.open(folder)
    session = store.reader()
    root: Any = zarr.open_group(session.store, mode="r")
    found = {}
    for path, form in store.identity["arrays"].items():
        daily = bool(form["dims"]) and form["dims"][0] == "time"
        days = recorded_days(session, path.partition("/")[0]) if daily else None
        found[present_name(store, path)] = root[path], days
    return found


def compare_stores(old: Path, new: Path) -> list[str]:
    """What differs between two stores."""
    one, other = arrays(old), arrays(new)
    wrong = [f"{name}: in one of both only" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        (a, days), (b, others) = one[name], other[name]
        if days != others or a.shape != b.shape:
            wrong.append(f"{name}: other days or shape")
            continue
        for part in days if days is not None else [slice(None)]:
            if not np.array_equal(a[part], b[part], equal_nan=a.dtype.kind == "f"):
                wrong.append(f"{name}: values")
                break
        else:
            print(f"identical  {old.name}/{name}")
    return wrong


def compare_rasters(old: Path, new: Path) -> list[str]:
    """What differs between two rasters."""
    with rasterio.open(old) as a, rasterio.open(new) as b:
        same = (
            a.transform == b.transform
            and a.crs == b.crs
            and np.array_equal(a.read(), b.read(), equal_nan=np.dtype(a.dtypes[0]).kind == "f")
        )
    if same:
        print(f"identical  {old.parent.name}/{old.name}")
    return [] if same else [f"{old.parent.name}/{old.name}"]


def main() -> None:
    """Compare two folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    wrong: list[str] = []
    compared = 0
    for path in sorted(p for p in given.old.iterdir() if p.is_dir()):
        twin = given.new / path.name
        if Store.exists(path):
            wrong += compare_stores(path, twin)
            compared += 1
        elif (path / "report.json").exists():
            for raster in sorted(path.glob("*.tif")):
                wrong += compare_rasters(raster, twin / raster.name)
                compared += 1
    for text in wrong:
        print(f"DIFFERS    {text}")
    sys.exit(1 if wrong or not compared else 0)


if __name__ == "__main__":
    main()
