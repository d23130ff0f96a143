"""Statistics of a network's normalisations: those of other images, and whether they matter.

A network carries the means and variances that its training images had in each layer. Under another
light or another sensor they are wrong in every layer, and nothing that it has learnt applies. The
means and variances of the images at hand put most of that right without a label (AdaBN, Li et al.
2017); the weights stay, and can go on learning for both domains, each with its own statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.models.card import ModelCard
from engine.training.segmenters import prepare_chips

__all__ = ["ALIKE", "agreement", "measure", "twin"]

ALIKE = 0.7
"""Agreement of both maps of a city from which the statistics that a network was trained with are
the better ones: they come of more images, and of labelled ones. Of 42 adaptations to made-up cities
(benchmarks/green) the twelve that agreed by 0.62 at most gained 16 to 66 points of F1 by the city's
own; the thirty that agreed by 0.80 or more lost 3 on the mean, 12 at the worst."""

_BATCH = 8


def _normalisations(network: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in network.modules() if isinstance(module, _BatchNorm))


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
) -> None:
    """Give a network the statistics that images have in it; it is left ready to evaluate.

    Parameters
    ----------
    network : its normalisations are changed in place.
    images : uint8 (n, band, side, side), two at least.
    card : how images are fed to it.
    seen : bool (n, side, side), where they have data; by default everywhere.
    """
    device = next(network.parameters()).device
    network.eval()
    usual = [(module, module.momentum) for module in _normalisations(network)]
    for module, _ in usual:
        module.train()
        module.reset_running_stats()
        module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for part in _batches(len(images)):
            x = prepare_chips(images[part], card, None if seen is None else seen[part])
            network(x.to(device))
    for module, momentum in usual:
        module.momentum = momentum
    network.eval()


def agreement(
    ours: nn.Module,
    theirs: nn.Module,
    images: npt.NDArray[np.uint8],
    card: ModelCard,
    seen: npt.NDArray[np.bool_] | None = None,
) -> float:
    """How far two networks call the same pixels green: twice the common ones over the sum of both.

    Parameters
    ----------
    ours, theirs : ready to evaluate.
    images, card, seen : as of `measure`.

    Returns
    -------
    0 to 1; 1 where neither finds any.
    """
    device = next(ours.parameters()).device
    both = total = 0
    with torch.no_grad():
        for part in _batches(len(images)):
            here = None if seen is None else seen[part]
            x = prepare_chips(images[part], card, here).to(device)
            one, other = (network(x).argmax(1).cpu().numpy() == 1 for network in (ours, theirs))
            known = True if here is None else here
            both += 2 * int((one & other & known).sum())
            total += int((one & known).sum() + (other & known).sum())
    return both / total if total else 1.0


def _batches(count: int) -> Iterator[slice]:
    """Parts of about one size: of a single image there are no statistics."""
    edges = np.linspace(0, count, ceil(count / _BATCH) + 1).round().astype(int)
    return (slice(first, last) for first, last in pairwise(edges.tolist()))
