"""Losses of UGSNet, and one step of its adaptation to a city without labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.points import sample
from engine.models.ugsnet import Trained

__all__ = [
    "AdaptStep",
    "adapt_step",
    "cover_loss",
    "dice_loss",
    "green_loss",
    "occurrence_loss",
]


def dice_loss(coarse: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(p y) + smooth) / (sum p + sum y + smooth), of each image, their mean.

    Parameters
    ----------
    coarse : logits (n, 2, y / 4, x / 4); enlarged to the mask's size as maps are made, and then
        made probabilities (the other way round rounds off what is small).
    mask : float (n, y, x), 1 green, 0 not; NaN is not looked at.
    smooth : float
    """
    wide = functional.interpolate(coarse, mask.shape[-2:], mode="bilinear", align_corners=False)
    known = ~mask.isnan()
    p = wide.softmax(dim=1)[:, 1] * known
    y = torch.where(known, mask, 0.0)
    both, total = (p * y).sum(dim=(1, 2)), (p + y).sum(dim=(1, 2))
    return (1 - (2 * both + smooth) / (total + smooth)).mean()


def green_loss(found: Trained, mask: Tensor) -> Tensor:
    """Dice of the coarse map plus cross-entropy at the points (UGS-1m, equations 1 to 3).

    Networks without a point head have no points: of them it is dice alone.

    Parameters
    ----------
    found : of a network in training.
    mask : float (n, y, x), 1 green, 0 not; NaN is not looked at.
    """
    loss = dice_loss(found.coarse, mask)
    if found.rend is None or found.points is None:
        return loss
    truth = sample(mask[:, None], found.points, "nearest")[:, 0]
    label = torch.where(truth.isnan(), -100, truth.round()).long()  # -100: not looked at
    if (label >= 0).any():
        loss = loss + functional.cross_entropy(found.rend, label)
    return loss


def cover_loss(found: Trained, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Dice of the classes that a batch shows, their mean, plus cross-entropy.

    The entropy is of the points of a point head; without one of every pixel.

    Parameters
    ----------
    found : of a network in training.
    mask : float (n, y, x), positions of classes; NaN is not looked at.
    weight : float (n, y, x), what each pixel counts, in both; None: all alike. Of a network
        without a point head alone.
    """
    wide = functional.interpolate(
        found.coarse, mask.shape[-2:], mode="bilinear", align_corners=False
    )
    known = ~mask.isnan()
    counts = known.to(wide.dtype) if weight is None else torch.where(known, weight, 0.0)
    label = torch.where(known, mask, -100).round().long()
    p = wide.softmax(dim=1) * counts[:, None]
    y = functional.one_hot(label.clamp(min=0), wide.shape[1]).movedim(-1, 1)
    both, weighed = (p * y).sum(dim=(0, 2, 3)), (y * counts[:, None]).sum(dim=(0, 2, 3))
    total, shown = p.sum(dim=(0, 2, 3)) + weighed, weighed > 0
    loss = wide.sum() * 0.0
    if shown.any():
        loss = loss + (1 - (2 * both + 1) / (total + 1))[shown].mean()
    if found.rend is not None and found.points is not None:
        assert weight is None, "points have no weights"
        truth = sample(mask[:, None], found.points, "nearest")[:, 0]
        at = torch.where(truth.isnan(), -100, truth.round()).long()
        return loss + functional.cross_entropy(found.rend, at) if (at >= 0).any() else loss
    if not known.any():
        return loss
    if weight is None:
        return loss + functional.cross_entropy(wide, label)
    losses = functional.cross_entropy(wide, label, reduction="none")  # 0 where not looked at
    return loss + (counts * losses).sum() / counts.sum().clamp(min=1e-9)


def occurrence_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy of labels, the mean over those that are known.

    Parameters
    ----------
    logits : (n, label)
    truth : float (n, label), 1 occurs, 0 does not; NaN is not looked at.
    weights : float (label,), how much more a patch with the label counts than one without.
    """
    known = ~truth.isnan()
    each = functional.binary_cross_entropy_with_logits(
        logits, torch.where(known, truth, 0.0), pos_weight=weights, reduction="none"
    )
    return (each * known).sum() / known.sum().clamp(min=1)


class AdaptStep(NamedTuple):
    """Losses of one step; `told` is the share of patches whose domain the discriminator knew."""

    green: float
    adversarial: float
    discriminator: float
    told: float


def adapt_step(
    networks: tuple[nn.Module, nn.Module],
    discriminator: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    source: Tensor,
    mask: Tensor,
    target: Tensor,
    weight: float = 1e-3,
) -> AdaptStep:
    """One step: the discriminator learns to tell the domains, the network to be taken for one.

    Parameters
    ----------
    networks : for the source and for the target, in training: one, or two of the same weights that
        normalise apart.
    discriminator : in training.
    optimizers : of the network, of the discriminator.
    source, target : images (n, bands, y, x); `mask` (n, y, x) of the source.
    weight : of the adversarial loss; 1 in the paper, 0.001 where it comes from.
    """
    size = source.shape[-2:]
    ours, theirs = networks[0](source), networks[1](target)
    maps = [
        functional.interpolate(found.coarse, size, mode="bilinear", align_corners=False).softmax(1)
        for found in (ours, theirs)
    ]
    network_step, discriminator_step = optimizers

    logits = [discriminator(scores.detach()) for scores in maps]
    lies = _as(logits[0], 1.0) / 2 + _as(logits[1], 0.0) / 2
    discriminator_step.zero_grad()
    lies.backward()  # type: ignore[no-untyped-call]
    discriminator_step.step()

    with _frozen(discriminator):
        green = green_loss(ours, mask)
        adversarial = _as(discriminator(maps[1]), 1.0)
        network_step.zero_grad()
        (green + weight * adversarial).backward()  # type: ignore[no-untyped-call]
        network_step.step()
    told = torch.cat([(logits[0] > 0).flatten(), (logits[1] <= 0).flatten()]).float().mean()
    return AdaptStep(*(float(v.detach()) for v in (green, adversarial, lies, told)))


def _as(logits: Tensor, domain: float) -> Tensor:
    """Cross-entropy of logits against a domain: 1 source, 0 target."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """A module whose weights get no gradients meanwhile."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
