"""Multi-label models: what they learn, what their cards say, and who refuses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cards import RGB, write_segmenter

from engine.datasets.chips import UNKNOWN
from engine.errors import CardError, LabelError, RecipeError
from engine.infer.examples import score_chips
from engine.infer.predict import Predictor
from engine.legend import NamedClass
from engine.metrics import of_labels
from engine.models.card import ModelCard, load_card
from engine.models.card_parts import MultiLabel
from engine.models.inputs import prepare_pixels
from engine.models.registry import build, load_model, save_model
from engine.products.cells import require_classifier
from engine.products.registry import load_training
from engine.recipes.sections import GridChoice
from engine.training.loop import Epoch
from engine.training.losses import occurrence_loss
from engine.training.multilabel import (
    _Label,
    choose_thresholds,
    fit_multilabel,
    labels_of,
    positive_weights,
)
from engine.training.multilabelling import _require_both
from engine.training.segmenters import Chips, SegmenterSettings

SIDE, CODES = 32, (3, 7, 8)
NAMES = tuple(
    NamedClass(code=code, name=name, colour=colour)
    for code, name, colour in zip(
        CODES, ("red", "green", "blue"), ("FF0000", "00FF00", "0000FF"), strict=True
    )
)


def squares(n: int, seed: int = 0) -> Chips:
    """Grey ground, of a class that is none of the labels, and squares of three colours on it."""
    rng = np.random.default_rng(seed)
    x = np.full((n, 3, SIDE, SIDE), 110.0) + rng.normal(0, 10, (n, 3, SIDE, SIDE))
    y = np.ones((n, SIDE, SIDE), np.uint8)
    for k in range(n):
        for band in np.flatnonzero(rng.random(3) < [0.2, 0.5, 0.5]):
            row, col = rng.integers(0, SIDE - 12, 2)
            here = np.s_[row : row + 12, col : col + 12]
            x[k][:, *here], y[k][here] = 60, CODES[band]
            x[k][band][here] = 200
    return Chips(np.clip(x, 0, 255).astype(np.uint8), y)


def card_of(folder: Path, share: float = 0.03, **more: Any) -> ModelCard:
    told: dict[str, Any] = {
        "name": "labels", "architecture": "resnet", "parameters": {"width": 8}, "bands": RGB,
        "mean": (0.4,) * 3, "std": (0.2,) * 3, "patch": SIDE, "resolution": 1.0, "cell": SIDE,
        "classes": CODES, "names": NAMES, "features": 64, "output": "logit",
        "multilabel": MultiLabel(share=share, thresholds=(0.5,) * 3), "licence": "CC0-1.0",
        "weights": "labels.safetensors", "sha256": "0" * 64, "folder": folder,
    }  # fmt: skip
    return ModelCard(**told | more)


def test_it_learns_what_occurs_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    card, train_on, stop = card_of(tmp_path), squares(120), squares(40, 1)
    settings = SegmenterSettings(epochs=6, batch=12, rate=3e-3)
    whole = fit_multilabel(card, train_on, stop, settings, tmp_path / "whole", device="cpu")

    def die(entry: Epoch) -> None:
        if entry.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_multilabel(card, train_on, stop, settings, tmp_path / "cut", device="cpu", tell=die)
    again = fit_multilabel(card, train_on, stop, settings, tmp_path / "cut", device="cpu")
    for name, value in whole.weights.items():
        assert torch.equal(value, again.weights[name]), name
    limits = choose_thresholds(card, whole, stop)
    test, form = squares(60, 2), MultiLabel(share=0.03, thresholds=limits)
    card = save_model(card.model_copy(update={"multilabel": form}), whole.weights, tmp_path)
    again_card = load_card(tmp_path)
    assert again_card.multilabel == form
    assert again_card.key == card.key
    assert card.key != card_of(tmp_path, sha256=card.sha256).key  # thresholds decide the result
    scores = np.concatenate([*score_chips(again_card, [(test.x, None)])])
    figures = of_labels(labels_of(test, card), scores, limits)
    assert figures["f1_macro"] > 0.8
    assert figures["average_precision"] > 0.85
    # the sigmoid of each logit, whatever the others are
    x = prepare_pixels(test.x[:5], np.ones((5, SIDE, SIDE), bool), card)
    with torch.inference_mode():
        logits, features = load_model(card)(torch.from_numpy(x))
    found, mine = Predictor(card, "cpu", threads=1)(x)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.numpy())), atol=1e-5)
    np.testing.assert_allclose(mine, features.numpy(), atol=1e-5)
    assert not np.allclose(found.sum(axis=1), 1)


def test_the_loss_is_of_known_labels_and_weighs_those_that_are_there() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    truth = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    p = torch.sigmoid(logits)
    by_hand = -(3 * p[0, 0].log() + (1 - p[1, 0]).log() + 5 * p[1, 1].log()) / 3
    found = occurrence_loss(logits, truth, torch.tensor([3.0, 5.0]))
    assert float(found) == pytest.approx(float(by_hand))
    assert float(occurrence_loss(logits, truth * float("nan"), torch.ones(2))) == 0
    told = np.array([[1, 0], [0, 0], [0, np.nan], [0, 1]], np.float32)
    assert positive_weights(told).tolist() == [3, 2]
    assert positive_weights(told, np.array([9.0, 1, 1, 1])).tolist() == pytest.approx([1 / 3, 10])
    many = np.zeros((1000, 1), np.float32)
    many[0] = 1
    assert positive_weights(many).tolist() == [20]


def test_labels_are_of_what_an_augmented_chip_still_shows(tmp_path: Path) -> None:
    """A chip enlarged until its only square is out of sight does not show it any more."""
    part = squares(2)
    y = np.ones((2, SIDE, SIDE), np.uint8)
    y[:, :3, :3] = CODES[0]
    part = Chips(part.x, y, seen=np.ones(y.shape, bool))
    lesson = _Label(
        card_of(tmp_path, share=0.0), SegmenterSettings(), tmp_path, None, part, part,
        np.ones(3, np.float32),
    )  # fmt: skip

    class Fabric:
        """Keeps all where it is."""

        def to_device(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def loss(draws: list[float]) -> float:
        drawn = np.array([draws, draws])
        sure = torch.tensor([[9.0, -9.0, -9.0]]).repeat(2, 1)  # the first class, no other
        found = lesson.batch(lambda x: (sure, x), Fabric(), np.arange(2), drawn)  # type: ignore[arg-type]
        assert found.looked == 6
        return float(found.loss)

    assert loss([0.5, 0.5, 0.5, 0.0]) < 1e-3  # as it is
    assert loss([1.0, 1.0, 1.0, 0.0]) == pytest.approx(3, abs=0.01)  # larger, its far corner


def test_a_label_that_is_always_or_never_there_is_refused(tmp_path: Path) -> None:
    truth = np.array([[1, 0, 1], [1, 0, 0], [np.nan, np.nan, np.nan]], np.float32)
    card = card_of(tmp_path)
    with pytest.raises(LabelError, match="occur in no chip") as caught:
        _require_both(card, truth)
    assert "green" in str(caught.value)
    with pytest.raises(LabelError, match="occur in every chip") as caught:
        _require_both(card, truth[:, [0, 2, 2]])
    assert "red" in str(caught.value)
    _require_both(card, truth[:, [2, 2, 2]])


def test_absence_is_not_learnt_from_pixels_that_nobody_has_labelled(tmp_path: Path) -> None:
    part, card = squares(80), card_of(tmp_path)
    assert (labels_of(part, card) == 0).any()
    holes = replace(part, y=np.where(part.y == 1, UNKNOWN, part.y).astype(np.uint8))
    found = labels_of(holes, card)
    assert not (found == 0).any()
    np.testing.assert_array_equal(found == 1, labels_of(part, card) == 1)
    with pytest.raises(LabelError, match="occur in every chip"):
        _require_both(card, found)


def test_cards_say_sigmoid_or_softmax_not_both(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multilabel goes with architecture resnet"):
        card_of(tmp_path, multilabel=None, names=(), classes=(1, 2, 3))
    with pytest.raises(ValueError, match="multilabel goes with architecture resnet"):
        card_of(tmp_path, architecture="resnet11", parameters={}, features=1024)
    with pytest.raises(ValueError, match="2 thresholds for 3 classes"):
        card_of(tmp_path, multilabel=MultiLabel(share=0, thresholds=(0.5, 0.5)))
    with pytest.raises(ValueError, match="logit"):
        card_of(tmp_path, output="probability")
    with pytest.raises(ValueError, match="classes of its own"):
        card_of(tmp_path, names=(), classes=(1, 2, 3))
    with pytest.raises(ValueError, match="in order"):
        card_of(tmp_path, classes=(7, 3, 8))
    with pytest.raises(ValueError, match="less than or equal to 1"):
        MultiLabel(share=0, thresholds=(1.5,))
    # cards of before are as they were
    segmenter = write_segmenter(tmp_path / "unet")
    assert (
        "multilabel"
        not in json.loads((segmenter.folder / "card.json").read_text())["properties"]["natmap:card"]
    )


def test_others_refuse_a_multi_label_model(tmp_path: Path) -> None:
    import engine

    card = card_of(tmp_path)
    card = save_model(card, build(card).state_dict(), tmp_path)
    grid = GridChoice(crs="EPSG:32633", resolution=1.0, tile=320, chunk=160)
    with pytest.raises(CardError, match="one class to a patch") as caught:
        require_classifier(card, grid, RGB)
    assert "natmap tag" in str(caught.value)
    with pytest.raises(CardError, match="only classifiers of patches"):
        engine.score(None, card)  # type: ignore[arg-type]
    with pytest.raises(CardError, match="a model has other classes"):
        engine.compare_systems([str(tmp_path)], tmp_path)


def test_recipes_name_network_and_section_together() -> None:
    told: dict[str, Any] = {
        "name": "labels", "product": "cover", "chips": "chips", "out": "model",
        "classes": [c.model_dump() for c in NAMES],
        "labels": [{"recipe": "town.yaml", "raster": "truth.tif"}],
        "multilabel": {}, "model": {"architecture": "resnet"},
    }  # fmt: skip
    assert load_training(told).occurs.share == 0.01  # type: ignore[attr-defined]
    for wrong, said in (
        ({"model": {"architecture": "unet"}}, "multilabel goes with model.architecture"),
        ({"multilabel": None}, "multilabel goes with model.architecture"),
        ({"model": {"architecture": "resnet", "overlap": 8}}, "whole chips"),
        ({"model": {"architecture": "resnet", "imagenet": "a.safetensors"}}, "depth: 50"),
        ({"multilabel": {"share": 1.5}}, "less than or equal to 1"),
        ({"multilabel": {"others": [7]}}, "one of these"),
        ({"multilabel": {"others": [255]}}, "0 to 254"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_training(told | wrong)
    green = {k: v for k, v in told.items() if k not in ("classes", "multilabel")}
    with pytest.raises(RecipeError, match="product: cover"):
        load_training(green | {"product": "ugs"})
    deep = {"architecture": "resnet", "imagenet": "a.safetensors", "parameters": {"depth": 50}}
    assert load_training(told | {"model": deep})
