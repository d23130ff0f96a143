"""Sen2LCZ written straight: h5py, torch.nn.functional and numpy, nothing of the engine."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import rasterio
import torch
from torch.nn import functional as F  # noqa: N812


def berlin(data: Path) -> np.ndarray:
    """Reflectance float32 (band, y, x)."""
    with rasterio.open(data / "sentinel2-berlin" / "Berlin_S2_2024-10-24_sample.tif") as file:
        return (file.read() / 1e4).astype(np.float32)


class Straight:
    """The published network."""

    def __init__(self, path: Path, heads: tuple[str, ...] = ("1", "2", "5", "4")) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.heads = heads
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            root.visititems(
                lambda name, node: (
                    self.values.__setitem__(name, torch.tensor(np.asarray(node)))
                    if isinstance(node, h5py.Dataset)
                    else None
                )
            )

    def get(self, layer: str, name: str) -> torch.Tensor:
        return self.values[f"{layer}/{layer}/{name}:0"]

    def __call__(self, x: torch.Tensor) -> np.ndarray:
        """Patches (n, 10, 32, 32) -> probabilities (n, 17)."""
        votes = []
        with torch.no_grad():
            for k in range(1, 17):
                x = F.conv2d(
                    x,
                    self.get(f"conv2d_{k}", "kernel").permute(3, 2, 0, 1),
                    self.get(f"conv2d_{k}", "bias"),
                    padding=1,
                )
                norm = f"batch_normalization_{k}"
                x = F.batch_norm(
                    x,
                    self.get(norm, "moving_mean"),
                    self.get(norm, "moving_variance"),
                    self.get(norm, "gamma"),
                    self.get(norm, "beta"),
                    eps=1e-3,
                )
                x = F.relu(x)
                if k % 4 == 0:
                    if k < 16:
                        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1)
                    head = f"dense_{self.heads[k // 4 - 1]}"
                    pooled = x.mean((2, 3))
                    logits = pooled @ self.get(head, "kernel") + self.get(head, "bias")
                    votes.append(torch.softmax(logits, 1))
        return torch.stack(votes).mean(0).numpy()


def patches(image: np.ndarray, rows: list[int], cols: list[int]) -> torch.Tensor:
    """32 x 32 patches whose first pixels are given."""
    return torch.from_numpy(
        np.stack([image[:, r : r + 32, c : c + 32] for r in rows for c in cols])
    )
