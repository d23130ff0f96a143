"""Roads in made-up photos: what a national sample of sites brings beside one city.

    python benchmarks/roads.py --work FOLDER      (an hour and a quarter of a core; resumes)

Three training sets of as many chips each, as table 2 of the national sampling's paper has three:
chips of one city; half of them of a second one; and chips of twelve cities in six lights. The same
U-Net learns each, three seeds. Judged are three cities that no set has, whole squares of 1.5 km in
three lights: centrelines of its class `road` against those of the true asphalt, by
`engine.compare.lines`, within 5 m. A piece is a line of roads.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402
from affine import Affine  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "green")]

from cities import CAMERA, DECEMBER, HAZE, LOW, OCTOBER, city  # noqa: E402

from engine.compare.lines import evaluate_lines  # noqa: E402
from engine.legend import NamedClass  # noqa: E402
from engine.models.card import ModelCard  # noqa: E402
from engine.models.registry import load_model, save_model  # noqa: E402
from engine.synthetic.country import Country  # noqa: E402
from engine.synthetic.materials import Material  # noqa: E402
from engine.synthetic.photo import JULY, Light, take_photo  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.training.segmenters import Chips, SegmenterSettings, fit_segmenter, prepare_chips  # noqa: E402

LOG = HERE / "roads.jsonl"
SIDE, CHIPS, EPOCHS, SEEDS = 192, 96, 30, 3
JUDGED, BUFFER = 1536, 5.0  # metres
BANDS = ("B04", "B03", "B02", "B08")
LIGHTS = (JULY, LOW, OCTOBER, HAZE, DECEMBER, CAMERA)
SETS: dict[str, list[tuple[int, Light]]] = {
    "one city": [(801, JULY)],
    "two cities": [(801, JULY), (802, LOW)],
    "national": [(810 + k, LIGHTS[k % len(LIGHTS)]) for k in range(12)],
}
UNSEEN = [(841, JULY), (842, OCTOBER), (843, CAMERA)]
OTHER, ROAD = 1, 2
CLASSES = (
    NamedClass(code=OTHER, name="other", colour="DDDDDD"),
    NamedClass(code=ROAD, name="road", colour="555555"),
)


def seen(place: Country, left: int, top: int, side: int, light: Light) -> tuple[Any, Any]:
    """A photo (4, side, side) and its codes (side, side)."""
    ground = paint(place.world, left, top, side, side).material
    codes = np.where(ground == Material.ASPHALT, ROAD, OTHER).astype(np.uint8)
    return take_photo(place.world, left, top, side, side, light), codes


def chips(name: str, seed: int, count: int) -> Chips:
    """Squares drawn in the middle of each city of a set, as many of each."""
    rng = np.random.default_rng([seed, list(SETS).index(name), count])
    x, y = [], []
    for k in range(count):
        number, light = SETS[name][k % len(SETS[name])]
        place = city(number)
        west, south, east, north = place.bounds
        left = int(rng.integers(west + 1_500, east - 1_500 - SIDE))
        top = int(rng.integers(south + 1_500 + SIDE, north - 1_500))
        photo, codes = seen(place, left, top, SIDE, light)
        x.append(photo)
        y.append(codes)
    return Chips(np.stack(x), np.stack(y))


def mapped(card: ModelCard, photo: Any) -> Any:
    """Codes of a photo, by windows of 256 px of which the middle counts."""
    network, rim, step = load_model(card), 32, 192
    padded = np.pad(photo, ((0, 0), (rim, rim), (rim, rim)), mode="reflect")
    found = np.zeros(photo.shape[1:], np.uint8)
    with torch.inference_mode():
        for top, left in product(range(0, found.shape[0], step), repeat=2):
            part = padded[None, :, top : top + step + 2 * rim, left : left + step + 2 * rim]
            best = network(prepare_chips(part, card)).argmax(1)[0].numpy()
            inner = best[rim : rim + step, rim : rim + step]
            found[top : top + step, left : left + step] = np.array(card.classes)[inner]
    return found


def written(path: Path, codes: Any) -> Path:
    form = {"height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": "uint8"}
    at = Affine(1, 0, 500_000, 0, -1, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=at, nodata=0, **form
    ) as file:
        file.write(codes, 1)
    return path


def piece(name: str, seed: int, work: Path) -> dict[str, Any]:
    card = ModelCard(
        name="roads", architecture="unet", parameters={"width": 16}, bands=BANDS,
        clip=(0.0, 1.0), mean=(0.4,) * 4, std=(0.2,) * 4, resolution=1.0, patch=256, overlap=64,
        features=0, output="logit", classes=(OTHER, ROAD), names=CLASSES,
        weights="roads.safetensors", sha256="0" * 64,
    )  # fmt: skip
    settings = SegmenterSettings(epochs=EPOCHS, batch=8, rate=2e-3, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        train, stop = chips(name, seed, CHIPS), chips(name, seed, CHIPS // 4)
        fitted = fit_segmenter(card, train, stop, settings, where, device="cpu")
        card = save_model(card, fitted.weights, where)
        lengths = []
        for number, light in UNSEEN:
            place = city(number)
            west, south, east, north = place.bounds
            left, top = (west + east - JUDGED) // 2, (south + north + JUDGED) // 2
            photo, codes = seen(place, left, top, JUDGED, light)
            truth = written(where / "truth.tif", codes)
            found = written(where / "map.tif", mapped(card, photo))
            lengths.append(evaluate_lines(found, truth, ROAD, buffer=BUFFER).lengths)
    total = {key: sum(one[key] for one in lengths) for key in lengths[0]}
    return {
        "set": name,
        "seed": seed,
        "kilometres": {key: round(value, 3) for key, value in total.items()},
        "completeness": round(total["found"] / total["reference"], 4),
        "correctness": round(total["right"] / total["map"], 4) if total["map"] else None,
        "each": [
            [round(one["found"] / one["reference"], 3),
             round(one["right"] / one["map"], 3) if one["map"] else None]
            for one in lengths
        ],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    done = {(row["set"], row["seed"]) for row in rows}
    for seed, name in product(range(SEEDS), SETS):
        if (name, seed) in done:
            continue
        began = time.process_time()
        row = piece(name, seed, asked.work) | {"seconds": round(time.process_time() - began)}
        with LOG.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
