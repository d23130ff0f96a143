"""Import the published Sen2LCZ weights: Keras HDF5 in, card and safetensors out.

python -m engine.models.import_sen2lcz WEIGHTS.hdf5 FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from engine.errors import NatmapError, WeightsError
from engine.models.card import ModelCard
from engine.models.mlm import write_card
from engine.models.sen2lcz import Sen2LCZ

__all__ = ["import_sen2lcz"]

_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_HEADS = ("dense_1", "dense_2", "dense_5", "dense_4")  # the names do not follow the depth


def import_sen2lcz(path: str | Path, folder: str | Path) -> ModelCard:
    """Write ``card.json`` and ``sen2lcz.safetensors`` into `folder`.

    Raises
    ------
    WeightsError
        Where the file is not HDF5 or has another layout.
    """
    try:
        with h5py.File(path, "r") as file:
            state = _read(file.get("model_weights", file))
    except OSError as error:
        raise WeightsError("the weights are not an HDF5 file", got=f"{path}: {error}") from error
    wanted = Sen2LCZ().state_dict()
    wrong = [
        f"{name}: {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
        for name, value in state.items()
        if value.shape != wanted[name].shape
    ]
    if wrong:
        raise WeightsError("the weights are of another network", got="; ".join(wrong[:3]))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "sen2lcz.safetensors"
    save_file(state, target)
    card = ModelCard(
        name="sen2lcz",
        architecture="sen2lcz",
        bands=_BANDS,
        features=128,
        licence="MIT",
        provenance="Qiu et al. 2020, trained on So2Sat LCZ42; imported from Keras HDF5",
        weights=target.name,
        sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
        folder=folder,
    )
    write_card(card, folder)
    return card


def _read(root: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for number in range(16):
        stage, layer = divmod(number, 4)
        conv, norm = f"stages.{stage}.{3 * layer}", f"stages.{stage}.{3 * layer + 1}"
        kernel = _value(root, f"conv2d_{number + 1}", "kernel")
        state[f"{conv}.weight"] = _tensor(kernel.transpose(3, 2, 0, 1))
        state[f"{conv}.bias"] = _tensor(_value(root, f"conv2d_{number + 1}", "bias"))
        for ours, theirs in [
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ]:
            value = _value(root, f"batch_normalization_{number + 1}", theirs)
            state[f"{norm}.{ours}"] = _tensor(value)
    for number, name in enumerate(_HEADS):
        state[f"heads.{number}.weight"] = _tensor(_value(root, name, "kernel").T)
        state[f"heads.{number}.bias"] = _tensor(_value(root, name, "bias"))
    return state


def _value(root: Any, layer: str, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        values = np.asarray(root[layer][layer][f"{name}:0"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            "the HDF5 file has another layout", got=f"no {layer}/{layer}/{name}:0"
        ) from error
    axes = (2 if layer.startswith("dense") else 4) if name == "kernel" else 1
    if values.ndim != axes:
        raise WeightsError(
            "the HDF5 file has another layout",
            got=f"{layer}/{layer}/{name}:0 with {values.ndim} axes",
            expected=f"{axes} axes",
        )
    return values


def _tensor(values: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("weights", help="HDF5 file of Keras, as published")
    words.add_argument("folder", help="of card and safetensors")
    given = words.parse_args()
    try:
        found = import_sen2lcz(given.weights, given.folder)
    except NatmapError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{given.folder}/card.json: {found.name}\n")
