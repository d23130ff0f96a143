"""The training loop, resumable to the bit, on one device or several; a lesson fills it in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import nn

from engine.errors import DeviceError, RunError
from engine.models.card import ABOUT, ModelCard
from engine.models.device import be_exact, choose_device
from engine.models.registry import begin_with, build
from engine.recipes.sections import Device
from engine.training.devices import add_up, spread
from engine.training.frozen import freeze
from engine.training.state import keep, resume

__all__ = ["Epoch", "Fitted", "Learned", "Lesson", "learn"]


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch: mean losses; accuracies and F1 of patches, of green space of pixels."""

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
    weights : of the best epoch on validation.
    best : its number.
    history : one entry for each epoch.
    """

    weights: dict[str, torch.Tensor]
    best: int
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Learned:
    """One batch: its loss, and how many of how many labels were met."""

    loss: torch.Tensor
    right: float
    looked: float


@dataclass(frozen=True)
class Lesson(ABC):
    """What is trained, from what, and how its success is measured; picklable.

    Attributes
    ----------
    card : architecture, input and classes; its checksum is not looked at.
    settings : with ``epochs``, ``batch`` (examples of a step), ``seed`` and ``precision``.
    folder : where the state is kept.
    start : weights to begin with wherever name and shape fit; by default random ones.
    """

    card: ModelCard
    settings: Any
    folder: Path
    start: Mapping[str, torch.Tensor] | None

    examples: ClassVar[str]
    """What they are called."""

    deterministic: ClassVar[bool] = True
    """Whether all of its gradients can be, on a GPU too."""

    @property
    def frozen(self) -> bool:
        """Whether only the dense layers at the end are trained."""
        return False

    @abstractmethod
    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """How its weights are moved."""

    @abstractmethod
    def begin(self, number: int) -> tuple[float, npt.NDArray[np.int64], Any]:
        """Of an epoch, counted from 0: learning rate, order of examples, what was drawn for each
        place in that order."""

    @abstractmethod
    def batch(
        self, model: nn.Module, fabric: Fabric, picked: npt.NDArray[np.int64], drawn: Any
    ) -> Learned:
        """Look at some examples."""

    @abstractmethod
    def judge(self, network: nn.Module, fabric: Fabric) -> tuple[float, float, float]:
        """Loss, accuracy and F1 on validation."""

    @abstractmethod
    def score(self, entry: Epoch) -> float:
        """What the best epoch has most of."""

    @abstractmethod
    def data(self) -> Sequence[npt.NDArray[Any]]:
        """All that it learns from and is measured by."""

    def exhausted(self, history: Sequence[Epoch]) -> bool:
        """Whether there is no more to hope for."""
        return False

    def key(self) -> str:
        """What decides the weights: a state of another training is not gone on from."""
        digest = hashlib.sha256()
        parts = self.card.model_dump(exclude=ABOUT | {"sha256"})
        text = json.dumps([parts, asdict(self.settings)], sort_keys=True, default=str)
        digest.update(text.encode())
        for values in self.data():
            digest.update(np.ascontiguousarray(values).data)
        for name, value in sorted((self.start or {}).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
        return digest.hexdigest()


def learn(
    lesson: Lesson,
    device: Device,
    devices: int,
    tell: Callable[[Epoch], None],
    step: Callable[[int, int, int], None],
) -> Fitted:
    """Train. After each epoch the whole state is kept in the lesson's folder; a call with the same
    lesson goes on from there, to the same weights as an undisturbed run on one CPU.

    Parameters
    ----------
    lesson : Lesson
    device : "auto", "cpu" or "cuda"; devices : how many, each with a process of its own and its
        share of every batch, normalised by that share's statistics.
    tell : hears of each finished epoch, those of an earlier run included.
    step : hears of each batch: epoch, batch, batches.

    Raises
    ------
    DeviceError
        Where a GPU is asked for and there is none, or fewer than devices.
    RunError
        Where a device's share of a batch is less than two examples, training diverges, or the
        folder holds another training's state.
    """
    count = len(lesson.begin(0)[1])
    if min(lesson.settings.batch, count) < 2 * devices:  # every step would be passed over
        raise RunError(
            "a device's share of a batch is too small to normalise by",
            got=f"batches of {lesson.settings.batch} of {count} {lesson.examples} on {devices} "
            "devices",
            expected="two examples for each device",
            remedy="take fewer devices, a larger batch, or label more",
        )
    device = choose_device(device)  # refuses one that is not there, in natmap's words
    if device == "cuda" and devices > (found := torch.cuda.device_count()):
        raise DeviceError(
            "there are fewer GPUs than the training asks for",
            got=f"{found} on this machine",
            expected=f"training.devices: {devices}",
            remedy=f"set training.devices to {found}, or look at CUDA_VISIBLE_DEVICES",
        )
    be_exact(strict=lesson.deterministic)  # also the processes that are started read it
    lesson.folder.mkdir(parents=True, exist_ok=True)
    return spread(_learn, lesson, device, devices, lesson.settings.precision, tell, step)


def _learn(
    fabric: Fabric,
    lesson: Lesson,
    tell: Callable[[Epoch], None],
    step: Callable[[int, int, int], None],
) -> Fitted:
    """The loop. Of several devices each takes its share of every batch; the first one decides."""
    settings = lesson.settings
    rank, world = fabric.global_rank, fabric.world_size
    be_exact(strict=lesson.deterministic)
    torch.manual_seed(settings.seed)
    network = build(lesson.card)
    if lesson.start is not None:
        begin_with(network, lesson.start)
    still = freeze(network) if lesson.frozen else ()
    if any(isinstance(module, nn.Conv2d) for module in network.modules()):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, optimizer = fabric.setup(network, lesson.optimizer(network))
    key = lesson.key()
    history: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    state = resume(lesson.folder / "state.pt", key)
    if state is not None:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = [Epoch(**entry) for entry in state["history"]]
        best = state["best"]
        for entry in history:
            tell(entry)
    while len(history) < settings.epochs and not lesson.exhausted(history):
        number = len(history)
        torch.manual_seed(settings.seed * 100_003 + number + 7919 * rank)  # dropout, points
        rate, order, drawn = lesson.begin(number)
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        model.train()
        for part in still:
            part.eval()
        total = right = looked = met = 0.0
        batches = -(-len(order) // settings.batch)
        for b in range(batches):
            last = min((b + 1) * settings.batch, len(order))
            last -= (last - b * settings.batch) % world  # shares of one size: their mean is all's
            here = slice(b * settings.batch + rank, last, world)
            picked = order[here]
            if len(picked) < 2:
                continue  # the last one's; batch statistics of one example are none
            found = lesson.batch(model, fabric, picked, drawn[here])
            if not torch.isfinite(found.loss):
                raise RunError(
                    "training diverged",
                    got=f"loss {float(found.loss)} in epoch {number + 1}",
                    remedy=f"lower the learning rate, or look at the {lesson.examples}",
                )
            optimizer.zero_grad()
            fabric.backward(found.loss)
            optimizer.step()
            total, met = total + float(found.loss.detach()) * len(picked), met + len(picked)
            right, looked = right + found.right, looked + found.looked
            step(number + 1, b + 1, batches)
        entry = Epoch(
            number + 1,
            add_up(fabric, total) / add_up(fabric, met),
            add_up(fabric, right) / max(add_up(fabric, looked), 1),
            *lesson.judge(network, fabric),
            float(rate),
        )
        if world > 1:  # statistics of normalisations differ a little: the first one's count
            entry = fabric.broadcast(entry)
        if not history or lesson.score(entry) > max(map(lesson.score, history)):
            best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        history.append(entry)
        reached = {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(entry) for entry in history],
            "best": best,
        }
        keep(lesson.folder / "state.pt", fabric, key, reached)
        tell(entry)
    return Fitted(best, int(np.argmax([*map(lesson.score, history)])) + 1, tuple(history))
