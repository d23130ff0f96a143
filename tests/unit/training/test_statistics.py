"""Statistics of normalisations: whose they are, and how far apart they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cards import write_segmenter
from torch import nn
from torch.nn import functional

from engine.models.card import ModelCard
from engine.models.registry import build
from engine.training.chips import ChipSet
from engine.training.segmenters import prepare_chips
from engine.training.statistics import Shift, divergence, find_shift, measure, twin

SIDE = 64


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return write_segmenter(tmp_path / "net", "ugsnet", SIDE, 16, width=8, points=256)


def images(n: int, seed: int = 0, light: float = 1.0) -> np.ndarray:
    x = np.random.default_rng(seed).gamma(9.0, 11.0, (n, 3, SIDE, SIDE)) * light
    return np.clip(x, 0, 255).astype(np.uint8)


def test_a_twin_has_the_weights_and_its_own_statistics(card: ModelCard) -> None:
    torch.manual_seed(0)
    network = build(card)
    usual = {k: v.clone() for k, v in network.state_dict().items()}
    other = twin(network)
    measure(other, images(8), card)
    moved = other.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, usual[name]), name
        assert torch.equal(value, moved[name]) == ("running" not in name and "num_" not in name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = prepare_chips(images(2), card)
    other.train()
    other(x).coarse.square().mean().backward()  # a loss of the twin moves both
    optimizer.step()
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert one is same
    assert not torch.equal(
        network.state_dict()["encoder.conv1.weight"], usual["encoder.conv1.weight"]
    )


def test_statistics_are_those_of_all_pixels(card: ModelCard) -> None:
    """Of the first layer, against a convolution written straight; 11 images make uneven batches."""
    torch.manual_seed(0)
    network, x = build(card), images(11)
    modes = {m: m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    measure(network, x, card)
    state = network.state_dict()
    seen = functional.conv2d(prepare_chips(x, card), state["encoder.conv1.weight"], padding=3)
    torch.testing.assert_close(
        state["encoder.bn1.running_mean"], seen.mean((0, 2, 3)), rtol=0.01, atol=1e-3
    )
    torch.testing.assert_close(
        state["encoder.bn1.running_var"], seen.var((0, 2, 3)), rtol=0.01, atol=1e-3
    )
    assert not any(module.training for module in network.modules())
    assert all(module.momentum == momentum for module, momentum in modes.items())
    network(prepare_chips(x[:1], card))  # and one image can be mapped


def test_the_first_statistics_need_no_more_of_the_network(card: ModelCard) -> None:
    torch.manual_seed(0)
    network, x = build(card), images(11)
    whole, first = twin(network), twin(network)
    measure(whole, x, card)
    measure(first, x, card, first_only=True)
    assert divergence(whole, first) == 0
    assert first.state_dict()["encoder.layer4.2.bn3.num_batches_tracked"] == 0
    assert whole.state_dict()["encoder.layer4.2.bn3.num_batches_tracked"] == 2
    first(prepare_chips(x[:1], card))  # to its end again


def test_pixels_without_data_are_measured_as_a_map_fills_them(card: ModelCard) -> None:
    x, seen = images(4), np.ones((4, SIDE, SIDE), bool)
    seen[:, :, :20] = False
    torch.manual_seed(0)
    network = build(card)
    found = []
    for beneath in (0, 255):
        hidden = np.where(seen[:, None], x, np.uint8(beneath))
        found.append(twin(network))
        measure(found[-1], hidden, card, seen)
    assert divergence(*found) == 0
    whole = twin(network)
    measure(whole, np.where(seen[:, None], x, np.uint8(0)), card)
    assert divergence(found[0], whole) > 0


def test_divergence_by_hand() -> None:
    def one(mean: float, variance: float) -> nn.Module:
        found = nn.BatchNorm2d(2, eps=0.0)
        found.running_mean = torch.tensor([mean, 0.0])
        found.running_var = torch.tensor([variance, 1.0])
        return found

    # Jeffreys' of N(1, 2) and N(0, 1): (3 / 1 + (1 + 1) / 2 - 2) / 2 = 1; halved; of two channels
    assert divergence(one(1, 2), one(0, 1)) == pytest.approx(0.25)
    assert divergence(one(0, 1), one(1, 2)) == pytest.approx(0.25)
    assert divergence(one(3, 2), one(3, 2)) == pytest.approx(0)


def test_another_light_is_told_from_another_place(card: ModelCard) -> None:
    torch.manual_seed(0)
    network = build(card)
    places = [images(4, seed, light) for seed, light in ((1, 0.95), (2, 1.0), (3, 1.05))]
    measure(network, np.concatenate(places), card)

    def shift(light: float, others: list[np.ndarray]) -> Shift:
        moved = twin(network)
        measure(moved, images(6, 7, light), card)
        return find_shift(network, moved, card, [(x, None) for x in others])

    assert not shift(1.03, places).other
    assert shift(0.5, places).other
    found = shift(0.5, places)
    assert found.usual is not None
    assert found.far > 5 * found.usual
    # of one place its parts tell
    many = np.concatenate([images(8, seed, 0.9 + seed / 40) for seed in range(8)])
    n = len(many)
    one = ChipSet(
        many, np.zeros((n, SIDE, SIDE), np.uint8), np.full((n, 2), np.nan),
        np.zeros(n, np.uint16), np.zeros(n, np.uint8), card.bands, ("one",),
    )  # fmt: skip
    measure(network, many, card)
    parts = [x for x, _ in one.groups("train")]
    assert len(parts) == 8
    assert not shift(1.03, parts).other
    assert shift(0.5, parts).other
    # with fewer than three of either nobody can tell, and the images' own are safer
    assert shift(1.03, places[:2]).other
    assert shift(1.03, places[:2]).usual is None
