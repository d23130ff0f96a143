"""Land cover on the Chesapeake patches: learnt on five, checked on one, mapped and judged on two.

    python benchmarks/cover/chesapeake.py --data ../shared/data --work FOLDER

Eight patches of 256 m at 1 m (NAIP 2014, West Virginia; land cover of the Chesapeake Conservancy)
get a georeference, since they come without one, and go through natmap's own commands: ingest,
train, run, publish, evaluate. Only tree canopy, low vegetation and 835 pixels of impervious occur.
Three minutes of two cores; a killed training resumes. Writes chesapeake.json and chesapeake.log.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.enums import ColorInterp

HERE = Path(__file__).parent
CRS, WEST, NORTH, APART, SIDE = "EPSG:26917", 512_000, 4_096_000, 512, 256
COLOURS = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
CLASSES = [
    {"code": 1, "name": "water", "colour": "0064C8"},
    {"code": 2, "name": "tree_canopy", "colour": "006400"},
    {"code": 3, "name": "low_vegetation", "colour": "B9DB79"},
    {"code": 4, "name": "barren", "colour": "C8B478"},
    {"code": 5, "name": "other_impervious", "colour": "B03030"},
    {"code": 6, "name": "road", "colour": "555555"},
]
SPLIT = {"learn": (1, 2, 3, 4, 5), "check": (0,), "judge": (6, 7)}
"""Both kinds of vegetation occur in patches 0, 3 and 7 alone: one for each split."""


def write_patches(data: Path, work: Path) -> None:
    """Images, labels and, for each split, an area and a recipe that maps it."""
    paths = sorted((data / "naip-chesapeake").glob("*.npz"))
    (work / "images").mkdir(parents=True, exist_ok=True)
    width = len(paths) * APART
    labels = np.full((SIDE, width), 255, np.uint8)
    form = {"driver": "GTiff", "dtype": "uint8", "crs": CRS, "height": SIDE}
    squares = []
    for k, path in enumerate(paths):
        with np.load(path, allow_pickle=False) as file:
            patch = file["arr_0"][0]
        at = Affine(1, 0, WEST + k * APART, 0, -1, NORTH)
        image = work / "images" / f"patch_2014_{k}.tif"
        with rasterio.open(image, "w", count=4, width=SIDE, transform=at, **form) as file:
            file.colorinterp = COLOURS  # the fourth is no alpha
            file.write(patch[:4].round().astype(np.uint8))
        labels[:, k * APART : k * APART + SIDE] = patch[8].astype(np.uint8)
        squares.append(shapely.box(at.c, NORTH - SIDE, at.c + SIDE, NORTH))
    at = Affine(1, 0, WEST, 0, -1, NORTH)
    with rasterio.open(
        work / "labels.tif", "w", count=1, width=width, transform=at, nodata=255, **form
    ) as file:
        file.write(labels, 1)
    move = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    for name, numbers in SPLIT.items():
        area = shapely.MultiPolygon([squares[k] for k in numbers])
        moved = shapely.transform(area, lambda xy: np.column_stack(move.transform(*xy.T)))
        (work / f"{name}.geojson").write_text(shapely.to_geojson(moved))
        write(work / f"{name}.yaml", recipe(name))


def recipe(name: str) -> dict[str, Any]:
    """A map of one split's patches."""
    return {
        "name": name,
        "product": "cover",
        "area": {"file": f"{name}.geojson"},
        "grid": {"crs": CRS, "tile": 600, "chunk": 200},
        "images": {"catalog": "stac/catalog.json"},
        "model": {"card": "model"},
        "store": f"{name}-store",
        "publish": f"{name}-product",
    }


def training() -> dict[str, Any]:
    """The training of the network."""
    return {
        "name": "chesapeake-cover",
        "product": "cover",
        "classes": CLASSES,
        "labels": [{"recipe": f"{name}.yaml", "raster": "labels.tif"} for name in SPLIT],
        "chips": "chips",
        "side": 128,
        "split": {"by": "place", "validation": ["check"], "test": ["judge"]},
        "model": {
            "architecture": "unet",
            "size": "small",
            "bands": ["B04", "B03", "B02", "B08"],
            "window": 256,
            "overlap": 64,
            "licence": "labels for local use only",
        },
        "training": {"epochs": 60, "batch": 4, "rate": 1e-3},
        "out": "model",
    }


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")  # JSON is YAML


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    write_patches(given.data, work)
    write(work / "train.yaml", training())
    log = []

    def natmap(*words: str) -> str:
        command = [sys.executable, "-c", "from engine.cli.app import main; main()", *words]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        log.extend([f"$ natmap {' '.join(words)}", *(done.stderr + done.stdout).splitlines()])
        (given.out / "chesapeake.log").write_text("\n".join(log) + "\n")
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    natmap(
        "ingest", "images", "--out", "stac", "--date", "*_{year}_*", "--bands", "B04,B03,B02,B08"
    )
    natmap("train", "train.yaml")
    natmap("run", "judge.yaml", "--workers", "2")
    natmap("publish", "judge.yaml")
    natmap("evaluate", "judge-product", "labels.tif", "--out", "accuracy")
    found = json.loads((work / "accuracy" / "accuracy.json").read_text())
    kept = {name: found[name] for name in ("figures", "intervals_95", "classes", "confusion")}
    write(given.out / "chesapeake.json", {"splits": SPLIT, **kept})
    print(json.dumps({name: each["iou"] for name, each in found["classes"].items()}))


if __name__ == "__main__":
    main()
