"""A network of patches (MSCNN) on the labels of compare.py, bands and ten labels, three seeds.

    python benchmarks/propagation/networks.py --work FOLDER   (minutes of a core a seed; resumes)

It is trained by natmap's own loop, with a fifth of the labels to stop by, and judged on the cells
that the heads are judged on: a line of networks.jsonl a seed. U-Net with the legend of local
climate zones is not part of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from compare import PROPAGATED, Task  # noqa: E402
from worlds import LABELLED, SIDE, UNSEEN, load  # noqa: E402

from engine.datasets.patches import BANDS  # noqa: E402
from engine.infer.examples import score_examples  # noqa: E402
from engine.models.card import ModelCard  # noqa: E402
from engine.models.registry import measure, save_model  # noqa: E402
from engine.propagation.heads import CODES  # noqa: E402
from engine.propagation.tuning import macro_f1  # noqa: E402
from engine.training.fit import Batches, Settings, fit, statistics  # noqa: E402

SEEDS = 3
LOG = HERE / "networks.jsonl"


def piece(task: Task, stored: np.ndarray, seed: int) -> dict[str, object]:
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(task.labelled))
    held = len(rows) // 5
    parts = [
        Batches(stored[some], task.truth[some].astype(np.uint8))
        for some in (rows[held:], rows[:held])
    ]
    form = measure("mscnn", {}, len(BANDS), len(CODES), SIDE)._asdict()
    middle, spread = statistics(parts[0].x)
    card = ModelCard(
        name="mscnn", architecture="mscnn", bands=BANDS, clip=(0.0, 1.0), mean=middle, std=spread,
        weights="mscnn.safetensors", sha256="0" * 64, **form,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(card, *parts, Settings(seed=seed), Path(folder), device="cpu")
        card = save_model(card, fitted.weights, Path(folder))
        scores = score_examples(card, stored[task.test])
    codes = np.array(CODES)[scores.argmax(1)]
    truth, city = task.truth[task.test], task.city[task.test]
    f1 = [macro_f1(truth[city == c], codes[city == c], CODES) for c in UNSEEN]
    return {"network": "MSCNN", "seed": seed, "f1": [round(v, 4) for v in f1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    towns = {city: load(asked.work, city) for city in (*LABELLED, *UNSEEN)}
    pixels = np.concatenate([town["pixels"] for town in towns.values()])
    stored = np.clip(np.rint(pixels.astype(np.float32) * 10_000 + 1_000), 1, 65_534)
    done = (
        {json.loads(line)["seed"] for line in LOG.read_text().splitlines()} if LOG.exists() else ()
    )
    for seed in range(SEEDS):
        if seed in done:
            continue
        began = time.process_time()
        task = Task(towns, "bands", PROPAGATED, seed)
        row = piece(task, stored.astype(np.uint16), seed)
        row["seconds"] = round(time.process_time() - began)
        with LOG.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
