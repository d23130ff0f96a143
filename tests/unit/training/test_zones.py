"""Segmenters of zones: labels of pixels, probabilities pooled to cells, scored as classifiers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

import engine
from engine.compare.cells import Evaluation
from engine.datasets.patches import PatchSet, Place, write_patches
from engine.datasets.sparse import paint_labels
from engine.errors import MetricError, RecipeError
from engine.infer.examples import score_examples
from engine.infer.pooling import pool_cells
from engine.legend import LCZ
from engine.models.card import ModelCard, load_card
from engine.models.inputs import prepare_batch
from engine.models.registry import load_model
from engine.products.registry import load_training

ALL = tuple(c.code for c in LCZ)
BANDS = ("B02", "B04", "B08")


def patch_set(
    n: int, xy: np.ndarray | None = None, context: int = 16, seed: int = 0, places: int = 1
) -> PatchSet:
    """Patches of three classes: dark, bright and mixed."""
    rng = np.random.default_rng(seed)
    y = rng.choice(np.array([2, 6, 14], np.uint8), n)
    side = 32 + 2 * context
    x = rng.integers(1500, 1900, (n, 3, side, side)).astype(np.uint16)
    x[y == 2] += 1200
    x[y == 6, 2] += 1200
    return PatchSet(
        x,
        y,
        np.full((n, 2), np.nan) if xy is None else xy,
        np.arange(n, dtype=np.int64),
        (np.arange(n) % places).astype(np.uint16),
        np.repeat(np.array([0, 1, 2], np.uint8), [n - 2 * (n // 4), n // 4, n // 4]),
        BANDS,
        32,
        context,
        10.0,
        tuple(Place(f"p{k}", "2023", "EPSG:32633") for k in range(places)),
    )


def test_pixels_have_the_label_of_their_cell_alone() -> None:
    """Witness: each pixel asks all labelled cells whether they hold its centre."""
    rng = np.random.default_rng(5)
    cells = rng.choice(400, 60, replace=False)
    xy = np.stack([5_050 + 100.0 * (cells % 20), 9_050 + 100.0 * (cells // 20)], axis=1)
    found = patch_set(60, xy, places=2)
    where = np.flatnonzero(found.split == 0)
    masks, weights = paint_labels(found, where)
    assert weights is None
    assert masks.shape == (len(where), 64, 64)
    for mask, k in list(zip(masks, where, strict=True))[:12]:
        expected = np.full((64, 64), 255, np.uint8)
        for row in range(64):
            for col in range(64):
                x, y = xy[k] + np.array([(col - 31.5) * 10, (31.5 - row) * 10])
                near = (np.abs(xy - (x, y)) < 50).all(axis=1)
                near &= (found.split == 0) & (found.place == found.place[k])
                if near.any():
                    expected[row, col] = found.y[near][0]
        np.testing.assert_array_equal(mask, expected)
        assert (mask[27:37, 27:37] == found.y[k]).all()


def test_a_label_without_a_place_is_of_its_whole_patch() -> None:
    found = patch_set(8)
    mask, _ = paint_labels(found, np.arange(8))
    assert (mask[:, 16:48, 16:48] == found.y[:, None, None]).all()
    assert (mask != 255).sum() == 8 * 32 * 32


def test_cells_are_the_mean_of_their_pixels_whatever_the_strips() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (17, 60, 60)).astype(np.float32)
    scored = rng.random((60, 60)) < 0.85
    scored[:10, :10] = np.arange(100).reshape(10, 10) < 79
    scored[10:20, :10] = np.arange(100).reshape(10, 10) < 80
    p = np.where(scored, softmax(logits.astype(np.float64), axis=0), np.nan)
    with np.errstate(all="ignore"):
        expected = np.nanmean(p.reshape(17, 6, 10, 6, 10), axis=(2, 4))
    few = scored.reshape(6, 10, 6, 10).sum(axis=(1, 3)) < 80
    assert few[0, 0]
    assert not few[1, 0]
    bits = []
    for edges in ([0, 60], [0, 7, 31, 32, 60]):
        strips = [(slice(a, b), logits[:, a:b], scored[a:b]) for a, b in pairwise(edges)]
        bits.append(pool_cells(strips, 6, 10, 17))
        np.testing.assert_allclose(bits[-1], np.where(few, np.nan, expected), rtol=1e-12)
    assert bits[0].tobytes() == bits[1].tobytes()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zones")
    write_patches(folder / "patches", patch_set(48, context=0))
    engine.train(recipe(), base=folder)
    return folder


def recipe(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "name": "net",
        "product": "lcz",
        "patches": "patches",
        "split": {"by": "own"},
        "model": {"architecture": "unet", "bands": list(BANDS), "parameters": {"width": 4}},
        "training": {"epochs": 12, "batch": 8, "rate": 2e-2, "augment": False, "device": "cpu"},
        "out": "net",
    }
    return load_training(values, changes)


def test_it_learns_and_its_patches_are_scored_by_their_middle(learnt: Path) -> None:
    card = load_card(learnt / "net")
    assert card.architecture == "unet"
    assert card.zones
    assert card.classes == ALL
    assert (card.patch, card.overlap, card.cell, card.features) == (32, 16, 100.0, 0)
    test = patch_set(48, context=0).take(np.arange(36, 48))
    network = load_model(card)
    with torch.inference_mode():
        logits = network(torch.from_numpy(prepare_batch(test, card))).numpy()
    expected = softmax(logits.astype(np.float64), axis=1)[:, :, 11:21, 11:21].mean(axis=(2, 3))
    scores = score_examples(card, test)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    report = json.loads((learnt / "net" / "report.json").read_text())
    right = np.array(ALL)[expected.argmax(axis=1)] == patch_set(48).y[36:]
    assert report["test"]["oa"] == pytest.approx(right.mean())
    assert right.mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.patience": 3}, "a unet has no patience"),
        ({"training.preset": "so2sat"}, "a unet has no"),
        ({"model.frozen": True, "model.start": "x"}, "go with classifiers"),
        ({"model.window": 40}, "multiple of 16"),
        ({"model.architecture": "mscnn", "model.window": 64}, "go with architecture: unet"),
    ],
)
def test_what_a_unet_does_not_have_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**changes)


def test_segmenters_of_other_classes_are_no_zones() -> None:
    form: dict[str, Any] = {
        "name": "m",
        "architecture": "unet",
        "bands": BANDS,
        "features": 0,
        "output": "logit",
        "weights": "w.safetensors",
        "sha256": "0" * 64,
    }
    assert ModelCard(**form).zones
    green = ModelCard(**form, classes=(0, 1))
    assert not green.zones
    assert not green.several
    with pytest.raises(ValueError, match="classes must be different codes of"):
        ModelCard(**form, classes=ALL[:5])


def test_a_patch_set_is_scored_by_its_test_patches(learnt: Path, tmp_path: Path) -> None:
    found = engine.evaluate(learnt / "net", learnt / "patches", out=tmp_path / "accuracy")
    report = json.loads((learnt / "net" / "report.json").read_text())
    assert found.figures == pytest.approx(report["test"], nan_ok=True)
    told = json.loads((tmp_path / "accuracy" / "accuracy.json").read_text())
    assert told["figures"]["oa"] == pytest.approx(report["test"]["oa"], abs=1e-4)
    assert "it is not known whether these patches trained the model" in found.notes
    write_patches(
        tmp_path / "others", replace(patch_set(4, context=0), bands=("B02", "B03", "B08"))
    )
    with pytest.raises(MetricError, match="does not go with"):
        engine.evaluate(learnt / "net", tmp_path / "others")


def test_patches_that_trained_a_model_are_told_apart(tmp_path: Path) -> None:
    xy = np.stack([5_050 + 700.0 * np.arange(24), np.full(24, 9_050.0)], axis=1)
    near = xy.copy()
    near[-3:] = xy[:3] + 100  # of the test, on ground of the training
    write_patches(tmp_path / "patches", patch_set(24, xy, context=0))
    engine.train(recipe(**{"training.epochs": 1}), base=tmp_path)
    apart = engine.evaluate(tmp_path / "net", tmp_path / "patches")
    assert isinstance(apart, Evaluation)
    assert list(apart.by_training) == [0]
    assert apart.by_training[0][0] == 6
    write_patches(tmp_path / "near", patch_set(24, near, context=0))
    found = engine.evaluate(tmp_path / "net", tmp_path / "near")
    assert isinstance(found, Evaluation)
    assert found.by_training[1][0] == 3
    assert found.by_training[0][0] == 3
