"""Pictures of known texture and labels, as chips and as images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from engine.datasets.chips import ChipSet
from engine.datasets.patches import PatchSet, Place

KINDS = 4


def texture(kind: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A grey picture (side, side): noise, soft noise, stripes that are turned by chance, blobs."""
    noise = rng.normal(0, 1, (side, side))
    if kind == 0:
        grey = 25 * noise
    elif kind == 1:
        grey = 160 * gaussian_filter(noise, 3.0, mode="wrap")
    elif kind == 2:
        angle, y, x = rng.uniform(0, np.pi), *np.mgrid[:side, :side]
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / 8)
        grey = 40 * wave + 4 * noise
    else:
        grey = 40.0 * (gaussian_filter(noise, 4.0, mode="wrap") > 0) + 6 * noise
    return np.clip(np.rint(120 + grey), 0, 255).astype(np.uint8)


def scenes(n: int, side: int = 48, seed: int = 0) -> tuple[ChipSet, np.ndarray]:
    """Chips of four known scenes, of two textures each with one of two labels, and which they are.

    Half of scene 3's size are the chips of no other scene.
    """
    rng = np.random.default_rng(seed)
    truth = rng.choice(KINDS, n, p=[0.35, 0.3, 0.2, 0.15])
    x = np.stack([np.repeat(texture(int(k), side, rng)[None], 3, 0) for k in truth])
    y = np.zeros((n, side, side), np.uint8)
    for k, kind in enumerate(truth):
        share = 0.9 + 0.05 * rng.random()
        y[k] = np.where(rng.random((side, side)) < share, 1 + kind % 2, 3)
    cols = np.arange(n) % 40
    xy = np.stack([500_000 + side * (cols + 0.5), 5_800_000 + side * (np.arange(n) // 40 + 0.5)], 1)
    chips = ChipSet(
        x, y, xy, np.zeros(n, np.uint16), np.full(n, 255, np.uint8), ("B04", "B03", "B02"), ("a",)
    )
    return chips, truth


def write_frame(
    path: Path,
    bands: np.ndarray,
    west: float = 0.0,
    north: float = 0.0,
    crs: str | None = None,
    metres: float = 1.0,
) -> Path:
    """An image of (band, y, x)."""
    count, height, width = bands.shape
    form = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    if crs is not None:
        form |= {"crs": crs, "transform": Affine(metres, 0, west, 0, -metres, north)}
    with rasterio.open(path, "w", driver="GTiff", **form) as file:
        file.write(bands)
    return path


def patch_set(n: int, **more: Any) -> PatchSet:
    """Patches of 32 px of a composite, with a context of 4 px."""
    rng = np.random.default_rng(0)
    x = np.stack([np.repeat(texture(k % 4, 40, rng)[None], 3, 0) for k in range(n)])
    told: dict[str, Any] = {
        "x": (x.astype(np.uint16) * 10 + 1000),
        "y": np.ones(n, np.uint8),
        "xy": np.stack([np.arange(n) * 320.0, np.zeros(n)], axis=1),
        "group": np.arange(n),
        "place": np.zeros(n, np.uint16),
        "split": np.full(n, 255, np.uint8),
        "bands": ("B04", "B03", "B02"),
        "patch": 32,
        "context": 4,
        "resolution": 10.0,
        "places": (Place("city", "2024", "EPSG:32633"),),
    }
    return PatchSet(**(told | more))
