"""Known scenes are found, whatever the order; what is chosen is stable; weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score
from support.textures import KINDS, scenes
from threadpoolctl import threadpool_limits

from engine.errors import LabelError
from engine.similarity.clustering import Modes, assign, draw, in_order, mean_shift, numbered
from engine.similarity.descriptors import Described, describe
from engine.similarity.grouping import Settings, balance, group
from engine.similarity.source import ChipPatches
from engine.similarity.stability import Trial, choose, examine, why_not


@pytest.fixture(scope="module")
def described() -> Described:
    return describe(ChipPatches(scenes(240)[0], "toy"))


def points(described: Described, by: str = "both") -> np.ndarray:
    found = described.vectors(by)  # type: ignore[arg-type]
    return found[in_order(found)]


def test_known_scenes_are_found(described: Described) -> None:
    truth = scenes(240)[1]
    found = group(described, Settings("both", repeats=2))
    assert len(found.modes) == KINDS
    assert adjusted_rand_score(truth, found.scene) > 0.99  # a patch or two are far from all
    assert why_not(found.chosen) == ""
    assert found.notes == ()
    assert found.sizes.tolist() == sorted(found.sizes.tolist(), reverse=True)
    two = group(described, Settings("labels", repeats=2))  # two classes, whatever the texture
    assert len(two.modes) == 2
    assert adjusted_rand_score(truth % 2, two.scene) == 1.0


def test_patches_that_were_not_seen_go_to_their_scene(described: Described) -> None:
    found = group(described, Settings("both", repeats=2))
    chips, truth = scenes(120, seed=7)
    more = describe(ChipPatches(chips, "more")).vectors("both")
    scene, _ = assign(more, found.modes)
    assert adjusted_rand_score(truth, scene) == 1.0


@pytest.mark.parametrize("method", ["mean-shift", "kmeans"])
def test_neither_order_nor_threads_change_a_scene(described: Described, method: str) -> None:
    settings = Settings("both", method, 4 if method == "kmeans" else None, most=150, repeats=1)  # type: ignore[arg-type]
    first = group(described, settings)
    order = np.random.default_rng(3).permutation(240)
    assert described.labels is not None
    moved = replace(
        described,
        rows=described.rows[order],
        texture=described.texture[order],
        labels=described.labels[order],
    )
    with threadpool_limits(2):
        second = group(moved, settings)
    np.testing.assert_array_equal(second.scene, first.scene[order])
    np.testing.assert_array_equal(second.distance, first.distance[order])
    np.testing.assert_array_equal(second.modes.centres, first.modes.centres)
    assert second.trials == first.trials


def test_descriptions_are_the_same_with_any_number_of_threads(described: Described) -> None:
    chips, _ = scenes(240)
    one, three = (describe(ChipPatches(chips, "toy"), threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.texture, three.texture)
    np.testing.assert_array_equal(one.texture, described.texture)


def test_modes_are_those_of_scikit_learn_from_every_patch(described: Described) -> None:
    some = points(described, "texture")
    theirs = MeanShift(bandwidth=0.15).fit(some).cluster_centers_
    mine = mean_shift(some, 0.15)
    near = cdist(mine.centres, theirs)
    assert len(mine) > 1
    assert (near.min(axis=1) < 1e-3).all()


def test_each_patch_goes_to_the_nearest_mode() -> None:
    rng = np.random.default_rng(0)
    some, centres = rng.random((300, 5)), rng.random((7, 5))
    scene, distance = assign(some, Modes(centres, 0.4))
    apart = cdist(some, centres)
    np.testing.assert_allclose(distance, apart.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(scene, np.where(apart.min(1) > 0.4, -1, apart.argmin(1)))
    assert (scene == -1).any()
    assert (assign(some, Modes(centres[:0], 1.0))[0] == -1).all()


def test_scenes_are_numbered_by_size_then_by_their_middle() -> None:
    some = np.array([[0.0], [1.0], [1.0], [2.0], [2.0], [3.0]])
    found = numbered(some, Modes(np.array([[3.0], [2.0], [0.0], [9.0], [1.0]]), 0.5))
    assert found.centres.ravel().tolist() == [1.0, 2.0, 0.0, 3.0]


def test_a_draw_is_the_same_rows_in_any_order() -> None:
    rng = np.random.default_rng(0)
    some = np.round(rng.random((100, 3)), 1)
    moved = some[rng.permutation(100)]
    first, second = (draw(x[in_order(x)], 30, 5) for x in (some, moved))
    assert first.shape == (30, 3)
    np.testing.assert_array_equal(first, second)


def test_chance_is_not_stable() -> None:
    rng = np.random.default_rng(0)
    some = rng.random((300, 4))
    some = some[in_order(some)]
    trial = examine(some, lambda part, seed: mean_shift(part, 0.25), 0.25, repeats=2)
    assert trial.halves < 0.6
    assert "halves agree" in why_not(trial) or trial.scenes < 2 or trial.rare > 0.25


def trial(setting: float, **more: float) -> Trial:
    told = {"scenes": 6, "largest": 0.3, "rare": 0.05, "halves": 0.95, "halves_least": 0.9}
    return Trial(setting=setting, quantile=None, seeds=1.0, seeds_least=1.0, **(told | more))  # type: ignore[arg-type]


def test_the_finest_stable_one_is_chosen() -> None:
    loose = trial(0.05, rare=0.9, halves=0.99)
    coarse = trial(0.4, largest=0.6)
    shaky = trial(0.1, halves=0.7)
    fine = [trial(0.15), trial(0.2, halves=0.99)]
    assert choose([loose, shaky, *fine, coarse]) is fine[0]
    assert choose([loose, shaky, coarse]) is coarse  # a tenth too much is less than 0.25 too little
    assert choose([loose, shaky, trial(0.4, largest=0.9)]) is shaky
    assert choose([trial(0.3, scenes=1), coarse]) is coarse
    assert choose([trial(0.3, scenes=1), trial(0.4, scenes=0)]).setting == 0.3
    assert [bool(why_not(t)) for t in (loose, coarse, shaky, *fine)] == [True] * 3 + [False] * 2


def test_weights_go_by_the_root_of_the_size_up_to_ten() -> None:
    scene = np.repeat([0, 1, 2, -1], [400, 100, 1, 16])
    weights = balance(scene)
    assert np.unique(weights[:400]).tolist() == [1.0]
    assert weights[400] == 2.0
    assert weights[500] == 10.0  # 20 without the cap
    assert weights[501] == 5.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings("both", "dbscan"), "no such way"),  # type: ignore[arg-type]
        (Settings("both", "kmeans"), "kmeans is told"),
        (Settings("both", count=3), "kmeans is told"),
        (Settings("both", "kmeans", 200), "too few patches"),
        (Settings("both", "kmeans", 1), "two at least"),
        (Settings("both", "kmeans", 3, bandwidth=0.1), "no bandwidth"),
        (Settings("both", bandwidth=-1.0), "no distance"),
        (Settings("both", bandwidth=float("nan")), "no distance"),
        (Settings("both", repeats=0), "too few draws"),
        (Settings("both", bandwidth=1e-6, repeats=1), "no scenes at this bandwidth"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    described: Described, settings: Settings, words: str
) -> None:
    with pytest.raises(LabelError, match=words):
        group(described, settings)


def test_patches_that_are_alike_are_refused(described: Described) -> None:
    texture = np.repeat(described.texture[:1], 50, axis=0)
    alike = Described(np.arange(50), texture, None, ())
    with pytest.raises(LabelError, match="are alike"):
        group(alike, Settings("texture"))
    with pytest.raises(LabelError, match="too few patches"):
        group(Described(np.arange(5), described.texture[:5], None, ()), Settings("texture"))
