"""The labelling rule against the truth of made-up cities, with true and with erroneous sources.

    python benchmarks/labelling.py --work work --seeds 301 302

The ground of each city is painted at 1 m and told as sources would: shares of buildings and of
cover, and heights, on pixels of 10 m. Cells of 320 m get the figures that `natmap label` measures
(spacing from pixels too) and the rule's proposal. Published heights are wrong by 1.5 m plus 10 %,
and a tenth of the buildings is missing (`benchmarks/propagation/truth.py`). The thresholds of rule
and truth come from one published table, so figures of exact sources are an upper bound.
Cost: about 1 minute of one core a city of 6.4 km, kept in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.propagation.truth import _blocks, _mean, with_errors
from engine.datasets.label_ground import spacing_of
from engine.labels.rule import Figures, propose
from engine.metrics import assess, confusion
from engine.synthetic.country import Country
from engine.synthetic.districts import World
from engine.synthetic.materials import COVER, Cover
from engine.synthetic.truth import FEATURES, MISFIT, survey

PATCH, EDGE = 32, 2  # pixels of 10 m; cells at the border that are left out
SIDE = 6400
ALL = {"water", "trees", "scrub", "low", "bare", "rock", "impervious", "pervious"}
VARIANTS = {  # heights, and covers that are known
    "exact": ("true", ALL),
    "heights with errors": ("wrong", ALL),
    "no heights": (None, ALL),
    "heights, pervious and water alone": ("true", {"pervious", "water"}),
    "with errors, pervious and water alone": ("wrong", {"pervious", "water"}),
    "cover alone": ("none", ALL),
}


def sources(seed: int, work: Path) -> dict[str, np.ndarray]:
    """Planes of 10 m, and the truth of cells of 100 m, of a made-up city."""
    path = work / f"labelling-{seed}.npz"
    if path.exists():
        return dict(np.load(path))
    place = Country(World(seed), SIDE, SIDE)
    n = SIDE // 10
    found = {name: np.zeros((n, n), np.float32) for name in ("t", "t1", "t2", "w", "w1", "w2")}
    found["cover"] = np.zeros((len(Cover), n, n), np.float32)
    for number, (rows, cols, seen) in enumerate(_blocks(place)):
        kind = COVER[seen.material]
        for k in range(len(Cover)):
            found["cover"][k, rows, cols] = _mean(kind == k)
        built = kind == Cover.BUILDING
        told = with_errors(seen.height, built, (seed * 97 + number) % 4096)
        for name, (height, there) in {"t": (seen.height, built), "w": told}.items():
            here = np.where(there, height, 0).astype(np.float64)
            for key, values in ((name, there), (f"{name}1", here), (f"{name}2", here**2)):
                found[key][rows, cols] = _mean(values)
    left, _, _, top = place.bounds
    truth = survey(place.world, left, top, SIDE // 100, SIDE // 100)
    found |= {"lcz": truth.lcz, "misfit": truth.misfit, "features": truth.features}
    work.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def figures(planes: dict[str, np.ndarray], row: int, col: int, heights: str | None,
            known: set[str]) -> Figures:  # fmt: skip
    top, left = 10 * row + 5 - PATCH // 2, 10 * col + 5 - PATCH // 2
    here = np.s_[..., top : top + PATCH, left : left + PATCH]
    share = planes["cover"][here].mean((1, 2), dtype=np.float64)
    of = {name: float(share[Cover[name.upper()]]) for name in ("trees", "scrub", "bare", "rock",
                                                               "water")}  # fmt: skip
    of |= {"low": float(share[Cover.LOW_PLANTS]), "impervious": float(share[Cover.PAVED])}
    of["pervious"] = min(of["trees"] + of["scrub"] + of["low"] + of["bare"], 1.0)
    told = {name: min(value, 1.0) for name, value in of.items() if name in known}
    if heights == "none":
        return Figures(**told)
    letter = "w" if heights == "wrong" else "t"
    built = planes[letter][here]
    told["building"] = float(built.mean(dtype=np.float64))
    told["spacing"] = spacing_of(built, np.ones(built.shape, bool), 10.0)
    if heights is not None and built.sum() >= 0.5:
        area = built.sum(dtype=np.float64)
        height = planes[f"{letter}1"][here].sum(dtype=np.float64) / area
        square = planes[f"{letter}2"][here].sum(dtype=np.float64) / area
        told |= {"height": height, "spread": float(np.sqrt(max(square - height**2, 0)))}
    return Figures(**told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[301])
    args = parser.parse_args()
    began, planes = time.perf_counter(), {}
    for seed in args.seeds:
        planes[seed] = sources(seed, args.work)
        print(f"{seed}: {time.perf_counter() - began:.0f} s", flush=True)
    cells = range(EDGE, SIDE // 100 - EDGE)
    result = {}
    wall = [
        (figures(p, i, j, "true", set()).spacing, p["features"][:, i, j])
        for p in planes.values() for i in cells for j in cells
    ]  # fmt: skip
    ratio = [
        spacing / (f[FEATURES.index("height")] / f[FEATURES.index("canyon")])
        for spacing, f in wall
        if spacing and f[0] > 0.1 and f[FEATURES.index("canyon")] > 0
    ]
    result["spacing over the true one, 5, 50, 95 %"] = np.percentile(ratio, [5, 50, 95]).tolist()
    for name, (heights, known) in VARIANTS.items():
        lcz, got, sure, fits = [], [], [], []
        for p in planes.values():
            for i in cells:
                for j in cells:
                    found = propose(figures(p, i, j, heights, known))
                    lcz.append(p["lcz"][i, j])
                    fits.append(p["misfit"][i, j] <= MISFIT)
                    got.append(found.lcz or 0)
                    sure.append(found.confidence)
        truth, proposed = np.array(lcz), np.array(got)
        right, confident = truth == proposed, np.array(sure) >= 0.8
        table = confusion(truth, proposed)
        well = np.array(fits)
        result[name] = {
            "cells": len(truth), "without a proposal": float((proposed == 0).mean()),
            "right, of all": float(right.mean()),
            "right, of proposed": float(right[proposed > 0].mean()),
            "right, of well-defined": float(right[well].mean()),
            "of confidence 0.8": float(confident.mean()),
            "right, of these": float(right[confident].mean()) if confident.any() else None,
            "built": assess(table).oa_built_rows, "natural": assess(table).oa_natural_rows,
            "by class": {
                str(c): round(float(right[truth == c].mean()), 3)
                for c in range(1, 18) if (truth == c).any()
            },
            "cells by class": {
                str(c): int((truth == c).sum()) for c in range(1, 18) if (truth == c).any()
            },
        }  # fmt: skip
        short = {k: v for k, v in result[name].items() if not isinstance(v, dict)}
        print(name, {k: round(v, 3) if v is not None else v for k, v in short.items()}, flush=True)
        print("   ", result[name]["by class"], flush=True)
    print(result["spacing over the true one, 5, 50, 95 %"])
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps({"seeds": args.seeds, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
