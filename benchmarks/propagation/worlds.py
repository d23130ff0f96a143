"""Made-up cities for the comparison of heads and of propagation: cells, features, truth.

    python benchmarks/propagation/worlds.py --work FOLDER   (half a minute of a core each; resumes)

A cell is a square of 320 m about every third cell of the truth, so that neighbours share 6 % of
their ground; its class is that of `engine.synthetic.truth`, its pixels are those of one clear day.
Feature sets: `bands`, ten bands, and `convolutions`, 64 channels of two layers of random filters
over them; both as mean, spread and maximum of a cell. Cities are those of worlds.json: another
hash of their classes and of a piece of their ground is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyproj import Transformer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from engine.infer.aggregate import aggregate_cells  # noqa: E402
from engine.synthetic.country import AUTUMN, Country  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.scene import CRS, Overpass, see  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.synthetic.truth import survey  # noqa: E402

CLEAR = replace(AUTUMN[1], cover=0.0)
SUMMER = Overpass(datetime(2021, 6, 23, 10, 10, tzinfo=UTC), "05.00", 0.0, 0.020)
LABELLED, UNSEEN = (301, 302, 303), (304, 305, 306)
DAYS = {306: SUMMER}
"""One of the unseen cities is seen in another season."""

SETS = ("bands", "convolutions")
STEP, ZONE = 3, 33
SIDE = 32  # pixels of 10 m along a cell
FROZEN = HERE / "worlds.json"


def country(seed: int) -> Country:
    return Country(World(seed), 8_000, 8_000, (DAYS.get(seed, CLEAR),), inset=1)


def load(work: Path, seed: int) -> dict[str, Any]:
    """A city: `lcz` int64 (n,), `xy` (n, 2) in metres, a table (n, columns) of each feature set."""
    with np.load(work / f"{seed}.npz") as file:
        return dict(file)


def pixels_of(place: Country) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes of cells, their centres, and their pixels, float32 (n, 10, side, side), scaled."""
    left, bottom, right, top = place.bounds
    rows, cols = (top - bottom) // 100, (right - left) // 100
    lcz = survey(place.world, left, top, rows, cols).lcz[2:-2:STEP, 2:-2:STEP]
    y, x = np.mgrid[2 : rows - 2 : STEP, 2 : cols - 2 : STEP] * 100 + 50
    xy = np.stack([left + x.ravel(), top - y.ravel()], 1)
    there = Transformer.from_crs(CRS, f"EPSG:{32600 + ZONE}", always_xy=True)
    ux, uy = there.transform(xy[:, 0], xy[:, 1])
    west, north = int(ux.min() - 400) // 20 * 20, int(uy.max() + 400) // 20 * 20
    tall, wide = int(north - uy.min() + 400) // 20 * 2, int(ux.max() - west + 400) // 20 * 2
    [view] = see(place.world, ZONE, west, north, tall, wide, place.overpasses)
    whole = np.concatenate([view.ten, view.twenty.repeat(2, 1).repeat(2, 2)]).astype(np.float32)
    whole = (whole - place.overpasses[0].shift) / 10_000
    first = np.rint((north - uy) / 10 - SIDE / 2).astype(int)
    second = np.rint((ux - west) / 10 - SIDE / 2).astype(int)
    cells = [whole[:, a : a + SIDE, b : b + SIDE] for a, b in zip(first, second, strict=True)]
    return lcz.ravel().astype(np.int64), xy, np.stack(cells)


def convolve(cells: np.ndarray) -> np.ndarray:
    """64 channels of two layers of random filters: (n, 64, side, side)."""
    generator = torch.Generator().manual_seed(0)
    middle, spread = 0.15, 0.12  # of reflectance, roughly
    x = torch.from_numpy((cells - middle) / spread)
    for before, after in ((10, 32), (32, 64)):
        filters = torch.randn(after, before, 3, 3, generator=generator) / (before * 9) ** 0.5
        offsets = torch.randn(after, generator=generator) * 0.5
        x = torch.relu(torch.nn.functional.conv2d(x, filters * 2**0.5, offsets, padding="same"))
    return x.numpy()


def table(cells: np.ndarray) -> np.ndarray:
    """Features of each cell, float32 (n, 3 channels)."""
    whole_cell = np.ones((SIDE, SIDE), bool)
    return np.stack([aggregate_cells(one, whole_cell, SIDE)[:, 0, 0] for one in cells])


def facts(place: Country, lcz: np.ndarray) -> dict[str, Any]:
    """Class counts of a city, and a hash of them and of a piece of its ground."""
    left, bottom, right, top = place.bounds
    ground = paint(place.world, (left + right) // 2, (top + bottom) // 2, 400, 400)
    digest = hashlib.sha256()
    for values in (lcz.astype(np.uint8), ground.material, ground.tone):
        digest.update(np.ascontiguousarray(values).tobytes())
    counts = np.bincount(lcz, minlength=18)[1:].tolist()
    return {"day": str(place.overpasses[0].when), "cells": counts, "sha256": digest.hexdigest()}


def make(work: Path) -> None:
    for seed in (*LABELLED, *UNSEEN):
        if (work / f"{seed}.npz").exists():
            continue
        began, place = time.perf_counter(), country(seed)
        lcz, xy, cells = pixels_of(place)
        frozen = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
        if frozen.setdefault(str(seed), found := facts(place, lcz)) != found:
            sys.exit(f"{seed} is not the frozen world: the made-up worlds have changed")
        FROZEN.write_text(json.dumps(frozen, indent=1) + "\n")
        parts = [table(convolve(part)) for part in np.array_split(cells, 16)]
        tables = {"bands": table(cells), "convolutions": np.concatenate(parts)}
        partial = work / f"{seed}.partial.npz"
        np.savez(partial, lcz=lcz, xy=xy, **tables)
        partial.rename(work / f"{seed}.npz")
        print(f"{seed}: {len(lcz)} cells in {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    make(asked.work)


if __name__ == "__main__":
    main()
