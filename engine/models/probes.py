"""Probes: a fixed input, and what a card says that its network gives for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.errors import WeightsError
from engine.models.card import ModelCard, Probe
from engine.models.weights import ONNX

__all__ = ["check_probe", "example_of", "take_probe"]

_NUMBERS = 16  # of each output
_WINDOW = 64  # px: of a segmenter, any window will do
_STEPS = 16


def example_of(network: nn.Module, bands: int, side: int, value: float = 0.5) -> Tensor:
    """One input of a network: a patch, or what the network itself calls one."""
    own = getattr(network, "example", None)
    found: Tensor = own() if own else torch.full((1, bands, side, side), value)
    return found


def take_probe(network: nn.Module, card: ModelCard) -> Probe:
    """What a network gives for the fixed input.

    The input is ((7 band + 3 row + 5 column) mod 16) / 16, exact in float32. It has the side of a
    patch with its context, of a segmenter 64 px unless its file is of another size. Of a graph
    network it is one graph of its own.

    Raises
    ------
    WeightsError
        Where it gives what is not a number.
    """
    scores, features = _numbers(network, card)
    if not all(map(math.isfinite, (*scores, *features))):
        raise WeightsError("the network gives what is not a number for the probe")
    return Probe(scores=scores, features=features)


def check_probe(network: nn.Module, card: ModelCard) -> None:
    """Refuse a network that gives other numbers than its card's probe says.

    Raises
    ------
    WeightsError
    """
    if card.probe is None:
        return
    for name, told, found in zip(
        ("scores", "features"),
        (card.probe.scores, card.probe.features),
        _numbers(network, card),
        strict=True,
    ):
        apart = [abs(a - b) / max(1.0, abs(a)) for a, b in zip(told, found, strict=False)]
        if len(told) != len(found) or not all(d <= card.probe.tolerance for d in apart):
            raise WeightsError(
                f"the network gives other {name} than its card says for the probe",
                got=", ".join(f"{value:.4g}" for value in found[:4]),
                expected=", ".join(f"{value:.4g}" for value in told[:4])
                + f" within {card.probe.tolerance:g}",
                remedy="get card and weights again; or the network is not the one they are of",
            )


def _numbers(network: nn.Module, card: ModelCard) -> tuple[tuple[float, ...], tuple[float, ...]]:
    side = card.patch + 2 * card.context
    if card.segments and card.architecture != ONNX:
        side = _WINDOW
    x = example_of(network, len(card.bands), side)
    if x.shape[1:] == (len(card.bands), side, side):
        band, row, column = (torch.arange(n) for n in x.shape[1:])
        steps = 7 * band[:, None, None] + 3 * row[:, None] + 5 * column
        x = (steps % _STEPS)[None] / float(_STEPS)
    with torch.inference_mode():
        found = network(x)
    scores, features = found if isinstance(found, tuple) else (found, torch.zeros(0))
    return _some(scores), _some(features)


def _some(values: Tensor) -> tuple[float, ...]:
    flat = values.float().cpu().ravel()
    step = max(1, len(flat) // _NUMBERS)
    return tuple(float(value) for value in flat[::step][:_NUMBERS])
