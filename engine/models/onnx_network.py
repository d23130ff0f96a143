"""An ONNX file as a network of natmap's: the same call, the same bits for the same batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.errors import DeviceError, RunError, WeightsError
from engine.models.onnx_checks import Checked, require_package

__all__ = ["OnnxNetwork", "choose_provider"]

_CUDA = "CUDAExecutionProvider"
_APART = 1e-4
"""What a patch's results may differ by with others beside it, of the largest number."""


def choose_provider(asked: str, device: str) -> str:
    """The device that an ONNX file runs on: CUDA only where onnxruntime was built for it.

    Parameters
    ----------
    asked : by the recipe.
    device : that there is.

    Raises
    ------
    DeviceError
        Where CUDA is asked for and onnxruntime has none.
    """
    if device != "cuda" or _CUDA in require_package("onnxruntime").get_available_providers():
        return device
    if asked == "cuda":
        raise DeviceError(
            "onnxruntime is installed without CUDA here",
            got="device: cuda",
            expected=_CUDA,
            remedy="install onnxruntime-gpu in place of onnxruntime, or set device to auto or cpu",
        )
    return "cpu"


class OnnxNetwork(nn.Module):
    """A checked ONNX file; any number of patches goes through it in batches of its fixed size.

    Parameters
    ----------
    checked : by `check_network`.
    segments : whether it gives scores of pixels.
    device : {"cpu", "cuda"}

    Attributes
    ----------
    batch : patches at once.

    Raises
    ------
    WeightsError
        Where it cannot be loaded, or mixes the patches of a batch.
    DeviceError
        Where CUDA is asked for and does not work.
    """

    def __init__(self, checked: Checked, segments: bool = False, device: str = "cpu") -> None:
        super().__init__()
        self.batch, self._checked, self._segments = checked.batch, checked, segments
        self._outputs = [name for name in (checked.scores, checked.features) if name]
        self._session = _open(checked.content, device)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Scores (n, classes) and features (n, features); of a segmenter scores of pixels alone.

        Raises
        ------
        RunError
            Where the file fails.
        """
        patches = x.float().cpu().numpy()
        found = [
            self._run(patches[first : first + self.batch])
            for first in range(0, len(patches), self.batch)
        ]
        whole = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        given = dict(
            zip(self._outputs, (torch.from_numpy(w).to(x.device) for w in whole), strict=True)
        )
        none = torch.zeros(len(x), 0, device=x.device)
        scores = given[self._checked.scores] if self._checked.scores else none
        if self._segments:
            return scores
        features = given[self._checked.features] if self._checked.features else none
        return scores, features.reshape(len(x), -1)

    def require_alone(self, example: Tensor) -> None:
        """Refuse a file in which a patch's results depend on those beside it.

        Raises
        ------
        WeightsError
        """
        if self.batch == 1:
            return
        shape = (self.batch, *example.shape[1:])
        alone, beside = (torch.full(shape, value) for value in (0.0, 1.0))
        beside[::2] = -0.5
        alone[:1], beside[:1] = example, example
        for one, other in zip(_pair(self(alone)), _pair(self(beside)), strict=True):
            largest = float(one[0].abs().max()) if one[0].numel() else 0.0
            apart = float((one[0] - other[0]).abs().max()) if one[0].numel() else 0.0
            if not apart <= _APART * max(1.0, largest):
                raise WeightsError(
                    "the network mixes the patches of a batch",
                    got=f"a difference of {apart:.3g} with others beside it",
                    remedy="export it for evaluation, not for training",
                )

    def _run(self, part: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        batch = part
        if len(part) < self.batch:
            batch = np.zeros((self.batch, *part.shape[1:]), np.float32)
            batch[: len(part)] = part
        try:
            found = self._session.run(self._outputs, {self._checked.input: batch})
        except Exception as error:  # of onnxruntime, in C++, several kinds
            raise RunError("the ONNX network failed", got=str(error).strip()) from error
        return [np.asarray(values, np.float32)[: len(part)] for values in found]


def _pair(found: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else found


def _open(content: bytes, device: str) -> Any:
    """A session that computes each batch in one thread, one operator after the other."""
    ort = require_package("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        exact = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
        providers.insert(0, (_CUDA, exact))
    try:
        session = ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # of onnxruntime, in C++, several kinds
        raise WeightsError(
            "onnxruntime cannot load the network",
            got=str(error).strip(),
            remedy="export it for an older opset, or install a newer onnxruntime",
        ) from error
    if device == "cuda" and _CUDA not in session.get_providers():
        raise DeviceError(
            "onnxruntime's CUDA does not work here",
            got="device: cuda",
            remedy="check the versions of CUDA and cuDNN, or set device to cpu",
        )
    return session
