"""The published networks: parameter counts, shapes, invariants, one step, overfitting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.models.baselines import MSMLA, DenseNet, ResNet50
from engine.models.gcn import GCN, adjacency, normalise
from engine.models.mscnn import MSCNN
from engine.models.resnet import ResNet11, ResNet11Volume
from engine.models.resnet_v2 import ResNetV2

SIZES: list[tuple[Any, dict[str, Any], int, int]] = [  # builder, parameters, weights, features
    (MSCNN, {}, 1_260_529, 256),
    (ResNet11, {}, 1_994_705, 1024),
    (ResNet11Volume, {}, 3_538_961, 1024),
    (ResNetV2, {}, 295_856 + 4_369, 256),
    (ResNetV2, {"dense": 256}, 295_856 + 256 * 257 + 4_369, 256),
    (ResNet50, {}, 23_591_377, 2048),
    (DenseNet, {}, 209_705, 116),
    (MSMLA, {}, 710_673, 768),
    (MSMLA, {"depth": 18}, 171_099, 240),
]
IDS = [f"{builder.__name__}-{'-'.join(map(str, more))}" for builder, more, _, _ in SIZES]


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def statistics(network: nn.Module) -> int:
    """Moving means and variances, which Keras counts among a network's parameters."""
    return sum(b.numel() for n, b in network.named_buffers() if "running" in n)


@pytest.mark.parametrize(("builder", "more", "count", "features"), SIZES, ids=IDS)
def test_published_sizes(builder: Any, more: dict[str, Any], count: int, features: int) -> None:
    network = builder(**more).eval()
    assert weights(network) == count
    with torch.inference_mode():
        scores, hidden = network(torch.randn(2, 10, 32, 32))
        assert (scores.shape, hidden.shape) == ((2, 17), (2, features))
        assert torch.isfinite(scores).all()
        if builder in (ResNet11, ResNet11Volume, ResNetV2, MSMLA):  # means, of any size
            assert network(torch.randn(1, 10, 48, 48))[0].shape == (1, 17)


def test_msmla_is_as_large_as_its_authors_say() -> None:
    """Their count has moving statistics, and a second dense layer in each attention that ours,
    by the paper of the attention, does not have."""
    for depth, levels, published in (
        (18, (64, 16, 32, 64), 181_867),
        (50, (64, 64, 128, 256), 808_913),
    ):
        network = MSMLA(depth=depth)
        theirs = sum(width * width + width for width in levels)
        assert weights(network) + statistics(network) + theirs == published


def test_resnet50_is_as_large_as_keras_makes_it_for_ten_bands() -> None:
    network = ResNet50()
    trunk = 23_587_712 + 7 * 7 * 7 * 64  # its own for three bands, and seven more
    assert weights(network) + statistics(network) == trunk + 2048 * 17 + 17


def test_blocks_of_the_volume_have_the_published_shapes_and_weights() -> None:
    network = ResNet11Volume().eval()
    assert [weights(part) for part in (network.stem, *network.blocks, network.head)] == [
        1_920, 149_376, 675_584, 2_694_656, 17_425,
    ]  # fmt: skip
    with torch.inference_mode():
        x = network.stem(torch.randn(1, 1, 10, 32, 32))
        shapes = [tuple(x.shape)]
        for block in network.blocks:
            x = block(x)
            shapes.append(tuple(x.shape))
    assert shapes == [
        (1, 64, 10, 32, 32), (1, 256, 10, 32, 32), (1, 512, 5, 16, 16), (1, 1024, 3, 8, 8),
    ]  # fmt: skip


@pytest.mark.parametrize(("builder", "more", "count", "features"), SIZES, ids=IDS)
def test_one_training_step(builder: Any, more: dict[str, Any], count: int, features: int) -> None:
    torch.manual_seed(0)
    network = builder(**more).train()
    optimizer = torch.optim.NAdam(network.parameters(), lr=2e-3, momentum_decay=4e-3)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    loss = nn.functional.cross_entropy(network(torch.randn(4, 10, 32, 32))[0], torch.arange(4))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = [not torch.equal(before[name], p) for name, p in network.named_parameters()]
    assert sum(moved) > 0.9 * len(moved)  # a convolution's bias before a norm need not


def test_a_frozen_trunk_stays_as_it_is_to_the_bit() -> None:
    torch.manual_seed(0)
    network = ResNetV2(dense=32, frozen=True).train()
    state = {name: value.clone() for name, value in network.trunk.state_dict().items()}
    head = network.head.weight.detach().clone()
    optimizer = torch.optim.NAdam([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(3):
        optimizer.zero_grad()
        scores, _ = network(torch.randn(8, 10, 32, 32))
        nn.functional.cross_entropy(scores, torch.randint(0, 17, (8,))).backward()
        optimizer.step()
    for name, value in network.trunk.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not torch.equal(network.head.weight, head)
    assert not network.trunk.training
    assert network.hidden.training


HEART: list[tuple[Any, dict[str, Any], int, int, int]] = [  # ..., labels, side in px, steps
    (ResNet11, {"width": 8}, 16, 16, 40),
    (ResNet11Volume, {"width": 8}, 8, 8, 45),
    (ResNetV2, {"width": 8}, 16, 16, 30),
    (DenseNet, {"growth": 8, "layers": 3, "width": 24, "between": 16}, 16, 16, 50),
    (MSMLA, {"depth": 18, "widths": (8, 16, 32)}, 16, 16, 40),
]
WHOLE: list[tuple[Any, dict[str, Any], int, int, int]] = [
    (ResNet11, {"width": 16}, 48, 32, 60),
    (ResNet11Volume, {}, 16, 16, 45),
    (ResNetV2, {}, 48, 32, 80),
    (DenseNet, {}, 48, 32, 80),
    (MSMLA, {"depth": 18}, 48, 32, 80),
]


@pytest.mark.parametrize(
    ("builder", "more", "labels", "side", "steps"),
    [*HEART, *(pytest.param(*case, marks=pytest.mark.soak) for case in WHOLE)],
    ids=[f"{kind}-{case[0].__name__}" for kind in ("small", "whole") for case in HEART],
)
def test_random_labels_are_learnt_by_heart(
    builder: Any, more: dict[str, Any], labels: int, side: int, steps: int
) -> None:
    torch.manual_seed(0)
    network = builder(**more)
    learn_by_heart(
        network, torch.randn(labels, 10, side, side), torch.randint(0, 17, (labels,)), steps
    )


def learn_by_heart(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.NAdam(network.parameters(), lr=2e-3, momentum_decay=4e-3)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x)[0], y).backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        assert (network(x)[0].argmax(1) == y).all()


# -- the graph network ------------------------------------------------------------------------


def graph(n: int, nodes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, nodes, 5, generator=generator), torch.ones(n, nodes, dtype=torch.bool)


def run(network: GCN, nodes: Tensor, mask: Tensor, mode: Any = "complete") -> Tensor:
    found = adjacency(nodes[:, :, 3:] * 320, mask, mode)
    with torch.inference_mode():
        scores: Tensor = network(nodes, normalise(found), mask)[0]
    return scores


def test_gcn_has_its_published_size() -> None:
    network = GCN()
    assert weights(network) == 5_073
    assert [weights(part) for part in (*network.layers, network.head)] == [352, 2080, 2080, 561]


@pytest.mark.parametrize("mode", ["complete", "gaussian", "knn"])
def test_the_order_of_nodes_and_padding_change_nothing(mode: str) -> None:
    network, (nodes, mask) = GCN(), graph(3, 20)
    expected = run(network, nodes, mask, mode)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(run(network, nodes[:, order], mask, mode), expected)
    padded = torch.cat([nodes, torch.rand(3, 30, 5)], dim=1)
    wide = torch.cat([mask, torch.zeros(3, 30, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(run(network, padded, wide, mode), expected)


def test_a_complete_graph_takes_the_mean_of_the_others() -> None:
    network, (nodes, mask) = GCN(), graph(1, 6)
    layer = network.layers[0]
    found = layer(nodes, normalise(adjacency(nodes[:, :, 3:], mask)))
    others = (nodes.sum(1, keepdim=True) - nodes) / 5
    expected = torch.relu(layer.around(others) + layer.own(nodes))
    torch.testing.assert_close(found, expected)


def test_one_node_and_none_are_finite() -> None:
    network, (nodes, mask) = GCN(), graph(2, 4)
    mask[0, 1:] = False
    mask[1] = False
    scores = run(network, nodes, mask)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[1], network.head.bias.detach())


def test_adjacency_by_distance() -> None:
    centres = torch.tensor([[[0.0, 0.0], [80.0, 0.0], [240.0, 0.0]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    soft = adjacency(centres, mask, "gaussian")[0]
    assert soft[0, 1] == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
    assert soft.diagonal().eq(0).all()
    near = adjacency(centres, mask, "knn", k=1)[0]
    assert near.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]  # symmetrised
    with pytest.raises(ValueError, match="mode"):
        adjacency(centres, mask, "none")  # type: ignore[arg-type]
