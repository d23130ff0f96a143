"""What the installed Icechunk and Zarr take to commit, to open cold and to read, in shards and not.

    python benchmarks/shards.py --work FOLDER --log FILE       (one minute)

Ten bands of 3072 x 3072 px are written as natmap writes composites: chunks of 256 px, a commit for
each tile of 1024 px, once as they are and once in shards of a tile, into stores of Icechunk's
format 1. Then fresh processes open each store, read a first chunk, a whole band, and 200 chunks
here and there. To compare releases, run it in an environment of each, in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

BANDS, SIDE, CHUNK, TILE, REPEATS = 10, 3072, 256, 1024, 5
NEW = not icechunk.__version__.startswith("1.")

READ = """
import sys, time
import icechunk, numpy as np, zarr
began = time.perf_counter()
storage = icechunk.local_filesystem_storage(sys.argv[1])
store = icechunk.Repository.open(storage).readonly_session("main").store
array = zarr.open_group(store, mode="r")["bands"]
assert array[0, :256, :256].any()
opened = time.perf_counter()
array[3]
whole = time.perf_counter()
for row, col in np.random.default_rng(0).integers(0, 12, (200, 2)).tolist():
    array[5, row * 256 : (row + 1) * 256, col * 256 : (col + 1) * 256]
print(opened - began, whole - opened, time.perf_counter() - whole)
"""


def ground() -> np.ndarray:
    """A band that compresses as a composite does, about two to one: uint16 (y, x)."""
    draw = np.random.default_rng(0)
    coarse = draw.normal(1500, 400, (SIDE // 16, SIDE // 16))
    smooth = np.kron(coarse, np.ones((16, 16))) + draw.normal(0, 40, (SIDE, SIDE))
    return np.clip(smooth, 1, 10_000).astype(np.uint16)


def write(path: Path, band: np.ndarray, shards: bool) -> dict[str, Any]:
    """Write a store; what its commits took."""
    shutil.rmtree(path, ignore_errors=True)
    more: dict[str, Any] = {"create_version": 1} if NEW else {}
    storage = icechunk.local_filesystem_storage(str(path))
    config = icechunk.RepositoryConfig.default()
    repo = icechunk.Repository.open_or_create(storage, config, **more)
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="a").create_array(
        "bands",
        shape=(BANDS, SIDE, SIDE),
        dtype="uint16",
        chunks=(1, CHUNK, CHUNK),
        shards=(1, TILE, TILE) if shards else None,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
    )
    session.commit("make")
    writing, committing = [], []
    for top in range(0, SIDE, TILE):
        for left in range(0, SIDE, TILE):
            session = repo.writable_session("main")
            array: Any = zarr.open_group(session.store, mode="r+")["bands"]
            part = np.stack([band[top : top + TILE, left : left + TILE]] * BANDS)
            began = time.perf_counter()
            array[:, top : top + TILE, left : left + TILE] = part
            written = time.perf_counter()
            session.commit("tile")
            writing.append(written - began)
            committing.append(time.perf_counter() - written)
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "write_tile_ms": round(1e3 * statistics.median(writing), 1),
        "commit_ms": round(1e3 * statistics.median(committing), 1),
        "files": len(files),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def read(path: Path) -> dict[str, float]:
    """Medians over fresh processes."""
    command = [sys.executable, "-W", "ignore", "-c", READ, str(path)]
    rows = []
    for _ in range(REPEATS):
        ran = subprocess.run(command, capture_output=True, check=True, text=True)
        rows.append([float(word) for word in ran.stdout.splitlines()[-1].split()])
    names = ("open_and_first_chunk_ms", "whole_band_ms", "chunks_200_ms")
    return {
        name: round(1e3 * statistics.median(values), 1)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    band = ground()
    found: dict[str, Any] = {"icechunk": icechunk.__version__, "zarr": zarr.__version__}
    for name, shards in (("chunks", False), ("shards", True)):
        path = asked.work / name
        found[name] = write(path, band, shards) | read(path)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.log:
        asked.log.write_text(text + "\n")


if __name__ == "__main__":
    main()
