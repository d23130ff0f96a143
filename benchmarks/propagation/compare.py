"""Heads, guards and propagation on made-up cities that nobody labelled.

    python benchmarks/propagation/compare.py run --work FOLDER [--seeds 5]   (resumes; a minute of a
                                                                              core a piece)
    python benchmarks/propagation/compare.py report

FOLDER is that of worlds.py. A piece is a feature set, a number of labels and a seed, and a line of
compare.jsonl. Three cities are labelled: so many cells of each class in each, drawn by the seed,
three classes drawn to be missing in each. Three others are unseen: their cells are halved by
blocks of 1.6 km, one half is offered for pseudo-labels beside the rest of the labelled cities, the
other is judged by macro-F1, city by city. Whatever is chosen is chosen on labels alone. With ten
labels propagation is tried as well: the notes' way; the default; the default without its proof;
and the true classes of those same cells, which is what could be had at most.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from scipy.stats import t as student  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from worlds import LABELLED, SETS, UNSEEN, load  # noqa: E402

from engine.propagation.guards import Novelty, held_out  # noqa: E402
from engine.propagation.heads import CODES, ForestHead, KnnHead  # noqa: E402
from engine.propagation.pool import moments, standard_of  # noqa: E402
from engine.propagation.propagate import DEFAULT, NOTES, propagate  # noqa: E402
from engine.propagation.pseudo import Cells, Labels, Propagated  # noqa: E402
from engine.propagation.tuning import (  # noqa: E402
    Tuned,
    knn_candidates,
    logistic_candidates,
    macro_f1,
    tune,
)
from engine.training.head_mlp import MlpHead  # noqa: E402

COUNTS = (5, 10, 20)
PROPAGATED = 10
MISSING = 3  # classes of each labelled city
LOG = HERE / "compare.jsonl"
BLOCK = 1_600  # metres

Array = np.ndarray


class Task:
    """Labels, cells and test of a piece, on the pool's scale."""

    def __init__(self, work: Path, features: str, count: int, seed: int) -> None:
        rng = np.random.default_rng([seed, count])
        towns = {city: load(work, city) for city in (*LABELLED, *UNSEEN)}
        x = np.concatenate([town[features] for town in towns.values()])
        self.truth = np.concatenate([town["lcz"] for town in towns.values()])
        # each city in a place of its own, so that none lies on another
        xy = [town["xy"] + [0, 1e6 * number] for number, town in enumerate(towns.values())]
        self.xy = np.concatenate(xy)
        self.city = np.repeat(list(towns), [len(town["lcz"]) for town in towns.values()])
        block = np.floor(self.xy / BLOCK).astype(int).sum(1) % 2 == 0
        unseen = np.isin(self.city, UNSEEN)
        self.test = unseen & block
        labelled = np.zeros(len(x), bool)
        for city in LABELLED:
            here = self.city == city
            classes = np.unique(self.truth[here])
            kept = rng.permutation(classes)[: max(len(classes) - MISSING, 2)]
            for code in kept:
                rows = np.flatnonzero(here & (self.truth == code))
                labelled[rng.permutation(rows)[:count]] = True
        self.labelled = labelled
        self.offered = ~labelled & ~self.test
        pool = moments(x[~self.test])
        self.x = standard_of(pool).apply(x)

    @property
    def learnt(self) -> tuple[Array, Array, Array]:
        return self.x[self.labelled], self.truth[self.labelled], self.city[self.labelled]

    def judge(self, scorer: Any) -> list[float]:
        """Macro-F1 on each unseen city."""
        found = []
        for city in UNSEEN:
            here = self.test & (self.city == city)
            found.append(macro_f1(self.truth[here], scorer.predict(self.x[here]), CODES))
        return [round(value, 4) for value in found]


def chosen_by(tuned: Tuned) -> dict[str, Any]:
    """How a head was come by."""
    figures = {
        str(number): round(float(value), 4) for number, value in enumerate(tuned.figures.mean(1))
    }
    return {
        "chosen": repr(tuned.head).split(", classes")[0],
        "left_out": figures,
        "gain": round(tuned.gain, 4),
        "error": round(tuned.error, 4),
    }


def heads(task: Task, seed: int) -> tuple[dict[str, Any], Any, Any]:
    x, y, city = task.learnt
    found: dict[str, Any] = {}
    logistic = tune(x, y, city, logistic_candidates(), seed=seed)
    knn = tune(x, y, city, knn_candidates(), seed=seed)
    for name, head in {
        "logistic": logistic.head,
        "logistic, prior": logistic.prior,
        "knn": knn.head,
        "knn, prior": knn.prior,
        "forest": ForestHead(),
        "mlp": MlpHead(),
    }.items():
        found[name] = task.judge(head.fit(x, y, None, seed))
    tuned = {"logistic": chosen_by(logistic), "knn": chosen_by(knn)}
    return {"heads": found, "tuned": tuned}, logistic.head, knn.head


def propagation(task: Task, linear: Any, seed: int) -> dict[str, Any]:
    x, y, city = task.learnt
    # the task's test is in no table that a propagation sees
    labels = Labels(x, y, city, task.xy[task.labelled])
    rows = np.flatnonzero(task.offered)
    cells = Cells(rows, task.x[rows], task.xy[rows])
    ways = {"notes": NOTES, "default": DEFAULT, "unproved": replace(DEFAULT, proved=False)}
    heads = {"logistic": linear, "mlp": MlpHead()}
    found: dict[str, Any] = {
        "none": {name: task.judge(h.fit(x, y, None, seed)) for name, h in heads.items()}
    }
    for way, settings in ways.items():
        result = propagate(labels, cells, settings, linear=linear, seed=seed)
        pseudo = result.table["cell"].to_numpy()
        codes = result.table["code"].to_numpy().astype(np.int64)
        sure = result.table["confidence"].to_numpy().astype(np.float64)
        found[way] = summary(task, result, pseudo, codes)
        for name, head in heads.items():
            for kind, of_cells, w in (
                ("pseudo", codes, sure),
                ("true", task.truth[pseudo], np.ones(len(pseudo))),
            ):
                if not len(pseudo):
                    found[way][f"{name}, {kind}"] = found["none"][name]
                    continue
                scorer = head.fit(
                    np.concatenate([x, task.x[pseudo]]),
                    np.concatenate([y, of_cells]),
                    np.concatenate([np.ones(len(y)), w]),
                    seed,
                )
                found[way][f"{name}, {kind}"] = task.judge(scorer)
    return found


def summary(task: Task, result: Propagated, pseudo: Array, codes: Array) -> dict[str, Any]:
    """Coverage and precision, of all cells and of those in unseen cities, by class."""
    report, right = result.report, task.truth[pseudo] == codes
    unseen = np.isin(task.city[pseudo], UNSEEN)
    offered = int((task.offered & np.isin(task.city, UNSEEN)).sum())
    by_class = {
        int(code): [int((codes == code).sum()), round(float(right[codes == code].mean()), 3)]
        for code in np.unique(codes)
    }
    return {
        "pseudo": len(pseudo),
        "precision": round(float(right.mean()), 4) if len(right) else None,
        "unseen_coverage": round(unseen.sum() / offered, 4),
        "unseen_precision": round(float(right[unseen].mean()), 4) if unseen.any() else None,
        "by_class": by_class,
        "limit": report.limit,
        "left_out_precision": report.held_out_precision,
        "gains": list(report.gains),
        "reason": report.reason,
        "removed": dict(report.removed),
        "undetectable": list(report.undetectable),
    }


def guards(task: Task, linear: Any, seed: int) -> dict[str, Any]:
    """Each class left out of all labels: what becomes of its cells in unseen cities."""
    x, y, city = task.learnt
    asked = task.offered & np.isin(task.city, UNSEEN)
    found = {}
    for code in np.unique(y).tolist():
        rest = y != code
        knn = KnnHead(DEFAULT.k)
        seen = held_out(x[rest], y[rest], city[rest], knn, linear, seed)
        distance = knn.fit(x[rest], y[rest]).votes(task.x[asked])[2]
        scorer = linear.fit(x[rest], y[rest], None, seed)
        energy, given = scorer.energy(task.x[asked]), scorer.predict(task.x[asked])
        new = task.truth[asked] == code
        old = np.isin(task.truth[asked], np.unique(y[rest]))
        if not new.any():
            continue
        row: dict[str, Any] = {
            "cells": int(new.sum()),
            "auroc_distance": round(float(roc_auc_score(new[new | old], distance[new | old])), 3),
            "auroc_energy": round(float(roc_auc_score(new[new | old], energy[new | old])), 3),
        }
        known = seen.known
        ways = {
            "distance": (seen.distance, None, distance, None),
            "energy": (seen.energy, None, energy, None),
            "both": (seen.distance, seen.energy, distance, energy),
        }
        for way, (first, second, asked_first, asked_second) in ways.items():
            energies = None if second is None else second[known]
            novelty = Novelty.of(first[known], energies, DEFAULT.loss, seen.predicted[known])
            told = novelty.novel(asked_first, asked_second, given)
            row[way] = [round(float(told[part].mean()), 3) for part in (new, old)]
        found[code] = row
    return found


def run(work: Path, seeds: int, sets: list[str]) -> None:
    done = {(row["set"], row["labels"], row["seed"]) for row in recorded()}
    order = [(s, n, f) for n in (PROPAGATED, *COUNTS) for s in range(seeds) for f in sets]
    for seed, count, features in dict.fromkeys(order):
        if (features, count, seed) in done:
            continue
        began = time.process_time()
        task = Task(work, features, count, seed)
        row: dict[str, Any] = {"set": features, "labels": count, "seed": seed}
        row["used"] = int(task.labelled.sum())
        found, linear, _ = heads(task, seed)
        row |= found
        if count == PROPAGATED:
            row["propagation"] = propagation(task, linear, seed)
            row["guards"] = guards(task, linear, seed)
        row["seconds"] = round(time.process_time() - began)
        with LOG.open("a") as log:
            log.write(json.dumps(row) + "\n")
        means = {name: round(float(np.mean(v)), 3) for name, v in row["heads"].items()}
        print(features, count, seed, f"{row['seconds']} s", means, flush=True)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def interval(values: list[float]) -> str:
    """Mean and its 90 % interval over seeds."""
    found = np.array(values)
    if len(found) < 2:
        return f"{found.mean():+.3f}"
    half = student.ppf(0.95, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return f"{found.mean():+.3f} ({found.mean() - half:+.3f} to {found.mean() + half:+.3f})"


def report() -> None:
    rows = recorded()
    print(
        "| set | labels | seeds | logistic | knn | forest | mlp | logistic less knn |\n"
        + "|---" * 8
        + "|"
    )
    for features in SETS:
        for count in COUNTS:
            here = [r["heads"] for r in rows if (r["set"], r["labels"]) == (features, count)]
            if not here:
                continue
            means = [
                f"{np.mean([np.mean(r[name]) for r in here]):.3f}"
                for name in ("logistic", "knn", "forest", "mlp")
            ]
            less = [float(np.mean(r["logistic"]) - np.mean(r["knn"])) for r in here]
            print(
                "|", " | ".join([features, str(count), str(len(here)), *means, interval(less)]), "|"
            )
    print(
        "\n| set | way | coverage | precision | logistic | true | mlp | true |\n" + "|---" * 8 + "|"
    )
    for features in SETS:
        here = [r["propagation"] for r in rows if r["set"] == features and "propagation" in r]
        for way in ("notes", "default", "unproved") if here else ():
            cells = [features, way]
            for key in ("unseen_coverage", "unseen_precision"):
                known = [r[way][key] for r in here if r[way][key] is not None]
                cells.append(f"{np.mean(known):.2f}" if known else "-")
            for name in ("logistic", "mlp"):
                for kind in ("pseudo", "true"):
                    change = [
                        float(np.mean(r[way][f"{name}, {kind}"]) - np.mean(r["none"][name]))
                        for r in here
                    ]
                    cells.append(interval(change))
            print("|", " | ".join(cells), "|")
    print(
        "\n| set | class | AUROC distance | energy | rejected: distance | energy | both | known |\n"
        + "|---" * 8
        + "|"
    )
    for features in SETS:
        here = [r["guards"] for r in rows if r["set"] == features and "guards" in r]
        for code in sorted({int(c) for r in here for c in r}):
            of = [r[str(code)] for r in here if str(code) in r]
            values = [np.mean([r[k] for r in of]) for k in ("auroc_distance", "auroc_energy")]
            values += [np.mean([r[k][0] for r in of]) for k in ("distance", "energy", "both")]
            values.append(np.mean([r["both"][1] for r in of]))
            print("|", " | ".join([features, str(code), *(f"{v:.2f}" for v in values)]), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    asked = parser.parse_args()
    if asked.what == "run":
        run(asked.work, asked.seeds, asked.sets)
    else:
        report()


if __name__ == "__main__":
    main()
