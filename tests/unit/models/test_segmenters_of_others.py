"""SegNet, PSPNet, UperNet and BiSeNet: their published sizes, shapes, and that they learn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from engine.models.backbone import Backbone, padded
from engine.models.bisenet import BiSeNet
from engine.models.card import SEGMENTERS, ModelCard
from engine.models.imagenet import FIRST, read_imagenet
from engine.models.pyramids import PSPNet, UperNet
from engine.models.registry import ARCHITECTURES
from engine.models.segnet import SegNet, _put_back
from engine.training.losses import cover_loss, green_loss

NAMES = ("segnet", "pspnet", "upernet", "bisenet")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convs(shapes: Sequence[tuple[int, ...]]) -> int:
    """Weights of normalised convolutions (into, out, side): a kernel, and two a channel."""
    return sum(into * out * side**2 + 2 * out for into, out, side in shapes)


def test_encoders_are_torchvision_s() -> None:
    """11,689,512 and 25,557,032 weights, less those that tell 1,000 kinds of pictures."""
    assert count(Backbone(3, depth=18)) == 11_689_512 - 513 * 1000
    assert count(Backbone(3)) == count(Backbone(3, dilated=True)) == 25_557_032 - 2049 * 1000
    names = Backbone(3).state_dict()
    assert names["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert names["layer4.2.bn3.running_var"].shape == (2048,)
    image = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        for dilated, sides in ((False, [16, 8, 4, 2]), (True, [16, 8, 8, 8])):
            levels = Backbone(3, 8, dilated=dilated).eval()(image)
            assert [level.shape[-1] for level in levels] == sides


def test_networks_have_the_sizes_of_their_papers_layers() -> None:
    vgg = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512)]
    vgg += [(512, 512)] * 5
    mirror = [(out, into) for into, out in vgg[1:]]
    both = convs([(*pair, 3) for pair in vgg + mirror])
    biases = sum(out for _, out in vgg + mirror)
    # as published, of 12 classes, with a bias before each normalisation: 29.45 million
    assert both + biases + 64 * 12 * 9 + 12 == pytest.approx(29.45e6, rel=1e-3)
    assert count(SegNet()) == both + 64 * 2 * 9 + 2
    resnet = 23_508_032
    head = convs([(2048, 512, 1)] * 4 + [(4096, 512, 3)])
    assert count(PSPNet()) == resnet + head + 512 * 2 + 2
    pyramid = convs([(2048, 512, 1)] * 4 + [(4096, 512, 3)])
    sides = convs([(256, 512, 1), (512, 512, 1), (1024, 512, 1), *[(512, 512, 3)] * 3])
    fused = convs([(2048, 512, 3)])
    assert count(UperNet()) == resnet + pyramid + sides + fused + 512 * 2 + 2
    near = convs([(3, 64, 7), (64, 64, 3), (64, 64, 3), (64, 128, 1)])
    refined = convs([(256, 128, 3), (512, 128, 3), (128, 128, 1), (128, 128, 1), (512, 128, 1)])
    fusion = convs([(128, 128, 3)] * 2 + [(256, 256, 1)]) + 256 * 64 * 2
    out = convs([(256, 256, 3)]) + 256 * 2 + 2
    assert count(BiSeNet()) == 11_176_512 + near + refined + fusion + out


@pytest.mark.parametrize("name", NAMES)
def test_any_size_comes_back_and_the_padding_does_not_count(name: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[name](bands=4, classes=5, width=8)
    network.eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 4, 16, 16)).shape == (1, 5, 16, 16)
        image = torch.rand(2, 4, 50, 75)
        found = network(image)
        assert found.shape == (2, 5, 50, 75)
        torch.testing.assert_close(found, network(padded(image, 32))[..., :50, :75])
        # an image does not depend on the others of its batch
        torch.testing.assert_close(found[1:], network(image[1:]), atol=1e-5, rtol=1e-4)
    trained = network.train()(torch.rand(2, 4, 64, 64))
    assert trained.rend is None
    assert trained.points is None
    assert trained.coarse.shape[:2] == (2, 5)


@pytest.mark.parametrize("name", NAMES)
def test_it_maps_where_torch_must_be_deterministic(name: str) -> None:
    """As it must in a worker: there each layer has such a form, or it raises."""
    network = ARCHITECTURES[name](bands=3, classes=2, width=8)
    network.eval()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    finally:
        torch.use_deterministic_algorithms(before)


def test_values_are_put_back_as_torch_does() -> None:
    x = torch.randn(2, 5, 12, 8, generator=torch.Generator().manual_seed(0))
    x[0, 0, :4, :4] = 1.0  # of equal ones torch takes the first
    pooled, where = functional.max_pool2d(x, 2, return_indices=True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    expected = functional.max_unpool2d(pooled, where, [2, 2])
    torch.use_deterministic_algorithms(before)
    assert torch.equal(_put_back(pooled, where), expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_two_pictures(name: str) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    yy, xx = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = torch.stack([((yy - 20) ** 2 + (xx - 30) ** 2 < 200), (yy - 40) ** 2 + xx**2 < 700])
    image = torch.rand(2, 3, 64, 64, generator=generator) * 0.3
    image[:, 1] += 0.5 * mask
    network = ARCHITECTURES[name](bands=3, classes=2, width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for step in range(60):
        optimizer.zero_grad()
        loss = (cover_loss if step % 2 else green_loss)(network(image), mask.float())
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    with torch.inference_mode():
        coarse = network(image).coarse  # by the statistics of this batch
        found = functional.interpolate(coarse, (64, 64), mode="bilinear").argmax(1) == 1
    both = (found & mask).sum() * 2 / (found.sum() + mask.sum())
    assert both > 0.93


def test_all_are_segmenters_and_two_more_start_from_imagenet(tmp_path: Path) -> None:
    assert set(NAMES) < set(SEGMENTERS) < set(ARCHITECTURES)
    torch.manual_seed(3)
    given = Backbone(3).state_dict() | {"fc.weight": torch.zeros(1000, 2048)}
    save_file(given, tmp_path / "resnet50.safetensors")
    digest = hashlib.sha256(b"").hexdigest()
    form: dict[str, Any] = {
        "name": "m", "features": 0, "output": "logit", "weights": "w.safetensors",
        "sha256": digest, "classes": (0, 1), "patch": 64, "overlap": 16, "resolution": 1.0,
    }  # fmt: skip
    for name in ("pspnet", "upernet"):
        card = ModelCard(architecture=name, bands=("B04", "B03", "B02"), **form)
        found = read_imagenet(tmp_path / "resnet50.safetensors", card)
        own = {k for k in Backbone(3).state_dict() if "num_batches" not in k}
        assert {k.removeprefix("encoder.") for k in found} == own
        assert FIRST in found
