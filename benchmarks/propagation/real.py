"""Heads on 10 m features of real scenes, folds by spatial block; 320 m aggregates against numpy.

    python benchmarks/propagation/real.py run --data FOLDER   (resumes; seconds of a core a piece)
    python benchmarks/propagation/real.py report --data FOLDER

FOLDER is that of the tests' real data. Slovenia: 1 km2, the median of the clear dates of 13 bands,
land use by pixel. Leipzig: 7 bands and NDVI of one date, 97 points of four classes. A piece is a
place, a head, a number of labels of each class and a seed, and a line of real.jsonl: blocks are put
into five folds by the seed, each fold is judged by a head that learnt from labels of the others,
and the confusion of each block is kept. Labels are drawn by the seed; 0: all of them. The report
adds the confusions of the seeds and draws blocks with replacement for intervals of 90 %. Neither
place has classes of local climate zones: the figures say what heads do with real spectra, not how
well a city is mapped.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import geopandas  # noqa: E402
import numpy as np  # noqa: E402
import rasterio  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from engine.compare.estimates import bootstrap  # noqa: E402
from engine.infer.aggregate import aggregate_cells  # noqa: E402
from engine.metrics import confusion, several  # noqa: E402
from engine.propagation.guards import cap_pool  # noqa: E402
from engine.propagation.heads import ForestHead, Head, KnnHead, LogisticHead  # noqa: E402
from engine.propagation.pool import moments, standard_of  # noqa: E402
from engine.propagation.tuning import logistic_candidates, tune  # noqa: E402

LOG, FOUND = HERE / "real.jsonl", HERE / "real.json"
FOLDS, SEEDS, SIDE = 5, 3, 32
HEADS = ("logistic", "logistic tuned", "kNN", "forest")

Array = np.ndarray


@dataclass(frozen=True)
class Place:
    """Labelled pixels of a place.

    Attributes
    ----------
    names : of the classes 1, 2, ... in order.
    features : float32 (n, columns)
    codes : int64 (n,)
    blocks : int64 (n,), the spatial block of each.
    counts : labels of each class that are tried; 0: all.
    """

    names: tuple[str, ...]
    features: Array
    codes: Array
    blocks: Array
    counts: tuple[int, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.names) + 1))


def slovenia(data: Path) -> Place:
    """Every pixel with a land use; blocks of 200 m."""
    folder = data / "sentinel2-slovenia"
    scenes = np.load(folder / "REFERENCE_SCENES.npy")
    cloud = np.load(folder / "CLM.npy")[: len(scenes)] > 0
    values = np.nanmedian(np.where(cloud, np.nan, scenes), axis=0)
    use = np.load(folder / "LULC.npy")[..., 0]
    table = geopandas.read_file(folder / "LULC.gpkg", ignore_geometry=True)
    known = dict(zip(table["LULC_ID"], table["LULC_NAME"], strict=True))
    ids = np.unique(use[use > 0])
    row, col = np.nonzero((use > 0) & np.isfinite(values).all(-1))
    return Place(
        tuple(known[i] for i in ids.tolist()),
        values[row, col].astype(np.float32),
        np.searchsorted(ids, use[row, col]) + 1,
        row // 20 * 10 + col // 20,
        (20, 200),
    )


def leipzig(data: Path) -> Place:
    """The pixels under the points; blocks of 300 m."""
    folder = data / "sentinel2-leipzig"
    points = geopandas.read_file(folder / "leipzig_points.gpkg")
    with rasterio.open(folder / "leipzig_raster.tif") as file:
        x, y = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
        features = np.array(list(file.sample(zip(x, y, strict=True))), np.float32)
    told = points[["b02", "b03", "b04", "b06", "b07", "b08", "b11", "ndvi"]].to_numpy()
    if not np.allclose(features, told, atol=1e-4):
        raise SystemExit("the raster under the points is not what the points say")
    names, codes = np.unique(points["land_cover"], return_inverse=True)
    block = (x // 300).astype(int) * 100_000 + (y // 300).astype(int)
    return Place(tuple(names), features, codes + 1, block, (0,))


PLACES = {"slovenia": slovenia, "leipzig": leipzig}


def head_of(name: str, place: Place) -> Head:
    """A head by its name; a tuned one starts from its prior."""
    kind = {"logistic": LogisticHead, "kNN": KnnHead, "forest": ForestHead}[name.split()[0]]
    return kind(classes=place.classes)


def piece(place: Place, name: str, count: int, seed: int) -> dict[str, Any]:
    """Confusion of each block, by a head that saw no label of its fold."""
    blocks, block = np.unique(place.blocks, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(blocks))[block] % FOLDS
    found = np.zeros((len(blocks), len(place.names), len(place.names)), int)
    taught = []
    for k in range(FOLDS):
        rows = np.flatnonzero(fold != k)
        if count:
            rows = rows[cap_pool(place.codes[rows], np.zeros(len(rows)), count, seed)]
        standard = standard_of(moments(place.features[rows]))
        x, y = standard.apply(place.features[rows]), place.codes[rows]
        head = head_of(name, place)
        if name.endswith("tuned"):
            head = tune(x, y, fold[rows], logistic_candidates(place.classes), seed=seed).head
        scorer = head.fit(x, y, None, seed)
        own = np.flatnonzero(fold == k)
        guessed = scorer.predict(standard.apply(place.features[own]))
        for b in np.unique(block[own]).tolist():
            here = block[own] == b
            found[b] += confusion(place.codes[own][here], guessed[here], place.classes)
        taught.append(len(rows))
    return {"labels": taught, "confusions": found.tolist()}


def run(data: Path) -> None:
    """All pieces that are not in the log."""
    lines = LOG.read_text().splitlines() if LOG.exists() else []
    done = {tuple(json.loads(line)["piece"]) for line in lines}
    for where, load in PLACES.items():
        place = load(data)
        for count in place.counts:
            for name in HEADS:
                for seed in range(SEEDS):
                    key = (where, name, count, seed)
                    if key in done:
                        continue
                    began = time.process_time()
                    found = piece(place, name, count, seed)
                    took = round(time.process_time() - began, 2)
                    with LOG.open("a") as file:
                        line = {"piece": key, "cpu_seconds": took, **found}
                        file.write(json.dumps(line, separators=(",", ":")) + "\n")
                    print(*key, f"{took} s", flush=True)


def judged(confusions: Array) -> dict[str, list[float]]:
    """Accuracy and macro-F1 of all blocks, and intervals of 90 % over blocks."""

    def judge(counts: Any) -> dict[str, float]:
        matrix = np.asarray(counts).reshape(confusions.shape[1:])
        return {
            "accuracy": float(np.trace(matrix) / matrix.sum()),
            "macro-F1": several(matrix)["f1"],
        }

    groups = {str(k): matrix for k, matrix in enumerate(confusions)}
    spread = bootstrap(groups, 1000, 0, judge, (0.05, 0.95))
    whole = judge(confusions.sum(0))
    return {
        name: [round(whole[name], 3), *(round(v, 3) for v in spread[name][1:])] for name in whole
    }


def by_hand(values: Array, valid: Array) -> Array:
    """320 m aggregates, cell by cell with numpy."""
    rows, cols = values.shape[1] // SIDE, values.shape[2] // SIDE
    out = np.full((3 * len(values), rows, cols), np.nan)
    for i in range(rows):
        for j in range(cols):
            here = np.s_[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE]
            if valid[here].mean() >= 0.9:
                pixels = values[:, *here][:, valid[here]].astype(float)
                out[:, i, j] = np.concatenate([pixels.mean(1), pixels.std(1), pixels.max(1)])
    return out


def aggregates(data: Path) -> dict[str, dict[str, float]]:
    """How far natmap's aggregates of both places lie from those by hand; cells with clouds too."""
    folder = data / "sentinel2-slovenia"
    scenes = np.load(folder / "REFERENCE_SCENES.npy")[:, :96, :96].transpose(0, 3, 1, 2)
    cloud = np.load(folder / "CLM.npy")[:, :96, :96, 0] > 0
    cloudy = np.argsort(np.abs(cloud.mean((1, 2)) - 0.1))[:5]  # real masks, of other dates
    with rasterio.open(data / "sentinel2-leipzig" / "leipzig_raster.tif") as file:
        other = file.read()[:, :192, :128]
    cases = {"leipzig": [(other, np.isfinite(other).all(0))]}
    cases["slovenia"] = [(s, ~c) for s, c in zip(scenes, cloud, strict=False)]
    cases["slovenia, masks of cloudy dates"] = [
        (s, ~cloud[k]) for s, k in zip(scenes, cloudy, strict=True)
    ]
    found = {}
    for name, pairs in cases.items():
        cells, vectors, most = 0, 0, 0.0
        for values, valid in pairs:
            mine, theirs = aggregate_cells(values, valid, SIDE), by_hand(values, valid)
            there = ~np.isnan(theirs[0])
            if (there != ~np.isnan(mine).any(0)).any():
                raise SystemExit(f"{name}: other cells have vectors")
            cells, vectors = cells + there.size, vectors + int(there.sum())
            if there.any():
                off = np.abs(mine - theirs)[:, there] / np.maximum(np.abs(theirs[:, there]), 1e-6)
                most = max(most, float(off.max()))
        found[name] = {"cells": cells, "vectors": vectors, "largest relative difference": most}
    return found


def report(data: Path) -> None:
    """real.json."""
    pieces = [json.loads(line) for line in LOG.read_text().splitlines()]
    told: dict[str, Any] = {"aggregates": aggregates(data), "heads": {}}
    for where, load in PLACES.items():
        place = load(data)
        told["heads"][where] = {"classes": {}, "blocks": len(np.unique(place.blocks))}
        for code, name in enumerate(place.names, 1):
            told["heads"][where]["classes"][name] = int((place.codes == code).sum())
        for count in place.counts:
            for name in HEADS:
                mine = [p for p in pieces if p["piece"][:3] == [where, name, count]]
                if len(mine) == SEEDS:
                    whole = np.sum([p["confusions"] for p in mine], axis=0)
                    key = f"{name}, {count or 'all'} labels of each class"
                    told["heads"][where][key] = judged(whole)
    text = json.dumps(told, indent=1)
    FOUND.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    {"run": run, "report": report}[given.verb](given.data)
