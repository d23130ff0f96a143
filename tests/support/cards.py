"""Cards of small networks with random weights, for tests that need one and not its accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from engine.models.card import ModelCard
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.models.registry import build

RGB = ("B04", "B03", "B02")


def write_segmenter(
    folder: Path,
    architecture: str = "unet",
    patch: int = 128,
    overlap: int = 32,
    seed: int = 0,
    names: tuple[dict[str, Any], ...] = (),
    answer: Sequence[float] | None = None,
    **parameters: Any,
) -> ModelCard:
    """A segmenter whose weights are drawn; it finds something in every picture.

    With `names` (code, name, colour) it is one of these classes, else of green space. With `answer`
    (a logit for each class) it gives that for every pixel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    form: dict[str, Any] = {
        "name": folder.name,
        "architecture": architecture,
        "parameters": parameters or {"width": 4},
        "bands": RGB,
        "mean": (0.4, 0.4, 0.4),
        "std": (0.2, 0.2, 0.2),
        "patch": patch,
        "overlap": overlap,
        "resolution": 1.0,
        "cell": 1.0,
        "classes": tuple(each["code"] for each in names) or (0, 1),
        "names": names,
        "features": 0,
        "output": "logit",
        "licence": "CC0-1.0",
        "weights": "model.safetensors",
    }
    torch.manual_seed(seed)
    network = build(ModelCard(**form, sha256="0" * 64))
    _settle(network)
    if answer is not None:
        last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
        assert last.bias is not None
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.tensor(answer))
    path = folder / form["weights"]
    save_file(network.state_dict(), path)
    card = ModelCard(**form, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), folder=folder)
    write_card(card, folder)
    return card


def _settle(network: nn.Module) -> None:
    """Let the normalisations see pictures, so that activations neither fade nor grow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a mean over all that is seen
    coarse = torch.randn(8, len(RGB), 12, 12)
    pictures = functional.interpolate(coarse, size=96, mode="bilinear") + torch.randn(8, 3, 96, 96)
    network.train()
    with torch.no_grad():
        network(pictures)
        network.eval()
        last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
        logits = network(pictures)
        last.weight *= 4 / (logits[:, 1] - logits[:, 0]).std()
        if last.bias is not None:
            logits = network(pictures)
            last.bias[1] -= (logits[:, 1] - logits[:, 0]).median()


def write_classifier(folder: Path, sizes: dict[str, Any], features: int) -> ModelCard:
    """A multi-scale network of patches of three bands, whose weights are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    network = MSCNN(bands=len(RGB), **sizes)
    path = folder / "model.safetensors"
    weights = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(weights, path)
    card = ModelCard(
        name=folder.name,
        architecture="mscnn",
        parameters=sizes,
        bands=RGB,
        mean=(0.1, 0.1, 0.1),
        std=(0.05, 0.05, 0.05),
        features=features,
        output="logit",
        weights=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        folder=folder,
    )
    write_card(card, folder)
    return card
