"""Small networks of each kind, and the ways that they are trained and asked, on any device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.infer.predict import Predictor
from engine.models.card import ModelCard
from engine.models.gcn import InstanceGraphs
from engine.models.registry import build, measure, save_model
from engine.recipes.sections import Device
from engine.training.adversarial import Adapted, AdaptSettings, align
from engine.training.fit import Batches, fit
from engine.training.loop import Fitted
from engine.training.segmenters import Chips, SegmenterSettings, fit_segmenter
from engine.training.settings import Settings

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "sen2lcz": {},
    "mscnn": {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8},
    "resnet11": {"width": 4},
    "resnet11-3d": {"width": 2},
    "resnet-v2": {"dense": 8},
    "resnet50": {},
    "densenet": {},
    "msmla": {"depth": 18},
}
"""Networks of patches with small parameters."""
DENSE: dict[str, dict[str, Any]] = {
    "mscnn": {**CLASSIFIERS["mscnn"], "leading": 2},
    "resnet11": {"width": 4, "leading": 2},
    "resnet11-3d": {"width": 2, "leading": 2},
}
"""Those that evaluate leading layers once for all patches of a block."""
SEGMENTERS: dict[str, dict[str, Any]] = {
    "unet": {"width": 4},
    "segnet": {"width": 4},
    "pspnet": {"width": 8},
    "upernet": {"width": 8},
    "bisenet": {"width": 8},
    "ugsnet": {"width": 8, "points": 64},
}
BANDS = ("B02", "B03", "B04")
TEN = (*BANDS, "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RGB = ("B04", "B03", "B02")
SIDE = 64


def classifier(architecture: str, parameters: dict[str, Any], folder: Path) -> ModelCard:
    """The card of a network of patches (or graphs), and its drawn weights."""
    torch.manual_seed(0)
    graphs = architecture == "gcn"
    bands = RGB if graphs else BANDS
    if graphs:
        features, context, output = 64, 0, "logit"
        _, hidden = InstanceGraphs().eval()(torch.zeros(2, 50, 5))
        features = hidden.shape[1]
    else:
        context, features, output = measure(architecture, parameters, len(bands), 17, 32)
    card = ModelCard(
        name=architecture,
        architecture=architecture,
        parameters=parameters,
        bands=bands,
        mean=None if graphs else (0.2,) * 3,
        std=None if graphs else (0.1,) * 3,
        patch=320 if graphs else 32,
        resolution=1.0 if graphs else 10.0,
        context=context,
        features=features,
        output=output,
        inference_block=None if graphs else 4,
        weights="model.safetensors",
        sha256="0" * 64,
        folder=folder,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return save_model(card, build(card).state_dict(), folder)


def patches(count: int = 6, bands: int = 3) -> Batches:
    """Stored patches of two classes."""
    rng = np.random.default_rng(0)
    y = np.resize(np.array([2, 6], np.uint8), count)
    x = rng.integers(1500, 2500, (count, bands, 32, 32)).astype(np.uint16)
    return Batches(x + 100 * y[:, None, None, None].astype(np.uint16), y)


def graphs(count: int = 6) -> Batches:
    """Packed graphs of five instances."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, 50, 5), np.float16)
    x[:, :5] = rng.uniform(0.1, 1, (count, 5, 5))
    return Batches(x, np.resize(np.array([2, 6], np.uint8), count))


def learn(card: ModelCard, data: Batches, folder: Path, device: Device, **more: Any) -> Fitted:
    """One epoch of a classifier, with shares of classes, weights and all that moves tensors."""
    settings = Settings(epochs=1, batch=4, l2=1e-4, class_weights=True, **more)
    weighed = Batches(data.x, data.y, np.linspace(0.5, 1, len(data.y), dtype=np.float32))
    return fit(card, weighed, data, settings, folder, device=device)


def chips(count: int = 4, side: int = SIDE) -> Chips:
    """Pictures whose bright half is green."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 120, (count, 3, side, side)).astype(np.uint8)
    x[..., : side // 2] += 100
    y = np.zeros((count, side, side), np.uint8)
    y[..., : side // 2] = 1
    y[:, :2] = 255
    return Chips(x, y)


def learn_segmenter(card: ModelCard, folder: Path, device: Device, **more: Any) -> Fitted:
    """One epoch of a segmenter."""
    settings = SegmenterSettings(epochs=1, batch=2, **more)
    return fit_segmenter(card, chips(), chips(2), settings, folder, device=device)


def adapted(card: ModelCard, statistics: Any, device: str) -> Adapted:
    """A step of adaptation with a look at the source."""
    start = build(card).state_dict()
    settings = AdaptSettings(steps=1, batch=2, check=1, guard=200.0, statistics=statistics)
    return align(card, start, chips(), chips(2), chips(3).x, settings, device=device)


def asked(card: ModelCard, device: str, precision: str = "float32") -> list[np.ndarray]:
    """All that a predictor of the card gives for drawn input."""
    rng = np.random.default_rng(2)
    predict = Predictor(card, device, precision)
    if card.segments:
        x = rng.standard_normal((3, len(card.bands), card.patch, card.patch)).astype(np.float32)
        return [predict.segment(x)]
    if card.architecture == "gcn":
        return list(predict(graphs(5).x.astype(np.float32)))
    side = card.patch + 2 * card.context
    found = list(predict(rng.random((5, len(card.bands), side, side)).astype(np.float32)))
    if card.context:
        whole = (card.block - 1) * card.step + side
        block = rng.random((len(card.bands), whole, whole)).astype(np.float32)
        found += next(iter(predict.dense([block])))
    return found
