"""Statistics of a network's normalisations: those of other images, and how far apart two are.

A network carries the means and variances that its training images had in each layer. Under another
light or another sensor they are wrong in every layer, and nothing that it has learnt applies. The
means and variances of the images at hand put most of that right without a label (AdaBN, Li et al.
2017); the weights stay, and can go on learning for both domains, each with its own statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.models.card import ModelCard
from engine.training.segmenters import prepare_chips

__all__ = ["FAR", "MOST", "Shift", "divergence", "find_shift", "measure", "twin"]

FAR = 1.5
"""Images so many times as far from the source as its own furthest place are of another kind. To
take them for such costs about a point of F1, to miss it may cost tens: so it is low."""

MOST = 64
"""Images of a place that are measured to tell how far it is."""

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


def measure(network: nn.Module, images: npt.NDArray[np.uint8], card: ModelCard) -> None:
    """Give a network the statistics that images have in it; it is left ready to evaluate.

    Parameters
    ----------
    network : its normalisations are changed in place.
    images : uint8 (n, band, side, side), two at least.
    card : how images are fed to it.
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
    with torch.no_grad():
        for first, last in pairwise(edges.tolist()):
            network(prepare_chips(images[first:last], card).to(device))
    for module, momentum in usual:
        module.momentum = momentum
    network.eval()


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
    usual : the largest of the source's own places; None where it has fewer than three.
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
    places: Sequence[npt.NDArray[np.uint8]],
) -> Shift:
    """Compare a network that has been measured on other images with places of its source.

    Parameters
    ----------
    network : as it was trained; `moved` its twin with the images' statistics.
    card : of both.
    places : images of each place of the source.
    """
    found = []
    for images in places:
        if len(images) > 1:
            other = twin(network)
            measure(other, images[:: ceil(len(images) / MOST)], card)
            found.append(divergence(network, other))
    return Shift(divergence(network, moved), max(found) if len(found) > 2 else None)
