"""Cards of networks that come from elsewhere: PyTorch checkpoints, Keras's HDF5, ONNX files.

A checkpoint is read as weights alone: a pickle that wants more than tensors is refused by torch.
Each card gets a probe, so that loading shows whether the network still gives what it gave here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import CardError, WeightsError
from engine.models.card import SEGMENTERS, DataFile, ModelCard
from engine.models.import_sen2lcz import import_sen2lcz
from engine.models.mlm import write_card
from engine.models.onnx_checks import Form, check_network, parse_network
from engine.models.onnx_network import OnnxNetwork
from engine.models.onnx_tensors import located
from engine.models.probes import example_of, take_probe
from engine.models.registry import build, load_model, measure, output_kind, save_model
from engine.models.weights import ONNX
from engine.recipes.base import explain

__all__ = ["convert"]

_CHECKPOINTS = (".pt", ".pth", ".ckpt")
_HDF5 = (".h5", ".hdf5")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "weights")
_PREFIXES = ("", "module.", "model.", "network.", "net.", "_orig_mod.", "model._orig_mod.")
_UNKNOWN = "0" * 64


def convert(source: str | Path, folder: str | Path, **fields: Any) -> ModelCard:
    """Write a card and its weights into a folder.

    Parameters
    ----------
    source : PyTorch checkpoint or safetensors with weights of an architecture that natmap knows;
        HDF5 of Keras with those of DF4LCZ's graph network (architecture: gcn) or of Sen2LCZ
        (architecture: sen2lcz); or an ONNX file, with its data beside it.
    folder : of card and weights; made if it is not there.
    fields : of the card: ``architecture`` and ``bands``, and what else is not the default. Context,
        features and output follow from the network.

    Returns
    -------
    The card, with a probe.

    Raises
    ------
    WeightsError
        Where the file is of another kind or network, is damaged, or could do harm.
    CardError
        Where the fields are wrong.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_file():
        raise WeightsError("there are no weights to convert", got=str(source))
    fields = {"name": folder.resolve().name, **fields}
    if (folder / "card.json").exists():
        raise CardError(
            "there is a card already", got=str(folder), remedy="name another folder, or remove it"
        )
    kind = source.suffix.lower()
    if kind == ".onnx":
        card = _from_onnx(source, folder, {**fields, "architecture": ONNX})
    elif kind in _HDF5 and fields.get("architecture") == "sen2lcz":
        found = import_sen2lcz(source, folder)
        card = _card({**found.model_dump(), "folder": folder, **fields})
    elif kind in (*_CHECKPOINTS, *_HDF5, ".safetensors"):
        card = _from_state(source, folder, fields)
    else:
        raise WeightsError(
            "weights of this kind cannot be converted",
            got=source.name,
            expected=", ".join((*_CHECKPOINTS, ".safetensors", *_HDF5, ".onnx")),
        )
    probe = take_probe(load_model(card), card)
    card = card.model_copy(update={"probe": probe})
    write_card(card, folder)
    return card


def _card(fields: Mapping[str, Any]) -> ModelCard:
    """A card of what was given and found.

    Raises
    ------
    CardError
    """
    for name in ("architecture", "bands"):
        if not fields.get(name):
            raise CardError(
                "a card cannot be made without this field",
                got=f"no {name}",
                remedy="give --architecture and --bands, as in --bands B04,B03,B02",
            )
    try:
        return ModelCard.model_validate(fields)
    except ValidationError as error:
        raise CardError("the card would not be valid", got=explain(error, ModelCard)) from error


def _from_state(source: Path, folder: Path, fields: dict[str, Any]) -> ModelCard:
    found = {"features": 0, "weights": "weights.safetensors", "sha256": _UNKNOWN, **fields}
    architecture, segments = fields.get("architecture"), fields.get("architecture") in SEGMENTERS
    if not segments:
        found["features"] = 1  # until the network is measured
    elif "classes" not in found:
        found["classes"] = tuple(c["code"] for c in found.get("names", ())) or (0, 1)
    found.setdefault("output", "logit")
    card = _card(found)
    if not segments:
        network = measure(
            card.architecture, card.parameters, len(card.bands), len(card.classes), card.patch
        )
        told = {"context": network.context, "features": network.features, "output": network.output}
        card = _card({**found, **told, **({"output": "logit"} if card.encodes else {})})
    if source.suffix.lower() in _HDF5:
        if architecture != "gcn":
            raise WeightsError(
                "weights of Keras can be converted for two networks",
                got=f"architecture: {architecture}",
                expected="gcn (of DF4LCZ) or sen2lcz",
                remedy="export others to ONNX",
            )
        state = _read_graph_network(source)
    else:
        state = _read_state(source)
    folder.mkdir(parents=True, exist_ok=True)
    return save_model(card, _fitted(state, build(card), card), folder)


def _read_state(path: Path) -> dict[str, Any]:
    """Tensors by name; nothing of the file is run.

    Raises
    ------
    WeightsError
    """
    if path.suffix.lower() == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise WeightsError("the weights are damaged", got=f"{path.name}: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile and torch, many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            "the checkpoint is damaged, or holds more than weights",
            got=f"{path.name}: {first}",
            expected="tensors by name; natmap runs no code of a file",
            remedy="where it comes from: torch.save(model.state_dict(), 'weights.pt')",
        ) from error
    for name in _WRAPPERS:
        inner = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping):
            found = inner
            break
    if not isinstance(found, Mapping):
        raise WeightsError(
            "the checkpoint holds no weights by name", got=f"{path.name}: {type(found).__name__}"
        )
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _fitted(state: Mapping[str, Tensor], network: nn.Module, card: ModelCard) -> dict[str, Tensor]:
    """Weights under the network's own names, as float32.

    What wrappers put before the names is taken away, and an encoder leaves what belongs to classes.
    Whether all fit is said when the card is loaded.
    """
    wanted = network.state_dict()

    def without(prefix: str) -> dict[str, Tensor]:
        own = {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}
        return {n: v.float() if v.is_floating_point() else v for n, v in own.items()}

    found = max((without(prefix) for prefix in _PREFIXES), key=lambda own: len(own.keys() & wanted))
    if not found.keys() & wanted.keys():
        raise WeightsError(
            f"the weights are not those of {card.architecture}",
            got=", ".join(sorted(state)[:3]) or "none",
            expected=", ".join(sorted(wanted)[:3]),
        )
    if card.encodes:
        of_classes = {name for name, value in wanted.items() if 0 in value.shape}
        found = {name: v for name, v in found.items() if name not in of_classes}
        found |= {name: wanted[name] for name in of_classes}
    return found


def _read_graph_network(path: Path) -> dict[str, Tensor]:
    """Weights of DF4LCZ's graph network as Keras keeps them: three `GCSConv` and a dense layer.

    Of Spektral's layer ``kernel_1`` weighs what comes from the neighbours, ``kernel_2`` the node.

    Raises
    ------
    WeightsError
        Where the file is not HDF5 or has another layout.
    """
    layers: dict[str, dict[str, Any]] = {}

    def look(name: str, item: Any) -> None:
        layer, _, weight = name.rpartition("/")
        if isinstance(item, h5py.Dataset) and item.ndim in (1, 2) and item.size < 1_000_000:
            layers.setdefault(layer, {})[weight.partition(":")[0]] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            # a whole model has its optimiser's state beside the weights
            file.get("model_weights", file).visititems(look)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError("the weights are not an HDF5 file", got=f"{path}: {error}") from error
    convolutions = sorted(
        (name for name, w in layers.items() if w.keys() == {"kernel_1", "kernel_2", "bias"}),
        key=_number,
    )
    dense = [name for name, w in layers.items() if w.keys() == {"kernel", "bias"}]
    if len(convolutions) != 3 or len(dense) != 1:
        raise WeightsError(
            "the HDF5 file has another layout",
            got=f"{len(convolutions)} graph layers and {len(dense)} dense ones",
            expected="three with kernel_1, kernel_2 and bias, and one with kernel and bias",
        )
    state = {}
    for number, name in enumerate(convolutions):
        own = layers[name]
        state[f"gcn.layers.{number}.around.weight"] = own["kernel_1"].T
        state[f"gcn.layers.{number}.own.weight"] = own["kernel_2"].T
        state[f"gcn.layers.{number}.own.bias"] = own["bias"]
    state["gcn.head.weight"] = layers[dense[0]]["kernel"].T
    state["gcn.head.bias"] = layers[dense[0]]["bias"]
    return {
        name: torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        for name, values in state.items()
    }


def _number(layer: str) -> int:
    """Which layer of its kind it is: Keras calls them gcs_conv, gcs_conv_1 and so on."""
    found = re.search(r"_(\d+)$", layer.rpartition("/")[2])
    return int(found[1]) if found else 0


def _from_onnx(source: Path, folder: Path, fields: dict[str, Any]) -> ModelCard:
    content = source.read_bytes()
    names = _data_names(content)
    data = {name: _read_beside(source, name) for name in names}
    base = {"weights": source.name, "sha256": hashlib.sha256(content).hexdigest()}
    listed = tuple(
        DataFile(name=name, size=len(own), sha256=hashlib.sha256(own).hexdigest())
        for name, own in data.items()
    )
    segments = fields.get("task") == "segment"
    if segments and "classes" not in fields:
        fields["classes"] = tuple(c["code"] for c in fields.get("names", ())) or (0, 1)
    # features are found out; until then a number that any card may have
    card = _card({**fields, **base, "data": listed, "features": 0 if segments else 1})
    side = card.patch if "patch" in fields else None
    form = Form(len(card.bands), side, len(card.classes), fields.get("features"), segments)
    checked = check_network(content, data, form)
    network = OnnxNetwork(checked, segments)
    output = "logit"
    if not segments and card.classes:
        with torch.inference_mode():
            example = example_of(network, len(card.bands), checked.side, card.fill)
            output = output_kind(network(example)[0])
    found = {"features": checked.width, "patch": checked.side, "output": output}
    card = _card({**fields, **base, **found, "data": listed, "folder": folder})
    folder.mkdir(parents=True, exist_ok=True)
    for name in (source.name, *names):
        if (source.parent / name).resolve() != (folder / name).resolve():
            shutil.copyfile(source.parent / name, folder / name)
    write_card(card, folder)
    return card


def _data_names(content: bytes) -> list[str]:
    """Files with weights of an ONNX file, each of which must lie beside it."""
    graph = parse_network(content).graph
    attributes = (a for node in graph.node for a in node.attribute)
    tensors = (*graph.initializer, *(t for a in attributes for t in (a.t, *a.tensors)))
    return sorted({name for tensor in tensors if (name := located(tensor)[0])})


def _read_beside(source: Path, name: str) -> bytes:
    path = source.parent / name
    if path.is_symlink() or not path.is_file():
        raise WeightsError(
            "data of the network does not lie in its folder",
            got=name,
            expected=f"a file in the folder of {source.name}, and no link",
        )
    return path.read_bytes()
