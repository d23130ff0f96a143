"""Which of eight classes occur in patches of unseen synthetic cities, by a multi-label model.

    python benchmarks/labels.py --work FOLDER --log benchmarks/labels.json     (`make labels`;
        four minutes of a core)

Patches of 128 px of the cities of `benchmarks/green/cities.py`: six to train on, one to choose
epoch and thresholds by, three that nothing is trained on. They are written as `natmap frames`
writes them, and go through `natmap train` and `natmap evaluate`. Beside each label's average
precision stands its share of the patches, which is that of a guess, and beside its F1 that of
saying yes to all. Seeds are of weights and order; a seed whose model lies in FOLDER is not trained
again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "green")]

from cities import TEST, TRAIN, VALIDATION  # noqa: E402

from engine.compare.labels import evaluate_labels  # noqa: E402
from engine.datasets.chips import ChipSet, unsplit, write_chips  # noqa: E402
from engine.synthetic.materials import COVER, Cover  # noqa: E402
from engine.synthetic.photo import take_photo  # noqa: E402
from engine.synthetic.scene import CRS  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.training.train import train  # noqa: E402

SIDE, SHARE, COUNT = 128, 0.02, 80
BANDS = ("B04", "B03", "B02")
TRAINING = {"epochs": 16, "batch": 16, "rate": 2e-3, "precision": "bfloat16"}


def cut(name: str, city: Any, folder: Path) -> None:
    """A city's patches, as `natmap frames` leaves them."""
    if (folder / "chips" / "zarr.json").exists():
        return
    place, light = city
    rng = np.random.default_rng(sum(map(ord, name)))
    west, south, east, north = place.bounds
    x, y, xy = [], [], []
    for _ in range(COUNT):
        left = int(rng.integers(west + 500, east - 500 - SIDE))
        top = int(rng.integers(south + 500 + SIDE, north - 500))
        x.append(take_photo(place.world, left, top, SIDE, SIDE, light)[:3])
        y.append(COVER[paint(place.world, left, top, SIDE, SIDE).material] + 1)
        xy.append((left + SIDE / 2, top - SIDE / 2))
    chips = ChipSet(
        np.stack(x), np.stack(y).astype(np.uint8), np.array(xy), np.zeros(COUNT, np.uint16),
        unsplit(COUNT), BANDS, (name,), None, 1.0, {}, CRS,
    )  # fmt: skip
    write_chips(folder / "chips", chips)


def recipe(seed: int) -> dict[str, Any]:
    """The training of one seed; the chips are those of all."""
    cities = [*TRAIN, *VALIDATION, *TEST]
    return {
        "name": f"labels-{seed}",
        "product": "cover",
        "classes": [
            {"code": each + 1, "name": each.name.lower(), "colour": f"{30 * each:02X}8040"}
            for each in Cover
        ],
        "multilabel": {"share": SHARE},
        "labels": [{"chips": f"frames/{name}", "place": name} for name in cities],
        "chips": "chips",
        "side": SIDE,
        "split": {"by": "place", "validation": list(VALIDATION), "test": list(TEST)},
        "model": {"architecture": "resnet", "size": "small"},
        "training": {**TRAINING, "seed": seed},
        "out": f"model-{seed}",
    }


def judged(work: Path, seed: int) -> dict[str, Any]:
    """Figures of one seed on the unseen cities."""
    began = time.process_time()
    folder = work / f"model-{seed}"
    if not (folder / "report.json").exists():
        train(recipe(seed), base=work, tell=lambda text: print(text, flush=True))
    found = evaluate_labels(folder, work / "chips")
    each = found.labels
    share = each["positives"] / each["n"]
    return {
        "seed": seed,
        "figures": {k: round(v, 4) for k, v in found.figures.items()},
        "patches": found.patches,
        "labels": {
            c.name: {
                "share": round(float(share[k]), 3),
                "average_precision": round(float(each["average_precision"][k]), 3),
                "f1": round(float(each["f1"][k]), 3),
                "f1_of_yes": round(float(2 * share[k] / (1 + share[k])), 3),
                "threshold": round(found.thresholds[k], 4),
            }
            for k, c in enumerate(found.legend)
        },
        "cpu_seconds": round(time.process_time() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--log", type=Path, default=HERE / "labels.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    work = asked.work.resolve()
    for name, city in (TRAIN | VALIDATION | TEST).items():
        cut(name, city, work / "frames" / name)
    rows = []
    for seed in asked.seeds:
        rows.append(judged(work, seed))
        print(rows[-1], flush=True)
        told = {"patches_a_city": COUNT, "side": SIDE, "share": SHARE, "seeds": rows}
        asked.log.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
