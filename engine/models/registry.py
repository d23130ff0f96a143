"""Architectures by name, and weights put into them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import CardError, WeightsError
from engine.models.baselines import MSMLA, DenseNet, ResNet50
from engine.models.bisenet import BiSeNet
from engine.models.card import ModelCard, verify_weights
from engine.models.forest import Forest
from engine.models.gcn import InstanceGraphs
from engine.models.head import Head
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.models.onnx_checks import examine
from engine.models.onnx_network import OnnxNetwork
from engine.models.patch_resnet import PatchResNet
from engine.models.probes import check_probe, example_of
from engine.models.pyramids import PSPNet, UperNet
from engine.models.resnet import ResNet11, ResNet11Volume
from engine.models.resnet_v2 import ResNetV2
from engine.models.segnet import SegNet
from engine.models.sen2lcz import Sen2LCZ
from engine.models.ugsnet import UGSNet
from engine.models.unet import UNet
from engine.models.weights import ONNX

__all__ = [
    "ARCHITECTURES",
    "HEAD",
    "Measured",
    "begin_with",
    "build",
    "carried_over",
    "load_model",
    "load_weights",
    "measure",
    "output_kind",
    "save_model",
]


def _build_head(
    bands: int, classes: int, encoder: Mapping[str, Any] | None = None, **parameters: Any
) -> nn.Module:
    """A head, with the network of its features inside where it has one."""
    if encoder is None:
        return Head(bands, classes, **parameters)
    name = encoder["architecture"]
    if name in (HEAD, "gcn"):
        raise ValueError(f"{name} encodes no patches")
    inner = _make(name, encoder["parameters"], bands, encoder["classes"])
    return Head(bands, classes, inner, **parameters)


HEAD = "head"
"""The architecture of a head on the features of an embedding."""

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "sen2lcz": Sen2LCZ,
    "mscnn": MSCNN,
    "resnet11": ResNet11,
    "resnet11-3d": ResNet11Volume,
    "resnet-v2": ResNetV2,
    "resnet50": ResNet50,
    "densenet": DenseNet,
    "msmla": MSMLA,
    "gcn": InstanceGraphs,
    "forest": Forest,
    HEAD: _build_head,
    "ugsnet": UGSNet,
    "unet": UNet,
    "segnet": SegNet,
    "pspnet": PSPNet,
    "upernet": UperNet,
    "bisenet": BiSeNet,
    "resnet": PatchResNet,
}


def build(card: ModelCard) -> nn.Module:
    """The card's network, with random weights.

    Raises
    ------
    CardError
    """
    return _make(card.architecture, card.parameters, len(card.bands), len(card.classes))


def _make(architecture: str, parameters: Mapping[str, Any], bands: int, classes: int) -> nn.Module:
    builder = ARCHITECTURES.get(architecture)
    if builder is None:
        raise CardError("unknown architecture", got=architecture, expected=", ".join(ARCHITECTURES))
    try:
        with warnings.catch_warnings():
            # the last layer of an encoder has nothing to draw
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            return builder(bands=bands, classes=classes, **parameters)
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise CardError(
            f"wrong parameters for {architecture}", got=f"{dict(parameters)}: {error}"
        ) from error


class Measured(NamedTuple):
    """What a card must say of a network: context in px, features, and what it gives."""

    context: int
    features: int
    output: str


def measure(
    architecture: str, parameters: Mapping[str, Any], bands: int, classes: int, patch: int
) -> Measured:
    """Build a network and look at what it needs and gives.

    Raises
    ------
    CardError
        Where there is no such network, its parameters are wrong, or the patch is too small.
    """
    network = _make(architecture, parameters, bands, classes).eval()
    context = int(getattr(network, "context", 0))
    try:
        with torch.inference_mode():
            scores, features = network(example_of(network, bands, patch + 2 * context))
    except (ValueError, RuntimeError) as error:
        raise CardError(f"{architecture} cannot take patches of {patch} px", got=error) from error
    return Measured(context, int(features.shape[1]), output_kind(scores))


def load_weights(card: ModelCard) -> dict[str, Tensor]:
    """A card's weights by name.

    Raises
    ------
    WeightsError
    """
    if card.architecture == ONNX:
        raise WeightsError(
            "an ONNX file cannot be trained further",
            got=card.name,
            expected=f"a card of {', '.join(ARCHITECTURES)}",
        )
    path = verify_weights(card)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise WeightsError("the weights are damaged", got=f"{path.name}: {error}") from error


def carried_over(start: ModelCard, card: ModelCard) -> dict[str, Tensor]:
    """A card's weights for the training of another: of other classes without those that are theirs.

    Raises
    ------
    WeightsError, CardError
    """
    found = load_weights(start)
    if (start.classes, start.names) == (card.classes, card.names):
        return found
    with torch.device("meta"):  # shapes alone: what one more class would change is the classes'
        few, more = (
            _make(card.architecture, card.parameters, len(card.bands), n).state_dict()
            for n in (len(card.classes), len(card.classes) + 1)
        )
    theirs = {name for name in few if few[name].shape != more[name].shape}
    return {name: values for name, values in found.items() if name not in theirs}


def begin_with(network: nn.Module, start: Mapping[str, Tensor]) -> list[str]:
    """Put weights into a network wherever name and shape fit; the rest stays as it was.

    A layer that another one feeds (`fed_by` of the network) gets none where that one is new: it was
    trained on something else.

    Returns
    -------
    Names of the network's that did not get any.

    Raises
    ------
    WeightsError
        Where fewer than half fit: that is another network.
    """
    own = network.state_dict()
    fit = {k: v for k, v in start.items() if k in own and own[k].shape == v.shape}
    for over, under in getattr(network, "fed_by", {}).items():
        below = {k for k in (*start, *own) if k.startswith(f"{under}.")}
        if not below <= fit.keys():
            fit = {k: v for k, v in fit.items() if not k.startswith(f"{over}.")}
    if 2 * len(fit) < len(start):
        raise WeightsError(
            "the weights to start from are another network's",
            got=f"{len(fit)} of {len(start)} fit by name and shape",
            expected="most of them",
            remedy="give model.parameters the widths of the model to start from",
        )
    network.load_state_dict(fit, strict=False)
    return sorted(n for n in own if n not in fit and not n.endswith("num_batches_tracked"))


def save_model(card: ModelCard, weights: Mapping[str, Tensor], folder: Path) -> ModelCard:
    """Write weights and card into a folder; the card with the weights' name and checksum."""
    path = folder / f"{card.name}.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items() if "num_batches" not in k}, path)
    path.chmod(0o644)  # safetensors writes for the owner alone
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = card.model_copy(update={"weights": path.name, "sha256": digest, "folder": folder})
    write_card(card, folder)
    return card


def load_model(card: ModelCard, device: str = "cpu") -> nn.Module:
    """The card's network with its weights, in evaluation mode.

    Parameters
    ----------
    card : ModelCard
    device : where it is to run.

    Raises
    ------
    WeightsError
        Where the checksum, a name or a shape is not the card's, or a weight is not a number; where
        an ONNX file could do harm; where the card's probe gives other numbers.
    CardError
        Where the network does not give what the card says it gives.
    """
    if card.architecture == ONNX:
        network = OnnxNetwork(examine(card), card.segments, device)
        _require_outputs(network, card)
        network.require_alone(example_of(network, len(card.bands), card.patch))
        check_probe(network, card)
        return network
    state = load_weights(card)
    model = build(card)
    _require_fit(model.state_dict(), state, card)
    model.load_state_dict(state, strict=False)  # all but the batch counts, checked above
    model.eval()
    _require_outputs(model, card)
    check_probe(model, card)
    return model.to(device)


def _require_fit(wanted: Mapping[str, Any], got: Mapping[str, Any], card: ModelCard) -> None:
    # BatchNorm counts its batches; evaluation does not need the count, and importers have none.
    names = {n for n in wanted if not n.endswith("num_batches_tracked")}
    wrong = [f"{n} is missing" for n in sorted(names - got.keys())]
    wrong += [f"{n} is not the network's" for n in sorted(got.keys() - wanted.keys())]
    wrong += [
        f"{n} has shape {tuple(got[n].shape)}, expected {tuple(wanted[n].shape)}"
        for n in sorted(names & got.keys())
        if got[n].shape != wanted[n].shape
    ]
    if wrong:
        raise WeightsError(
            f"the weights do not fit {card.architecture}",
            got="; ".join(wrong[:5]) + (f"; {len(wrong) - 5} more" if len(wrong) > 5 else ""),
        )
    # They would leave every cell without a class, as if pixels were missing.
    broken = [n for n in sorted(got) if not got[n].isfinite().all()]
    if broken:
        raise WeightsError(
            "weights are not numbers",
            got=", ".join(broken[:5]),
            expected="finite values",
            remedy="the training diverged; take an earlier checkpoint",
        )


def _require_outputs(model: nn.Module, card: ModelCard) -> None:
    """One patch through the network, against the card: lengths, and logits or probabilities."""
    if card.segments:
        return _require_windows(model, card)
    context = getattr(model, "context", 0)
    if context != card.context:
        raise CardError(
            "the card gives another context than the network needs",
            got=f"context: {card.context}",
            expected=f"context: {context}",
            remedy="set it, or the network's parameter `leading`",
        )
    example = example_of(model, len(card.bands), card.patch + 2 * card.context, card.fill)
    try:
        with torch.inference_mode():
            scores, features = model(example)
    except (ValueError, RuntimeError) as error:
        raise CardError(f"{card.architecture} cannot take the card's patch", got=error) from error
    if features.shape[1] != card.features:
        raise CardError(
            "the card gives another number of features than the network",
            got=card.features,
            expected=features.shape[1],
        )
    found = output_kind(scores)
    if found != card.output and not card.encodes:
        raise CardError(
            "the card takes the network's output for something else",
            got=f"output: {card.output}",
            expected=f"output: {found} (they sum to {float(scores.sum()):.3g})",
        )


def _require_windows(model: nn.Module, card: ModelCard) -> None:
    side = card.patch if card.architecture == ONNX else 64
    try:
        with torch.inference_mode():
            found = model(torch.zeros(1, len(card.bands), side, side))
    except (ValueError, RuntimeError) as error:
        raise CardError(f"{card.architecture} cannot take the card's bands", got=error) from error
    wanted = (1, len(card.classes), side, side)
    if card.output != "logit" or tuple(found.shape) != wanted:
        raise CardError(
            "the card takes the network's output for something else",
            got=f"output: {card.output}, {tuple(found.shape)} of a window of {side} px",
            expected=f"logits {wanted}",
        )


def output_kind(scores: Tensor) -> str:
    """Whether one patch's scores are probabilities or logits; those of an encoder are neither."""
    if not scores.numel():
        return "logit"
    total = float(scores.sum())
    return "probability" if scores.min() >= 0 and abs(total - 1) < 1e-3 else "logit"
