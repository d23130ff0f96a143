"""A network with context in the engine: dense over tiles, as patch by patch, in any layout."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from support import shared
from support.worlds import PLAIN, synthesize

import engine
from engine.errors import RecipeError
from engine.models.card import ModelCard, load_card
from engine.models.inputs import prepare_input
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.models.registry import load_model
from engine.synthetic.country import AUTUMN

pytestmark = pytest.mark.slow
TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SMALL = {"branch": 4, "blocks": [8, 8, 8, 16, 16], "dense": 16, "leading": 3}


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("country")
    synthesize(replace(PLAIN, overpasses=AUTUMN[:2]), folder, tile=320)
    torch.manual_seed(0)
    model = folder / "model"
    model.mkdir()
    save_file(
        {k: v for k, v in MSCNN(**SMALL).state_dict().items() if "num_batches" not in k},
        model / "w.safetensors",
    )
    card = ModelCard(
        name="dense",
        architecture="mscnn",
        parameters=SMALL,
        bands=TEN,
        mean=(0.2,) * 10,
        std=(0.1,) * 10,
        context=10,
        features=16,
        output="logit",
        weights="w.safetensors",
        sha256=hashlib.sha256((model / "w.safetensors").read_bytes()).hexdigest(),
        folder=model,
    )
    write_card(card, model)
    return folder


def run(country: Path, name: str, tile: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Scores and composite on a layout, and the grid's north-western corner."""
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    recipe["grid"]["tile"] = tile
    recipe |= {"model": {"card": "model"}, "store": name}
    assert not shared.run(recipe, base=country).failed
    tree = engine.open_store(country / name, decode=False)
    scores, composite = tree["scores"], tree["composite"]
    corner = float(scores.x[0]) - 50, float(scores.y[0]) + 50
    return scores["probability"].values, composite["bands"].values, corner


def test_scores_are_those_of_each_patch_alone_in_any_layout(country: Path) -> None:
    scores, stored, corner = run(country, "one", 320)
    network = load_model(load_card(country / "model"))
    card = load_card(country / "model")
    known = np.argwhere(np.isfinite(scores[0]))
    assert len(known) > 1000
    rng = np.random.default_rng(0)
    borders = known[((known % 32 == 0) | (known % 32 == 31)).any(axis=1)]
    for row, col in [*rng.permutation(known)[:40], *rng.permutation(borders)[:60]]:
        top, left = 10 * int(row) - card.before, 10 * int(col) - card.before
        if min(top, left) < 0 or max(top - stored.shape[1], left - stored.shape[2]) > -52:
            continue
        patch = stored[:, top : top + 52, left : left + 52]
        x = prepare_input(patch, (patch > 0).all(0), card)[None]
        with torch.inference_mode():
            expected = torch.softmax(network(torch.from_numpy(x))[0], 1)[0].numpy()
        np.testing.assert_allclose(scores[:, row, col], expected, atol=2e-5)
    other, _, at = run(country, "two", 640)
    down, across = round((at[1] - corner[1]) / 100), round((corner[0] - at[0]) / 100)
    part = other[:, down : down + scores.shape[1], across : across + scores.shape[2]]
    both = np.isfinite(scores[:, : part.shape[1], : part.shape[2]])
    np.testing.assert_array_equal(
        part[both], scores[:, : part.shape[1], : part.shape[2]][both]
    )  # to the bit


def test_a_tile_that_cuts_blocks_is_refused(country: Path) -> None:
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    recipe["grid"]["tile"] = 480
    with pytest.raises(RecipeError, match="does not fit the model's cells") as caught:
        engine.plan(recipe | {"model": {"card": "model"}, "store": "three"}, base=country)
    assert "a multiple of 320 px" in str(caught.value)
