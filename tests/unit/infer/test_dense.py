"""Dense evaluation is per-patch evaluation: each network, any step, borders of blocks and tiles."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import CardError
from engine.infer.cells import score_cells
from engine.infer.predict import Predictor
from engine.models.card import ModelCard
from engine.models.inputs import prepare_input
from engine.models.mscnn import MSCNN
from engine.models.registry import load_model
from engine.models.resnet import ResNet11, ResNet11Volume

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
NETWORKS: dict[str, tuple[Any, dict[str, Any], dict[int, int]]] = {  # and context by leading blocks
    "mscnn": (
        MSCNN,
        {"branch": 8, "blocks": (16, 16, 16, 24, 24), "dense": 16},
        {1: 4, 2: 6, 3: 10},
    ),
    "resnet11": (ResNet11, {"width": 8}, {1: 3, 2: 7, 3: 15}),
    "resnet11-3d": (ResNet11Volume, {"width": 4}, {1: 2, 2: 4, 3: 8}),
}
CASES = [(name, leading) for name, (_, _, contexts) in NETWORKS.items() for leading in contexts]


def stirred(network: nn.Module) -> nn.Module:
    """With statistics and scales as after a training: fresh ones would hide mistakes."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def made(name: str, leading: int) -> Any:
    torch.manual_seed(leading)
    builder, more, _ = NETWORKS[name]
    return stirred(builder(leading=leading, **more))


def written(name: str, leading: int, folder: Path) -> ModelCard:
    network = made(name, leading)
    path = folder / f"{name}-{leading}.safetensors"
    save_file({k: v for k, v in network.state_dict().items() if "num_batches" not in k}, path)
    with torch.inference_mode():
        side = 32 + 2 * network.context
        features = network(torch.zeros(1, 10, side, side))[1].shape[1]
    return ModelCard(
        name="random",
        architecture=name,
        parameters={**NETWORKS[name][1], "leading": leading},
        bands=TEN,
        features=features,
        context=network.context,
        output="logit",
        weights=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        folder=folder,
    )


@pytest.mark.parametrize(("name", "leading"), CASES)
@pytest.mark.parametrize(
    ("patch", "step"),
    [
        (32, 10),
        (48, 7),
        *(pytest.param(*at, marks=pytest.mark.soak) for at in ((48, 10), (32, 5), (32, 7))),
    ],
)
def test_one_image_of_many_patches_gives_what_each_gives(
    name: str, leading: int, patch: int, step: int
) -> None:
    network = made(name, leading)
    context = network.context
    assert context == NETWORKS[name][2][leading]
    rows, cols, side = 3, 4, patch + 2 * context
    x = torch.randn(1, 10, (rows - 1) * step + side, (cols - 1) * step + side)
    patches = torch.cat(
        [
            x[:, :, i * step : i * step + side, j * step : j * step + side]
            for i in range(rows)
            for j in range(cols)
        ]
    )
    with torch.inference_mode():
        found = network.dense(x, rows, cols, step, patch)
        expected = network(patches)
    for one, other in zip(found, expected, strict=True):
        spread = float(other.max() - other.min())
        assert spread > 0.1
        assert float((one - other).abs().max()) < 1e-5 * spread


@pytest.mark.parametrize(("name", "leading"), [("mscnn", 3), ("resnet11", 2), ("resnet11-3d", 3)])
def test_trained_weights_too(name: str, leading: int) -> None:
    """Weights, and statistics of the normalisations, that a few steps have moved."""
    network = made(name, leading).train()
    side = 32 + 2 * network.context
    optimizer = torch.optim.NAdam(network.parameters(), lr=2e-3)
    for _ in range(3):
        x, y = torch.randn(4, 10, side, side) * 2 + 1, torch.randint(0, 17, (4,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x)[0], y).backward()
        optimizer.step()
    network.eval()
    image = torch.randn(1, 10, side + 20, side + 30) * 2 + 1
    with torch.inference_mode():
        found = network.dense(image, 3, 4, 10, 32)[0]
        for k in range(12):
            i, j = 10 * (k // 4), 10 * (k % 4)
            alone = network(image[:, :, i : i + side, j : j + side])[0][0]
            spread = float(found.max() - found.min())
            assert float((found[k] - alone).abs().max()) < 1e-4 * spread


def test_a_card_runs_in_bfloat16(tmp_path: Path) -> None:
    card = written("mscnn", 3, tmp_path).model_copy(update={"inference_block": 16})
    side = 10 * card.block + 2 * card.halo
    rng = np.random.default_rng(2)
    stored = rng.integers(1000, 5000, (10, side, side)).astype(np.uint16)
    valid = np.ones(stored.shape[1:], bool)
    full, half, again = (
        score_cells(stored, valid, card, Predictor(card, "cpu", precision, threads=threads)).scores
        for precision, threads in (("float32", 2), ("bfloat16", 2), ("bfloat16", 1))
    )
    assert full.dtype == half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.05)
    np.testing.assert_array_equal(half, again)


@pytest.mark.parametrize(("name", "leading"), CASES)
def test_the_context_is_the_receptive_field(name: str, leading: int) -> None:
    """By gradient: the outermost pixel of the context decides, and there is none beyond it."""
    network = made(name, leading)
    side = 32 + 2 * network.context
    x = torch.randn(4, 10, side, side, requires_grad=True)
    network(x)[0].pow(2).sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1)) > 0
    strided = name == "resnet11-3d" or name == "resnet11"
    assert seen[0].any()
    assert seen[:, 0].any()
    # the last row may be one that strides skip
    assert seen[-1].any() or (strided and seen[-8:].any())
    with pytest.raises((ValueError, RuntimeError)):
        network(torch.randn(1, 10, 4, 4))


@pytest.mark.parametrize(("name", "leading"), [("mscnn", 3), ("resnet11", 2), ("resnet11-3d", 3)])
def test_a_tile_is_scored_as_patch_by_patch(name: str, leading: int, tmp_path: Path) -> None:
    card = written(name, leading, tmp_path)
    network = load_model(card)
    cells, halo = card.block + 3, card.halo  # over a block's border, and a block cut by the tile's
    side = cells * 10 + 2 * halo
    rng = np.random.default_rng(0)
    stored = rng.integers(1000, 5000, (10, side, side)).astype(np.uint16)
    valid = rng.random((side, side)) > 0.01
    valid[: 40 + halo, : 40 + halo] = False
    wanted = rng.random((cells, cells)) > 0.3
    found = score_cells(stored, valid, card, Predictor(card, "cpu", threads=2), wanted)
    assert not found.scored[:3, :3].any()
    assert np.isnan(found.scores[:, ~found.scored]).all()
    x = prepare_input(stored, valid, card)
    where = np.argwhere(found.scored)
    picked = where[rng.choice(len(where), 20, replace=False)]
    edges = where[np.isin(where, [0, card.block - 1, card.block, cells - 1]).any(axis=1)]
    span = 32 + 2 * card.context
    for row, col in [*picked, *edges[:: max(len(edges) // 20, 1)]]:
        top, left = (halo - card.before + 10 * int(n) for n in (row, col))
        patch = torch.from_numpy(x[None, :, top : top + span, left : left + span].copy())
        with torch.inference_mode():
            expected = torch.softmax(network(patch)[0], dim=1)[0].numpy()
        np.testing.assert_allclose(found.scores[:, row, col], expected, atol=1e-5)


def test_bits_do_not_depend_on_threads_nor_on_the_tile(tmp_path: Path) -> None:
    card = written("mscnn", 3, tmp_path).model_copy(update={"inference_block": 16})
    n, halo = card.block, card.halo
    rng = np.random.default_rng(1)
    stored = rng.integers(1000, 5000, (10, 20 * n + 2 * halo, 10 * n + 2 * halo)).astype(np.uint16)
    valid = np.ones(stored.shape[1:], bool)
    whole = score_cells(stored, valid, card, Predictor(card, "cpu", threads=2))
    for top in (0, n):
        rows = slice(10 * top, 10 * (top + n) + 2 * halo)
        part = score_cells(stored[:, rows], valid[rows], card, Predictor(card, "cpu", threads=1))
        np.testing.assert_array_equal(part.scores, whole.scores[:, top : top + n])
        np.testing.assert_array_equal(part.features, whole.features[:, top : top + n])


def test_a_card_says_how_many_cells_go_together(tmp_path: Path) -> None:
    card = written("mscnn", 2, tmp_path)
    fewer = card.model_copy(update={"inference_block": 16})
    assert (card.block, fewer.block) == (32, 16)
    side = 320 + 2 * card.halo
    rng = np.random.default_rng(3)
    stored = rng.integers(1000, 5000, (10, side, side)).astype(np.uint16)
    valid = np.ones(stored.shape[1:], bool)
    one, other = (score_cells(stored, valid, c, Predictor(c, "cpu")).scores for c in (card, fewer))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_card_with_another_context_is_refused(tmp_path: Path) -> None:
    card = written("mscnn", 3, tmp_path).model_copy(update={"context": 6})
    with pytest.raises(CardError, match="another context"):
        load_model(card)
    with pytest.raises(ValueError, match="leading"):
        MSCNN(leading=5)
    with pytest.raises(ValueError, match="leading"):
        ResNet11(leading=4)


def test_scales_and_first_block_are_one_convolution_in_evaluation() -> None:
    network = made("mscnn", 1)
    x = torch.randn(2, 10, 40, 40)
    with torch.inference_mode():
        scales = torch.cat([scale(x) for scale in network.scales], dim=1)[..., 3:-3, 3:-3]
        straight = nn.functional.conv2d(scales, network.blocks[0].weight, network.blocks[0].bias)
        found = network._begin(x)
        assert float((found - straight).abs().max()) < 1e-5 * float(straight.abs().max())
    network.blocks[0].weight.data.mul_(2)  # and follows its weights
    nn.init.ones_(network.scales[1].bias)
    with torch.inference_mode():
        scales = torch.cat([scale(x) for scale in network.scales], dim=1)[..., 3:-3, 3:-3]
        straight = nn.functional.conv2d(scales, network.blocks[0].weight, network.blocks[0].bias)
        assert float((network._begin(x) - straight).abs().max()) < 1e-5 * float(
            straight.abs().max()
        )
    active = MSCNN(leading=1, ms_act="relu", branch=4).eval()
    with torch.inference_mode():
        scales = torch.relu(torch.cat([s(x) for s in active.scales], dim=1))[..., 3:-3, 3:-3]
        straight = nn.functional.conv2d(scales, active.blocks[0].weight, active.blocks[0].bias)
        torch.testing.assert_close(active._begin(x), straight, rtol=1e-4, atol=1e-4)
