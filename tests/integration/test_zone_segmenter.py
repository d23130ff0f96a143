"""Zones mapped by a segmenter: its pixels pooled to cells, the same in every layout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scipy.special import softmax
from support import shared
from support.worlds import SMALL, square_of, synthesize

import engine
from engine.errors import CardError, RecipeError
from engine.legend import Reason
from engine.models.card import ModelCard, load_card
from engine.models.inputs import prepare_input
from engine.models.mlm import write_card
from engine.models.registry import load_model
from engine.models.unet import UNet

pytestmark = pytest.mark.slow
BANDS = ("B04", "B03", "B08")


def write_unet(folder: Path, overlap: int) -> ModelCard:
    folder.mkdir()
    torch.manual_seed(1)
    network = UNet(3, 17, 4)
    torch.nn.init.normal_(network.out.weight, std=100.0)  # else all cells are nearly alike
    state = network.state_dict()
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, folder / "w.safetensors")
    card = ModelCard(
        name="zones",
        architecture="unet",
        parameters={"width": 4},
        bands=BANDS,
        mean=(0.1, 0.1, 0.2),
        std=(0.05, 0.05, 0.1),
        patch=64,
        overlap=overlap,
        features=0,
        output="logit",
        weights="w.safetensors",
        sha256=hashlib.sha256((folder / "w.safetensors").read_bytes()).hexdigest(),
        folder=folder,
    )
    write_card(card, folder)
    return card


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    synthesize(SMALL, folder, tile=160)
    write_unet(folder / "blended", overlap=16)
    write_unet(folder / "apart", overlap=0)
    return folder


def recipe(world: Path, name: str, card: str, tile: int = 160, **model: Any) -> dict[str, Any]:
    made = yaml.safe_load((world / "recipe.yaml").read_text())
    return {
        "name": name,
        "product": "lcz",
        "area": {"file": str(square_of(world, 400))},
        "grid": {**made["grid"], "tile": tile, "chunk": tile},
        "imagery": {
            "catalog": str(world / "scenes" / "catalog.json"),
            "period": made["imagery"]["period"],
        },
        "cube": {"keep_scenes": False},
        "model": {"card": str(world / card), "device": "cpu", **model},
        "store": str(world / f"{name}-store"),
    }


def mapped(world: Path, *args: Any) -> Any:
    wanted = recipe(world, *args)
    assert not shared.run(wanted).failed
    return engine.open_store(wanted["store"], decode=False).load()


def test_the_map_is_the_same_in_every_layout(world: Path) -> None:
    one, other = mapped(world, "one", "blended"), mapped(world, "other", "blended", 110)
    there = one["map"]["reason"].values == Reason.DATA
    assert there.sum() > 50
    for name in ("map/classes", "map/unfiltered", "map/reason", "scores/probability"):
        mine = one[name]
        none = np.nan if mine.dtype.kind == "f" else np.uint8(255)
        theirs = other[name].reindex_like(mine, fill_value=none)
        assert mine.dtype == theirs.dtype
        assert mine.values[..., there].tobytes() == theirs.values[..., there].tobytes(), name
    scores = one["scores"]["probability"].values[:, there]
    assert np.ptp(scores, axis=1).max() > 0.01


def test_a_cell_has_the_mean_probability_of_its_pixels(world: Path) -> None:
    """Witness: windows that do not overlap, each looked at by itself."""
    tree = mapped(world, "apart", "apart")
    composite = tree["composite"].to_dataset()
    names = [str(b) for b in composite["band"].values]
    stored = composite["bands"].values[[names.index(b) for b in BANDS]]
    seen = composite["observations"].values > 0
    card = load_card(world / "apart")
    network = load_model(card)
    # windows lie on multiples of their side from the grid's origin, (0, 0)
    top = round(-(float(composite.y[0]) + 5) / 10) % 64
    left = round((float(composite.x[0]) - 5) / 10) % 64
    pad = ((top, -(top + seen.shape[0]) % 64), (left, -(left + seen.shape[1]) % 64))
    x = prepare_input(np.pad(stored, ((0, 0), *pad)), np.pad(seen, pad), card)
    p = np.full((17, *x.shape[1:]), np.nan)
    for row in range(0, x.shape[1], 64):
        for col in range(0, x.shape[2], 64):
            here = np.s_[row : row + 64, col : col + 64]
            with torch.inference_mode():
                logits = network(torch.from_numpy(x[:, *here].copy())[None])[0].numpy()
            p[:, *here] = softmax(logits.astype(np.float64), axis=0)
    p = p[:, top : top + seen.shape[0], left : left + seen.shape[1]]
    rows, cols = seen.shape[0] // 10, seen.shape[1] // 10
    cells = np.where(seen, p, 0).reshape(17, rows, 10, cols, 10).sum(axis=(2, 4))
    count = seen.reshape(rows, 10, cols, 10).sum(axis=(1, 3))
    scores = tree["scores"]["probability"].values
    scored = ~np.isnan(scores).any(axis=0)
    assert scored.sum() > 50
    assert (count[scored] >= 80).all()
    expected = cells / np.maximum(count, 1)
    np.testing.assert_allclose(scores[:, scored], expected[:, scored], atol=1e-4)
    few = (count < 80) & (tree["map"]["reason"].values != Reason.OUTSIDE_AREA)
    assert np.isnan(scores[:, few]).all()


def test_what_cannot_be_mapped_is_refused(world: Path) -> None:
    with pytest.raises(CardError, match="gives no features"):
        engine.plan(recipe(world, "no", "blended", embedding="float16"))
    with pytest.raises(RecipeError, match="model's window"):
        engine.plan(recipe(world, "no", "blended", 60))
    with pytest.raises(RecipeError, match="the model's cells"):
        engine.plan(recipe(world, "no", "blended", 165))
    with pytest.raises(CardError, match="classes of its own"):
        engine.plan({**recipe(world, "no", "blended"), "product": "cover"})
