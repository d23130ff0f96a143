"""What a training takes over from the model that it starts with, and what begins anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import WeightsError
from engine.legend import NamedClass
from engine.models.card import ModelCard
from engine.models.registry import begin_with, build, carried_over, save_model
from engine.recipes.classifying import SMALL
from engine.training.fit import Batches, fit
from engine.training.frozen import freeze
from engine.training.settings import Settings

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def card(architecture: str = "resnet-v2", **more: object) -> ModelCard:
    values: dict[str, object] = {
        "name": "start",
        "architecture": architecture,
        "bands": BANDS,
        "features": 256,
        "output": "logit",
        "weights": "start.safetensors",
        "sha256": "0" * 64,
        **more,
    }
    return ModelCard.model_validate(values)


def patches(n: int, seed: int = 0) -> Batches:
    """Patches of three classes of different brightness."""
    rng = np.random.default_rng(seed)
    y = np.resize(np.array([2, 6, 14], np.uint8), n)
    x = rng.integers(1500, 2500, (n, 10, 32, 32)).astype(np.uint16)
    return Batches(x + 200 * y[:, None, None, None].astype(np.uint16), y)


def saved(folder: Path, wanted: ModelCard) -> ModelCard:
    torch.manual_seed(1)
    return save_model(wanted, build(wanted).state_dict(), folder)


@pytest.mark.parametrize(("before", "after"), [(0, 256), (256, 0), (0, 32), (32, 16)])
def test_a_new_dense_layer_has_a_new_one_behind_it(tmp_path: Path, before: int, after: int) -> None:
    """Kim et al. freeze the trunk and add two dense layers: 256 units fit the old head's shape."""
    start = saved(tmp_path, card(parameters={"dense": before}))
    torch.manual_seed(0)
    network = build(card(parameters={"dense": after}))
    drawn = {name: values.clone() for name, values in network.state_dict().items()}
    new = begin_with(network, carried_over(start, card(parameters={"dense": after})))
    assert {"head.weight", "head.bias"} <= set(new)
    assert not any(name.startswith("trunk.") for name in new)
    assert torch.equal(network.head.weight, drawn["head.weight"])
    for name in new:
        assert torch.equal(network.state_dict()[name], drawn[name]), name


@pytest.mark.parametrize("dense", [0, 256])
def test_the_same_layers_are_all_taken_over(tmp_path: Path, dense: int) -> None:
    same = card(parameters={"dense": dense})
    start = saved(tmp_path, same)
    network = build(same)
    assert begin_with(network, carried_over(start, same)) == []


def test_layers_of_other_classes_are_drawn(tmp_path: Path) -> None:
    """As many classes, but others: their layers fit by shape and mean something else."""

    def cover(*names: str) -> ModelCard:
        classes = [NamedClass(code=k, name=n, colour="000000") for k, n in enumerate(names, 1)]
        return card(
            "unet", bands=("B04", "B03", "B02"), features=0, names=tuple(classes),
            parameters={"width": 4}, classes=tuple(range(1, len(names) + 1)),
        )  # fmt: skip

    start = saved(tmp_path, cover("water", "trees"))
    of_classes = {"out.weight", "out.bias"}
    found = carried_over(start, cover("roads", "roofs"))
    assert carried_over(start, cover("water", "trees")).keys() - found.keys() == of_classes
    assert of_classes == set(begin_with(build(cover("roads", "roofs")), found))


def test_only_the_dense_layers_of_a_frozen_network_are_trained(tmp_path: Path) -> None:
    """`model.frozen`: weights and batch statistics of all else stay to the bit."""
    small = {"branch": 4, "blocks": [8, 8, 16, 16, 16], "dense": 16}
    form = {"mean": (0.2,) * 10, "std": (0.1,) * 10, "classes": (2, 6, 14)}
    wanted = card("mscnn", parameters=small, **form)
    start = build(wanted).state_dict()
    found = fit(
        wanted,
        patches(48),
        patches(24, 1),
        Settings(epochs=1, batch=16, rate=0.01, frozen=True),
        tmp_path,
        device="cpu",
        start=start,
    ).weights
    for key, values in found.items():
        assert torch.equal(values, start[key]) != key.startswith(("fc1.", "fc2.")), key


@pytest.mark.parametrize(
    ("architecture", "dense"),
    [
        ("resnet-v2", {"hidden", "head"}),
        ("resnet11-3d", {"head"}),
        ("densenet", {"head"}),
        ("msmla", {"head"}),  # its attention has linear layers, too
        ("sen2lcz", {"heads"}),
    ],
)
def test_the_dense_layers_are_those_at_the_end(architecture: str, dense: set[str]) -> None:
    parameters = {"dense": 8} if architecture == "resnet-v2" else SMALL[architecture]
    network = build(card(architecture, parameters=parameters))
    still = freeze(network)
    moved = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert moved == dense
    kept = {name for name, part in network.named_children() if part in still}
    assert kept == {name for name, _ in network.named_children()} - dense
    with pytest.raises(ValueError, match="no dense layers"):
        freeze(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_weights_of_another_width_are_not_begun_with(tmp_path: Path) -> None:
    start = saved(tmp_path, card())
    with pytest.raises(WeightsError, match="another network's"):
        begin_with(build(card(parameters={"width": 5})), carried_over(start, card()))
