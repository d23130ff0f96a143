"""Which classes occur in patches, against every way in which unknown pixels may turn out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from engine.datasets.chips import UNKNOWN
from engine.datasets.occurrence import occurrence

CLASSES = (2, 5, 9)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.25, 0.5, 1.0])
def test_a_label_is_known_where_no_unknown_pixel_could_change_it(share: float) -> None:
    rng = np.random.default_rng(3)
    codes = rng.choice([2, 5, 9, UNKNOWN], (40, 3, 3), p=[0.4, 0.3, 0.1, 0.2]).astype(np.uint8)
    seen = rng.random(codes.shape) < 0.8
    codes[0], seen[1], seen[2] = UNKNOWN, False, True
    found = occurrence(codes, seen, CLASSES, share)
    for k in range(len(codes)):
        pixels = codes[k][seen[k]]
        if not len(pixels):
            assert np.isnan(found[k]).all()
            continue
        holes = np.flatnonzero(pixels == UNKNOWN)
        for j, code in enumerate(CLASSES):
            told = set()
            for filled in product((code, 0), repeat=len(holes)):
                pixels[holes] = filled
                own = int((pixels == code).sum())
                told.add(float(own > 0 and own >= share * len(pixels)))
            assert found[k, j] == pytest.approx(
                told.pop() if len(told) == 1 else np.nan, nan_ok=True
            )


def test_a_share_that_has_no_exact_number_is_met_by_as_many_pixels() -> None:
    codes = np.full((1, 10, 10), 5, np.uint8)
    codes[0, 0, :7] = 2
    assert occurrence(codes, None, (2, 5), 0.07).tolist() == [[1, 1]]  # .07 x 100 is 7.000…1
    assert occurrence(codes, None, (2, 5), 0.071).tolist() == [[0, 1]]
