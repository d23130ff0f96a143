"""Presets of the papers, and small networks of the same code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import BatchNorm2d, BatchNorm3d

from engine.errors import RecipeError
from engine.models.card import SEGMENTERS
from engine.models.registry import ARCHITECTURES, measure
from engine.products.registry import load_training
from engine.recipes.adapting import load_adapt_recipe
from engine.recipes.classifying import PRESETS, SMALL
from engine.training.fit import _rate
from engine.training.settings import Settings


def recipe(**more: Any) -> dict[str, Any]:
    return {"name": "x", "patches": "p", "out": "o", **more}


def test_a_preset_says_what_a_recipe_does_not() -> None:
    found = load_training(recipe(training={"preset": "df4lcz", "batch": 16})).training
    assert (found.batch, found.patience, found.schedule, found.factor) == (16, 40, "step", 0.4)
    others = {"preset", "bootstraps", "final", "device", "devices"}
    settings = Settings(**found.model_dump(exclude=others))
    rates = [_rate(settings, epoch) for epoch in (0, 4, 5, 10)]
    assert rates == pytest.approx([2e-3, 2e-3, 8e-4, 3.2e-4])
    plain = load_training(recipe(training={"preset": "mscnn"})).training
    assert plain.model_dump(exclude={"preset"}) == load_training(recipe()).training.model_dump(
        exclude={"preset"}
    )
    with pytest.raises(RecipeError, match="count twice"):
        load_training(recipe(training={"class_weights": True}))
    weighed = {"preset": "df4lcz", "class_weights": True}
    assert load_training(recipe(training=weighed)).training.class_weights
    with pytest.raises(RecipeError, match="preset"):
        load_training(recipe(training={"preset": "imagenet"}))
    assert set(PRESETS) == {"mscnn", "df4lcz", "df4lcz-graph", "df4lcz-paper", "so2sat"}


def test_the_presets_of_df4lcz_are_its_code_and_its_paper() -> None:
    def found(preset: str, **model: Any) -> Any:
        return load_training(recipe(training={"preset": preset}, model=model))

    for preset, optimizer in (("df4lcz", "nadam"), ("df4lcz-paper", "adam")):
        for name in ("resnet11", "resnet11-3d", "resnet50", "densenet", "msmla"):
            read = found(preset, architecture=name)
            assert (read.training.optimizer, read.training.angles) == (optimizer, True)
            network = ARCHITECTURES[name](**read.model.parameters)
            norms = [m for m in network.modules() if isinstance(m, (BatchNorm2d, BatchNorm3d))]
            assert norms
            assert {m.momentum for m in norms} == {0.01}  # Keras' .99
        assert network.head.in_features == 64 + 4 * (16 + 32 + 48) + 4 * 48  # MSMLA50, 48 wide
        small = found(preset, architecture="msmla", size="small").model.parameters
        assert small == {**SMALL["msmla"], "momentum": 0.01}
        mine = found(preset, architecture="msmla", parameters={"momentum": 0.2}).model.parameters
        assert mine["momentum"] == 0.2
        assert load_training(read.model_dump()) == read
    graph = found("df4lcz-graph", architecture="gcn").training
    assert (graph.augment, graph.optimizer, graph.rate, graph.batch) == (False, "nadam", 0.01, 32)
    paper = found("df4lcz-paper", architecture="gcn").training
    assert (paper.angles, paper.optimizer, paper.rate, paper.batch) == (False, "adam", 2e-3, 64)
    assert found("mscnn", architecture="resnet11").model.parameters == {}
    assert found("so2sat", architecture="resnet-v2").training.l2 == 1e-4


def test_the_preset_of_an_adaptation_runs_to_its_last_step() -> None:
    """10,000 steps, whatever the source loses: F1 has no more than 100 points."""
    wanted = {"name": "x", "product": "ugs", "model": "m", "chips": "c", "target": "t", "out": "o"}
    paper = load_adapt_recipe(wanted | {"training": {"preset": "paper"}}).training
    assert (paper.steps, paper.batch, paper.guard, paper.statistics) == (10_000, 2, 100, "source")
    mine = load_adapt_recipe(wanted | {"training": {"preset": "paper", "guard": 3}}).training
    assert mine.guard == 3
    assert load_adapt_recipe(wanted).training.guard == 5


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"model": {"frozen": True}}, "frozen goes with start"),
        ({"model": {"frozen": True, "start": "s", "architecture": "gcn"}}, "frozen goes with"),
        ({"model": {"architecture": "gcn"}, "training": {"angles": True}}, "no pixels to turn"),
        ({"training": {"bootstraps": 25}}, "go with architecture: forest"),
        ({"training": {"final": "all"}}, "go with architecture: forest"),
    ],
)
def test_choices_that_a_network_does_not_have_are_refused(more: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        load_training(recipe(**more))


@pytest.mark.parametrize("name", SMALL)
def test_each_small_network_is_small(name: str) -> None:
    found = load_training(recipe(model={"architecture": name, "size": "small"})).model
    builder = ARCHITECTURES[name]
    small, large = (
        sum(p.numel() for p in builder(**more).parameters()) for more in (found.parameters, {})
    )
    assert small < 0.35 * large
    if name not in SEGMENTERS:  # these take windows
        assert measure(name, found.parameters, 10, 17, 32).context == 0
    assert torch.is_grad_enabled()


def test_parameters_go_before_the_size() -> None:
    model = {"architecture": "mscnn", "size": "small", "parameters": {"dense": 7, "leading": 3}}
    found = load_training(recipe(model=model)).model.parameters
    assert (found["dense"], found["branch"], found["leading"]) == (7, 16, 3)
    with pytest.raises(RecipeError, match="no small form"):
        load_training(recipe(model={"architecture": "forest", "size": "small"}))


def test_more_devices_than_a_batch_can_feed_are_refused_before_work() -> None:
    wide = {"batch": 8, "devices": 5}
    with pytest.raises(RecipeError, match="two patches for each of devices"):
        load_training(recipe(training=wide))
    green = {"product": "ugs", "labels": [{"ugset": "s"}], "chips": "c", "name": "x", "out": "o"}
    with pytest.raises(RecipeError, match="two chips for each of devices"):
        load_training(green | {"training": wide})
    assert load_training(green | {"training": {"batch": 8, "devices": 4}}).training.devices == 4


def test_the_preset_of_ugs_1m_is_the_paper() -> None:
    """UGS-1m: 200 epochs of batches of 8 at 1e-4; 1024 points are of its code."""
    green = {"product": "ugs", "labels": [{"ugset": "s"}], "chips": "c", "name": "x", "out": "o"}
    paper = green | {"training": {"preset": "paper"}}
    found = load_training(paper)
    training = found.training
    assert (training.epochs, training.batch, training.rate, training.augment) == (
        200,
        8,
        1e-4,
        True,
    )
    assert found.model.parameters == {"points": 1024}
    network = ARCHITECTURES["ugsnet"](bands=3, classes=2, **found.model.parameters)
    assert network.points == 1024
    assert load_training(green).model.parameters == {}  # the preset of one is not all's
    mine = {"parameters": {"points": 64}, "size": "small"}
    assert load_training(paper | {"model": mine}).model.parameters["points"] == 64
    assert load_training(paper | {"model": {"architecture": "unet"}}).model.parameters == {}
    again = load_training(found.model_dump())
    assert again == found
    with pytest.raises(RecipeError, match="preset"):
        load_training(green | {"training": {"preset": "papers"}})
