"""Features that are read by block: the same as those in memory, at bounded memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

from engine.datasets.stored_vectors import StoredVectors
from engine.errors import LabelError
from engine.infer.vectors import decode_vectors, encode_vectors
from engine.propagation.features import Pooled, blocks_of, moments_of, taken
from engine.propagation.pool import standard_of
from engine.propagation.propagate import DEFAULT, propagate
from engine.propagation.pseudo import Cells, Labels
from engine.runs.tables import add


class Made:
    """Features that are made when they are asked for, and how many were asked for at once."""

    def __init__(self, count: int, columns: int, classes: int = 4) -> None:
        self.shape = count, columns
        self.middles = np.random.default_rng(1).standard_normal((classes, columns))
        self.most = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        where = np.arange(len(self))[rows]
        self.most = max(self.most, len(where))
        noise = np.sin(where[:, None] * 12.9898 + np.arange(self.shape[1]) * 78.233)
        return (self.middles[where % len(self.middles)] + 0.4 * noise).astype(np.float32)


def test_a_large_area_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.propagation.features._AT_ONCE", 2**16)
    settings = replace(DEFAULT, proved=False)
    count, columns = 10_000, 512
    features = Made(count, columns)
    places = np.arange(0, 1200, 7)
    known = Labels(
        features[places],
        (places % 4 + 1).astype(np.uint8),
        places // 7 % 3,
        np.full((len(places), 2), np.nan),
    )
    ids = np.arange(count)
    xy = np.stack([ids % 200, ids // 200], 1) * 320.0
    features.most = 0
    propagate(known, Cells(ids[:99], features[:99], xy[:99]), settings)  # what is compiled once
    tracemalloc.start()
    found = propagate(known, Cells(ids, features, xy), settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = count * columns * 4
    assert peak < 0.5 * whole, f"{peak / whole:.2f} of all features"
    assert features.most * columns <= 2**16
    pseudo = found.table.to_pylist()
    assert len(pseudo) > 100
    assert all(row["cell"] % 4 + 1 == row["code"] for row in pseudo)
    assert len(pseudo[0]["votes"]) == 17


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_vectors_of_a_store_are_read_row_by_row_of_its_chunks(kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 23, 9)).astype(np.float32)
    vectors[:, 4, 4] = np.nan
    values, scale = encode_vectors(vectors, kind)
    store = zarr.create_array({}, shape=values.shape, chunks=(5, 4, 3), dtype=values.dtype)
    store[:] = values
    rows, cols = np.nonzero(rng.random((23, 9)) < 0.7)
    found = StoredVectors(store, scale, rows, cols)
    wanted = decode_vectors(values, scale)[:, rows, cols].T
    np.testing.assert_array_equal(found[:], wanted)
    np.testing.assert_array_equal(found[17:90], wanted[17:90])
    some = rng.integers(0, len(rows), 40)
    np.testing.assert_array_equal(found[some], wanted[some])
    np.testing.assert_array_equal(taken(taken(found, some), np.arange(5, 9))[1:], wanted[some[6:9]])
    assert found[np.zeros(0, np.int64)].shape == (0, 5)


def test_cities_on_one_scale_are_numpys() -> None:
    rng = np.random.default_rng(2)
    one, two = (rng.normal(k, 1 + k, (n, 6)).astype(np.float32) for k, n in ((0, 50), (3, 80)))
    two[7] = np.nan
    both = np.concatenate([one, np.delete(two, 7, 0)]).astype(float)
    tables = [moments_of(one), moments_of(two)]
    plain = Pooled([one, two], standard_of(add(*tables)))
    wanted = (np.concatenate([one, two]) - both.mean(0)) / both.std(0)
    np.testing.assert_allclose(plain[:], wanted, rtol=1e-5, atol=1e-6)
    assert np.isnan(plain[np.array([57])]).all()
    centred = [moments_of(x, t, k) for k, (x, t) in enumerate(zip((one, two), tables, strict=True))]
    moved = Pooled([one, two], standard_of(add(*centred)), tables)
    own = np.concatenate([one - one.mean(0), two - np.nanmean(two, 0)]).astype(float)
    wanted = (own - np.nanmean(own, 0)) / np.nanstd(own, 0)
    np.testing.assert_allclose(moved[40:120], wanted[40:120], rtol=1e-4, atol=1e-5)
    assert sum(part.stop - part.start for part in blocks_of(moved)) == 130


def test_parts_of_vectors_and_none_at_all_are_refused() -> None:
    values = np.ones((10, 3), np.float32)
    values[4, 1] = np.nan
    with pytest.raises(LabelError, match="parts of vectors"):
        moments_of(values)
    with pytest.raises(LabelError, match="no cell has a vector"):
        moments_of(np.full((5, 3), np.nan, np.float32))
