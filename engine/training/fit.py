"""The training loop of patch classifiers: resumable to the bit, on one device or several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import nn

from engine.errors import LabelError, RunError
from engine.metrics import assess, confusion
from engine.models.card import ModelCard
from engine.models.graphs import turn
from engine.models.inputs import prepare_batch
from engine.models.registry import begin_with, build
from engine.training.devices import add_up, spread
from engine.training.settings import Settings, class_weights, draw_epoch
from engine.training.state import keep, resume

__all__ = ["Epoch", "Fitted", "Settings", "fit", "statistics"]

_EVALUATED = 512  # patches at once


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch; losses are mean cross-entropies."""

    number: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    validation_f1: float
    rate: float


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes
    ----------
    weights : of the epoch with the best validation accuracy.
    best : its number.
    history : one entry for each epoch.
    """

    weights: dict[str, torch.Tensor]
    best: int
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Batches:
    """Labelled examples in memory: y codes 1 to 17.

    x are stored patches, uint16 (n, band, y, x), or packed graphs, float16 (n, 50, 5).
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[np.uint8]


def statistics(
    x: npt.NDArray[np.uint16], clip: tuple[float, float] = (0.0, 1.0)
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each band over valid pixels, in clipped reflectance.

    Parameters
    ----------
    x : uint16 (n, band, y, x), stored convention
    """
    means, deviations = [], []
    for band in range(x.shape[1]):
        values = x[:, band]
        seen = values[values > 0]
        if not len(seen):
            raise LabelError("no patch has a valid pixel", got=f"band {band} is all nodata")
        # sums over the values that occur, of which there are few
        counts = np.bincount(seen, minlength=1)
        level = np.clip((np.arange(len(counts)) - 1000.0) / 10_000.0, *clip)
        mean = float((counts * level).sum() / counts.sum())
        variance = float((counts * (level - mean) ** 2).sum() / counts.sum())
        means.append(round(mean, 6))
        deviations.append(round(max(variance, 1e-8) ** 0.5, 6))
    return tuple(means), tuple(deviations)


def fit(
    card: ModelCard,
    train: Batches,
    validation: Batches,
    settings: Settings,
    folder: Path,
    *,
    device: str = "auto",
    devices: int = 1,
    start: Mapping[str, torch.Tensor] | None = None,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    step: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
) -> Fitted:
    """Train a card's network.

    After each epoch the whole state is kept in ``folder``; a call with the same card, patches and
    settings goes on from there, to the same weights as an undisturbed run on one CPU.

    Parameters
    ----------
    card : architecture, input and classes; its checksum is not looked at.
    train, validation : Batches
    settings : Settings
    folder : Path
    device : "auto", "cpu" or "cuda"; devices : how many, each with a process of its own and its
        share of every batch, normalised by that share's statistics.
    start : weights to begin with wherever name and shape fit; by default random ones.
    tell : hears of each finished epoch, those of an earlier run included.
    step : hears of each batch: epoch, batch, batches.

    Raises
    ------
    LabelError
        Where a class of the patches is none of the card's, or there are no patches.
    RunError
        Where training diverges.
    """
    _require_labels(card, train, validation)
    folder.mkdir(parents=True, exist_ok=True)
    job = _Job(card, train, validation, settings, folder, start)
    return spread(_train, job, device, devices, settings.precision, tell, step)


@dataclass(frozen=True)
class _Job:
    """All that a process needs to train."""

    card: ModelCard
    train: Batches
    validation: Batches
    settings: Settings
    folder: Path
    start: Mapping[str, torch.Tensor] | None


def _train(
    fabric: Fabric,
    job: _Job,
    tell: Callable[[Epoch], None],
    step: Callable[[int, int, int], None],
) -> Fitted:
    """The loop. Of several devices each takes its share of every batch; the first one decides."""
    card, train, validation = job.card, job.train, job.validation
    settings, folder, start = job.settings, job.folder, job.start
    rank, world = fabric.global_rank, fabric.world_size
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)
    network = build(card)
    if start is not None:
        begin_with(network, start)
    if any(isinstance(module, nn.Conv2d) for module in network.modules()):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.NAdam(
        [p for p in network.parameters() if p.requires_grad],
        lr=settings.rate,
        betas=(0.9, 0.999),
        momentum_decay=4e-3,
    )
    model, optimizer = fabric.setup(network, optimizer)
    key = _key(card, train, validation, settings, start)
    state = resume(folder / "state.pt", key)
    history: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    if state is not None:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = [Epoch(**entry) for entry in state["history"]]
        best = state["best"]
        for entry in history:
            tell(entry)

    position = np.zeros(256, np.int64)
    position[list(card.classes)] = np.arange(len(card.classes))
    shares = (
        fabric.to_device(class_weights(card.classes, train.y)) if settings.class_weights else None
    )
    while len(history) < settings.epochs and not _exhausted(history, settings.patience):
        number = len(history)
        torch.manual_seed(settings.seed * 100_003 + number + 7919 * rank)  # dropout
        rate = _rate(settings, number)
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        order, turns = draw_epoch(train.y, settings, number)
        model.train()
        total = right = 0.0
        batches = -(-len(order) // settings.batch)
        for b in range(batches):
            last = min((b + 1) * settings.batch, len(order))
            last -= (last - b * settings.batch) % world  # shares of one size: their mean is all's
            here = slice(b * settings.batch + rank, last, world)
            x = _prepared(train.x[order[here]], card, turns[here])
            y = torch.from_numpy(position[train.y[order[here]]])
            if len(y) < 2:
                continue  # batch statistics of one patch are none
            x, y = fabric.to_device(x), fabric.to_device(y)
            logits = model(x)[0]
            loss = nn.functional.nll_loss(_log(logits, card), y, shares)
            if not torch.isfinite(loss):
                raise RunError(
                    "training diverged",
                    got=f"loss {float(loss)} in epoch {number + 1}",
                    remedy="lower the learning rate, or look at the patches",
                )
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * len(y)
            right += float((logits.argmax(1) == y).sum())
            step(number + 1, b + 1, batches)
        scores = _evaluate(network, fabric, card, validation)
        truth = position[validation.y]
        picked = scores[np.arange(len(truth)), truth]
        found = np.array(card.classes)[scores.argmax(1)]
        figures = assess(confusion(validation.y, found))
        entry = Epoch(
            number + 1,
            add_up(fabric, total) / len(order),
            add_up(fabric, right) / len(order),
            float(-picked.mean()),
            figures.oa,
            figures.f1_macro,
            float(rate),
        )
        if world > 1:  # statistics of normalisations differ a little: the first one's count
            entry = fabric.broadcast(entry)
        if not history or entry.validation_accuracy > max(e.validation_accuracy for e in history):
            best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        history.append(entry)
        reached = {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(entry) for entry in history],
            "best": best,
        }
        keep(folder / "state.pt", fabric, key, reached)
        tell(entry)
    number = int(np.argmax([entry.validation_accuracy for entry in history])) + 1
    return Fitted(best, number, tuple(history))


def _rate(settings: Settings, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    if settings.schedule == "cosine":
        return float(settings.rate * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs)))
    if settings.schedule == "step":
        return float(settings.rate * settings.factor ** (epoch // settings.every))
    return settings.rate


def _prepared(
    x: npt.NDArray[Any], card: ModelCard, turns: npt.NDArray[np.uint8] | None = None
) -> torch.Tensor:
    """Examples as the network is fed them, each turned as asked."""
    if x.ndim == 3:
        return torch.from_numpy(prepare_batch(x if turns is None else turn(x, turns), card))
    if turns is not None:
        x = x.copy()
        for k in range(1, 8):
            here = turns == k
            if here.any():
                turned = np.rot90(x[here], k % 4, axes=(2, 3))
                x[here] = turned[..., ::-1] if k >= 4 else turned
    ready = prepare_batch(x, card)
    return torch.from_numpy(ready).contiguous(memory_format=torch.channels_last)


def _evaluate(
    model: Any, fabric: Fabric, card: ModelCard, patches: Batches
) -> npt.NDArray[np.float32]:
    """Log-probabilities (n, class)."""
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(patches.y), _EVALUATED):
            x = fabric.to_device(_prepared(patches.x[first : first + _EVALUATED], card))
            found.append(_log(model(x)[0], card).cpu().numpy())
    return np.concatenate(found)


def _log(scores: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """Log-probabilities of what a network gives."""
    if card.output == "probability":
        return torch.log(scores.float().clamp(min=1e-12))
    return torch.log_softmax(scores.float(), 1)


def _exhausted(history: Sequence[Epoch], patience: int) -> bool:
    if not history:
        return False
    best = int(np.argmin([entry.validation_loss for entry in history]))
    return len(history) - 1 - best >= patience


def _key(
    card: ModelCard,
    train: Batches,
    validation: Batches,
    settings: Settings,
    start: Mapping[str, torch.Tensor] | None,
) -> str:
    """What decides the weights: a state of another training is not gone on from."""
    digest = hashlib.sha256()
    parts = card.model_dump(exclude={"name", "version", "provenance", "licence", "sha256"})
    digest.update(json.dumps([parts, asdict(settings)], sort_keys=True, default=str).encode())
    for values in (train.x, train.y, validation.x, validation.y):
        digest.update(np.ascontiguousarray(values).data)
    for name, value in sorted((start or {}).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
    return digest.hexdigest()


def _require_labels(card: ModelCard, train: Batches, validation: Batches) -> None:
    for name, part in (("training", train), ("validation", validation)):
        if not len(part.y):
            raise LabelError(f"there are no {name} patches", remedy="look at the split's shares")
        strange = sorted(set(np.unique(part.y).tolist()) - set(card.classes))
        if strange:
            raise LabelError(
                f"{name} patches of classes that the model does not give",
                got=", ".join(map(str, strange)),
                expected=", ".join(map(str, card.classes)),
            )
