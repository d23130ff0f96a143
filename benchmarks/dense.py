"""Dense evaluation of a default tile against patch by patch, by the engine's own functions.

    python benchmarks/dense.py mscnn --log benchmarks/dense-mscnn.json             (3 minutes)
    python benchmarks/dense.py resnet11-3d --log benchmarks/dense-resnet11-3d.json (half an hour)

Both in one run, on all cores: the network of published size with leading blocks that see real
neighbours, over a tile of 1600 x 1600 px, and the same network with zero padding on batches of
32 x 32 px patches. Of the latter as many blocks as `--share` of the tile has are timed, spread
between the former's: all would take hours. Random weights; they do not change the arithmetic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.infer.cells import score_cells  # noqa: E402
from engine.infer.predict import Predictor, choose_device  # noqa: E402
from engine.models.card import ModelCard  # noqa: E402
from engine.models.registry import ARCHITECTURES, measure  # noqa: E402

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TILE = 1600
LEADING = {"mscnn": 3, "resnet11": 2, "resnet11-3d": 3}


def made(name: str, leading: int, folder: Path) -> ModelCard:
    torch.manual_seed(0)
    network = ARCHITECTURES[name](leading=leading)
    path = folder / f"{name}-{leading}.safetensors"
    save_file({k: v for k, v in network.state_dict().items() if "num_batches" not in k}, path)
    context, features, _ = measure(name, {"leading": leading}, 10, 17, 32)
    return ModelCard(
        name=name,
        architecture=name,
        parameters={"leading": leading},
        bands=BANDS,
        context=context,
        features=features,
        output="logit",
        weights=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        folder=folder,
    )


def score(card: ModelCard, predictor: Predictor, side: int) -> float:
    """Seconds for a square of `side` px."""
    whole = side + 2 * card.halo
    stored = np.random.default_rng(0).integers(1000, 5000, (10, whole, whole)).astype(np.uint16)
    began = time.perf_counter()
    found = score_cells(stored, np.ones(stored.shape[1:], bool), card, predictor)
    assert found.scored.all()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(LEADING))
    parser.add_argument("--share", type=float, default=None, help="of the tile, patch by patch")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    share = asked.share or {"resnet11-3d": 0.02}.get(asked.network, 0.2)
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        cards = [made(asked.network, n, Path(folder)) for n in (LEADING[asked.network], 0)]
        dense, single = (Predictor(card, device, asked.precision) for card in cards)
        unit = 160  # px of a block, patch by patch
        blocks = max(round(share * (TILE // unit) ** 2), 2)
        score(cards[1], single, unit)  # what a first call costs is not the network's
        score(cards[0], dense, 10 * cards[0].block)
        before = [score(cards[1], single, unit) for _ in range(blocks // 2)]
        seconds = score(cards[0], dense, TILE)
        after = [score(cards[1], single, unit) for _ in range(blocks - blocks // 2)]
    cells = (TILE // 10) ** 2
    times = [*before, *after]
    slow = float(np.mean(times)) / (unit // 10) ** 2
    result: dict[str, Any] = {
        "network": asked.network,
        "device": device,
        "precision": asked.precision,
        "cores": os.cpu_count(),
        "cells": cells,
        "dense_seconds": round(seconds, 1),
        "dense_ms_per_cell": round(1e3 * seconds / cells, 3),
        "patch_ms_per_cell": round(1e3 * slow, 3),
        "patch_blocks_timed": blocks,
        "patch_ms_spread": [round(1e3 * s / 256, 3) for s in (min(times), max(times))],
        "times_as_fast": round(slow * cells / seconds, 2),
    }
    print(json.dumps(result))
    if asked.log:
        asked.log.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
