"""Splits that do not leak, patches that are the composite's pixels, and training that resumes."""

from __future__ import annotations

import contextlib
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from engine.datasets.patches import PatchSet, Place, cut, join, open_patches, write_patches
from engine.datasets.splits import UNUSED, find_leaks, split_by_block, split_by_group
from engine.errors import LabelError, RunError
from engine.models.card import ModelCard
from engine.models.forest import Forest
from engine.models.inputs import prepare_input
from engine.training.fit import (
    Batches,
    _Classify,
    _rate,
    fit,
    rotate,
    squares,
    statistics,
)
from engine.training.forest import features_of, grow
from engine.training.loop import Epoch
from engine.training.settings import Settings, class_weights, draw_epoch

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def card(**changes: object) -> ModelCard:
    values: dict[str, object] = {
        "name": "test",
        "architecture": "mscnn",
        "parameters": {"branch": 4, "blocks": [8, 8, 16, 16, 16], "dense": 16},
        "bands": BANDS,
        "clip": (0.0, 1.0),
        "mean": (0.2,) * 10,
        "std": (0.1,) * 10,
        "features": 16,
        "output": "logit",
        "weights": "test.safetensors",
        "sha256": "0" * 64,
        **changes,
    }
    return ModelCard.model_validate(values)


def patches(n: int, seed: int = 0) -> Batches:
    """Patches of three classes: bright, striped and plain."""
    rng = np.random.default_rng(seed)
    y = rng.choice(np.array([2, 6, 14], np.uint8), n, p=[0.6, 0.3, 0.1])
    x = rng.integers(1500, 2500, (n, 10, 32, 32)).astype(np.uint16)
    x[y == 2] += 900
    x[y == 6, :, ::4] += 1500
    return Batches(x, y)


# -- splits ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([320.0, 640.0]))
def test_splits_by_group_never_leak(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 30_000, (40, 2))
    groups = np.repeat(np.arange(40), 12)
    xy = np.floor((centres[groups] + rng.uniform(-400, 400, (480, 2))) / 100) * 100 + 50
    lcz = rng.integers(1, 6, 40).astype(np.uint8)[groups]
    split = split_by_group(groups, lcz, xy, reach, seed=seed)
    assert find_leaks(xy, split, reach) == 0
    for group in range(40):
        assert len(set(split[groups == group])) == 1
    np.testing.assert_array_equal(split, split_by_group(groups, lcz, xy, reach, seed=seed))


def test_every_class_gets_its_share_of_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), 10)
    centres = np.stack(np.meshgrid(np.arange(20), np.arange(15)), -1).reshape(-1, 2) * 2000.0
    xy = centres[groups] + rng.uniform(-300, 300, (3000, 2))
    lcz = (rng.choice([1, 2, 3], 300, p=[0.08, 0.3, 0.62])).astype(np.uint8)[groups]
    split = split_by_group(groups, lcz, xy, 320.0)
    for code in (1, 2, 3):
        shares = np.bincount(split[lcz == code], minlength=3) / (lcz == code).sum()
        np.testing.assert_allclose(shares, (0.7, 0.1, 0.2), atol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([800.0, 3200.0]))
def test_splits_by_block_never_leak(seed: int, side: float) -> None:
    rng = np.random.default_rng(seed)
    xy = np.floor(rng.uniform(-8000, 8000, (3000, 2)) / 100) * 100 + 50
    split = split_by_block(xy, 320.0, side, seed=seed)
    assert find_leaks(xy, split, 320.0) == 0
    assert (split != UNUSED).mean() > 0.2


def test_leaks_are_found() -> None:
    xy = np.array([[0.0, 0.0], [300.0, 0.0], [1000.0, 0.0], [1320.0, 0.0]])
    split = np.array([0, 2, 0, 2], np.uint8)
    assert find_leaks(xy, split, 320.0) == 1  # 320 m apart they only touch
    assert find_leaks(xy, split, 330.0) == 2


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(LabelError, match="sum to 1"):
        split_by_block(np.zeros((3, 2)), 320.0, shares=(0.7, 0.1, 0.1))
    with pytest.raises(LabelError, match="smaller than patches"):
        split_by_block(np.zeros((3, 2)), 320.0, side=200.0)


# -- patches -----------------------------------------------------------------------------------


def test_patches_are_the_composite_s_pixels() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 9000, (3, 500, 600)).astype(np.uint16)
    valid = rng.random((500, 600)) > 0.01
    valid[:, 300:340] = False

    def read(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        values = np.zeros((3, rows.stop - rows.start, cols.stop - cols.start), np.uint16)
        known = np.zeros(values.shape[1:], bool)
        for r in range(max(rows.start, 0), min(rows.stop, 500)):
            for c in range(max(cols.start, 0), min(cols.stop, 600)):
                values[:, r - rows.start, c - cols.start] = image[:, r, c]
                known[r - rows.start, c - cols.start] = valid[r, c]
        return values, known

    rows, cols = np.array([0, 5, 20, 49, 20]), np.array([0, 7, 31, 59, 10])
    for context in (0, 16):
        x, good = cut(read, rows, cols, 3, context=context)
        side = 32 + 2 * context
        for k, (r, c) in enumerate(zip(rows, cols, strict=True)):
            # spec: rows [10 i - 11, 10 i + 21)
            top, left = 10 * r - 11 - context, 10 * c - 11 - context
            share = 0
            for i in range(side):
                for j in range(side):
                    a, b = top + i, left + j
                    inside = 0 <= a < 500 and 0 <= b < 600 and valid[a, b]
                    expected = image[:, a, b] if inside else np.zeros(3)
                    assert (x[k, :, i, j] == expected).all()
                    core = context <= i < context + 32 and context <= j < context + 32
                    share += bool(inside and core)
            assert good[k] == (share >= 0.95 * 1024)


def test_patch_sets_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def part(n: int, name: str) -> PatchSet:
        return PatchSet(
            rng.integers(0, 9000, (n, 10, 48, 48)).astype(np.uint16),
            rng.integers(1, 18, n).astype(np.uint8),
            rng.uniform(0, 1e6, (n, 2)),
            np.arange(n),
            np.zeros(n, np.uint16),
            rng.integers(0, 3, n).astype(np.uint8),
            BANDS,
            32,
            8,
            10.0,
            (Place(name, "2021-09-01/2021-10-01", "EPSG:3035"),),
        )

    both = join([part(1100, "here"), part(7, "there")])
    write_patches(tmp_path / "p", both)
    back = open_patches(tmp_path / "p")
    assert back.places == both.places
    for name in ("y", "xy", "group", "place", "split"):
        np.testing.assert_array_equal(getattr(back, name), getattr(both, name))
    where = np.array([1106, 3, 1023, 1024])
    np.testing.assert_array_equal(back.take(where, 8), both.x[where])
    np.testing.assert_array_equal(back.take(where), both.x[where][:, :, 8:-8, 8:-8])
    np.testing.assert_array_equal(both.take(where), back.take(where))
    with pytest.raises(LabelError, match="context"):
        back.take(where, 16)
    with pytest.raises(LabelError, match="cannot be read"):
        open_patches(tmp_path / "nothing")


# -- the loop ----------------------------------------------------------------------------------


def test_statistics_are_those_of_valid_pixels() -> None:
    x = patches(40).x
    x[:, :, :3] = 0
    mean, std = statistics(x)
    for band in range(10):
        seen = (x[:, band][x[:, band] > 0].astype(float) - 1000) / 1e4
        assert mean[band] == pytest.approx(np.clip(seen, 0, 1).mean(), abs=1e-6)
        assert std[band] == pytest.approx(np.clip(seen, 0, 1).std(), abs=1e-6)


def test_draws_balance_classes_as_asked() -> None:
    y = patches(4000).y
    for balance, power in (("none", 1.0), ("sqrt", 0.5), ("full", 0.0)):
        order, turns = draw_epoch(y, Settings(balance=balance, draws=60_000), 3)  # type: ignore[arg-type]
        got = np.bincount(y[order], minlength=18)[[2, 6, 14]] / 60_000
        counts = np.bincount(y, minlength=18)[[2, 6, 14]].astype(float) ** power
        np.testing.assert_allclose(got, counts / counts.sum(), atol=0.012)
        assert np.bincount(turns[:, 0].astype(int), minlength=8).min() > 6_500
        assert not turns[:, 1].any()
    again, _ = draw_epoch(y, Settings(draws=60_000, balance="full"), 3)
    np.testing.assert_array_equal(again, order)
    plain, turns = draw_epoch(y, Settings(balance="none", augment=False), 0)
    assert sorted(plain) == list(range(4000))
    assert not turns.any()


def test_angles_are_drawn_as_df4lcz_draws_them() -> None:
    """Mirrored either way by a half, and by a half turned by up to 90 degrees."""
    y = patches(4000).y
    _, turned = draw_epoch(y, Settings(angles=True, draws=40_000), 0)
    symmetry, degrees = turned.T
    shares = np.bincount(symmetry.astype(int), minlength=8) / 40_000
    np.testing.assert_allclose(shares, [0.25, 0, 0.25, 0, 0.25, 0, 0.25, 0], atol=0.01)
    assert (degrees != 0).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(
        np.histogram(degrees[degrees != 0], 6, (-90, 90))[0] / (degrees != 0).sum(),
        1 / 6,
        atol=0.01,
    )
    assert not draw_epoch(y, Settings(angles=True, augment=False), 0)[1].any()


def test_a_patch_is_turned_as_scipy_turns_it() -> None:
    """Linear, about the middle, edges mirrored about their pixels (reflect-101)."""
    rng = np.random.default_rng(0)
    x = rng.integers(1000, 60_000, (4, 3, 32, 32)).astype(np.uint16)
    degrees = np.array([0.0, 17.0, -64.0, 90.0])
    found = rotate(x, degrees)
    for k, angle in enumerate(degrees):
        for band in range(3):
            wanted = ndimage.rotate(
                x[k, band].astype(float), angle, reshape=False, order=1, mode="mirror"
            )
            np.testing.assert_allclose(found[k, band], wanted, atol=1.5)
    np.testing.assert_array_equal(found[3], np.rot90(x[3], axes=(1, 2)))
    # nodata is not mixed into what is beside it, and does not vanish
    x[:, :, 10:20, 10:20] = 0
    holes = rotate(x, degrees)
    assert holes[holes > 0].min() >= 1000
    share = (holes[1:3] == 0).mean((1, 2, 3))
    assert ((share > 100 / 1024) & (share < 160 / 1024)).all()


def test_rates_and_optimisers_are_those_asked_for() -> None:
    """Kim et al. read literally: Adam, 0.002 / (1 + 0.004 epoch)."""
    asked = Settings(optimizer="adam", schedule="inverse")
    assert [_rate(asked, epoch) for epoch in (0, 1, 50)] == pytest.approx(
        [2e-3, 2e-3 / 1.004, 2e-3 / 1.2]
    )
    network = torch.nn.Linear(2, 2)
    for settings_, kind in ((asked, torch.optim.Adam), (Settings(), torch.optim.NAdam)):
        lesson = _Classify(card(), settings_, Path(), None, patches(4), patches(4))
        assert type(lesson.optimizer(network)) is kind


def test_l2_is_of_the_kernels_of_convolutions_alone() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    network.append(torch.nn.Linear(2, 2))
    kernel = network[0].weight
    squares(network).backward()
    torch.testing.assert_close(kernel.grad, 2 * kernel.detach())
    assert network[0].bias.grad is None
    assert network[2].weight.grad is None
    kernel.requires_grad_(False)
    assert float(squares(network)) == 0.0


def test_rare_classes_count_more_within_bounds() -> None:
    y = np.repeat(np.array([2, 6, 11], np.uint8), [900, 99, 1])
    found = class_weights((2, 6, 11, 17), y).tolist()
    assert found == pytest.approx([1000 / 2700, 1000 / 297, 5.0, 1.0])
    assert class_weights((2, 6), np.repeat(np.array([2, 6], np.uint8), [9, 1])).tolist() == [
        pytest.approx(10 / 18),
        5.0,
    ]


def test_a_network_learns_and_is_kept_at_its_best(tmp_path: Path) -> None:
    told = []
    found = fit(
        card(classes=[2, 6, 14]),
        patches(300),
        patches(120, 1),
        Settings(epochs=6, batch=32, patience=3, schedule="cosine"),
        tmp_path,
        device="cpu",
        tell=told.append,
    )
    assert told == list(found.history)
    best = max(found.history, key=lambda e: e.validation_accuracy)
    assert found.best == best.number
    assert best.validation_accuracy > 0.95
    assert found.history[0].rate > found.history[-1].rate


def fit_there(folder: Path, told: Connection) -> None:
    """A training in a process of its own; says each step, and what came out."""
    found = fit(
        card(), patches(160), patches(30, 1), Settings(epochs=4, batch=32), folder,
        device="cpu", step=lambda *at: told.send(at),
    )  # fmt: skip
    told.send({name: values.numpy().tobytes() for name, values in found.weights.items()})
    told.send(found.history)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> BaseContext:
    """Processes forked from one that has only imported.

    Bits depend on the number of threads, and that of a process depends on its past: a predictor's
    pool sets it for every thread that has not used torch yet. Forks of one process are alike.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    context = get_context("forkserver")
    context.set_forkserver_preload(["engine.training.fit"])
    return context


@pytest.mark.slow
def test_training_killed_at_random_gives_the_same_weights(
    tmp_path: Path, forks: BaseContext
) -> None:
    rng = np.random.default_rng()

    def train(name: str, steps: int | None = None) -> list[Any]:
        """All that is said, or that of so many steps, after which it is killed."""
        ours, theirs = forks.Pipe()
        process = forks.Process(target=fit_there, args=(tmp_path / name, theirs))
        process.start()
        theirs.close()
        heard: list[Any] = []
        with contextlib.suppress(EOFError):
            while len(heard) != steps:
                heard.append(ours.recv())
        process.kill()
        process.join()
        return heard

    for least in (6, 2):  # the first after a whole epoch, or nothing would be gone on from
        steps = int(rng.integers(least, least + 5))
        assert len(train("killed", steps)) == steps, "it ended before it was killed"
    *made, weights, history = train("killed")
    *all_made, expected, whole = train("whole")
    assert len(made) < len(all_made) == 4 * 5  # it went on from where an earlier one was
    assert history == whole
    assert weights == expected


@pytest.mark.parametrize(("count", "batch", "devices"), [(300, 1, 1), (300, 8, 8), (12, 96, 8)])
def test_shares_too_small_to_normalise_by_are_refused(
    tmp_path: Path, count: int, batch: int, devices: int
) -> None:
    """No step would be made, and a network returned that has learnt nothing."""
    asked = Settings(epochs=1, batch=batch)
    with pytest.raises(RunError, match="share of a batch"):
        fit(card(), patches(count), patches(60, 1), asked, tmp_path, device="cpu", devices=devices)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_devices_share_every_batch(tmp_path: Path) -> None:
    settings = Settings(epochs=4, batch=50, balance="none", augment=False)
    wanted = card(), patches(200), patches(40, 1), settings
    heard: list[Epoch] = []
    steps: list[tuple[int, int, int]] = []
    alone, both = (
        fit(
            *wanted,
            tmp_path / str(devices),
            device="cpu",
            devices=devices,
            tell=heard.append if devices == 2 else lambda epoch: None,
            step=lambda *at: steps.append(at),
        )
        for devices in (1, 2)
    )
    assert tuple(heard) == both.history
    assert len(steps) == 2 * 4 * 4  # half a batch each: as many steps as alone
    assert all(torch.isfinite(v).all() for v in both.weights.values())
    # another normalisation, the same task learnt
    assert both.history[-1].loss < 0.8 * both.history[0].loss
    assert both.history[0].loss == pytest.approx(alone.history[0].loss, rel=0.3)
    # what was kept is gone on from, on one device too
    longer = fit(*wanted, tmp_path / "2", device="cpu")
    assert longer.history == both.history


def test_the_state_of_another_training_is_not_gone_on_from(tmp_path: Path) -> None:
    how = Settings(epochs=1, batch=32)
    fit(card(), patches(64), patches(32, 1), how, tmp_path, device="cpu")
    with pytest.raises(RunError, match="another training"):
        fit(card(), patches(64, 5), patches(32, 1), how, tmp_path, device="cpu")


def test_labels_that_the_model_does_not_give_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="classes that the model does not give"):
        fit(card(classes=[2, 6]), patches(64), patches(32), Settings(), tmp_path, device="cpu")
    none = Batches(np.zeros((0, 10, 32, 32), np.uint16), np.zeros(0, np.uint8))
    with pytest.raises(LabelError, match="no validation patches"):
        fit(card(), patches(64), none, Settings(), tmp_path, device="cpu")


# -- forests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statistics_", "side"), [("mean", 10), ("mean-std", 10), ("mean-std", 32)]
)
def test_a_forest_as_arrays_is_the_forest(statistics_: str, side: int) -> None:
    data, other = patches(300), patches(200, 7)
    raw = card(architecture="forest", mean=None, std=None, output="probability", parameters={})
    grown = grow(data.x, data.y, raw, statistics=statistics_, side=side, trees=12)  # type: ignore[arg-type]
    network = Forest(10, 17, **grown.parameters)
    network.load_state_dict(grown.weights)
    ready = torch.from_numpy(prepare_input(other.x, (other.x > 0).all(1), raw))
    scores, features = network(ready)
    witness = RandomForestClassifier(
        12, max_features="sqrt", max_samples=0.5, random_state=0, n_jobs=1
    ).fit(features_of(data.x, raw, statistics_, side), data.y)  # type: ignore[arg-type]
    expected = witness.predict_proba(features.numpy())
    columns = [code - 1 for code in witness.classes_]
    np.testing.assert_allclose(scores.numpy()[:, columns], expected, atol=1e-6)
    assert features.shape[1] == (14 if statistics_ == "mean" else 28)
    assert (np.array([2, 6, 14])[expected.argmax(1)] == other.y).mean() > 0.9


def test_features_leave_invalid_pixels_out() -> None:
    data = patches(5)
    raw = card(architecture="forest", mean=None, std=None, output="probability", parameters={})
    holed = data.x.copy()
    holed[:, :, 12:14, 12:14] = 0
    found = features_of(holed, raw, "mean", 10)
    middle = holed[:, :, 11:21, 11:21].astype(float)
    valid = middle[:, :1] > 0
    reflectance = np.clip((middle - 1000) / 1e4, 0, 1)
    expected = (reflectance * valid).sum((2, 3)) / valid.sum((2, 3))
    np.testing.assert_allclose(found[:, :10], expected, rtol=1e-5)
    ndvi = (reflectance[:, 6] - reflectance[:, 2]) / (reflectance[:, 6] + reflectance[:, 2] + 1e-12)
    assert found[:, 10] == pytest.approx(
        (ndvi * valid[:, 0]).sum((1, 2)) / valid[:, 0].sum((1, 2)), rel=1e-3
    )
