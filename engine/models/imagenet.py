"""ImageNet's ResNet-50, as torchvision names its weights, to begin a segmenter's encoder with."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from engine.errors import WeightsError
from engine.models.card import ModelCard
from engine.models.registry import build

__all__ = ["FIRST", "read_imagenet"]

FIRST = "encoder.conv1.weight"
"""The layer that looks at the bands."""

_RGB = ("B04", "B03", "B02")


def read_imagenet(path: Path, card: ModelCard) -> dict[str, Tensor]:
    """Weights of a card's encoder, of a file with torchvision's names.

    Filters of the first layer are those of red, green and blue, in this order: for a card of other
    bands they are left out, to stay as they are drawn. What is no layer of the encoder, as the
    classifier of pictures, is left out too.

    Parameters
    ----------
    path : a safetensors file.
    card : of UGSNet, PSPNet or UperNet, of the published width.

    Raises
    ------
    WeightsError
        Where the file is of another kind, or lacks weights.
    """
    if path.suffix != ".safetensors":
        name = f'"{path.stem}.safetensors"'
        raise WeightsError(
            "weights of ImageNet are read from safetensors alone",
            got=path.name,
            expected="a .safetensors file with torchvision's names",
            remedy="write it again, in Python: safetensors.torch.save_file("
            f'torch.load("{path.name}", weights_only=True), {name})',
        )
    try:
        given = load_file(path)
    except Exception as error:
        raise WeightsError("the weights cannot be read", got=f"{path.name}: {error}") from error
    wanted = {
        name: value.shape
        for name, value in build(card).state_dict().items()
        if name.startswith(("encoder.conv1.", "encoder.bn1.", "encoder.layer"))
        and "num_batches" not in name
        and (name != FIRST or card.bands == _RGB)
    }
    found = {
        f"encoder.{name}": value
        for name, value in given.items()
        if wanted.get(f"encoder.{name}") == value.shape
    }
    missing = [name.removeprefix("encoder.") for name in wanted if name not in found]
    if missing:
        raise WeightsError(
            "the file is not a ResNet-50 of this width",
            got=f"{len(missing)} of {len(wanted)} weights missing or of another shape, "
            f"as {missing[0]}",
            expected="torchvision's names and shapes; size: published",
        )
    return found
