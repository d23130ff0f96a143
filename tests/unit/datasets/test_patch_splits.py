"""Splits of labelled cells: none share pixels that the model sees, and what is empty is told."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.datasets.patch_splits import Labelled, split_labelled, what_is_empty
from engine.datasets.splits import UNUSED, find_leaks, split_by_group
from engine.recipes.classifying import ClassifierSplit


def labelled(y: np.ndarray, xy: np.ndarray, group: np.ndarray) -> Labelled:
    n = len(y)
    own = np.full(n, UNUSED, np.uint8)
    return Labelled(
        y.astype(np.uint8), xy.astype(float), group, np.zeros(n, np.uint16), ("town",), own
    )


def areas(at: list[tuple[float, float]], kinds: list[int], cells: int = 4) -> Labelled:
    """Square areas of so many cells along a side."""
    inner = np.stack(np.meshgrid(*[np.arange(cells) * 100.0] * 2), -1).reshape(-1, 2)
    xy = np.concatenate([np.array(corner) + inner for corner in at])
    per = cells * cells
    return labelled(np.repeat(kinds, per), xy, np.repeat(np.arange(len(at)), per))


@example(seed=0, tall=41, wide=83, reach=640.0, strips=False)
@example(seed=516, tall=81, wide=67, reach=640.0, strips=False)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tall=st.integers(30, 90),
    wide=st.integers(30, 90),
    reach=st.sampled_from([320.0, 640.0]),
    strips=st.booleans(),
)
def test_labels_that_hang_together_are_cut_into_blocks(
    seed: int, tall: int, wide: int, reach: float, strips: bool
) -> None:
    """A raster of labels, its cells in groups of their own or in long strips."""
    rows, cols = (axis.ravel() for axis in np.mgrid[:tall, :wide])
    xy = np.stack([cols, -rows], -1) * 100.0 + 50
    lcz = np.random.default_rng(seed).integers(1, 4, len(xy)).astype(np.uint8)
    groups = rows if strips else np.arange(len(xy))
    told: list[str] = []
    split = split_by_group(groups, lcz, xy, reach, seed=seed, tell=told.append)
    assert find_leaks(xy, split, reach) == 0
    assert set(split.tolist()) == {0, 1, 2, UNUSED}
    assert (split == 0).sum() > (split == 2).sum() > 0
    assert "hang together" in told[0]
    assert f"{(split == UNUSED).sum()} patches" in told[0]


def test_areas_apart_are_not_cut() -> None:
    found = areas([(2000.0 * k, 0.0) for k in range(10)], [2, 6] * 5)
    told: list[str] = []
    split = split_by_group(found.group, found.y, found.xy, 320.0, tell=told.append)
    assert told == []
    assert UNUSED not in split
    for group in range(10):
        assert len(set(split[found.group == group].tolist())) == 1


def test_reach_joins_only_what_the_model_sees() -> None:
    """Areas 400 m apart: apart for patches of 320 m, one piece for those of 640 m."""
    found = areas([(800.0 * (k % 3), 800.0 * (k // 3)) for k in range(9)], [2, 5, 6] * 3, 5)
    near = split_labelled(ClassifierSplit(), found, 320.0)
    assert UNUSED not in near
    assert len(set(near.tolist())) == 3
    far = split_labelled(ClassifierSplit(), found, 640.0)
    assert find_leaks(found.xy, far, 640.0) == 0
    assert UNUSED in far


@pytest.mark.parametrize("by", ["group", "block"])
def test_what_is_empty_is_told_with_a_remedy_that_works(by: str) -> None:
    rng = np.random.default_rng(3)
    places = [(float(x), float(y)) for x, y in rng.uniform(0, 9000, (60, 2))]
    found = areas(places, [2, 6] * 30)
    choice = ClassifierSplit(by=by, side=20_000.0)  # type: ignore[arg-type]
    split = split_labelled(choice, found, 320.0)
    notes = what_is_empty(choice, found, split, 320.0)
    if by == "group":
        assert notes == []
        return
    assert any(note.startswith(("no validation", "no test", "no train")) for note in notes)
    other = re.search(r"split: \{by: (\w+)(?:, side: (\d+))?\}", notes[-1])
    assert other is not None
    better = ClassifierSplit(by=other[1], side=float(other[2] or 3200))  # type: ignore[arg-type]
    assert what_is_empty(better, found, split_labelled(better, found, 320.0), 320.0) == []


def test_a_class_in_one_area_is_named() -> None:
    found = areas([(2000.0 * k, 0.0) for k in range(10)], [2, 6, 2, 6, 2, 6, 2, 6, 2, 17])
    choice = ClassifierSplit()
    notes = what_is_empty(choice, found, split_labelled(choice, found, 320.0), 320.0)
    assert any(re.search(r"no test patches of .*LCZ G", note) for note in notes)
    assert "2 and 6" not in " ".join(notes)


@pytest.mark.parametrize("by", ["group", "block"])
@pytest.mark.parametrize("second", ["EPSG:32633", "EPSG:32632"])
def test_places_that_share_ground_are_split_as_one(by: str, second: str) -> None:
    """Two years of one city, the labels drawn by two people, the second in a zone of its own."""
    rng = np.random.default_rng(0)
    some, others = (rng.uniform(0, 2e4, (n, 2)) + np.array([5e5, 5.3e6]) for n in (300, 400))
    there = Transformer.from_crs("EPSG:32633", second, always_xy=True).transform(*others.T)
    far = some + np.array([2e5, 0])
    xy = np.concatenate([some, np.stack(there, -1), far])
    one = labelled(rng.integers(1, 4, 1000), xy, np.arange(1000) % 300)
    place = np.repeat([0, 1, 2], [300, 400, 300]).astype(np.uint16)
    labels = replace(
        one, place=place, names=("then", "now", "far"), crs=("EPSG:32633", second, "EPSG:32633")
    )
    split = split_labelled(ClassifierSplit(by=by), labels, 320.0)
    ground = np.concatenate([some, others])
    assert find_leaks(ground, split[:700], 319.0) == 0  # a zone's metres differ by a thousandth
    assert {0, 1, 2} <= set(split[:700].tolist())
    alone = replace(labels, crs=("", "", ""))  # what nobody knows cannot be brought together
    assert find_leaks(ground, split_labelled(ClassifierSplit(by=by), alone, 320.0)[:700], 319.0)


def test_places_of_different_splits_that_share_ground_are_told() -> None:
    xy = np.array([[0.0, 0.0], [100.0, 0.0], [9000.0, 0.0]])
    one = labelled(np.array([1, 2, 3]), xy, np.arange(3))
    labels = replace(
        one, place=np.arange(3, dtype=np.uint16), names=("a", "b", "c"), crs=("EPSG:32633",) * 3
    )
    for test, words in (("b", "1 pairs"), ("c", "")):
        told: list[str] = []
        split = split_labelled(
            ClassifierSplit(by="place", test=(test,)), labels, 320.0, told.append
        )
        assert split.tolist() == [0, 2 * (test == "b"), 2 * (test == "c")]
        assert words in " ".join(told)
        assert bool(told) == bool(words)
