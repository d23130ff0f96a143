"""Exact neighbours of 1e6 cells among 1e5 labels of 384 features, beside the matrix product alone.

    python benchmarks/neighbours.py                   (half an hour of one core, estimated; resumes)
    python benchmarks/neighbours.py --cells 50000     (two minutes)

One thread. Cells come in pieces, each a line of neighbours.jsonl: seconds of CPU for its neighbours
and, in the same piece, for the same float32 products in the same blocks with nothing made of them.
Features lie at an offset of 30, one label in a hundred is there twice, and of each piece some cells
are compared with brute force in float64. A piece that the log has is not run again.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy looks

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from engine.propagation import neighbours  # noqa: E402
from engine.propagation.neighbours import Index  # noqa: E402

COLUMNS, K, PIECE, CHECKED = 384, 5, 10_000, 20
LOG = HERE / "neighbours.jsonl"


def features(count: int, *seed: int) -> np.ndarray:
    """Cells: 60 kinds of ground, mixed and with noise, at an offset of 30."""
    kinds = np.random.default_rng(0).standard_normal((60, COLUMNS), np.float32)
    rng = np.random.default_rng(seed)
    mixed = kinds[rng.integers(0, 60, count)]
    mixed += rng.random((count, 1), np.float32) * kinds[rng.integers(0, 60, count)]
    return mixed + 0.7 * rng.standard_normal((count, COLUMNS), np.float32) + 30


def multiply(queries: np.ndarray, labels: np.ndarray) -> None:
    """The products that neighbours need, in their blocks."""
    rows, cols = neighbours._ROWS, neighbours._LABELS
    for first in range(0, len(queries), rows):
        for second in range(0, len(labels), cols):
            queries[first : first + rows] @ labels[second : second + cols].T


def wrong(queries: np.ndarray, labels: np.ndarray, found: np.ndarray) -> int:
    """How many of some queries have other neighbours by brute force in float64."""
    wide = labels.astype(np.float64)
    count = 0
    for query, rows in zip(queries.astype(np.float64), found, strict=True):
        squares = ((wide - query) ** 2).sum(1)
        near = np.argpartition(squares, K + 1)[: K + 2]
        near = near[np.lexsort((near, squares[near]))][:K]
        count += int((near != rows).any())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args()
    lines = asked.log.read_text().splitlines() if asked.log.exists() else []
    rows = [row for row in map(json.loads, lines) if row["labels"] == asked.labels]
    done = {row["piece"] for row in rows}
    labels = features(asked.labels, 1)
    twice = asked.labels // 100
    labels[-twice:] = labels[:twice]
    index = Index(labels)
    index.find(labels[:10], K)  # compiles
    for piece in sorted(set(range(asked.cells // PIECE)) - done):
        cells = features(PIECE, 2, piece)
        began = time.process_time()
        multiply(cells, labels)
        middle = time.process_time()
        found = index.find(cells, K)
        end = time.process_time()
        row = {
            "labels": asked.labels,
            "piece": piece,
            "cells": PIECE,
            "product_seconds": round(middle - began, 2),
            "neighbours_seconds": round(end - middle, 2),
            "again_in_float64": found.again,
            "checked": CHECKED,
            "wrong": wrong(cells[:CHECKED], labels, found.rows[:CHECKED]),
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        }
        rows.append(row)
        with asked.log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    product = sum(row["product_seconds"] for row in rows)
    whole = sum(row["neighbours_seconds"] for row in rows)
    product = max(product, 1e-9)
    rate = sum(row["cells"] for row in rows) * asked.labels * COLUMNS / product / 1e9
    print(
        f"{len(rows)} pieces of {PIECE:,} cells: neighbours {whole:.0f} s, products "
        f"{product:.0f} s ({rate:.0f} billion multiply-adds a second), ratio {whole / product:.2f}"
    )


if __name__ == "__main__":
    main()
