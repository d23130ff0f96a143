"""Statistics of a network's normalisations: those of other images, and how far apart two are.

A network carries the means and variances that its training images had in each layer. Under another
light or another sensor they are wrong in every layer, and nothing that it has learnt applies. The
means and variances of the images at hand put most of that right without a label (AdaBN, Li et al.
2017); the weights stay, and can go on learning for both domains, each with its own statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.models.card import ModelCard
from engine.training.chips import Images
from engine.training.segmenters import prepare_chips

__all__ = ["FAR", "Shift", "divergence", "find_shift", "measure", "twin"]

FAR = 1.5
"""Images so many times as far from the source as its own furthest place are of another kind. To
take them for such costs about a point of F1, to miss it may cost tens: so it is low."""

_BATCH = 8


def _normalisations(network: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in network.modules() if isinstance(module, _BatchNorm))


def _first(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of the first normalisation."""
    module = next(_normalisations(network))
    values = module.state_dict()
    return values["running_mean"], values["running_var"] + module.eps


def twin(network: nn.Module) -> nn.Module:
    """A network with the very weights of another, and statistics of its own.

    A step of an optimizer on one is a step on both.
    """
    other = copy.deepcopy(network)
    for ours, theirs in zip(network.modules(), other.modules(), strict=True):
        theirs._parameters = ours._parameters
    return other


def measure(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    card: ModelCard,
    seen: npt.NDArray[np.bool_] | None = None,
    *,
    first_only: bool = False,
) -> None:
    """Give a network the statistics that images have in it; it is left ready to evaluate.

    Parameters
    ----------
    network : its normalisations are changed in place.
    images : uint8 (n, band, side, side), two at least.
    card : how images are fed to it.
    seen : bool (n, side, side), where they have data; by default everywhere.
    first_only : of the first normalisation alone, all that `divergence` looks at: the rest of the
        network is not run, and its normalisations know nothing.
    """
    device = next(network.parameters()).device
    network.eval()
    usual = [(module, module.momentum) for module in _normalisations(network)]
    for module, _ in usual:
        module.train()
        module.reset_running_stats()
        module.momentum = None  # the mean of all batches
    # batches of about one size: of a single image there are no statistics
    edges = np.linspace(0, len(images), ceil(len(images) / _BATCH) + 1).round().astype(int)
    hook = usual[0][0].register_forward_hook(_stop) if first_only else None
    with torch.no_grad():
        for start, stop in pairwise(edges.tolist()):
            part = slice(start, stop)
            x = prepare_chips(images[part], card, None if seen is None else seen[part])
            with suppress(_EnoughError):
                network(x.to(device))
    if hook is not None:
        hook.remove()
    for module, momentum in usual:
        module.momentum = momentum
    network.eval()


class _EnoughError(Exception):
    """What was asked of a network has passed."""


def _stop(*_: Any) -> None:
    raise _EnoughError


def divergence(ours: nn.Module, theirs: nn.Module) -> float:
    """How far apart two networks' first statistics are: 0 for the same, without upper end.

    Jeffreys' divergence, halved, of the normal distributions in each channel of the first
    normalisation, their mean.
    """
    (mean, a), (other, b) = _first(ours), _first(theirs)
    apart = (mean - other) ** 2
    return float((((a + apart) / b + (b + apart) / a - 2) / 4).mean())


@dataclass(frozen=True)
class Shift:
    """How far images are from the source, and how far its own places are.

    Attributes
    ----------
    far : divergence of the images' statistics from the source's.
    usual : the largest of the source's own places, or parts of them; None of fewer than three.
    """

    far: float
    usual: float | None

    @property
    def other(self) -> bool:
        """Whether they are of another kind; yes where nobody can tell."""
        return self.usual is None or self.far > FAR * self.usual


def find_shift(
    network: nn.Module,
    moved: nn.Module,
    card: ModelCard,
    places: Iterable[Images],
) -> Shift:
    """Compare a network that has been measured on other images with places of its source.

    Parameters
    ----------
    network : as it was trained; `moved` its twin with the images' statistics.
    card : of both.
    places : images of each place of the source, or of parts of it: `ChipSet.groups`.
    """
    found = []
    for images, seen in places:
        if len(images) > 1:
            other = twin(network)
            measure(other, images, card, seen, first_only=True)
            found.append(divergence(network, other))
    return Shift(divergence(network, moved), max(found) if len(found) > 2 else None)
