"""Whether drawing chips of rare scenes more often helps there: land cover of made-up photos.

    python benchmarks/scene_balance.py --log FILE.json       (half an hour of a core)

A small U-Net learns nine classes from 800 chips of 64 px of two worlds, each as it comes and by
the weights of `engine.similarity.grouping.balance`, in the same number of steps. It is judged on
1,600 chips of a third world: mean F1 of classes, in all chips and in those of rare scenes (a
quarter of the largest, or less; found in the chips that train). Seeds are of weights and order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.scenes import CLASSES, FRAME, frames  # noqa: E402
from engine.datasets.chips import ChipSet  # noqa: E402
from engine.legend import NamedClass  # noqa: E402
from engine.metrics import several  # noqa: E402
from engine.models.card import ModelCard  # noqa: E402
from engine.models.registry import build  # noqa: E402
from engine.similarity.clustering import assign  # noqa: E402
from engine.similarity.descriptors import Described, describe  # noqa: E402
from engine.similarity.grouping import Settings, balance, group  # noqa: E402
from engine.similarity.source import ChipPatches  # noqa: E402
from engine.training.segmenters import (  # noqa: E402
    Chips,
    SegmenterSettings,
    count_pixels,
    fit_segmenter,
)

SIDE, RARE = 64, 2.0
RGB = ("B04", "B03", "B02")


def chips_of(seeds: list[int], count: int) -> ChipSet:
    """Chips of worlds, as many of each frame."""
    x, y = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for photo, codes in frames(seed):
            for _ in range(count // (16 * len(seeds))):
                row, col = (SIDE * rng.integers(0, FRAME // SIDE, 2)).tolist()
                at = slice(row, row + SIDE), slice(col, col + SIDE)
                x.append(photo[:, at[0], at[1]])
                y.append(codes[at])
    n = len(x)
    return ChipSet(
        np.stack(x),
        np.stack(y),
        np.full((n, 2), np.nan),
        np.zeros(n, np.uint16),
        np.zeros(n, np.uint8),
        RGB,
        ("world",),
    )


def card_of(x: np.ndarray, folder: Path) -> ModelCard:
    part = x / np.float32(255)
    names = [
        NamedClass(code=k, name=words.split()[0].lower(), colour=f"{20 * k:02X}4488")
        for k, words in enumerate(CLASSES, 1)
    ]
    return ModelCard(
        name="cover",
        architecture="unet",
        parameters={"width": 8},
        bands=RGB,
        mean=tuple(part.mean((0, 2, 3)).tolist()),
        std=tuple(part.std((0, 2, 3)).tolist()),
        patch=SIDE,
        overlap=16,
        resolution=1.0,
        cell=1.0,
        classes=tuple(range(1, len(CLASSES) + 1)),
        names=tuple(names),
        features=0,
        output="logit",
        licence="CC0-1.0",
        weights="model.safetensors",
        sha256="0" * 64,
        folder=folder,
    )


def as_codes(described: Described, codes: tuple[int, ...]) -> Described:
    """The same with a column for each of some codes."""
    assert described.labels is not None
    found = np.zeros((len(described.rows), len(codes)), np.int64)
    for k, code in enumerate(described.codes):
        if code in codes:
            found[:, codes.index(code)] = described.labels[:, k]
    return replace(described, labels=found, codes=codes)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--log", type=Path, default=ROOT / "benchmarks" / "scene-balance.json")
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--epochs", type=int, default=15)
    told = words.parse_args()
    torch.set_num_threads(1)
    train, validate, test = chips_of([301, 302], 800), chips_of([304], 160), chips_of([303], 1600)
    described = describe(ChipPatches(train, "train"))
    found = group(described, Settings("labels"))
    often = np.ones(len(train))
    often[described.rows] = balance(found.scene)
    seen = as_codes(describe(ChipPatches(test, "test")), described.codes)
    scene, _ = assign(seen.vectors("labels"), found.modes)
    light = np.sqrt(found.sizes.max() / found.sizes) >= RARE
    rare = seen.rows[(scene >= 0) & light[np.maximum(scene, 0)]]
    report: dict[str, object] = {
        "sizes": found.sizes.tolist(),
        "in_none": int((found.scene < 0).sum()),
        "halves": found.chosen.halves,
        "rare_scenes": int(light.sum()),
        "test_chips": len(test),
        "test_chips_of_rare_scenes": len(rare),
    }
    runs = []
    for seed in range(told.seeds):
        for weights in (None, often):
            with tempfile.TemporaryDirectory() as folder:
                card = card_of(train.x, Path(folder))
                settings = SegmenterSettings(epochs=told.epochs, batch=8, rate=1e-3, seed=seed)
                fitted = fit_segmenter(
                    card,
                    Chips(train.x, train.y, often=weights),
                    Chips(validate.x, validate.y),
                    settings,
                    Path(folder),
                    device="cpu",
                )
                network = build(card)
                network.load_state_dict(fitted.weights)
            figures = {"seed": seed, "balanced": weights is not None}
            for name, rows in (("all", slice(None)), ("rare", rare)):
                counts, _ = count_pixels(network, card, Chips(test.x[rows], test.y[rows]))
                figures[name] = float(several(counts)["f1"])
            runs.append(figures)
            print(figures, flush=True)
    report["runs"] = runs
    for name in ("all", "rare"):
        gains = [b[name] - a[name] for a, b in zip(runs[::2], runs[1::2], strict=True)]
        report[f"gain_{name}"] = {
            "mean": float(np.mean(gains)),
            "least": min(gains),
            "most": max(gains),
        }
    told.log.write_text(json.dumps(report, indent=1) + "\n")
    print({k: v for k, v in report.items() if k != "runs"}, flush=True)


if __name__ == "__main__":
    main()
