"""UGSNet as specified: sizes, shapes, attention, points."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from engine.models.points import draw_points, refine, sample, unsure
from engine.models.ugsnet import CoordinateAttention, Trained, UGSNet
from engine.models.unet import UNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def published() -> UGSNet:
    torch.manual_seed(0)
    return UGSNet()


def test_parts_have_their_published_sizes(published: UGSNet) -> None:
    encoder = published.encoder
    assert count(encoder.conv1) + count(encoder.bn1) == 9_536
    sizes = [count(encoder.get_submodule(f"layer{k}")) for k in (1, 2, 3, 4)]
    assert sizes == [215_808, 1_219_584, 7_098_368, 14_964_736]
    gates = [count(encoder.get_submodule(f"attention{k}")) for k in (1, 2, 3, 4)]
    assert gates == [86_880, 345_792, 1_379_712, 5_511_936]
    assert [count(part) for part in published.reduce] == [24_768, 49_344, 98_496, 196_800]
    assert count(published.out) == 885_760
    assert published.head is not None
    assert count(published.head) == 1_030
    assert count(published) == 32_088_550


@pytest.mark.parametrize("side", [128, pytest.param(512, marks=pytest.mark.soak)])
def test_an_image_goes_through_the_published_shapes(published: UGSNet, side: int) -> None:
    heard: dict[str, list[torch.Tensor]] = {}

    def hear(name: str) -> Any:
        return lambda _module, given, found: heard.update({name: [*given, found]})

    names = ["bn1", *(f"{kind}{k}" for kind in ("layer", "attention") for k in (1, 2, 3, 4))]
    parts = {name: published.encoder.get_submodule(name) for name in names}
    parts |= {f"reduce{k + 1}": part for k, part in enumerate(published.reduce)}
    parts["out"] = published.out
    hooks = [part.register_forward_hook(hear(name)) for name, part in parts.items()]
    with torch.inference_mode():
        fine = published.eval()(torch.rand(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    assert fine.shape == (1, 2, side, side)
    assert heard["bn1"][1].shape == (1, 64, side, side)  # the stem keeps the resolution
    assert heard["layer1"][0].shape == (1, 64, side // 2, side // 2)
    fourth = side // 4, side // 4
    levels = [(128 * 2**k, side // 2**k, side // 2**k) for k in (1, 2, 3, 4)]
    for k, level in enumerate(levels, 1):
        assert heard[f"layer{k}"][1].shape[1:] == heard[f"attention{k}"][1].shape[1:] == level
        assert heard[f"reduce{k}"][1].shape[1:] == (96, *level[1:])
    fused, coarse = heard["out"]
    assert fused.shape == (1, 384, *fourth)
    assert coarse.shape == (1, 2, *fourth)
    # level 4 first, then 1, 2, 3: weights of others mean this order
    for at, k in enumerate((4, 1, 2, 3)):
        level = nn.functional.interpolate(heard[f"reduce{k}"][1], fourth, mode="bilinear")
        torch.testing.assert_close(fused[:, 96 * at : 96 * at + 96], level)


def test_strides_and_dilations_are_the_published_ones(published: UGSNet) -> None:
    blocks = [published.encoder.get_submodule(f"layer{k}") for k in (1, 2, 3, 4)]
    middle = [[block.get_submodule("conv2") for block in layer.children()] for layer in blocks]
    strides = [[conv.stride[0] for conv in layer] for layer in middle]  # type: ignore[union-attr]
    assert strides == [[1] * 3, [2, 1, 1, 1], [2, 1, 1, 1, 1, 1], [2, 1, 1]]
    dilations = [[conv.dilation for conv in layer] for layer in middle]
    assert dilations == [[(1, 1)] * 3, [(1, 1)] * 4, [(1, 1)] * 6, [(1, 1), (2, 2), (4, 4)]]


@pytest.mark.soak
def test_training_gives_2048_points_of_an_image_of_512_px(published: UGSNet) -> None:
    with torch.no_grad():
        found = published.train()(torch.rand(2, 3, 512, 512))
    assert found.coarse.shape == (2, 2, 128, 128)
    assert found.rend.shape == (2, 2, 2048)
    assert found.points.shape == (2, 2048, 2)


def test_attention_gates_by_row_column_and_channel() -> None:
    torch.manual_seed(0)
    module = CoordinateAttention(64).eval()
    assert module.along[0].out_channels == 8
    x = torch.rand(2, 64, 20, 24) + 0.5
    with torch.inference_mode():
        gates = module(x) / x
        flat = module(torch.ones(1, 64, 20, 24))[0, :, 1:-1, 1:-1]
    assert float(gates.min()) > 0
    assert float(gates.max()) < 1
    # a product of a row's, a column's and a channel's: so are its ratios
    torch.testing.assert_close(gates[:, :, 3, 5] * gates[:, :, 7, 9],
                               gates[:, :, 3, 9] * gates[:, :, 7, 5])  # fmt: skip
    torch.testing.assert_close(flat, flat[:, :1, :1].expand_as(flat))
    with pytest.raises(ValueError, match="batch of one"):
        module.train()(x[:1])


def test_points_are_drawn_where_the_map_is_unsure() -> None:
    coarse = torch.zeros(1, 2, 16, 16)
    coarse[:, 0, :, :8], coarse[:, 1, :, 8:] = 5.0, 5.0
    generator = torch.Generator().manual_seed(0)
    points = draw_points(coarse, 400, generator=generator)
    assert points.shape == (1, 400, 2)
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    near = (points[0, :300, 0] - 0.5).abs()
    # of 1200 drawn evenly a sixteenth lies where the map turns: all of these are kept
    assert 50 < int((near < 1 / 32).sum()) < 110
    assert int(((points[0, 300:, 0] - 0.5).abs() < 1 / 32).sum()) < 20
    # between two sure pixels the truth is doubt; the published code sees none there
    middle = torch.tensor([[[0.5, 0.5]]])
    assert float(unsure(sample(coarse, middle))) == pytest.approx(0.0, abs=1e-5)
    assert float(sample(unsure(coarse)[:, None], middle)) == pytest.approx(-5.0)


SIZE = 512
COUNTS = [0, *(2**k for k in range(19))]  # the last: every pixel


def discs() -> tuple[torch.Tensor, torch.Tensor]:
    """Crowns of many sizes: which pixels (1, y, x), and logits that are sure of it."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    truth = torch.zeros(1, SIZE, SIZE)
    for cx, cy, r in (SIZE * torch.rand((24, 3), generator=generator)).tolist():
        truth[0][(x - cx) ** 2 + (y - cy) ** 2 < (10 + r / 10) ** 2] = 1
    return truth, torch.stack([-4 * (truth - 0.5), 4 * (truth - 0.5)], dim=1)


def refined(coarse: torch.Tensor, truth: torch.Tensor, logits: torch.Tensor) -> list[float]:
    """F1 where more and more points are asked of an oracle."""

    def f1(points: int) -> float:
        found = refine(coarse, lambda at: sample(logits, at, "nearest"), (SIZE, SIZE), points)
        green = found.argmax(1)
        both = float((green * truth).sum())
        return 2 * both / float(green.sum() + truth.sum())

    return [f1(points) for points in COUNTS]


@pytest.mark.parametrize(("factor", "least", "slack"), [(2, 0.98, 0), (4, 0.95, 1e-4)])
def test_more_points_of_an_oracle_are_better(factor: int, least: float, slack: float) -> None:
    """Of one doubling always; of two, a point of the first may spoil a pixel beside it."""
    truth, logits = discs()
    # a map that errs as a network's: blurred, and with a mind of its own here and there
    generator = torch.Generator().manual_seed(9)
    coarse = nn.functional.avg_pool2d(nn.functional.avg_pool2d(logits, factor), 9, 1, 4)
    errors = 0.6 * torch.randn((1, 2, 16, 16), generator=generator)
    coarse = coarse + nn.functional.interpolate(errors, coarse.shape[-2:], mode="bilinear")
    scores = refined(coarse, truth, logits)
    assert min(after - before for before, after in pairwise(scores)) >= -slack
    assert scores[0] < least
    assert scores[COUNTS.index(8192)] > 0.99
    assert scores[-1] == 1.0  # all pixels are the head's own
    with pytest.raises(ValueError, match="never gives"):
        refine(coarse, lambda at: sample(logits, at), (SIZE, 48), 10)


def test_few_points_of_an_oracle_spoil_a_perfect_coarse_map() -> None:
    """Exact shares of crowns tell the border between pixels better than sure pixels, doubled, do:
    of the published two doublings. A network's coarse map is no such map."""
    truth, logits = discs()
    scores = refined(nn.functional.avg_pool2d(logits, 4), truth, logits)
    assert 0.985 < min(scores) < scores[0] - 0.003
    most = COUNTS.index(8192)
    assert scores[most:] == sorted(scores[most:])
    assert scores[most] > scores[0]


@pytest.mark.parametrize("head", [True, False])
def test_any_size_comes_back_and_training_gives_points(head: bool) -> None:
    torch.manual_seed(0)
    network = UGSNet(width=16, point_head=head, points=64)
    network.eval()
    with torch.inference_mode():
        found = network(torch.rand(1, 3, 62, 70))
    assert isinstance(found, torch.Tensor)
    assert found.shape == (1, 2, 62, 70)
    trained = network.train()(torch.rand(2, 3, 64, 64))
    assert isinstance(trained, Trained)
    assert trained.coarse.shape == (2, 2, 16, 16)
    if head:
        assert trained.rend is not None
        assert trained.points is not None
        assert trained.rend.shape == (2, 2, 256)
        assert trained.points.shape == (2, 256, 2)
    else:
        assert trained.rend is None


def test_unet_has_its_known_size_and_any_size_comes_back() -> None:
    torch.manual_seed(0)
    assert count(UNet()) == 31_037_698  # that of the much used padded form with normalisation
    network = UNet(width=8).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 50, 37)).shape == (1, 2, 50, 37)
    trained = network.train()(torch.rand(2, 3, 32, 32))
    assert trained.coarse.shape == (2, 2, 32, 32)
