"""Chips balanced by their scenes, and blocks of ground dealt out by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cards import write_segmenter
from support.textures import scenes as known
from support.textures import texture, write_frame

from engine.datasets.chip_splits import split_chips
from engine.datasets.chips import ChipSet
from engine.datasets.splits import SPLITS, find_leaks
from engine.errors import LabelError, RecipeError
from engine.products.registry import load_training
from engine.recipes.segmenting import SegmenterRecipe
from engine.similarity.grouping import balance
from engine.training.scenes import balance_chips, scenes_of_places
from engine.training.segmenters import Chips, SegmenterSettings, _Segment, fit_segmenter
from engine.training.train import train

UTM = "EPSG:32633"


def recipe(**more: Any) -> SegmenterRecipe:
    told = {
        "name": "green",
        "product": "ugs",
        "labels": [{"recipe": "town.yaml", "raster": "green.tif"}],
        "chips": "chips",
        "side": 48,
        "split": {"by": "frame", "side": 96, "shares": [0.6, 0.2, 0.2]},
        "scenes": {"by": "both", "bandwidth": 0.2},
        "model": {"size": "small"},
        "out": "model",
    }
    return load_training(told | more)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def places() -> list[ChipSet]:
    """Two towns; of the second scene 2 is rare, and of each a strip lies in the other."""
    chips, _ = known(200, 48)
    second, other = known(160, 48, seed=5)
    keep = (other != 2) | (np.cumsum(other == 2) <= 6)
    parts = []
    for name, part, rows in (("a", chips, np.arange(200)), ("b", second, np.flatnonzero(keep))):
        part = replace(
            part, x=part.x[rows], y=part.y[rows], xy=part.xy[rows], place=part.place[rows],
            split=part.split[rows], places=(name,),
        )  # fmt: skip
        parts.append(part)
    parts[1] = replace(parts[1], xy=parts[1].xy + np.array([48 * 36 + 7, 11]))
    return parts


def test_blocks_are_dealt_out_so_that_each_split_has_each_scene(places: list[ChipSet]) -> None:
    wanted = recipe()
    scenes = scenes_of_places(wanted, places, Path())
    assert [len(each) for each in scenes] == [len(part) for part in places]
    codes = split_chips(wanted.split, places, [UTM, UTM], scenes)
    split, scene = np.concatenate(codes), np.concatenate(scenes)
    xy = np.concatenate([part.xy for part in places])
    assert find_leaks(xy, split, 48.0) == 0
    assert find_leaks(places[0].xy, codes[0], 48.0) == 0
    for k, share in enumerate((0.6, 0.2, 0.2)):
        for number in range(4):
            mine = scene == number
            assert (split[mine] == k).mean() == pytest.approx(share, abs=0.12), (k, number)
    # whole blocks: where no chip was left out, one split
    for part, mine in zip(places, codes, strict=True):
        block = np.floor(part.xy / 96).astype(int)
        _, which = np.unique(block, axis=0, return_inverse=True)
        for number in range(which.max() + 1):
            assert len(set(mine[which.ravel() == number].tolist()) - {255}) <= 1
    order = np.random.default_rng(0).permutation(len(places[0]))
    part = places[0]
    moved = replace(part, x=part.x[order], y=part.y[order], xy=part.xy[order])
    again = scenes_of_places(wanted, [moved, places[1]], Path())
    np.testing.assert_array_equal(again[0], scenes[0][order])
    np.testing.assert_array_equal(again[1], scenes[1])


def test_chips_of_rare_scenes_have_larger_weights(places: list[ChipSet]) -> None:
    part = replace(places[0], split=(np.arange(200) % 2 * 2).astype(np.uint8))
    told: list[str] = []
    weights, report = balance_chips(recipe(scenes={"bandwidth": 0.12}), part, told.append)
    train = np.flatnonzero(part.split == SPLITS.index("train"))
    assert len(weights) == len(train) == 100
    truth = known(200, 48)[1][train]
    np.testing.assert_allclose(weights, balance(truth), rtol=0.2)
    assert sum(report["sizes"]) + report["in_no_scene"] == 100
    assert "scenes of" in told[-1]
    json.dumps(report)
    few = replace(part, split=np.where(np.arange(200) < 10, 0, 255).astype(np.uint8))
    with pytest.raises(LabelError, match="cannot be balanced by scene: there are too few"):
        balance_chips(recipe(), few, told.append)


def test_an_epoch_draws_chips_by_their_weights(tmp_path: Path) -> None:
    card = write_segmenter(tmp_path / "net", "unet", 32, 8)
    n = 400
    weights = np.where(np.arange(n) < 40, 9.0, 1.0)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (n, 3, 32, 32)).astype(np.uint8)
    y = rng.integers(0, 2, (n, 32, 32)).astype(np.uint8)
    settings = SegmenterSettings(epochs=1, batch=4)
    lesson = _Segment(card, settings, tmp_path, None, Chips(x, y, often=weights), Chips(x, y))
    drawn = np.concatenate([lesson.begin(number)[1] for number in range(20)])
    assert len(drawn) == 20 * n
    share = (drawn < 40).mean()
    assert share == pytest.approx(40 * 9 / (40 * 9 + 360), abs=0.02)
    np.testing.assert_array_equal(lesson.begin(3)[1], lesson.begin(3)[1])
    plain = replace(lesson, train=Chips(x, y))
    assert sorted(plain.begin(0)[1].tolist()) == list(range(n))
    assert plain.key() != lesson.key()
    fitted = fit_segmenter(
        card, Chips(x[:8], y[:8], often=weights[36:44]), Chips(x[:2], y[:2]), settings,
        tmp_path / "fit", device="cpu",
    )  # fmt: skip
    assert len(fitted.history) == 1


def test_a_split_by_frame_needs_scenes() -> None:
    with pytest.raises(RecipeError, match=r"needs scenes to deal blocks out by"):
        recipe(scenes=None)
    assert recipe(split={"by": "block"}, scenes=None).scenes is None


def test_a_training_says_what_scenes_it_was_balanced_by(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 28), ("val", 2), ("test", 2)):
        for kind in ("images", "labels"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        for k in range(count):
            grey = texture(0 if k % 4 else 1, 48, rng)
            mask = np.full((1, 48, 48), 255 * (k % 4 > 0), np.uint8)
            write_frame(
                tmp_path / "set" / split / "images" / f"{k}.tif", np.repeat(grey[None], 3, 0)
            )
            write_frame(tmp_path / "set" / split / "labels" / f"{k}.tif", mask)
    wanted = recipe(
        labels=[{"ugset": "set"}],
        split={"by": "own"},
        model={"architecture": "unet", "parameters": {"width": 4}, "overlap": 8},
        training={"epochs": 1, "batch": 4, "device": "cpu"},
    )
    told: list[str] = []
    train(wanted, base=tmp_path, tell=told.append)
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["scenes"]["sizes"] == [21, 7]
    assert report["scenes"]["by"] == "both"
    assert "2 scenes of 21, 7 chips" in told
    with pytest.raises(LabelError, match="no place to split blocks by"):
        train(recipe(labels=[{"ugset": "set"}], chips="others"), base=tmp_path)
