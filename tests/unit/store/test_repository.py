"""Store: identity, forks, locks."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from engine.errors import ChunkError, GridError, IdentityError, LockedError, StoreError
from engine.grid import Grid, Tile
from engine.store.arrays import ArraySpec, day_index, index_day
from engine.store.chunks import changes_of, check_changes, tile_chunks
from engine.store.repository import Store

GRID = Grid.fit((0, 0, 6400, 3200), crs="EPSG:5179", tile_size=1600)
DAILY = ArraySpec(
    "scenes/bands", "uint16", 10.0, 80, 0, daily=True, leading=(("band", ("B02", "B03")),)
)
MAP = ArraySpec("map/classes", "uint8", 100.0, 16, 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s", GRID, [DAILY, MAP], bands=["B02", "B03"])


def test_another_identity_is_refused_with_each_difference(store: Store) -> None:
    store.require_identity(GRID, [DAILY, MAP], bands=["B02", "B03"])
    for grid, bands, word in [
        (GRID, ["B02"], "bands"),
        (Grid.fit((0, 0, 6400, 3200), crs="EPSG:5186", tile_size=1600), ["B02", "B03"], "crs"),
        (Grid.fit((0, 0, 9600, 3200), crs="EPSG:5179", tile_size=1600), ["B02", "B03"], "bounds"),
    ]:
        with pytest.raises(IdentityError, match=word):
            Store.open(store.place).require_identity(grid, [DAILY, MAP], bands=bands)
    other = ArraySpec("map/classes", "uint8", 100.0, 8, 0)
    with pytest.raises(IdentityError, match="map/classes"):
        store.require_identity(GRID, [other], bands=["B02", "B03"])


def test_codes_that_mean_something_else_are_another_identity(tmp_path: Path) -> None:
    """The array says what they mean, to all who open the store: it was written for one model."""

    def named(*names: str, colour: str = "#000000") -> ArraySpec:
        codes = {"flag_values": [*range(1, len(names) + 1)], "flag_meanings": " ".join(names)}
        return replace(MAP, attrs={**codes, "flag_colors": " ".join([colour] * len(names))})

    store = Store.create(tmp_path / "s", GRID, [named("road", "tree")])
    for sound in (named("road", "tree"), named("road", "tree", "ice"), named("road", colour="#1")):
        store.require_identity(GRID, [sound])
    with pytest.raises(IdentityError, match=r"meaning of (.|\n)*tree(.|\n)*road") as caught:
        store.require_identity(GRID, [named("tree", "road")])
    assert MAP.path in str(caught.value)


def test_chunks_must_divide_the_tile(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="divide the tile"):
        Store.create(tmp_path / "s", GRID, [ArraySpec("a/b", "uint8", 10.0, 70, 0)])


def test_own_chunks_are_the_chunks_that_writing_the_tile_touches(store: Store) -> None:
    tile, part = Tile(1, 2), 4000
    fork = pickle.loads(pickle.dumps(store.writer().fork()))
    root = zarr.open_group(fork.store, mode="r+")
    window = GRID.window(tile, 10.0)
    root["scenes/bands"][part, :, window.rows, window.cols] = 7
    touched = {tuple(c) for c in fork.status().updated_chunks["/scenes/bands"]}
    assert touched == tile_chunks(DAILY, GRID, tile, part)
    check_changes(changes_of(fork), {"scenes/bands": touched})


def test_chunks_of_another_tile_are_refused_not_lost(store: Store) -> None:
    """Two tiles write one chunk: a merge would keep one half without a word."""
    forks = []
    session = store.writer()
    base = session.fork()
    for rows, value in ((slice(0, 8), 1), (slice(8, 16), 2)):
        fork = pickle.loads(pickle.dumps(base))
        zarr.open_group(fork.store, mode="r+")["map/classes"][rows, 0:16] = value
        forks.append(fork)
    check_changes(changes_of(forks[0]), {"map/classes": tile_chunks(MAP, GRID, Tile(0, 0))})
    with pytest.raises(ChunkError, match="own tile"):
        check_changes(changes_of(forks[1]), {"map/classes": tile_chunks(MAP, GRID, Tile(0, 1))})
    # What the check guards against, in case Icechunk ever mends it:
    merged = store.writer()
    merged.merge(*forks)
    both = np.asarray(zarr.open_group(merged.store, mode="r")["map/classes"][0:16, 0])
    assert set(both.tolist()) != {1, 2}


def test_a_fork_that_makes_arrays_is_refused(store: Store) -> None:
    fork = store.writer().fork()
    zarr.open_group(fork.store, mode="r+").create_array("x", shape=(2,), dtype="u1")
    with pytest.raises(ChunkError, match="new arrays"):
        check_changes(changes_of(fork), {})


HOLD = """
import sys, time
from engine.store.repository import Store
with Store.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_driver_per_store_and_the_lock_dies_with_its_process(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.place)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(LockedError, match="another natmap run"), store.lock():
            pass
        with pytest.raises(LockedError):
            store.prune(datetime.now(UTC))  # beside live forks
        other.kill()
    with store.lock():
        pass


def test_collection_frees_what_dead_forks_wrote(store: Store) -> None:
    rng = np.random.default_rng(0)
    fork = store.writer().fork()
    window = GRID.window(Tile(0, 0), 10.0)
    zarr.open_group(fork.store, mode="r+")["scenes/bands"][9, :, window.rows, window.cols] = (
        rng.integers(1, 9999, (2, 160, 160))
    )
    del fork
    assert store.prune(datetime.now(UTC))[1] > 1000
    assert store.prune(datetime.now(UTC))[1] == 0


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        Store.open(tmp_path)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        Store.create(tmp_path, GRID, [MAP])


def test_releases(store: Store) -> None:
    store.tag("2023")
    session = store.writer()
    zarr.open_group(session.store, mode="r+")["map/classes"][:16, :16] = 3
    session.commit("later")
    read = [
        int(zarr.open_group(store.reader(tag).store, mode="r")["map/classes"][0, 0])
        for tag in ("2023", None)
    ]
    assert read == [0, 3]
    with pytest.raises(StoreError, match="no such release"):
        store.reader("2024")


def test_days() -> None:
    assert index_day(day_index(index_day(3000))) == index_day(3000)
    with pytest.raises(Exception, match="time axis"):
        day_index(index_day(0).replace(year=2014))


def test_a_store_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver killed while it makes the store leaves nothing that stops the next one."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("engine.store.repository.create_arrays", killed)
        with pytest.raises(KeyboardInterrupt):
            Store.create(tmp_path / "s", GRID, [MAP])
    assert not Store.exists(tmp_path / "s")
    assert Store.create(tmp_path / "s", GRID, [MAP]).identity["arrays"].keys() == {MAP.path}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_is_made_in_the_format_that_all_releases_read(store: Store, tmp_path: Path) -> None:
    form = zarr.open_group(store.reader().store, mode="r").attrs["natmap:store"]
    assert form["icechunk_format"] == 1
    assert (tmp_path / "s" / "refs").is_dir()  # of format 1; format 2 has one file, `repo`
    assert not (tmp_path / "s" / "repo").exists()


@pytest.mark.skipif(not icechunk.__version__.startswith("1."), reason="it reads format 2")
def test_a_format_that_cannot_be_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """The archive is a repository that Icechunk 2.3 made in its own format."""
    with zipfile.ZipFile(Path(__file__).with_name("icechunk-2.zip")) as archive:
        archive.extractall(tmp_path / "s")
    with pytest.raises(StoreError, match=r"format 2, Icechunk 1\.(.|\n)*install Icechunk 2"):
        Store.open(tmp_path / "s")
