"""Networks of patches on the labels of compare.py: bands, ten labels, three seeds.

    python benchmarks/propagation/networks.py --work FOLDER   (minutes of a core a piece; resumes)

MSCNN classifies a patch; U-Net with the legend of local climate zones gives classes to pixels, all
of which are said to have their patch's label, and a patch has the mean of its pixels'
probabilities. Both have natmap's small size, are trained by natmap's own loops, with a fifth of the
labels to stop by, and are judged on the cells that the heads are judged on. Each is trained on the
labels alone, and on them and the pseudo-labels of the notes' way, which count their confidence. A
piece is a line of networks.jsonl.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from compare import PROPAGATED, Task  # noqa: E402
from worlds import LABELLED, SIDE, UNSEEN, load  # noqa: E402

from engine.datasets.patches import BANDS  # noqa: E402
from engine.infer.examples import score_examples  # noqa: E402
from engine.models.card import ModelCard  # noqa: E402
from engine.models.inputs import prepare_batch  # noqa: E402
from engine.models.registry import load_model, measure, save_model  # noqa: E402
from engine.propagation.heads import CODES, LogisticHead  # noqa: E402
from engine.propagation.propagate import NOTES, propagate  # noqa: E402
from engine.propagation.pseudo import Cells, Labels  # noqa: E402
from engine.propagation.tuning import macro_f1  # noqa: E402
from engine.recipes.classifying import SMALL  # noqa: E402
from engine.training.fit import Batches, Settings, fit, statistics  # noqa: E402
from engine.training.segmenters import Chips, SegmenterSettings, fit_segmenter  # noqa: E402

SEEDS = 3
NETWORKS = ("MSCNN", "U-Net")
LEARNT = ("labels", "labels and pseudo-labels")
EPOCHS = 60  # of U-Net; MSCNN stops where its patience is over
LOG = HERE / "networks.jsonl"

Array = np.ndarray


def taught(task: Task, learnt: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """Positions, codes and weights of the training; positions that it is stopped by."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(task.labelled))
    held, rows = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    codes, sure = task.truth[rows], np.ones(len(rows))
    if learnt != LEARNT[0]:
        # of the labels that train: those that it is stopped by vote on nothing
        some = np.isin(np.flatnonzero(task.labelled), rows)
        x, y, city = (values[some] for values in task.learnt)
        labels = Labels(x, y, city, task.xy[np.flatnonzero(task.labelled)[some]])
        asked = np.flatnonzero(task.offered)
        cells = Cells(asked, task.x[asked], task.xy[asked])
        found = propagate(labels, cells, NOTES, linear=LogisticHead(), seed=seed).table
        rows = np.concatenate([rows, found["cell"].to_numpy()])
        codes = np.concatenate([codes, found["code"].to_numpy().astype(np.int64)])
        sure = np.concatenate([sure, found["confidence"].to_numpy().astype(np.float64)])
    return rows, codes.astype(np.uint8), sure.astype(np.float32), held


def card_of(network: str, x: Array) -> ModelCard:
    middle, spread = statistics(x)
    name = {"MSCNN": "mscnn", "U-Net": "unet"}[network]
    form = {"features": 0, "output": "logit", "patch": SIDE, "overlap": SIDE // 2}
    if network == "MSCNN":
        form = measure(name, SMALL[name], len(BANDS), len(CODES), SIDE)._asdict()
    form["parameters"] = SMALL[name]
    return ModelCard(
        name=name, architecture=name, bands=BANDS, clip=(0.0, 1.0), mean=middle, std=spread,
        weights=f"{name}.safetensors", sha256="0" * 64, **form,
    )  # fmt: skip


def scored(card: ModelCard, x: Array) -> Array:
    """Probabilities (n, class); of a segmenter the mean of a patch's pixels."""
    if not card.zones:
        return score_examples(card, x)
    network, found = load_model(card), []
    with torch.inference_mode():
        for first in range(0, len(x), 64):
            part = torch.from_numpy(prepare_batch(x[first : first + 64], card))
            found.append(network(part).double().softmax(1).mean((2, 3)).numpy())
    return np.concatenate(found)


def piece(task: Task, stored: Array, network: str, learnt: str, seed: int) -> dict[str, Any]:
    rows, codes, sure, held = taught(task, learnt, seed)
    x, stop = stored[rows], stored[held]
    by = task.truth[held].astype(np.uint8)
    card = card_of(network, x)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        if network == "MSCNN":
            parts = Batches(x, codes, sure), Batches(stop, by)
            fitted = fit(card, *parts, Settings(seed=seed), where, device="cpu")
        else:
            wide = np.ones((SIDE, SIDE))
            chips = (
                Chips(x, np.kron(codes[:, None, None], wide).astype(np.uint8),
                      weights=np.kron(sure[:, None, None], wide).astype(np.float32)),
                Chips(stop, np.kron(by[:, None, None], wide).astype(np.uint8)),
            )  # fmt: skip
            settings = SegmenterSettings(epochs=EPOCHS, batch=16, rate=1e-3, seed=seed)
            fitted = fit_segmenter(card, *chips, settings, where, device="cpu")
        scores = scored(save_model(card, fitted.weights, where), stored[task.test])
    found = np.array(CODES)[scores.argmax(1)]
    truth, city = task.truth[task.test], task.city[task.test]
    f1 = [round(macro_f1(truth[city == c], found[city == c], CODES), 4) for c in UNSEEN]
    return {
        "network": network, "learnt": learnt, "seed": seed, "f1": f1, "taught": len(rows),
        "epochs": len(fitted.history),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    towns = {city: load(asked.work, city) for city in (*LABELLED, *UNSEEN)}
    pixels = np.concatenate([town["pixels"] for town in towns.values()])
    stored = np.clip(np.rint(pixels.astype(np.float32) * 10_000 + 1_000), 1, 65_534)
    stored = stored.astype(np.uint16)
    recorded = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    done = {(row["network"], row["learnt"], row["seed"]) for row in recorded}
    for seed, learnt, network in product(range(SEEDS), LEARNT, NETWORKS):
        if (network, learnt, seed) in done:
            continue
        began = time.process_time()
        task = Task(towns, "bands", PROPAGATED, seed)
        row = piece(task, stored, network, learnt, seed)
        row["seconds"] = round(time.process_time() - began)
        with LOG.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
