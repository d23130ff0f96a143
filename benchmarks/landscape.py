"""Landscape indices of a map of 100,000 x 100,000 pixels that is made by window.

    python benchmarks/landscape.py --log FILE.json       (about 5 minutes of two cores)

Classes lie in patches of 16 pixels. Counted in blocks of three sizes, the integers must be the
same. Beside it the same windows are only made, by as many threads: what remains is the counting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.jit import compiled  # noqa: E402
from engine.sites.counts import BLOCK, Counts, count  # noqa: E402
from engine.sites.regions import Region, RegionMap  # noqa: E402

GRAIN, CLASSES, UNIT = 16, 10, 333


@compiled
def fill(codes, top, left, grain, classes):  # type: ignore[no-untyped-def]
    for i in range(codes.shape[0]):
        if i > 0 and (top + i) % grain:
            codes[i] = codes[i - 1]
            continue
        for j in range(codes.shape[1]):
            mixed = ((top + i) // grain) * 73856093 ^ ((left + j) // grain) * 19349663
            codes[i, j] = (mixed >> 7) % classes


class Made:
    """A map of classes without a file."""

    name, stamp, titles = "made", "made", {}

    def __init__(self, side: int) -> None:
        self.shape = side, side
        self.transform, self.crs = Affine(30, 0, 2e6, 0, -30, 5e6), CRS("EPSG:3035")

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        codes = np.empty((rows.stop - rows.start, cols.stop - cols.start), np.int32)
        fill(codes, rows.start, cols.start, GRAIN, CLASSES)
        return codes


def digest(found: Counts) -> str:
    told = hashlib.sha256()
    for values in (found.pieces, found.edges, found.outline):
        told.update(values.tobytes())
    return told.hexdigest()[:16]


def only_read(source: Made, block: int, threads: int) -> float:
    began = time.perf_counter()
    side = source.shape[0]
    tops = range(0, side, block)

    def one(top: int) -> None:
        for left in tops:
            rows, cols = (slice(a, min(a + block, side)) for a in (top, left))
            source.read(rows, cols)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, tops))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--log", type=Path)
    told = parser.parse_args()
    source = Made(told.side)
    middle, end = told.side * 15.0, told.side * 30.0
    halves = [
        Region("west", shapely.box(2e6, 5e6 - end, 2e6 + middle, 5e6)),
        Region("east", shapely.box(2e6 + middle, 5e6 - end, 2e6 + end, 5e6)),
    ]
    count(Made(64), RegionMap(halves, source.transform, (64, 64)), UNIT)  # compiles
    found: dict[str, object] = {"side": told.side, "threads": told.threads, "grain": GRAIN}
    digests = set()
    for block in (BLOCK, 1024, 3000):
        regions = RegionMap(halves, source.transform, source.shape)
        began, cpu = time.perf_counter(), time.process_time()
        counted = count(source, regions, UNIT, block=block, threads=told.threads)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        reading = only_read(source, block, told.threads)
        digests.add(digest(counted))
        found[f"block {block}"] = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "made_only_seconds": round(reading, 1),
            "million_pixels_a_cpu_second": round(told.side**2 / cpu / 1e6),
            "pieces": len(counted.pieces),
            "digest": digest(counted),
        }
        print(block, found[f"block {block}"], flush=True)
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found["same_integers"] = len(digests) == 1
    print(json.dumps(found, indent=1))
    if told.log:
        told.log.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
