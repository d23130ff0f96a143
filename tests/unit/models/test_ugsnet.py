"""UGSNet as specified: sizes, shapes, attention, points."""

from __future__ import annotations

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


def test_levels_have_their_published_shapes(published: UGSNet) -> None:
    with torch.inference_mode():
        levels = published.eval().encoder(torch.rand(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 32, 48),
        (512, 16, 24),
        (1024, 8, 12),
        (2048, 4, 6),
    ]


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


def test_more_points_of_an_oracle_are_better() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.zeros(1, 64, 64)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for cx, cy, r in ((20, 22, 13), (47, 40, 9), (12, 52, 6)):
        truth[0][(x - cx) ** 2 + (y - cy) ** 2 < r**2] = 1
    logits = torch.stack([-4 * (truth - 0.5), 4 * (truth - 0.5)], dim=1)
    coarse = nn.functional.avg_pool2d(logits, 4)
    coarse = coarse + 0.4 * torch.randn(coarse.shape, generator=generator)

    def oracle(points: torch.Tensor) -> torch.Tensor:
        return sample(logits, points, "nearest")

    def f1(points: int) -> float:
        green = refine(coarse, oracle, (64, 64), points).argmax(1)
        both = float((green * truth).sum())
        return 2 * both / float(green.sum() + truth.sum())

    scores = [f1(points) for points in (0, 64, 256, 1024, 4096)]
    assert scores == sorted(scores)
    assert scores[0] < 0.97
    assert scores[-1] == 1.0  # all pixels are the head's own
    with pytest.raises(ValueError, match="never gives"):
        refine(coarse, oracle, (64, 48), 10)


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
