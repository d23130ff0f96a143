"""Made-up cities for the comparison of heads and of propagation: cells, features, truth.

    python benchmarks/propagation/worlds.py --work FOLDER   (a minute of a core each; resumes)

A cell is a square of 320 m about every third cell of the truth, so that neighbours share 6 % of
their ground; its class is that of `engine.synthetic.truth`, its pixels are those of one clear day.
Feature sets: `bands`, ten bands; `convolutions`, 64 channels of two layers of random filters over
them; `encoder`, the 64 channels of encoder.py; each as mean, spread and maximum of a cell. The
encoder's again, as published: `int8`, vectors of cells with a scale each, as natmap stores them;
`alphaearth` and `tessera`, pixels in those formats' codes, then aggregated. Beside them what other
sources would say of the ground (truth.py), all that the truth was made from (`oracle`), and pixels.
Cities are those of worlds.json: another hash of their classes and of a piece of their ground is
refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from encoder import FORMATS, encode, quantised  # noqa: E402
from truth import SOURCES, sources  # noqa: E402
from views import CLEAR, SIDE, STEP, SUMMER, centres, country, cut, scene  # noqa: E402

from engine.infer.aggregate import aggregate_cells  # noqa: E402
from engine.infer.vectors import decode_vectors, encode_vectors  # noqa: E402
from engine.synthetic.country import Country  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.synthetic.truth import survey  # noqa: E402

LABELLED, UNSEEN = (301, 302, 303), (304, 305, 306)
DAYS = {306: SUMMER}
"""One of the unseen cities is seen in another season."""

SETS = ("bands", "convolutions", "encoder", "int8", *FORMATS)
AUXILIARY = (*SOURCES, "oracle")
FROZEN = HERE / "worlds.json"


def load(work: Path, seed: int) -> dict[str, Any]:
    """A city: `lcz` int64 (n,), `xy` (n, 2) in metres, a table (n, columns) of each feature set and
    of each auxiliary source, `pixels` float16 (n, 10, side, side)."""
    with np.load(work / f"{seed}.npz") as file:
        return dict(file)


def truth(place: Country) -> tuple[np.ndarray, np.ndarray]:
    """Classes of cells (n,), and what they were made from (n, 12)."""
    left, bottom, right, top = place.bounds
    found = survey(place.world, left, top, (top - bottom) // 100, (right - left) // 100)
    some = slice(2, -2, STEP)
    of = found.features[:, some, some]
    return found.lcz[some, some].ravel().astype(np.int64), of.reshape(len(of), -1).T.copy()


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


def tables_of(place: Country) -> dict[str, np.ndarray]:
    """Feature sets, and pixels."""
    whole, west, north = scene(place)
    cells = cut(place, whole, west, north)
    parts = [table(convolve(part)) for part in np.array_split(cells, 16)]
    tables = {"bands": table(cells), "convolutions": np.concatenate(parts)}
    vectors = encode(whole)
    tables["encoder"] = table(cut(place, vectors, west, north))
    tables["int8"] = decode_vectors(*encode_vectors(tables["encoder"].T, "int8")).T
    for form in FORMATS:
        tables[form] = table(cut(place, quantised(vectors, form), west, north))
    return tables | {"pixels": cells.astype(np.float16)}


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
        began, place = time.perf_counter(), country(seed, DAYS.get(seed, CLEAR))
        lcz, oracle = truth(place)
        frozen = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
        if frozen.setdefault(str(seed), found := facts(place, lcz)) != found:
            sys.exit(f"{seed} is not the frozen world: the made-up worlds have changed")
        FROZEN.write_text(json.dumps(frozen, indent=1) + "\n")
        xy = centres(place)
        tables = tables_of(place) | sources(place, xy) | {"oracle": oracle}
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
