"""Chips, their augmentation, the loop of segmenters, and adaptation with its guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import safetensors.torch
import torch
from safetensors.torch import save_file
from support.cards import RGB, write_segmenter

from engine.datasets.chips import ChipSet, import_ugset, open_chips, write_chips
from engine.errors import LabelError, RunError, WeightsError
from engine.metrics import binary
from engine.models.card import ModelCard
from engine.models.imagenet import FIRST, read_imagenet
from engine.models.inputs import prepare_image
from engine.models.registry import build, load_weights
from engine.products.registry import load_training
from engine.training.adversarial import AdaptSettings, align
from engine.training.normalisation import ALIKE, measure
from engine.training.segmenters import (
    Chips,
    SegmenterSettings,
    augment,
    count_pixels,
    fit_segmenter,
)
from engine.training.segmenting import _start
from engine.training.train import train

SIDE = 64


def discs(n: int, seed: int = 0, tint: float = 0.0) -> Chips:
    """Green discs on grey ground; `tint` moves all colours."""
    rng = np.random.default_rng(seed)
    x = np.full((n, 3, SIDE, SIDE), 120.0) + rng.normal(0, 12, (n, 3, SIDE, SIDE))
    y = np.zeros((n, SIDE, SIDE), np.uint8)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    for k in range(n):
        for _ in range(3):
            row, col, radius = *rng.integers(0, SIDE, 2).tolist(), int(rng.integers(6, 16))
            y[k][(yy - row) ** 2 + (xx - col) ** 2 < radius**2] = 1
        x[k, 1][y[k] == 1] += 50
        x[k, 0][y[k] == 1] -= 40
    return Chips(np.clip(x + tint, 0, 255).astype(np.uint8), y)


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return write_segmenter(tmp_path / "net", "ugsnet", SIDE, 16, width=8, points=256)


def test_figures_of_one_class_by_hand() -> None:
    found = binary([[50, 10], [20, 40]])
    assert found["precision"] == pytest.approx(40 / 50)
    assert found["recall"] == pytest.approx(40 / 60)
    assert found["f1"] == pytest.approx(80 / 110)
    assert found["iou"] == pytest.approx(found["f1"] / (2 - found["f1"]))
    assert found["oa"] == pytest.approx(90 / 120)
    assert np.isnan(binary([[5, 0], [0, 0]])["recall"])


def test_augmenting_moves_image_and_mask_together() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((6, SIDE // 8, SIDE // 8)) < 0.5).repeat(8, 1).repeat(8, 2)
    mask = torch.from_numpy(y.astype(np.float32))
    draws = rng.random((6, 4))
    moved, label = augment(mask[:, None].repeat(1, 3, 1, 1), mask, draws)
    assert moved.shape == (6, 3, SIDE, SIDE)
    assert ((moved[:, 0] > 0.5).float() == label).float().mean() > 0.97  # but at edges
    draws[:, 0], draws[:, 3] = 0.5, 0.0  # as large as it was, unturned
    same, label = augment(mask[:, None], mask, draws)
    assert torch.allclose(same[:, 0], mask, atol=1e-4)
    assert torch.equal(label, mask)
    draws[:, 3] = 0.3  # turned twice
    assert torch.equal(augment(mask[:, None], mask, draws)[1], torch.rot90(mask, 2, (1, 2)))
    unknown = torch.full_like(mask, float("nan"))
    assert augment(mask[:, None], unknown, draws)[1].isnan().all()


def test_a_killed_training_goes_on_to_the_same_weights(card: ModelCard, tmp_path: Path) -> None:
    chips, settings = discs(6), SegmenterSettings(epochs=3, batch=3, rate=1e-3)
    whole = fit_segmenter(card, chips, discs(2, 9), settings, tmp_path / "whole", device="cpu")
    rates = [entry.rate for entry in whole.history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3 * 2 / 3])

    def die(entry: Any) -> None:
        if entry.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_segmenter(card, chips, discs(2, 9), settings, tmp_path / "cut", device="cpu", tell=die)
    again = fit_segmenter(card, chips, discs(2, 9), settings, tmp_path / "cut", device="cpu")
    assert [e.loss for e in again.history] == [e.loss for e in whole.history]
    for name, value in whole.weights.items():
        assert torch.equal(value, again.weights[name]), name
    with pytest.raises(RunError, match="another training"):
        fit_segmenter(
            card, chips, discs(2, 9), replace(settings, seed=1), tmp_path / "cut", device="cpu"
        )


def test_one_chip_cannot_be_trained_on(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="too few chips"):
        fit_segmenter(card, discs(1), discs(1), SegmenterSettings(epochs=1), tmp_path, device="cpu")


def test_a_last_batch_of_one_chip_is_passed_over(card: ModelCard, tmp_path: Path) -> None:
    """And it counts in no mean: chips that are all alike lose as much by threes as by fours."""
    one, steps = discs(1), []
    alike = Chips(one.x.repeat(4, 0), one.y.repeat(4, 0))
    losses = {}
    for batch in (3, 4):
        settings = SegmenterSettings(epochs=2, batch=batch, rate=1e-3, augment=False)
        found = fit_segmenter(
            card, alike, discs(1, 9), settings, tmp_path / str(batch), device="cpu",
            step=lambda *at: steps.append(at),
        )  # fmt: skip
        assert [entry.number for entry in found.history] == [1, 2]
        losses[batch] = found.history[0].loss
    assert steps == [(1, 1, 2), (2, 1, 2), (1, 1, 1), (2, 1, 1)]  # epoch, batch, batches
    assert losses[3] == pytest.approx(losses[4], rel=0.1)
    with pytest.raises(RunError, match="too small to normalise by"):
        fit_segmenter(
            card, alike, discs(1, 9), replace(settings, batch=1), tmp_path / "1", device="cpu"
        )


def test_unknown_pixels_are_not_judged(card: ModelCard) -> None:
    chips = discs(2)
    half = chips.y.copy()
    half[:, :, 32:] = 255
    counts, _ = count_pixels(build(card), card, Chips(chips.x, half))
    assert counts.sum() == 2 * SIDE * 32
    assert (counts.sum(axis=1) == np.bincount(chips.y[:, :, :32].ravel(), minlength=2)).all()


def test_pixels_without_data_are_filled_as_in_a_map(card: ModelCard) -> None:
    chips = discs(2)
    seen = np.ones(chips.y.shape, bool)
    seen[:, 10:20] = False
    hidden = np.where(seen[:, None], chips.x, np.uint8(0))
    x, _ = Chips(hidden, chips.y, seen).prepare(slice(2), card)
    np.testing.assert_array_equal(x.numpy(), prepare_image(hidden, seen, card))
    assert (x[:, :, 10:20] == card.fill).all()
    plain, _ = Chips(chips.x, chips.y).prepare(slice(2), card)
    np.testing.assert_array_equal(plain.numpy(), prepare_image(chips.x, seen | True, card))
    network = build(card)
    losses = {count_pixels(network, card, Chips(x, chips.y, seen))[1] for x in (chips.x, hidden)}
    assert len(losses) == 1  # whatever lies beneath


def _loaded(card: ModelCard, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    network = build(card)
    network.load_state_dict(dict(weights))
    return network


def test_adaptation_keeps_what_the_source_can_bear(card: ModelCard, tmp_path: Path) -> None:
    source, there = discs(8), discs(8, 5, tint=60.0)
    fitted = fit_segmenter(
        card, source, discs(3, 9), SegmenterSettings(epochs=12, batch=2, rate=3e-3, augment=False),
        tmp_path / "fit", device="cpu",
    )  # fmt: skip
    assert fitted.history[-1].validation_f1 > 0.85
    settings = AdaptSettings(steps=2, check=1, rate=1e-4, guard=100.0, statistics="source")
    found = align(card, fitted.weights, source, discs(3, 9), there.x, settings)
    assert found.step == 2
    assert [look.step for look in found.history] == [1, 2]
    statistics = "encoder.bn1.running_mean"
    assert torch.equal(found.weights[statistics], fitted.weights[statistics])
    assert not torch.equal(
        found.weights["encoder.conv1.weight"], fitted.weights["encoder.conv1.weight"]
    )
    again = align(card, fitted.weights, source, discs(3, 9), there.x, settings)
    assert [look.green for look in again.history] == [look.green for look in found.history]
    # with the city's statistics: the source is judged by its own
    own = align(
        card, fitted.weights, source, discs(3, 9), there.x, replace(settings, statistics="target")
    )
    assert own.own
    assert own.before == found.before
    assert not torch.equal(own.weights[statistics], fitted.weights[statistics])
    both = [
        count_pixels(_loaded(card, weights), card, there)[0]
        for weights in (found.weights, own.weights)
    ]
    assert binary(both[1])["f1"] > binary(both[0])["f1"] + 0.05
    # steps so long that the source is lost: the weights are those it began with
    wild = replace(settings, rate=0.03, guard=1.0, steps=2, check=2)
    lost = align(card, fitted.weights, source, discs(3, 9), there.x, wild)
    assert lost.step == 0
    for name, value in fitted.weights.items():
        assert torch.equal(lost.weights[name], value), name
    # so they are of a city like the source, statistics and all
    near = replace(wild, statistics="auto")
    lost = align(card, fitted.weights, source, discs(3, 9), discs(8, 5).x, near)
    assert (lost.step, lost.own, len(lost.history)) == (0, False, 1)
    assert lost.agreement is not None
    assert lost.agreement >= ALIKE
    for name, value in fitted.weights.items():
        assert torch.equal(lost.weights[name], value), name
    # one of another kind is told from it
    far = align(
        card, fitted.weights, source, discs(3, 9), there.x, replace(settings, statistics="auto")
    )
    assert far.own
    assert far.agreement is not None
    assert far.agreement < ALIKE
    # a guard that fails at once leaves it the city's statistics all the same
    lost = align(
        card, fitted.weights, source, discs(3, 9), there.x, replace(wild, statistics="target")
    )
    assert (lost.step, lost.own, len(lost.history)) == (0, True, 1)
    alone = _loaded(card, fitted.weights)
    measure(alone, there.x, card)
    for name, value in alone.state_dict().items():
        assert torch.equal(lost.weights[name], value), name
        assert torch.equal(fitted.weights[name], value) == (
            "running" not in name and "num_batches" not in name
        ), name


def test_what_lies_beneath_missing_pixels_of_a_city_does_not_matter(card: ModelCard) -> None:
    start, source, there = load_weights(card), discs(4), discs(4, 5).x
    seen = np.ones((4, SIDE, SIDE), bool)
    seen[:, :, :6] = False
    settings = AdaptSettings(steps=2, check=2, guard=100.0, statistics="target")
    ours, same, other = (
        align(card, start, source, discs(2, 9), x, settings, seen=where).weights
        for x, where in (
            (there, seen),
            (np.where(seen[:, None], there, np.uint8(0)), seen),
            (there, None),
        )
    )
    for name, value in ours.items():
        assert torch.equal(same[name], value), name
    assert not torch.equal(ours["encoder.bn1.running_mean"], other["encoder.bn1.running_mean"])


def test_an_adaptation_with_too_few_chips_is_refused(card: ModelCard) -> None:
    start, source, there = load_weights(card), discs(4), discs(4, 5).x
    with pytest.raises(LabelError, match="too few chips"):
        align(card, start, source, discs(3, 9), there[:1], AdaptSettings())
    with pytest.raises(LabelError, match=r"batch is larger(.|\n)*batch 5, 4 chips"):
        align(card, start, source, discs(3, 9), there, AdaptSettings(batch=5))


def write_set(folder: Path, names: tuple[str, str, str] = ("train", "val", "test")) -> None:
    """A set laid out as UGSet may be: each split with images and labels."""
    for number, split in enumerate(names):
        chips = discs(3 - number, number)
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for k, (image, mask) in enumerate(zip(chips.x, chips.y, strict=True)):
            form = {"driver": "PNG", "height": SIDE, "width": SIDE, "dtype": "uint8"}
            with rasterio.open(folder / split / "images" / f"{k}.png", "w", count=3, **form) as f:
                f.write(image)
            with rasterio.open(folder / split / "labels" / f"{k}.png", "w", count=1, **form) as f:
                f.write(255 * mask, 1)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_set_like_ugset_is_read_and_what_is_wrong_with_it_is_said(tmp_path: Path) -> None:
    write_set(tmp_path / "UGSet")
    found = import_ugset(tmp_path / "UGSet")
    assert found.split.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(found.y[:3], discs(3, 0).y)
    np.testing.assert_array_equal(found.x[5], discs(1, 2).x[0])
    write_chips(tmp_path / "chips", found)
    again = open_chips(tmp_path / "chips")
    np.testing.assert_array_equal(again.of("validation")[0], found.x[3:5])
    assert again.bands == RGB
    form = {"driver": "PNG", "height": SIDE, "width": SIDE, "dtype": "uint8", "count": 1}
    with rasterio.open(tmp_path / "UGSet/val/labels/0.png", "w", **form) as file:
        file.write(np.full((SIDE, SIDE), 7, np.uint8), 1)
    with pytest.raises(LabelError, match=r"other values(.|\n)*0.png: 7"):
        import_ugset(tmp_path / "UGSet")
    (tmp_path / "UGSet/val/labels/0.png").unlink()
    with pytest.raises(LabelError, match="no mask"):
        import_ugset(tmp_path / "UGSet")
    with pytest.raises(LabelError, match="no splits"):
        import_ugset(tmp_path / "UGSet/val")
    with pytest.raises(LabelError, match="no such folder"):
        import_ugset(tmp_path / "UGSett")
    with pytest.raises(LabelError, match="cannot be read"):
        open_chips(tmp_path / "none")
    assert isinstance(found, ChipSet)


def torchvision_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-50, by its own plan and not by our code."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def normalise(name: str, n: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (n,)
        found[f"{name}.num_batches_tracked"] = ()

    normalise("bn1", 64)
    into = 64
    for layer, (blocks, n) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for i in range(blocks):
            block = f"layer{layer}.{i}"
            shapes = ((n, into, 1, 1), (n, n, 3, 3), (4 * n, n, 1, 1))
            for k, shape in enumerate(shapes, 1):
                found[f"{block}.conv{k}.weight"] = shape
                normalise(f"{block}.bn{k}", shape[0])
            if i == 0:
                found[f"{block}.downsample.0.weight"] = (4 * n, into, 1, 1)
                normalise(f"{block}.downsample.1", 4 * n)
            into = 4 * n
    return found | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


@cache
def torchvision_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        name: torch.tensor(0)
        if not shape
        else torch.randn(shape).abs() * 0.01 + name.endswith("running_var")
        for name, shape in torchvision_names().items()
    }


def test_the_witness_is_torchvisions_network() -> None:
    """As published: 320 entries, 25,557,032 parameters."""
    names = torchvision_names()
    assert len(names) == 320
    learnt = [s for n, s in names.items() if "running" not in n and "num_batches" not in n]
    assert sum(int(np.prod(shape)) for shape in learnt) == 25_557_032


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_published_weights_are_begun_with_by_name(tmp_path: Path) -> None:
    write_set(tmp_path / "UGSet")
    given = torchvision_weights()
    torch.save(given, tmp_path / "resnet50.pth")
    recipe: dict[str, Any] = {
        "name": "begun",
        "product": "ugs",
        "labels": [{"ugset": "UGSet"}],
        "chips": "chips",
        "side": SIDE,
        "split": {"by": "own"},
        "model": {"imagenet": "resnet50.pth"},
        "training": {"epochs": 1, "batch": 3, "rate": 1e-9},
        "out": "model",
    }
    with pytest.raises(WeightsError, match=r"safetensors alone(.|\n)*save_file\(") as refused:
        train(recipe, base=tmp_path)
    remedy = (
        str(refused.value.remedy).split(": ", 1)[1].replace('"resnet50', f'"{tmp_path}/resnet50')
    )
    exec(remedy, {"torch": torch, "safetensors": safetensors})  # it does what it says
    recipe["model"] = {"imagenet": "resnet50.safetensors"}
    made = load_weights(train(recipe, base=tmp_path).card)
    for name, value in given.items():
        if not name.startswith("fc") and "running" not in name and value.ndim:
            assert torch.allclose(made[f"encoder.{name}"], value, atol=1e-6), name


def test_what_is_no_published_network_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    given, path = torchvision_weights(), tmp_path / "part.safetensors"
    small = write_segmenter(tmp_path / "net", "ugsnet", SIDE, 16, width=8)
    card = small.model_copy(update={"parameters": {}})
    save_file({k: v for k, v in given.items() if not k.startswith("bn1.")}, path)
    with pytest.raises(WeightsError, match=r"not a ResNet-50(.|\n)*4 of 265(.|\n)*bn1.weight"):
        read_imagenet(path, card)
    save_file(given, path)
    with pytest.raises(WeightsError, match="not a ResNet-50 of this width"):
        read_imagenet(path, small)


def test_filters_of_colours_are_not_put_upon_other_bands(tmp_path: Path) -> None:
    path, told = tmp_path / "resnet50.safetensors", []
    save_file(torchvision_weights(), path)
    small = write_segmenter(tmp_path / "net", "ugsnet", SIDE, 16, width=8)
    colours = small.model_copy(update={"parameters": {}})
    assert FIRST in read_imagenet(path, colours)
    for bands in ((*RGB, "B08"), RGB[::-1]):
        found = read_imagenet(path, colours.model_copy(update={"bands": bands}))
        assert len(found) == 264
        assert FIRST not in found
    values = {"name": "x", "product": "ugs", "labels": [{"ugset": "s"}], "chips": "c", "out": "o"}
    recipe = load_training(values | {"model": {"imagenet": path.name, "bands": [*RGB, "B08"]}})
    four = colours.model_copy(update={"bands": recipe.model.bands})
    assert _start(recipe, four, tmp_path, told.append).keys() == found.keys()
    assert "B04, B03, B02, this one at B04, B03, B02, B08" in told[0]
