"""An encoder that has never seen a local climate zone: land cover of made-up worlds, at 10 m.

    python benchmarks/propagation/encoder.py   (writes encoder.safetensors; ten minutes of a core)

Four convolutions of a scene give 64 channels of unit length at each pixel; a layer that is thrown
away after the training turns them into the shares of eight kinds of cover (buildings, paved ground,
rock, trees, scrub, low plants, bare ground, water), with a cross-entropy. It learns from three
worlds that are none of worlds.json, each on two days. Zones are told apart by heights, sizes and
mixtures over 320 m, of which it is told nothing. `quantised` is what becomes of its vectors in each
published format; codes are decoded by the engine's own rules.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from pyproj import Transformer
from safetensors.torch import load_file, save_file
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from truth import covers  # noqa: E402
from views import CLEAR, SUMMER, ZONE, country, scene  # noqa: E402

from engine.cube.published.rules import ALPHAEARTH, TESSERA, VALID  # noqa: E402
from engine.synthetic.scene import CRS  # noqa: E402

WEIGHTS = HERE / "encoder.safetensors"
WORLDS = (401, 402, 403)
CHANNELS, KINDS = 64, 8
STEPS, BATCH, SIDE = 300, 12, 64
MIDDLE, SPREAD = 0.15, 0.12  # of reflectance, roughly

FORMATS = ("alphaearth", "tessera")


class Encoder(nn.Module):
    """Scaled reflectance (n, 10, y, x) -> vectors of unit length (n, 64, y, x)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, apart in ((10, 32, 1), (32, 64, 1), (64, 64, 2), (64, CHANNELS, 4)):
            layers += [nn.Conv2d(before, after, 3, padding=apart, dilation=apart), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.layers((x - MIDDLE) / SPREAD), dim=1)


def encode(whole: np.ndarray) -> np.ndarray:
    """Vectors of a scene, float32 (64, y, x)."""
    encoder = Encoder()
    encoder.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    with torch.inference_mode():
        return encoder.eval()(torch.from_numpy(whole)[None])[0].numpy()


def quantised(vectors: np.ndarray, form: str) -> np.ndarray:
    """Vectors that were stored in a published format and read again.

    AlphaEarth: round(sign(v) sqrt|v| 127.5), at most 127 either way. TESSERA: int8 with a scale for
    each pixel, here its largest component over 127; the format has 128 channels, these are 64.
    """
    if form == "alphaearth":
        codes = np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5).clip(-127, 127)
        found, state = ALPHAEARTH(codes.astype(np.int8), None)
    else:
        scales = (np.abs(vectors).max(0) / 127).astype(np.float32)
        codes = np.rint(vectors / np.maximum(scales, 1e-12))
        found, state = TESSERA(codes.astype(np.int8), scales)
    assert (state == VALID).all(), "a vector of unit length has a code"
    return found


def train() -> None:
    scenes, kinds = [], []
    for seed in WORLDS:
        for day in (CLEAR, SUMMER):
            place = country(seed, day)
            whole, west, north = scene(place)
            scenes.append(whole)
            kinds.append(on_scene(covers(place), place.bounds, west, north, whole.shape[1:]))
        print(f"world {seed} seen", flush=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder, last = Encoder(), nn.Conv2d(CHANNELS, KINDS, 1)
    parameters = [*encoder.parameters(), *last.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=STEPS)
    began, losses = time.process_time(), []
    for step in range(STEPS):
        x, y = (torch.from_numpy(part) for part in draw(scenes, kinds, rng))
        logits = last(10 * encoder(x))
        known = y.sum(1) > 0
        loss = -(y * logits.log_softmax(1)).sum(1)[known].mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            seconds = time.process_time() - began
            print(f"step {step + 1}: {np.mean(losses[-50:]):.3f}, {seconds:.0f} s", flush=True)
    save_file({k: v.half() for k, v in encoder.state_dict().items()}, WEIGHTS)


def on_scene(
    kinds: np.ndarray, bounds: tuple[int, ...], west: int, north: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Shares of cover on the pixels of a scene, nearest; 0 of all beyond the country."""
    left, _, _, top = bounds
    x, y = np.meshgrid(west + 10 * np.arange(shape[1]) + 5, north - 10 * np.arange(shape[0]) - 5)
    there = Transformer.from_crs(f"EPSG:{32600 + ZONE}", CRS, always_xy=True).transform(x, y)
    cols, rows = ((there[0] - left) // 10).astype(int), ((top - there[1]) // 10).astype(int)
    inside = (rows >= 0) & (rows < kinds.shape[1]) & (cols >= 0) & (cols < kinds.shape[2])
    found = np.zeros((len(kinds), *shape), np.float32)
    found[:, inside] = kinds[:, rows[inside], cols[inside]]
    return found


def draw(
    scenes: list[np.ndarray], kinds: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of windows and their cover."""
    pairs = []
    for number in rng.integers(len(scenes), size=BATCH):
        rows, cols = scenes[number].shape[1:]
        i, j = rng.integers(rows - SIDE), rng.integers(cols - SIDE)
        pairs.append([part[number][:, i : i + SIDE, j : j + SIDE] for part in (scenes, kinds)])
    x, y = zip(*pairs, strict=True)
    return np.stack(x), np.stack(y)


if __name__ == "__main__":
    train()
