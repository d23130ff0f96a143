"""Codes of texture against a count of each pixel's circle, and against scikit-image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from skimage.feature import local_binary_pattern
from support.textures import KINDS, texture

from engine.texture.lbp import BINS, POINTS, RADIUS, RIM, lbp_codes, lbp_counts


def brute(image: np.ndarray) -> np.ndarray:
    """Codes inside the rim, one pixel and one point after the other."""
    rows, cols = image.shape
    found = np.zeros((rows - 2 * RIM, cols - 2 * RIM), int)
    values = image.astype(float)
    for r in range(RIM, rows - RIM):
        for c in range(RIM, cols - RIM):
            bright = []
            for k in range(POINTS):
                angle = 2 * math.pi * k / POINTS
                y = r + round(-RADIUS * math.sin(angle), 5)
                x = c + round(RADIUS * math.cos(angle), 5)
                top, left, v, u = math.floor(y), math.floor(x), y - math.floor(y), x - math.floor(x)
                bottom, right = math.ceil(y), math.ceil(x)
                high = (1 - u) * values[top, left] + u * values[top, right]
                low = (1 - u) * values[bottom, left] + u * values[bottom, right]
                bright.append((1 - v) * high + v * low >= values[r, c])
            turns = sum(a != b for a, b in zip(bright, bright[1:] + bright[:1], strict=True))
            found[r - RIM, c - RIM] = sum(bright) if turns <= 2 else POINTS + 1
    return found


@pytest.mark.parametrize("kind", range(KINDS))
def test_codes_are_those_of_each_pixels_circle(kind: int) -> None:
    image = texture(kind, 30, np.random.default_rng(kind))[:, :26]
    np.testing.assert_array_equal(lbp_codes(image), brute(image))


@pytest.mark.parametrize("kind", range(KINDS))
def test_codes_are_those_of_scikit_image(kind: int) -> None:
    image = texture(kind, 200, np.random.default_rng(kind))
    theirs = local_binary_pattern(image, POINTS, RADIUS, "uniform")[RIM:-RIM, RIM:-RIM]
    np.testing.assert_array_equal(lbp_codes(image), theirs)


def test_codes_of_real_photos_are_those_of_scikit_image(data: Path) -> None:
    paths = sorted((data / "naip-california" / "images").glob("*.tif"))
    assert len(paths) == 10
    for path in paths[:3]:
        with rasterio.open(path) as file:
            image = file.read(2)
        theirs = local_binary_pattern(image, POINTS, RADIUS, "uniform")[RIM:-RIM, RIM:-RIM]
        np.testing.assert_array_equal(lbp_codes(image), theirs)


@pytest.mark.parametrize("value", range(0, 256, 15))
def test_a_flat_image_has_one_code(value: int) -> None:
    image = np.full((40, 70), value, np.uint8)
    assert lbp_counts(image).tolist() == [0] * POINTS + [32 * 62, 0]


def test_brightness_changes_no_code() -> None:
    image = texture(3, 90, np.random.default_rng(0)).astype(np.int64)
    np.testing.assert_array_equal(lbp_codes(image), lbp_codes(image + 40))
    np.testing.assert_array_equal(lbp_codes(image), lbp_codes(image * 4))


@pytest.mark.parametrize("kind", range(KINDS))
def test_a_quarter_turn_changes_hardly_a_count(kind: int) -> None:
    image = texture(kind, 128, np.random.default_rng(kind))
    counts = [lbp_counts(np.rot90(image, k)) for k in range(4)]
    for other in counts[1:]:
        assert np.abs(other - counts[0]).sum() / counts[0].sum() < 0.02


def test_pixels_near_a_hole_have_no_code() -> None:
    image = texture(0, 60, np.random.default_rng(0))
    valid = np.ones(image.shape, bool)
    valid[20:23, 41] = False
    kept = np.ones(image.shape, bool)
    kept[20 - RIM : 23 + RIM, 41 - RIM : 42 + RIM] = False
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    wanted = np.bincount(lbp_codes(image)[kept[inner]], minlength=BINS)
    found = lbp_counts(image, valid)
    np.testing.assert_array_equal(found, wanted)
    holed = image.copy()
    holed[~valid] = 0
    np.testing.assert_array_equal(lbp_counts(holed, valid), found)


def test_an_image_no_larger_than_its_rim_has_no_code() -> None:
    assert lbp_codes(np.zeros((8, 30), np.uint8)).shape == (0, 22)
    assert lbp_counts(np.zeros((5, 5), np.uint8)).sum() == 0
