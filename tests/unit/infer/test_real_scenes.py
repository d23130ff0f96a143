"""Real scenes: 320 m aggregates are numpy's, and heads are judged on blocks that they never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.benchmark import load


def test_aggregates_of_real_scenes_are_numpys(data: Path) -> None:
    """Of Leipzig, and of Slovenia under the cloud masks of its own and of cloudy dates."""
    found = load("propagation/real").aggregates(data)
    assert {name: case["cells"] for name, case in found.items()} == {
        "leipzig": 24,
        "slovenia": 45,
        "slovenia, masks of cloudy dates": 45,
    }
    assert found["leipzig"]["vectors"] == 24
    assert 0 < found["slovenia, masks of cloudy dates"]["vectors"] < 45
    assert all(case["largest relative difference"] < 1e-6 for case in found.values())


def test_heads_at_real_points_are_judged_block_by_block(data: Path) -> None:
    real = load("propagation/real")
    place = real.leipzig(data)
    assert place.names == ("forest", "pasture", "urban", "water")
    found = real.piece(place, "kNN", 0, 0)
    whole = np.array(found["confusions"])
    assert whole.sum() == 97
    assert np.trace(whole.sum(0)) / 97 > 0.6
    assert whole.sum((1, 2)).tolist() == np.unique(place.blocks, return_counts=True)[1].tolist()
    assert all(20 < taught < 97 for taught in found["labels"])
    assert sum(97 - taught for taught in found["labels"]) == 97
    # it hands out every label: judged figures are between the bounds of their interval
    for value, low, high in real.judged(whole).values():
        assert 0.4 < low <= value <= high <= 1
