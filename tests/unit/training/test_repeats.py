"""Repeated splits of training areas: whole ones, every class on both sides, with quartiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.datasets.patches import PatchSet, Place, write_patches
from engine.errors import LabelError
from engine.models.footprint import read_footprint
from engine.training.forest import grow, vote
from engine.training.repeats import repeat, split_areas
from engine.training.train import train

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def areas(counts: dict[int, int], seed: int = 0) -> PatchSet:
    """Areas of so many patches each, of a colour by class and of a shade by area."""
    rng = np.random.default_rng(seed)
    x, y, group = [], [], []
    for code, count in counts.items():
        for _ in range(count):
            shade = rng.normal(0, 150)
            for _ in range(8):
                values = 1500 + 200 * code + shade + rng.normal(0, 60, (10, 32, 32))
                x.append(values.astype(np.uint16))
                y.append(code)
                group.append(len(set(group)) if not group else group[-1])
            group[-8:] = [max(group[:-8], default=-1) + 1] * 8
    n = len(y)
    return PatchSet(
        np.stack(x), np.array(y, np.uint8), np.full((n, 2), np.nan), np.array(group, np.int64),
        np.zeros(n, np.uint16), np.zeros(n, np.uint8), BANDS, 32, 0, 10.0,
        (Place("here", "2023-01-01/2023-02-01", "EPSG:3035"),),
    )  # fmt: skip


def test_no_area_is_on_both_sides_and_every_class_is_on_each() -> None:
    lcz = np.repeat(np.array([1, 6, 14], np.uint8), [6, 12, 40])
    rng = np.random.default_rng(0)
    seen = np.zeros(len(lcz), bool)
    for _ in range(25):
        test = split_areas(np.arange(len(lcz)), lcz, rng)
        for code, count in ((1, 3), (6, 4), (14, 12)):
            assert test[lcz == code].sum() == count
            assert (~test)[lcz == code].sum() >= 3
        seen |= test
    assert seen.all()
    with pytest.raises(LabelError, match="LCZ 6: 2") as caught:
        split_areas(np.arange(6), np.array([1, 1, 1, 6, 6, 1], np.uint8), rng)
    assert "too few training areas" in str(caught.value)


def test_figures_with_their_quartiles(tmp_path: Path) -> None:
    patches = areas({2: 8, 3: 8, 6: 4})
    write_patches(tmp_path / "patches", patches)
    recipe = {
        "name": "forest",
        "patches": "patches",
        "context": 0,
        "split": {"by": "own"},
        "model": {"architecture": "forest", "parameters": {"trees": 10}},
        "training": {"bootstraps": 5},
        "out": "model",
    }
    found = train(recipe, base=tmp_path)
    report = json.loads((tmp_path / "model" / "report.json").read_text())["bootstraps"]
    assert report["count"] == 5
    mean, low, high = report["figures"]["oa"]
    assert low <= mean + 1e-9
    assert mean - 1e-9 <= high
    assert 0.4 < mean < 1.0
    assert "under 3 on a side: LCZ [6]" in report["notes"][0]
    # the same seed, the same figures; patches of an area are no independent witnesses: the
    # forest knows its own areas better than others'
    again = repeat(patches, found.card, 5, trees=10)
    assert again.figures["oa"] == pytest.approx((mean, low, high))


@pytest.mark.parametrize("training", [{"bootstraps": 2}, {"final": "all"}, {"final": "train"}, {}])
def test_the_final_forest_grows_on_all_areas(tmp_path: Path, training: dict[str, Any]) -> None:
    """As WUDAPT's: what is judged was grown on a part, what is kept on all."""
    patches = areas({2: 6, 3: 6, 14: 6})
    split = np.resize(np.array([0, 0, 0, 1, 2, 255], np.uint8), 18).repeat(8)
    xy = np.stack([np.arange(144.0), np.zeros(144)], 1) * 1000
    patches = replace(patches, split=split, xy=xy)
    write_patches(tmp_path / "patches", patches)
    choice = {"architecture": "forest", "parameters": {"trees": 8}}
    recipe = {"name": "f", "patches": "patches", "split": {"by": "own"}, "model": choice}
    found = train({**recipe, "training": training, "out": "model"}, base=tmp_path)
    whole = training not in ({}, {"final": "train"})
    card = found.card
    parts = {"train": split == 0, "all": np.ones(144, bool)}
    forests = {
        name: grow(patches.x[here], patches.y[here], card, trees=8) for name, here in parts.items()
    }
    kept = load_file(tmp_path / "model" / "f.safetensors")
    wanted = forests["all" if whole else "train"].weights
    assert kept.keys() == wanted.keys()
    for name, values in wanted.items():
        assert torch.equal(kept[name], values), name
    # the test patches are those of a forest that has not seen them
    test = split == 2
    votes = vote(forests["train"], card, patches.x[test])
    right = (np.array(card.classes)[votes.argmax(1)] == patches.y[test]).mean()
    assert found.figures is not None
    assert found.figures["oa"] == pytest.approx(right)
    assert ("of a forest without them" in found.words) == whole
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    count = 144 if whole else 72
    assert report["final"] == {"grown_on": "all" if whole else "train", "count": count}
    assert f"trained on {count} patches" in card.provenance
    ground = read_footprint(tmp_path / "model")
    assert ground is not None
    assert sum(len(place.xy) for place in ground.places) == count
