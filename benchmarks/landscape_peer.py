"""Edges of real land cover, counted by natmap and by pylandstats 3.1.

    python benchmarks/landscape_peer.py --peer FOLDER/bin/python      (a minute)

pylandstats is under the GPL, so it has an environment of its own (``python -m venv FOLDER`` and
``FOLDER/bin/pip install pylandstats==3.1.0``) and is asked through files. Windows of the MODIS map
of the test data, and a map of noise, are counted with their border and without.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import rasterio  # noqa: E402

from engine.sites.counts import count  # noqa: E402
from engine.sites.regions import Region, RegionMap  # noqa: E402

LOG = Path(__file__).with_name("landscape_peer.json")
PEER = """
import json, sys
import numpy as np, pylandstats
array = np.load(sys.argv[1])
land = pylandstats.Landscape(array, res=(1, 1), nodata=255)
print(json.dumps({str(int(c)): [float(land.total_edge(class_val=c, count_boundary=b))
                  for b in (True, False)] for c in land.classes}))
"""


class Window:
    """Codes in memory as a map of classes, 255 nowhere."""

    name, stamp, titles = "window", "window", {}

    def __init__(self, codes: np.ndarray) -> None:
        self.codes, self.shape = codes, codes.shape
        self.transform, self.crs = Affine(30, 0, 2e6, 0, -30, 5e6), CRS("EPSG:3035")

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        part = self.codes[rows, cols].astype(np.int32)
        return np.where(part == 255, -1, part)


def own(codes: np.ndarray) -> dict[str, list[int]]:
    """Edges of each class with the border of the map, and between pixels with a class alone.

    pylandstats counts a side at nodata as one at the border; so does natmap.
    """
    source = Window(codes)
    west, north = source.transform.c, source.transform.f
    height, width = codes.shape
    whole = Region("all", shapely.box(west, north - 30 * height, west + 30 * width, north))
    regions = RegionMap([whole], source.transform, source.shape)
    counted = count(source, regions, max(codes.shape), block=97)
    padded = np.pad(codes, 1, constant_values=255)
    inner = padded[1:-1, 1:-1]
    sides = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    found = {}
    for row in counted.edges:
        border = sum(int(((inner == row["kind"]) & (side == 255)).sum()) for side in sides)
        found[str(int(row["kind"]))] = [int(row["edges"]), int(row["edges"]) - border]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="python that has pylandstats")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NATMAP_TEST_DATA", "")))
    asked = parser.parse_args()
    with rasterio.open(asked.data / "land-cover" / "mcd12c1-2019-igbp.tif") as file:
        cover = file.read(1)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 6, (400, 300)).astype(np.uint8)
    noise[noise == 5] = 255
    maps = {
        "China": cover[700:1450, 5000:6300],
        "Europe": cover[350:1100, 3400:4600],
        "noise with holes": noise,
    }
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codes in maps.items():
            path = Path(folder) / "codes.npy"
            np.save(path, np.ascontiguousarray(codes.astype(np.uint8)))
            said = subprocess.run(
                [asked.peer, "-W", "ignore", "-c", PEER, path], check=True, capture_output=True
            )
            theirs, mine = json.loads(said.stdout), own(codes)
            different = [c for c in theirs | mine if theirs.get(c) != [float(v) for v in mine[c]]]
            told[name] = {
                "pixels": int(codes.size),
                "classes": len(mine),
                "edges": sum(v[0] for v in mine.values()),
                "classes_that_differ": different,
            }
            print(name, told[name], flush=True)
    LOG.write_text(json.dumps(told, indent=1) + "\n")
    if any(one["classes_that_differ"] for one in told.values()):
        sys.exit("edges differ")


if __name__ == "__main__":
    main()
