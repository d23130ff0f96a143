"""Estimates with their uncertainty, against a published example; what cannot be estimated."""

from __future__ import annotations

import numpy as np
import pytest

from engine.compare.estimates import bootstrap, stratified
from engine.errors import MetricError
from engine.metrics import assess, confusion


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(MetricError, match="no groups"):
        bootstrap({})
    with pytest.raises(MetricError, match="too few samples"):
        stratified([[1, 0], [3, 9]], [10, 20])
    with pytest.raises(MetricError, match="do not fit"):
        stratified([[4, 0], [3, 9]], [10, 20, 30])


def test_groups_are_resampled_whole() -> None:
    rng = np.random.default_rng(0)
    groups = {}
    for k in range(8):
        reference = rng.integers(1, 18, 200)
        wrong = np.where(rng.random(200) < 0.4, rng.integers(1, 18, 200), reference)
        groups[str(k)] = confusion(reference, wrong)
    found = bootstrap(groups, repeats=200)
    whole = assess(sum(groups.values()))
    mean, low, high = found["oa"]
    assert low < whole.oa < high
    assert mean == pytest.approx(whole.oa, abs=0.02)
    assert bootstrap(groups)["oa"] == bootstrap(groups)["oa"]
    natural = bootstrap({"woods": confusion([11, 12], [11, 11])})
    assert np.isnan(natural["oa_u"]).all()
    alone = bootstrap({"only": groups["0"]})["kappa"]
    assert alone[0] == pytest.approx(alone[1]) == pytest.approx(alone[2])


def test_the_published_example_of_a_stratified_sample() -> None:
    """Olofsson et al. 2014, section 5: areas in pixels of 30 m."""
    counts = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
    found = stratified(counts, [200_000, 150_000, 3_200_000, 6_450_000])
    assert (round(found.oa, 4), round(found.oa_ci, 4)) == (0.9465, 0.0185)
    assert found.users.round(3).tolist() == [0.880, 0.733, 0.927, 0.963]
    assert found.producers.round(3).tolist() == [0.749, 0.847, 0.935, 0.962]
    assert found.producers_ci.round(3).tolist() == [0.213, 0.254, 0.034, 0.018]
    assert found.areas.round().tolist() == [235_086, 129_846, 3_175_221, 6_459_846]
    hectares = found.areas[0] * 0.09, found.areas_ci[0] * 0.09
    assert (round(hectares[0]), round(hectares[1])) == (21_158, 6_158)
