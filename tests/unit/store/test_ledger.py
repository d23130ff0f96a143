"""The ledger goes into the store and comes back, whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grid import Grid, Tile
from engine.store.arrays import ArraySpec
from engine.store.ledger import RECORD, Ledger, State
from engine.store.repository import Store

GRID = Grid.fit((0, 0, 1600 * 70, 1600 * 40), crs="EPSG:5179", tile_size=1600)
STAGES = {"scenes": True, "map": False}


def record(value: int) -> np.void:
    out = np.zeros((), RECORD)
    out["state"], out["digest"], out["fingerprint"] = State.DONE, value, value ^ 0xFFFF
    return out[()]


@settings(max_examples=5, deadline=None)
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["scenes", "map"]),
            st.integers(0, 39),
            st.integers(0, 69),
            st.sampled_from([0, 31, 10957]),
        ),
        st.integers(1, 2**64 - 1),
        max_size=40,
    )
)
def test_round_trip(tmp_path_factory, wanted: dict) -> None:  # type: ignore[no-untyped-def]
    path: Path = tmp_path_factory.mktemp("l") / "s"
    store = Store.create(path, GRID, [ArraySpec("map/classes", "uint8", 100.0, 16, 0)])
    session = store.writer()
    root = zarr.open_group(session.store, mode="r+")
    ledger = Ledger(GRID.shape, STAGES)
    ledger.create(root)
    flat = {(s, r, c, p if s == "scenes" else 0): v for (s, r, c, p), v in wanted.items()}
    for (stage, row, col, part), value in flat.items():
        ledger.put(stage, Tile(row, col), record(value), part)
    ledger.note("map", Tile(1, 1), "went wrong")
    ledger.write(root)
    session.commit("rows")
    reader = store.reader()
    again = Ledger(GRID.shape, STAGES)
    again.load(reader, zarr.open_group(reader.store, mode="r"))
    found = {
        (stage, t.row, t.col, part): int(r["digest"])
        for stage in STAGES
        for part, t, r in again.records(stage)
    }
    assert found == flat
    assert again.notes == {"map/r0001c0001": "went wrong"}
    states = np.zeros(GRID.shape, bool)
    for stage, row, col, _ in flat:
        states[row, col] |= stage == "map"
    assert ((again.states("map") == State.DONE) == states).all()
