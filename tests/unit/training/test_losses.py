"""Losses of UGSNet, the discriminator, one step of adaptation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from engine.models.discriminator import Discriminator
from engine.models.ugsnet import Trained, UGSNet
from engine.training.losses import adapt_step, dice_loss, green_loss


def discs(seed: int = 0, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images with a green disc, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = torch.stack([
        ((x - 28) ** 2 + (y - 30) ** 2 < 15**2).float(),
        ((x - 40) ** 2 + (y - 24) ** 2 < 12**2).float(),
    ])  # fmt: skip
    noise = 0.1 * torch.randn((2, 3, side, side), generator=generator)
    return masks[:, None] * torch.tensor([0.2, 0.8, 0.3])[:, None, None] + noise, masks


def test_dice_is_0_for_perfect_and_1_for_disjoint_maps() -> None:
    _, masks = discs()
    logits = torch.stack([-50 * (masks - 0.5), 50 * (masks - 0.5)], dim=1)
    assert float(dice_loss(logits, masks)) == pytest.approx(0.0, abs=1e-3)
    assert float(dice_loss(-logits, masks)) == pytest.approx(1.0, abs=2e-3)
    unknown = masks.clone()
    unknown[:, :32] = math.nan
    wrong = logits.clone()
    wrong[:, :, :32] *= -1
    assert float(dice_loss(wrong, unknown)) == pytest.approx(0.0, abs=2e-3)


def test_points_add_their_cross_entropy() -> None:
    _, masks = discs()
    coarse = torch.zeros(2, 2, 16, 16)
    points = torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(0))
    rend = torch.zeros(2, 2, 50)
    alone = green_loss(Trained(coarse, None, None), masks)
    both = green_loss(Trained(coarse, rend, points), masks)
    assert float(both - alone) == pytest.approx(math.log(2), abs=1e-5)
    blind = green_loss(Trained(coarse, rend, points), torch.full_like(masks, math.nan))
    assert torch.isfinite(blind)


def test_the_discriminator_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = Discriminator()
    assert sum(p.numel() for p in network.parameters()) == 2_763_713
    with torch.inference_mode():
        assert network(torch.rand(1, 2, 128, 128)).shape == (1, 1, 4, 4)
        assert network(torch.rand(1, 2, 512, 512)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize(
    ("width", "side"), [(16, 64), pytest.param(64, 512, marks=pytest.mark.soak, id="published")]
)
def test_one_step_moves_each_by_its_own_loss(width: int, side: int) -> None:
    """The discriminator by its loss alone, then the network by its own alone; written straight."""

    def adam(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=1e-4, betas=(0.9, 0.99))

    torch.manual_seed(0)
    network, judge = UGSNet(width=width).train(), Discriminator(width=width)
    twins = copy.deepcopy(network), copy.deepcopy(judge)
    images, masks = discs(side=side)
    target = images.flip(3) * 0.6
    torch.manual_seed(1)  # dropout, points
    found = adapt_step(
        (network, network), judge, (adam(network), adam(judge)), images, masks, target, 1.0
    )
    assert found.discriminator == pytest.approx(math.log(2), abs=0.1)
    assert 0 <= found.told <= 1
    assert all(p.requires_grad for p in judge.parameters())

    def taken_for(scores: Tensor, domain: float) -> Tensor:
        told: Tensor = twins[1](scores)
        return nn.functional.binary_cross_entropy_with_logits(told, torch.full_like(told, domain))

    torch.manual_seed(1)
    optimizers = adam(twins[0]), adam(twins[1])
    ours, theirs = twins[0](images), twins[0](target)
    maps = [
        nn.functional.interpolate(part.coarse, (side, side), mode="bilinear").softmax(1)
        for part in (ours, theirs)
    ]
    (0.5 * (taken_for(maps[0].detach(), 1) + taken_for(maps[1].detach(), 0))).backward()
    optimizers[1].step()
    (green_loss(ours, masks) + taken_for(maps[1], 1)).backward()  # D's gradients: not used
    optimizers[0].step()
    for mine, twin in ((network, twins[0]), (judge, twins[1])):
        for (name, value), other in zip(mine.named_parameters(), twin.parameters(), strict=True):
            # Adam's first step is about its rate, 1e-4, by the sign of each gradient
            torch.testing.assert_close(value, other, atol=2e-5, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "steps"),
    [(16, 150), pytest.param(64, 80, marks=pytest.mark.soak)],
    ids=["small", "published"],
)
def test_two_discs_are_learnt_by_heart(width: int, steps: int) -> None:
    torch.manual_seed(0)
    network = UGSNet(width=width)
    images, masks = discs()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        network.train()
        optimizer.zero_grad()
        green_loss(network(images), masks).backward()
        optimizer.step()
    network.eval()

    def f1(logits: torch.Tensor) -> float:
        green = logits.argmax(1)
        both = float((green * masks).sum())
        return 2 * both / float(green.sum() + masks.sum())

    with torch.inference_mode():
        assert f1(network(images)) > 0.95  # every pixel is a point here: the head's answer
        coarse = network.coarse(images)[0]
        assert f1(nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")) > 0.9
