"""Adaptation of a segmenter to a city without labels: an adversarial loop, the source guarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import LabelError, RunError
from engine.metrics import binary
from engine.models.card import ModelCard
from engine.models.device import be_exact
from engine.models.discriminator import Discriminator
from engine.models.registry import build
from engine.training.losses import adapt_step
from engine.training.normalisation import ALIKE, agreement, measure, twin
from engine.training.segmenters import Chips, augment, count_pixels, prepare_chips

__all__ = ["AdaptSettings", "Adapted", "Checked", "align"]


@dataclass(frozen=True)
class AdaptSettings:
    """How a segmenter is adapted.

    Attributes
    ----------
    steps : each with `batch` chips of the source and as many of the target.
    rate : of Adam, for the network; `discriminator_rate` for the discriminator.
    adversarial_weight : of the adversarial loss. 1 in UGS-1m, 0.001 where it comes from.
    statistics : of the normalisations. source: as they were trained, for both domains. batch:
        each batch's own, as in a training. target: the source's for the source, those of the city's
        chips for the city, and the adapted model keeps these. auto: target where the maps of the
        city under the one and the other differ much, else source.
    check : steps after which the source is looked at.
    guard : points of F1 on the source's validation chips that may be lost; beyond, it ends.
    augment, precision, seed : as of a training.
    """

    steps: int = 10_000
    batch: int = 2
    rate: float = 1e-4
    discriminator_rate: float = 1e-4
    adversarial_weight: float = 1e-3
    statistics: Literal["auto", "target", "source", "batch"] = "auto"
    check: int = 250
    guard: float = 5.0
    augment: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Checked:
    """A look after some steps: means of the losses since the last one, F1 on the source.

    `told` is the share of patches whose domain the discriminator knew: 0.5 is a guess.
    """

    step: int
    green: float
    adversarial: float
    discriminator: float
    told: float
    source_f1: float


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes
    ----------
    weights : of the last look at which the source was within its guard. Where there was none they
        are those it began with: under the city's statistics where `own` (of a city of another kind
        these alone bring most of the gain), else the model just as it was.
    step : of that look, 0 for none.
    before : F1 on the source before any step.
    agreement : of the maps under both statistics before any step; None where nobody asked.
    own : whether its normalisations keep the city's statistics.
    history : all looks.
    """

    weights: dict[str, Tensor]
    step: int
    before: float
    agreement: float | None
    own: bool
    history: tuple[Checked, ...]


def align(
    card: ModelCard,
    start: Mapping[str, Tensor],
    source: Chips,
    validation: Chips,
    target: npt.NDArray[np.uint8],
    settings: AdaptSettings,
    *,
    seen: npt.NDArray[np.bool_] | None = None,
    device: str = "cpu",
    compared: Callable[[float], None] = lambda agreed: None,
    tell: Callable[[Checked], None] = lambda look: None,
) -> Adapted:
    """Adapt a network to images of another city.

    It ends where the source loses more than the guard allows, with what the last good look had. A
    guard that fails at the first look leaves the weights as they were; whether the normalisations
    take the city's statistics is decided before any step, and stays.

    Parameters
    ----------
    card : of the network; `start` its weights.
    source, validation : labelled chips that it was trained on, and others of the same kind.
    target : images of the city, uint8 (n, band, side, side).
    settings : AdaptSettings
    seen : bool (n, side, side), where the target's images have data; by default everywhere.
    device : {"cpu", "cuda"}
    compared : hears how far maps under both statistics agree, before any step; `tell` of each look.

    Raises
    ------
    LabelError
        Where there are fewer than two chips of a side, or fewer than a batch.
    RunError
        Where it diverges.
    """
    if min(len(source.x), len(target)) < 2 or not len(validation.x):
        raise LabelError(
            "there are too few chips to adapt with",
            got=f"{len(source.x)} of the source, {len(validation.x)} to guard it, {len(target)} "
            "of the target",
            expected="two, one, two at least",
        )
    if settings.batch > min(len(source.x), len(target)):
        raise LabelError(
            "a batch is larger than the chips are many",
            got=f"batch {settings.batch}, {len(source.x)} chips of the source, {len(target)} of "
            "the target",
            expected="each chip at most once in a step",
            remedy="lower training.batch, or draw more chips of the city (most)",
        )
    be_exact(strict=False)  # of sampling at points there is no such gradient
    torch.manual_seed(settings.seed)
    network = build(card)
    network.load_state_dict(dict(start), strict=False)
    network = network.to(device)
    discriminator = Discriminator(len(card.classes)).to(device)
    optimizers = (
        torch.optim.Adam(network.parameters(), lr=settings.rate, betas=(0.9, 0.99)),
        torch.optim.Adam(
            discriminator.parameters(), lr=settings.discriminator_rate, betas=(0.9, 0.99)
        ),
    )

    def look() -> float:
        counts, _ = count_pixels(network, card, validation)
        return 100 * float(np.nan_to_num(binary(counts)["f1"]))

    def weights() -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in abroad.state_dict().items()}

    abroad, agreed = network, None
    if settings.statistics in ("auto", "target"):
        other = twin(network)
        measure(other, target, card, seen)
        if settings.statistics == "auto":
            network.eval()
            agreed = agreement(network, other, target, card, seen)
            compared(agreed)
        if agreed is None or agreed < ALIKE:
            abroad = other
    own = abroad is not network
    before = look()
    kept, reached = weights(), 0
    history: list[Checked] = []
    sums = np.zeros(4)
    rng = np.random.default_rng(settings.seed)
    for number in range(1, settings.steps + 1):
        for module in (network, abroad):
            _train_mode(module, frozen=settings.statistics != "batch")
        ours = rng.choice(len(source.x), settings.batch, replace=False)
        theirs = rng.choice(len(target), settings.batch, replace=False)
        x, mask = source.prepare(ours, card)
        z = prepare_chips(target[theirs], card, None if seen is None else seen[theirs])
        if settings.augment:
            x, mask = augment(x, mask, rng.random((len(x), 4)))
            z, _ = augment(z, torch.zeros(z.shape[0], *z.shape[2:]), rng.random((len(z), 4)))
        found = adapt_step(
            (network, abroad),
            discriminator,
            optimizers,
            x.to(device),
            mask.to(device),
            z.to(device),
            settings.adversarial_weight,
        )
        sums += found
        if not np.isfinite(sums).all():
            raise RunError(
                "adaptation diverged",
                got=f"losses {tuple(found)} at step {number}",
                remedy="lower the learning rate or adversarial_weight",
            )
        if number % settings.check == 0 or number == settings.steps:
            since = number - (history[-1].step if history else 0)
            green, adversarial, lies, told = (sums / since).tolist()
            entry = Checked(number, green, adversarial, lies, told, look())
            sums[:] = 0
            history.append(entry)
            tell(entry)
            if before - entry.source_f1 > settings.guard:
                break  # what is lost at home is not won abroad
            if own:
                measure(abroad, target, card, seen)  # the weights below them have moved
            kept, reached = weights(), number
    return Adapted(kept, reached, before, agreed, own, tuple(history))


def _train_mode(network: nn.Module, *, frozen: bool) -> None:
    """Train; normalisations as they are evaluated, where their statistics stay."""
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
