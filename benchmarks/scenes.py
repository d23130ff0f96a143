"""Texture, scenes and search on made-up 1 m photos: speed, stability, copies that are found again.

    python benchmarks/scenes.py --work work/scenes --log benchmarks/scenes.json
        (15 minutes of a core, most of it the painting of worlds, which resumes)

Scenes: 1,024 patches of 256 px of each of six worlds of 8 x 8 km, by labels, by texture and by
both; bandwidths are tried as `natmap scenes` tries them. Search: of a patch 20 copies, each changed
otherwise, among all patches of a world; it counts how many are among the first 40.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import rotate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.similarity.descriptors import (  # noqa: E402
    Described,
    look_of,
    luminance,
)
from engine.similarity.grouping import Settings, group  # noqa: E402
from engine.similarity.stability import why_not  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.materials import Material  # noqa: E402
from engine.synthetic.photo import take_photo  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.texture.lbp import RIM, lbp_codes, lbp_counts  # noqa: E402

SIDE, FRAME, FRAMES = 256, 2048, 4
LEFT, TOP = 4_465_600, 2_932_800
CLASSES = (
    "CEREAL MAIZE FALLOW",
    "BROADLEAF CONIFER",
    "GRASS DRY_GRASS MEADOW",
    "SCRUB",
    "TILE BITUMEN METAL CONCRETE RUST",
    "ASPHALT",
    "PAVING",
    "BARE SAND ROCK",
    "WATER TURBID_WATER",
)
CODES = np.zeros(len(Material), np.uint8)
for number, names in enumerate(CLASSES, 1):
    CODES[[Material[name] for name in names.split()]] = number


def frames(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Photo (3, y, x) and classes (y, x) of each frame of a world."""
    world = World(seed)
    for row in range(FRAMES):
        for col in range(FRAMES):
            at = LEFT + col * FRAME, TOP - row * FRAME
            photo = take_photo(world, *at, FRAME, FRAME)[:3]
            yield photo, CODES[paint(world, *at, FRAME, FRAME).material]


def squares(side: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, FRAME, side):
        for col in range(0, FRAME, side):
            yield slice(row, row + side), slice(col, col + side)


def described(seed: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Counts of labels and of texture of a world's patches; kept."""
    path = work / f"world-{seed}.npz"
    if not path.exists():
        labels, textures = [], []
        for photo, codes in frames(seed):
            shown = luminance(photo)
            for at in squares(SIDE):
                labels.append(np.bincount(codes[at].ravel(), minlength=len(CLASSES) + 1)[1:])
                textures.append(lbp_counts(shown[at]))
        work.mkdir(parents=True, exist_ok=True)
        part = path.with_name("making.npz")
        np.savez(part, labels=labels, textures=textures)
        part.rename(path)
        print(f"world {seed}: {len(labels)} patches", flush=True)
    with np.load(path) as kept:
        return kept["labels"], kept["textures"]


def time_texture() -> dict[str, float]:
    """Milliseconds of CPU of a 512 px patch of a photo, ours and scikit-image's, in turn."""
    from skimage.feature import local_binary_pattern

    image = luminance(take_photo(World(301), LEFT, TOP, 512, 512)[:3]).astype(np.uint8)
    lbp_codes(image)
    ours, theirs = [], []
    for _ in range(9):
        began = time.process_time()
        mine = lbp_codes(image)
        ours.append(time.process_time() - began)
        began = time.process_time()
        other = local_binary_pattern(image, 20, 3, "uniform")
        theirs.append(time.process_time() - began)
    return {
        "ours_ms": 1e3 * float(np.median(ours)),
        "scikit_image_ms": 1e3 * float(np.median(theirs)),
        "codes_that_differ": int((mine != other[RIM:-RIM, RIM:-RIM]).sum()),
    }


def cluster(work: Path, seeds: list[int]) -> dict[str, object]:
    worlds = [described(seed, work) for seed in seeds]
    labels, textures = (np.concatenate(each) for each in zip(*worlds, strict=True))
    codes = tuple(range(1, len(CLASSES) + 1))
    patches = Described(np.arange(len(labels)), textures, labels, codes)
    told: dict[str, object] = {"patches": len(labels)}
    for by in ("labels", "texture", "both"):
        began = time.process_time()
        found = group(patches, Settings(by))  # type: ignore[arg-type]
        told[by] = {
            "cpu_seconds": time.process_time() - began,
            "chosen": asdict(found.chosen),
            "in_none": float((found.scene < 0).mean()),
            "sizes": found.sizes.tolist(),
            "trials": [{**asdict(t), "doubt": why_not(t)} for t in found.trials],
        }
        print(by, asdict(found.chosen), flush=True)
    return told


def copies(photo: np.ndarray, row: int, col: int, side: int, rng: np.random.Generator) -> list:
    """Twenty patches about one place: turned, in other light, through JPEG, or all of these."""
    here = photo[:, row : row + side, col : col + side]
    wide = photo[:, row - side // 2 : row + side * 3 // 2, col - side // 2 : col + side * 3 // 2]
    made = [here[:, :, ::-1], *(np.rot90(here, k, (1, 2)) for k in (1, 2, 3))]
    for k in range(16):
        one = here
        if k < 8:
            turned = rotate(wide.astype(float), rng.uniform(5, 355), (1, 2), reshape=False, order=1)
            one = turned[:, side // 2 : side // 2 + side, side // 2 : side // 2 + side]
        if 4 <= k < 13:
            one = one * rng.uniform(0.7, 1.3) + rng.uniform(-15, 15)
        one = np.clip(np.rint(one), 0, 255).astype(np.uint8)
        if k >= 7:
            held = io.BytesIO()
            Image.fromarray(np.moveaxis(one, 0, -1)).save(held, "jpeg", quality=60 + 2 * k)
            one = np.moveaxis(np.asarray(Image.open(held)), -1, 0)
        made.append(one)
    return made


def search(seed: int, queries: int, side: int = 128) -> dict[str, object]:
    looks, photos = [], []
    valid = np.ones((side, side), bool)
    for k, (photo, _) in enumerate(frames(seed)):
        if k % 4 == 0:
            photos.append(photo)
        looks += [look_of(photo[:, rows, cols], valid) for rows, cols in squares(side)]
    pool, rng = np.array(looks), np.random.default_rng(0)
    found, tried = [], 0
    while len(found) < queries:
        tried += 1
        photo = photos[rng.integers(len(photos))]
        row, col = rng.integers(side, FRAME - 2 * side, 2).tolist()
        here = photo[:, row : row + side, col : col + side]
        if here.std() < 2:  # water or a field: nothing that a copy could be known by
            continue
        made = np.array([look_of(one, valid) for one in copies(photo, row, col, side, rng)])
        apart = np.abs(np.concatenate([made, pool]) - look_of(here, valid)).sum(axis=1)
        found.append(int((np.argsort(apart, kind="stable")[:40] < len(made)).sum()))
    return {
        "patches": len(pool),
        "queries": queries,
        "copies_of_20_among_the_first_40": sorted(found),
        "queries_with_18_or_more": sum(n >= 18 for n in found),
        "places_passed_over": tried - queries,
    }


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--work", type=Path, default=Path("work/scenes"))
    words.add_argument("--log", type=Path, default=ROOT / "benchmarks" / "scenes.json")
    words.add_argument("--worlds", type=int, nargs="+", default=[301, 302, 303, 304, 305, 306])
    words.add_argument("--queries", type=int, default=40)
    told = words.parse_args()
    report: dict[str, object] = {"texture": time_texture()}
    print(report["texture"], flush=True)
    report["scenes"] = cluster(told.work, told.worlds)
    report["search"] = search(told.worlds[0], told.queries)
    print(report["search"], flush=True)
    told.log.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
