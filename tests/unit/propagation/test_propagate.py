"""Pseudo-labels: the notes' way step by step, the default's rule, and what is never labelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from engine.errors import LabelError
from engine.propagation.heads import CODES, LogisticHead
from engine.propagation.propagate import DEFAULT, NOTES, propagate
from engine.propagation.pseudo import Cells, Labels
from engine.propagation.selection import Selection, Settings

MIDDLES = np.random.default_rng(9).standard_normal((18, 8)) * 2.2


def near(codes: np.ndarray, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(codes), MIDDLES.shape[1]))
    return (MIDDLES[codes] + noise + shift).astype(np.float32)


def labels(cities: int = 3, classes: tuple[int, ...] = (2, 3, 6, 11, 14), each: int = 10) -> Labels:
    y = np.tile(np.repeat(classes, each), cities)
    city = np.repeat(np.arange(cities), len(classes) * each)
    return Labels(near(y, 0), y.astype(np.uint8), city, np.full((len(y), 2), np.nan))


def cells(count: int = 600, classes: tuple[int, ...] = (2, 3, 6, 11, 14, 9)) -> tuple[Cells, Any]:
    truth = np.random.default_rng(4).choice(classes, count)
    xy = np.stack([np.arange(count) % 30, np.arange(count) // 30], 1) * 320.0
    return Cells(np.arange(count) * 7, near(truth, 5), xy), truth


def codes_of(table: pa.Table, source: str = "pseudo") -> dict[int, int]:
    rows = table.to_pylist()
    return {row["cell"]: row["code"] for row in rows if row["source"] == source}


def test_the_notes_way_step_by_step() -> None:
    """Written out with scikit-learn and numpy."""
    known, (offered, _) = labels(), cells()
    known.xy[:2] = offered.xy[:2] + 10
    found = propagate(known, offered, replace(NOTES, times=1.0, least=12))

    def model(rows: np.ndarray) -> KNeighborsClassifier:
        return KNeighborsClassifier(5).fit(known.features[rows].astype(float), known.codes[rows])

    left_out = []
    for name in range(3):
        own = known.city == name
        left_out.append(model(~own).kneighbors(known.features[own].astype(float))[0].mean(1))
    limit = np.percentile(np.concatenate(left_out), 95, method="inverted_cdf")
    whole = model(np.arange(len(known)))
    x = offered.features.astype(float)
    chance, distance = whole.predict_proba(x), whole.kneighbors(x)[0].mean(1)
    code = whole.classes_[chance.argmax(1)]
    good = (chance.max(1) >= 0.8 - 1e-9) & (distance <= limit)
    good[:2] = False  # on labelled ground
    expected = {}
    for each in np.unique(code):
        here = np.flatnonzero(good & (code == each))
        here = here[np.lexsort((distance[here], -chance.max(1)[here]))]
        expected |= {int(offered.ids[row]): int(each) for row in here[:30]}
    assert codes_of(found.table) == expected
    assert 90 < len(expected) < 400
    rows = {row["cell"]: row for row in found.table.to_pylist()}
    for row in np.flatnonzero(np.isin(offered.ids, list(expected))):
        told = rows[int(offered.ids[row])]
        assert told["confidence"] == pytest.approx(chance[row].max())
        assert told["distance"] == pytest.approx(distance[row])
        assert told["energy"] is None
        votes = np.array(told["votes"])[[CODES.index(c) for c in whole.classes_]]
        np.testing.assert_allclose(votes, chance[row], rtol=1e-6)
    removed = found.report.removed
    assert sum(removed.values()) + len(expected) == len(offered)
    assert removed["confidence"] == (chance.max(1) < 0.8 - 1e-9).sum()
    assert removed["labelled ground"] <= 2


def test_four_of_five_are_kept_and_three_are_not() -> None:
    x = np.array([[0], [1], [2], [3], [4], [100], [101], [102], [103], [104], [50]], np.float32)
    y = np.array([1, 1, 1, 1, 2, 5, 5, 5, 6, 6, 2], np.uint8)
    known = Labels(x, y, np.zeros(11, int), np.full((11, 2), np.nan))
    offered = Cells(np.array([1, 2]), np.array([[2.0], [102.0]]), np.zeros((2, 2)))
    found = propagate(known, offered, NOTES)
    assert codes_of(found.table) == {1: 1}
    assert found.report.removed["confidence"] == 1
    assert found.report.barren == (2, 5, 6)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_cities_give_no_pseudo_labels(count: int) -> None:
    offered, _ = cells()
    offered = replace(offered, water=np.where(np.arange(600) < 5, 0.9, 0.0))
    found = propagate(labels(count), offered)
    assert found.table["source"].to_pylist() == ["mask"] * 5
    assert f"labels of {count} cities are too few" in found.report.reason
    notes = propagate(labels(count), offered, NOTES)
    assert len(notes.table) > 100
    assert notes.report.reason == ""


@pytest.mark.parametrize(
    ("gains", "written"),
    [
        ([0.02, 0.03, 0.01], True),
        ([0.10, -0.05, 0.00], False),
        ([-0.02, -0.03, -0.01], False),
        ([0.0, 0.0, 0.0], False),
    ],
)
def test_what_does_not_help_in_other_cities_is_not_written(
    gains: list[float], written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Selection, "gains", lambda *_: np.array(gains))
    found = propagate(labels(), cells()[0])
    assert (len(found.table) > 0) == written
    assert found.report.gains == tuple(gains)
    assert bool(found.report.reason) != written
    if not written:
        assert "not more than its standard error" in found.report.reason


def test_the_default_keeps_what_it_was_told_of_precision_and_tells_what_it_did() -> None:
    known, (offered, truth) = labels(), cells()
    found = propagate(known, offered, replace(DEFAULT, proved=False))
    report, codes = found.report, codes_of(found.table)
    assert report.limit is not None
    assert report.held_out_precision >= DEFAULT.precision
    assert sum(report.removed.values()) + len(codes) == len(offered)
    assert report.pseudo == {
        code: list(codes.values()).count(code) for code in sorted(set(codes.values()))
    }
    right = [truth[cell // 7] == code for cell, code in codes.items() if truth[cell // 7] != 9]
    assert np.mean(right) > 0.9
    assert set(report.detection) == set(known.counts)
    assert set(report.undetectable) <= set(known.counts)
    assert found.table.schema.equals(
        pa.schema(
            {
                "cell": pa.int64(),
                "code": pa.uint8(),
                "confidence": pa.float32(),
                "votes": pa.list_(pa.float32(), 17),
                "distance": pa.float64(),
                "energy": pa.float64(),
                "source": pa.string(),
            }
        )
    )
    assert found.table["energy"].null_count == 0


def test_gains_are_measured_on_cities_that_taught_nothing() -> None:
    """By hand: what a city's labels say of a head that saw neither them nor cells on them."""
    known, (offered, _) = labels(each=4), cells()
    known.xy[known.city == 1] = offered.xy[:20]
    told: list[str] = []
    found = propagate(known, offered, DEFAULT, tell=told.append)
    assert len(found.report.gains) == 3
    assert found.report.gain == pytest.approx(np.mean(found.report.gains))
    assert found.report.error == pytest.approx(np.std(found.report.gains, ddof=1) / 3**0.5)
    for name, gain in enumerate(found.report.gains):
        rest = known.city != name
        scorer = LogisticHead().fit(known.features[rest], known.codes[rest])
        guessed = scorer.predict(known.features[~rest])
        without = f1_score(known.codes[~rest], guessed, average="macro")
        [line] = [line for line in told if line.startswith(f"city {name} left out")]
        said = [float(word.strip(",")) for word in line.split() if "." in word]
        assert said == pytest.approx([without, without + gain], abs=6e-4)


def test_nothing_depends_on_the_order_of_cells_or_on_other_draws() -> None:
    known, (offered, _) = labels(), cells()
    settings = replace(DEFAULT, proved=False)
    one = propagate(known, offered, settings, seed=1).table
    np.random.default_rng(0).random(5)
    turned = offered.take(np.random.default_rng(3).permutation(len(offered)))
    other = propagate(known, turned, settings, seed=1).table.sort_by("cell")
    assert one["cell"].equals(other["cell"])
    assert one["code"].equals(other["code"])
    for name in ("confidence", "distance", "energy"):
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-6)
    assert one.equals(propagate(known, offered, settings, seed=1).table)


def test_what_validates_or_tests_has_no_pseudo_label() -> None:
    offered, _ = cells()
    blocks = np.array([[0.0, 0.0, 3200.0, 3200.0]])
    known = labels()
    known.xy[:] = [8000.0, 5000.0]
    found = propagate(known, replace(offered, held=blocks), NOTES)
    xy = offered.xy[np.isin(offered.ids, found.table["cell"].to_numpy())]
    assert not ((xy - 160 < 3200) & (xy + 160 > 0)).all(1).any()
    apart = np.abs(xy - known.xy[0])
    assert (np.clip(320 - apart, 0, None).prod(1) <= 0.1 * 320**2).all()
    assert found.report.removed["held out"] > 0
    assert found.report.removed["labelled ground"] > 0


def test_water_and_openstreetmap_are_not_asked_of_the_head() -> None:
    offered, _ = cells()
    water, osm = np.zeros(600), np.zeros(600, np.uint8)
    water[:4], osm[3:8] = (0.8, 0.9, 0.79, 1.0), 17
    features = offered.features.copy()
    features[[0, 1, 3, 4, 5]] = np.nan  # masked water has no embedding
    offered = replace(offered, water=water, osm=osm, features=features)
    found = propagate(labels(), offered, NOTES)
    assert codes_of(found.table, "mask") == {0: 17, 7: 17, 21: 17}
    assert codes_of(found.table, "osm") == {28: 17, 35: 17, 42: 17, 49: 17}
    assert found.report.direct == {"mask": 3, "osm": 4}
    direct = [row for row in found.table.to_pylist() if row["source"] != "pseudo"]
    assert all(row["votes"] is row["distance"] is row["confidence"] is None for row in direct)
    unmasked = propagate(
        labels(),
        replace(offered, osm=None, features=cells()[0].features),
        replace(NOTES, water=None),
    )
    assert not codes_of(unmasked.table, "mask")


def test_a_second_round_learns_of_the_first() -> None:
    known, (offered, _) = labels(each=4), cells()
    settings = replace(DEFAULT, proved=False, precision=0.8)
    one, two = (propagate(known, offered, replace(settings, rounds=n)) for n in (1, 2))
    assert one.report.limit == two.report.limit
    assert len(one.table) > 50
    assert not one.table.equals(two.table)


def test_duplicates_of_one_city_do_not_end_the_notes_way() -> None:
    known = labels(1)
    known = known.take(np.repeat(np.arange(len(known)), 8))
    assert len(propagate(known, cells()[0], NOTES).table) >= 0


def bad(**changes: Any) -> Any:
    return lambda known, offered: (known, replace(offered, **changes))


def worse(**changes: Any) -> Any:
    return lambda known, offered: (replace(known, **changes), offered)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (bad(features=np.zeros((600, 5))), "another number of columns"),
        (bad(features=np.full((600, 8), np.nan)), "not finite"),
        (bad(features=np.full((600, 8), np.inf)), "not finite"),
        (bad(features=np.zeros((599, 8))), "features do not go together"),
        (bad(ids=np.zeros(600, int)), "the same id"),
        (bad(xy=np.zeros((600, 3))), "centres do not go together"),
        (bad(xy=np.full((600, 2), np.nan)), "no finite coordinates"),
        (bad(water=np.full(600, 1.5)), "shares of water"),
        (bad(water=np.full(600, np.nan)), "shares of water"),
        (bad(osm=np.full(600, 40)), "no class"),
        (bad(held=np.zeros((1, 3))), "held-out blocks"),
        (bad(side=0.0), "has no side"),
        (worse(codes=np.full(150, 18)), "no class"),
        (worse(codes=np.full(150, 2)), "too few classes"),
        (worse(codes=np.zeros(0, int), features=np.zeros((0, 8))), "no labels"),
        (worse(city=np.zeros(3)), "cities do not go together"),
        (worse(xy=np.zeros((150, 1))), "centres do not go together"),
        (worse(features=np.full((150, 8), np.nan)), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_what_cannot_be_propagated_is_refused_before_work_starts(change: Any, said: str) -> None:
    known, offered = change(labels(), cells()[0])
    with pytest.raises(LabelError, match=said):
        propagate(known, offered, NOTES)


@pytest.mark.parametrize("wrong", [{"precision": 1.2}, {"loss": 1.0}, {"k": 0}, {"rounds": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LabelError, match="settings"):
        Settings(**wrong)
