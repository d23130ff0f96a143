"""The predictor: one network per worker process, fed batches of one fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.accounting import Pool, spent
from engine.models.card import ModelCard
from engine.models.device import be_exact, choose_device, name_of, with_room
from engine.models.onnx_network import choose_provider
from engine.models.registry import load_model
from engine.models.weights import ONNX
from engine.recipes.sections import Device

__all__ = ["Predictor", "get_predictor"]

_PART = 32
"""Patches that one thread of a CPU evaluates at once."""

_WINDOWS = 8
"""Windows that a GPU evaluates at once."""

_CORES = torch.get_num_threads()  # before a predictor's own threads ask for one each


_MOST = 2  # networks of one recipe: both streams
_loaded: dict[tuple[str, str, str], Predictor] = {}
_loading = Lock()  # a worker beside a GPU has two slots, and both may ask first


def get_predictor(card: ModelCard, asked: Device, precision: str, most: int = _MOST) -> Predictor:
    """The process's predictor for a card; loaded once, and those of an earlier recipe let go.

    The device is chosen here, by whoever computes: a driver need not be like its workers. At most
    `most` are held: the one that was used least lately makes room.

    Raises
    ------
    DeviceError
        Where a GPU is asked for and this machine has none.
    """
    device: str = choose_device(asked)
    if card.architecture == ONNX:
        device = choose_provider(asked, device)
    key = card.key, device, precision
    with _loading:
        found = _loaded.pop(key, None)
        if found is None:
            while len(_loaded) >= most:
                del _loaded[next(iter(_loaded))]
            found = Predictor(card, device, precision)
        _loaded[key] = found  # the last one is what was used last
        return found


class Predictor:
    """A network, ready.

    Parameters
    ----------
    card : ModelCard
    device : {"cpu", "cuda"}
    precision : {"float32", "bfloat16"}
        Of the arithmetic; results are float32.
    threads : int, optional
        Of a CPU; by default those torch was given. Results do not depend on it.

    Attributes
    ----------
    size : int or None
        Patches, or windows, evaluated at once, None: the whole batch. Halved when memory runs out.
    rows : int
        Rows of a block's cells that `dense` evaluates at once; halved likewise.
    runs_on : str
        The kind of device, for the record: ``cpu``, or what its maker calls a GPU.
    """

    def __init__(
        self,
        card: ModelCard,
        device: str,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        # The same cell must get the same bits in whichever tile and run.
        be_exact()
        self.card, self.device, self.precision = card, device, precision
        self.runs_on = name_of(device)
        self.model = load_model(card, device)
        # two thirds of the time on CPUs; volumes and graphs have no such form
        self._format = torch.contiguous_format
        if any(isinstance(module, nn.Conv2d) for module in self.model.modules()):
            self._format = torch.channels_last
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size: int | None = None
        self.rows = card.block
        self._map: Callable[..., Iterable[Any]] = map
        if device == "cpu":
            # A matrix product's last bits depend on how many threads share it (MKL, from three
            # on). So each part of a batch has one thread, and the cores take parts side by side.
            pool = Pool(
                threads or _CORES, "predict", initializer=torch.set_num_threads, initargs=(1,)
            )
            self.size, self._map = getattr(self.model, "batch", _PART), pool.map

    def __call__(
        self, batch: npt.NDArray[np.float32], wanted: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Probabilities (n, classes) and features (n, features) of prepared patches, or graphs.

        They sum to 1, but for a multi-label model: its classes have each a probability of its own.

        The caller keeps the batch's shape fixed: kernels may be chosen by it.

        Parameters
        ----------
        batch : float32 (n, bands, patch, patch), or packed graphs (n, 50, 5)
        wanted : bool (n), optional
            Others may be left out; they get NaN where that saves time.

        Raises
        ------
        DeviceError
            Where not even one patch fits the device's memory.
        """

        def run(size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            starts = range(0, len(batch), size)
            some = [i for i in starts if wanted is None or wanted[i : i + size].any()]
            found = list(self._map(self._run, [batch[i : i + size] for i in some]))
            if len(some) == len(starts):
                scores, features = (np.concatenate(each) for each in zip(*found, strict=True))
                return scores, features
            scores, features = (
                np.full((len(batch), n), np.nan, np.float32)
                for n in (len(self.card.classes), self.card.features)
            )
            for i, part in zip(some, found, strict=True):
                scores[i : i + size], features[i : i + size] = part
            return scores, features

        return with_room(run, self.size or len(batch), "patch", self._keep)

    def dense(
        self, blocks: Iterable[npt.NDArray[np.float32]]
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Probabilities (cells, classes) and features of all cells of each block.

        Parameters
        ----------
        blocks : prepared images, float32 (bands, side, side), from the first cell's patch and
            context to the last one's.

        Raises
        ------
        DeviceError
            Where not even one row of cells fits the device's memory.
        """
        # one after the other in each thread; a block more than there are threads is ready
        yield from self._map(self._block, blocks)

    def _block(
        self, block: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """All cells of one block, some of its rows at once where memory is short."""
        card = self.card
        side = card.patch + 2 * card.context

        def run(rows: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            parts = []
            for first in range(0, card.block, rows):
                count = min(rows, card.block - first)
                strip = block[:, first * card.step :][:, : (count - 1) * card.step + side]

                def evaluate(x: torch.Tensor, count: int = count) -> Any:
                    return self.model.dense(  # type: ignore[operator]
                        x, count, card.block, card.step, card.patch
                    )

                parts.append(self._infer(evaluate, strip[None]))
            if len(parts) == 1:
                return parts[0]
            scores, features = (np.concatenate(each) for each in zip(*parts, strict=True))
            return scores, features

        return with_room(run, self.rows, "row of cells", self._keep_rows)

    def _keep(self, size: int) -> None:
        self.size = size

    def _keep_rows(self, rows: int) -> None:
        self.rows = rows

    def segment(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logit of class 1 against class 0 of each pixel, float32 (n, side, side).

        Of a card with classes of its own the logit of each, (n, classes, side, side).

        Parameters
        ----------
        windows : prepared images, float32 (n, bands, side, side)

        Raises
        ------
        DeviceError
            Where not even one window fits the device's memory.
        """

        def evaluate(size: int, part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            batch = part
            if len(part) < size:  # a GPU's kernels may be chosen by the batch's shape
                batch = np.zeros((size, *part.shape[1:]), np.float32)
                batch[: len(part)] = part
            with spent("forward", batch.nbytes):
                logits = self._apply(self.model, batch).float()
                if not self.card.several:
                    logits = logits[:, 1] - logits[:, 0]
                found: npt.NDArray[np.float32] = logits.cpu().numpy()
            return found[: len(part)]

        def run(size: int) -> npt.NDArray[np.float32]:
            parts = [windows[i : i + size] for i in range(0, len(windows), size)]
            return np.concatenate(list(self._map(partial(evaluate, size), parts)))

        size = self.size or _WINDOWS
        if self.device == "cpu":
            size = getattr(self.model, "batch", 1)
        return with_room(run, size, "window", self._keep)

    def _run(
        self, batch: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return self._infer(self.model, batch)

    def _infer(
        self, evaluate: Callable[[torch.Tensor], Any], batch: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        with spent("forward", batch.nbytes):
            scores, features = self._apply(evaluate, batch)
            scores = scores.float()
            if self.card.multilabel is not None:
                scores = torch.sigmoid(scores)
            elif self.card.output == "logit":
                scores = torch.softmax(scores, dim=1)
            return scores.cpu().numpy(), features.float().cpu().numpy()

    def _apply(
        self, evaluate: Callable[[torch.Tensor], Any], batch: npt.NDArray[np.float32]
    ) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
        x = x.contiguous(memory_format=self._format)
        half = self.precision == "bfloat16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device, dtype=torch.bfloat16, enabled=half),
        ):
            return evaluate(x)
