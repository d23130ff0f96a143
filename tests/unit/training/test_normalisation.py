"""Statistics of normalisations: whose they are, and how far apart they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.cards import write_segmenter
from torch import nn
from torch.nn import functional

from engine.models.card import ModelCard
from engine.models.registry import build
from engine.training.normalisation import agreement, measure, twin
from engine.training.segmenters import prepare_chips

SIDE = 64


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return write_segmenter(tmp_path / "net", "ugsnet", SIDE, 16, width=8, points=256)


def images(n: int, seed: int = 0, light: float = 1.0) -> np.ndarray:
    x = np.random.default_rng(seed).gamma(9.0, 11.0, (n, 3, SIDE, SIDE)) * light
    return np.clip(x, 0, 255).astype(np.uint8)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(value, b[name]) for name, value in a.items())


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
    assert same(*found)
    whole = twin(network)
    measure(whole, np.where(seen[:, None], x, np.uint8(0)), card)
    assert not same(found[0], whole)


class Above(nn.Module):
    """Green is what is brighter than a number, in the first band as it is fed."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.level.expand_as(x[:, 0]), x[:, 0]], dim=1)


def test_agreement_by_hand(card: ModelCard) -> None:
    x = np.zeros((11, 3, SIDE, SIDE), np.uint8)
    x[:, 0, :32], x[:, 0, 32:48] = 200, 100  # half is bright, a quarter middling
    fed = prepare_chips(x, card)[0, 0]
    levels = [float(fed[row].mean()) - 0.01 for row in (0, 40, 60)]
    bright, middling, dark = (Above(level) for level in levels)
    assert agreement(bright, middling, x, card) == pytest.approx(2 * 2 / (2 + 3))
    assert agreement(bright, bright, x, card) == 1
    assert agreement(dark, bright, x, card) == pytest.approx(2 * 2 / (4 + 2))
    assert agreement(Above(99.0), Above(99.0), x, card) == 1
    assert agreement(Above(99.0), bright, x, card) == 0
    seen = np.ones((11, SIDE, SIDE), bool)
    seen[:, 32:] = False
    assert agreement(bright, middling, x, card, seen) == 1
