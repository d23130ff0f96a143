"""Heads, guards and propagation on made-up cities that nobody labelled.

    python benchmarks/propagation/compare.py --work FOLDER [--seeds 5] [--hours 2]

FOLDER is that of worlds.py. A piece is a feature set, a number of labels and a seed, takes a minute
of a core at most, and is a line of compare.jsonl: a run that is broken off resumes, and one that
reaches its hours stops. report.py makes tables of the lines.

Three cities are labelled: so many cells of each class in each, drawn by the seed, three classes
drawn to be missing in each. Three others are unseen: their cells are halved by blocks of 1.6 km,
one half is offered for pseudo-labels beside the rest of the labelled cities, the other is judged by
macro-F1, city by city. Whatever is chosen is chosen on labels alone. With ten labels three things
are tried as well. Propagation: the notes' way; the default; the default without its proof; and the
true classes of those same cells, which is what could be had at most. Guards: each class is taken
from all labels in turn. Auxiliary sources (truth.py) beside the features.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from dataclasses import replace  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from worlds import AUXILIARY, LABELLED, SETS, UNSEEN, load  # noqa: E402

from engine.metrics import by_class, confusion  # noqa: E402
from engine.propagation.guards import Novelty, held_out, threshold_for  # noqa: E402
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
PROPAGATED_SETS = ("bands", "convolutions", "encoder")
AUXILIARY_SETS = ("bands", "encoder")
MISSING = 3  # classes of each labelled city
COMPACT = tuple(range(1, 7))  # LCZ 1 to 6, which heights tell apart
LOG = HERE / "compare.jsonl"
BLOCK = 1_600  # metres

Array = np.ndarray


class Task:
    """Labels, cells and test of a piece, on the pool's scale."""

    def __init__(self, towns: Mapping[int, Any], features: str, count: int, seed: int) -> None:
        rng = np.random.default_rng([seed, count])
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
        self.beside = {
            name: np.concatenate([town[name] for town in towns.values()]) for name in AUXILIARY
        }
        self.features = x
        self.x = self.scaled(x)

    def scaled(self, x: Array) -> Array:
        """On the scale of all but the test."""
        return standard_of(moments(x[~self.test])).apply(x)

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

    def judge_compact(self, scorer: Any) -> list[float]:
        """Mean F1 of those of LCZ 1 to 6 that an unseen city has, city by city."""
        found = []
        for city in UNSEEN:
            here = self.test & (self.city == city)
            counts = confusion(self.truth[here], scorer.predict(self.x[here]), CODES)
            found.append(float(np.nanmean(by_class(counts)["f1"][: len(COMPACT)])))
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


def heads(task: Task, seed: int) -> tuple[dict[str, Any], Any]:
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
    sure = coverage(task, logistic.head, seed)
    return {"heads": found, "tuned": tuned, "sure": sure}, logistic.head


def coverage(task: Task, linear: Any, seed: int) -> dict[str, Any]:
    """What a target precision keeps of the unseen cities' test, and how much of that is right.

    The threshold is the default's, of labels of cities that were left out; with and without the
    standard error by which it must exceed the target. Cells of classes that no label has count as
    wrong.
    """
    x, y, city = task.learnt
    seen = held_out(x, y, city, KnnHead(DEFAULT.k), linear, seed)
    right = (seen.predicted == seen.codes)[seen.known]
    scores = linear.fit(x, y, None, seed).scores(task.x[task.test])
    sure, codes = scores.max(1), np.array(CODES)[scores.argmax(1)]
    found = {}
    for errors in (1.0, 0.0):
        limit = threshold_for(seen.confidence[seen.known], right, DEFAULT.precision, errors)
        kept = np.zeros(len(sure), bool) if limit is None else sure >= limit
        hits = (codes == task.truth[task.test])[kept]
        found[f"{errors:g}"] = {
            "limit": None if limit is None else round(limit, 4),
            "coverage": round(float(kept.mean()), 4),
            "precision": round(float(hits.mean()), 4) if len(hits) else None,
        }
    return found


def auxiliary(task: Task, seed: int) -> dict[str, Any]:
    """Macro-F1, and F1 of LCZ 1 to 6, with one source more than the features."""
    plain, found = task.x, {}
    for name in ("none", *AUXILIARY):
        if name != "none":
            task.x = task.scaled(np.concatenate([task.features, task.beside[name]], 1))
        x, y, city = task.learnt
        heads = {
            "logistic": tune(x, y, city, logistic_candidates(), seed=seed).head,
            "forest": ForestHead(),
        }
        found[name] = {}
        for kind, head in heads.items():
            scorer = head.fit(x, y, None, seed)
            found[name][kind] = [task.judge(scorer), task.judge_compact(scorer)]
    task.x = plain
    return found


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
        "left_out_precision": number(report.held_out_precision),
        "gains": list(report.gains),
        "reason": report.reason,
        "removed": dict(report.removed),
        "undetectable": list(report.undetectable),
    }


def number(value: float) -> float | None:
    """As JSON has it."""
    return round(value, 4) if np.isfinite(value) else None


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
            # where the loss is that of these very cities, which nobody knows in use
            rank = novelty.rank(asked_first, asked_second, given)
            rank = {"distance": distance, "energy": energy}.get(way, rank)
            fixed = rank > np.quantile(rank[old], 1 - DEFAULT.loss)
            row[f"{way}, fixed"] = round(float(fixed[new].mean()), 3)
        found[code] = row
    return found


def run(work: Path, seeds: int, sets: list[str], hours: float) -> None:
    began_all = time.monotonic()
    done = {(row["set"], row["labels"], row["seed"]) for row in recorded()}
    counts = (PROPAGATED, *(n for n in COUNTS if n != PROPAGATED))
    towns = {city: load(work, city) for city in (*LABELLED, *UNSEEN)}
    for count, seed, features in product(counts, range(seeds), sets):
        if (features, count, seed) in done:
            continue
        if time.monotonic() - began_all > hours * 3600:
            sys.exit(f"{hours:g} hours are over; the same command goes on")
        began = time.process_time()
        task = Task(towns, features, count, seed)
        row: dict[str, Any] = {"set": features, "labels": count, "seed": seed}
        row["used"] = int(task.labelled.sum())
        found, linear = heads(task, seed)
        row |= found
        if count == PROPAGATED and features in PROPAGATED_SETS:
            row["propagation"] = propagation(task, linear, seed)
            row["guards"] = guards(task, linear, seed)
        if count == PROPAGATED and features in AUXILIARY_SETS:
            row["auxiliary"] = auxiliary(task, seed)
        row["seconds"] = round(time.process_time() - began)
        with LOG.open("a") as log:
            log.write(json.dumps(row) + "\n")
        means = {name: round(float(np.mean(v)), 3) for name, v in row["heads"].items()}
        print(features, count, seed, f"{row['seconds']} s", means, flush=True)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--hours", type=float, default=2.0)
    asked = parser.parse_args()
    run(asked.work, asked.seeds, asked.sets, asked.hours)


if __name__ == "__main__":
    main()
