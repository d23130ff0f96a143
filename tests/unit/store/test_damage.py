"""Damaged stores: each flaw is found by a read or by `verify`, and said in natmap's words."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import shapely
import zarr

from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.errors import LockedError, NatmapError, StoreError
from engine.grid import Grid, Tile
from engine.items import Asset, Item
from engine.pipeline.prune import prune
from engine.pipeline.status import read_status
from engine.store.arrays import ArraySpec, index_day
from engine.store.digests import commit
from engine.store.ledger import RECORD, Ledger, State, digest_of
from engine.store.location import location_of
from engine.store.provenance import begin_run, read_items, read_runs
from engine.store.reading import damage_of
from engine.store.repository import Store
from engine.store.verify import verify
from engine.store.view import open_store

GRID = Grid.fit((0, 0, 3200, 1600), crs="EPSG:5179", tile_size=800)
SPECS = [
    ArraySpec("scenes/bands", "uint16", 10.0, 40, 0, daily=True, leading=(("band", ("B02",)),)),
    ArraySpec("map/classes", "uint8", 100.0, 8, 255),
    ArraySpec("map/reason", "uint8", 100.0, 8, 9),
    ArraySpec("areas/km2", "float64", 0.0, 0, 0, extent="area", leading=(("class", (1, 2)),)),
]
DAY = 4000
TILES = [Tile(row, col) for row in range(2) for col in range(4)]


def put(root: Any, ledger: Ledger, path: str, tile: Tile, values: list[np.ndarray]) -> None:
    """Write arrays of a stage's tile and its record."""
    stage, part = path.partition("/")[0], DAY if path.startswith("scenes") else 0
    for spec, array in zip(
        [s for s in SPECS if s.group == stage and s.path >= path], values, strict=True
    ):
        index: tuple[Any, ...] = (...,)
        if spec.extent != "area":
            window = GRID.window(tile, spec.resolution)
            index = (*((part,) if spec.daily else ()), ..., window.rows, window.cols)
        root[spec.path][index] = array
    record = np.zeros((), RECORD)
    record["state"], record["digest"] = State.DONE, digest_of(values)
    ledger.put(stage, tile, record[()], part)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two stages and a result for the whole area, written by hand."""
    folder = tmp_path_factory.mktemp("made") / "store"
    store = Store.create(folder, GRID, SPECS)
    rng = np.random.default_rng(1)
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    ledger = Ledger(GRID.shape, {"scenes": True, "map": False, "areas": False})
    ledger.create(root)
    for tile in TILES:
        bands = rng.integers(1, 9000, (1, 80, 80)).astype(np.uint16)
        put(root, ledger, "scenes/bands", tile, [bands])
        classes = rng.integers(0, 17, (8, 8)).astype(np.uint8)
        put(root, ledger, "map/classes", tile, [classes, np.zeros((8, 8), np.uint8)])
    put(root, ledger, "areas/km2", Tile(0, 0), [np.array([1.5, 2.5])])
    ledger.note("map", TILES[0], "a note")
    ledger.remember("map", 7, {"filter": "none"})
    ledger.write(root)
    commit(session, "by hand")
    write_snapshot([some_item(f"item-{n}") for n in range(5)], f"{folder}.items.parquet")
    content = Path(f"{folder}.items.parquet").read_bytes()
    facts = {"recipe": {"name": "x"}, "software": {"natmap": "1"}, "started": "now"}
    begin_run(store, facts, {"imagery": ("imagery-1", content)})
    return folder


def some_item(name: str) -> Item:
    return Item(
        id=name,
        collection="one",
        source="own",
        datetime=datetime(2023, 5, 1, 10, tzinfo=UTC),
        bbox=(14.9, 46.9, 15.1, 47.0),
        geometry=json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0))),
        centroid_lon=15.0,
        stamp=f"stamp of {name}",
        assets={band: Asset(f"/data/{name}_{band}.tif") for band in ("B02", "B04")},
    )


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(made, tmp_path / "store")
    shutil.copy(f"{made}.items.parquet", tmp_path)
    return tmp_path / "store"


def values_of(folder: Path) -> dict[str, np.ndarray]:
    """All that a reader can see, decoded."""
    tree = open_store(folder, decode=False)
    return {
        f"{name}/{key}": data.values
        for name, node in tree.children.items()
        for key, data in node.data_vars.items()
        if key != "spatial_ref"
    }


def test_a_sound_store_is_found_sound(made: Path) -> None:
    found = verify(made)
    assert (found.checked, found.bad, found.healed) == (17, (), False)


def seen_of(folder: Path) -> dict[str, Any]:
    """All that is decoded of a store: values, metadata, ledger, runs, and the items beside it."""
    reader = Store.open(folder).reader()
    root: Any = zarr.open_group(reader.store, mode="r")
    ledger = Ledger.of(reader)
    nodes = sorted(root.members(None), key=lambda pair: pair[0])
    records = [list(ledger.records(stage)) for stage in ledger.daily]
    return {
        **values_of(folder),
        "attributes": {name: dict(node.attrs) for name, node in nodes},
        "forms": repr([(name, node.metadata) for name, node in nodes]),
        "ledger": repr(
            [(part, str(tile), r.tolist()) for some in records for part, tile, r in some]
        ),
        "notes": [ledger.notes, ledger.settings, ledger.rates],
        "runs": read_runs(root),
        "items in it": read_items(root, "imagery-1"),
        "items": [item.to_dict() for item in read_snapshot(f"{folder}.items.parquet")],
    }


def differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    def same(name: str) -> bool:
        here, there = one.get(name), other.get(name)
        arrays = isinstance(here, np.ndarray) and isinstance(there, np.ndarray)
        return np.array_equal(here, there) if arrays else here == there

    return [name for name in one.keys() | other.keys() if not same(name)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [14, pytest.param(2100, marks=pytest.mark.soak)])
def test_each_flipped_bit_is_found_or_changes_no_value(
    made: Path, folder: Path, count: int
) -> None:
    """Of every kind of file; what is found is said in natmap's words, wherever it is looked at."""
    want, rng = seen_of(made), np.random.default_rng(7)
    before = verify(made)
    assert not before.bad
    assert not before.unverified
    kinds: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.parent.rglob("*") if p.is_file() and p.stat().st_size):
        inner = path.is_relative_to(folder)
        kind = path.relative_to(folder).parts[0] if inner else path.name
        kinds.setdefault(kind, []).append(path)
    assert set(kinds) >= {
        *("chunks", "manifests", "snapshots", "refs", "transactions", "store.items.parquet")
    }
    silent, foreign, found = [], [], 0
    for kind in [*sorted(kinds)] * -(-count // len(kinds)):
        path = kinds[kind][rng.integers(len(kinds[kind]))]
        sound = path.read_bytes()
        place, bit = int(rng.integers(len(sound))), int(rng.integers(8))
        data = bytearray(sound)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        changed, told = ["nothing was read"], False
        for look in (seen_of, verify):
            if told:
                break
            try:
                answer: Any = look(folder)
                if look is verify:
                    told |= bool(answer.bad)
                else:
                    changed = differ(want, answer)
            except Exception as error:
                told = True
                if not isinstance(error, NatmapError) and damage_of(error) is None:
                    foreign.append((kind, path.name, place, bit, repr(error)))
        if changed and not told:
            silent.append((kind, path.name, place, bit, changed))
        found += told
        path.write_bytes(sound)
    assert not silent
    assert not foreign
    assert found


@pytest.mark.parametrize("kind", ["manifests", "snapshots", "refs", "transactions", "chunks"])
def test_missing_files_are_said_in_our_words(folder: Path, kind: str) -> None:
    shutil.rmtree(folder / kind)
    (folder / kind).mkdir()
    looks: list[Any] = [read_status, values_of, lambda path: prune(path, keep_days=0)]
    said = []
    for look in looks:
        try:
            look(folder)
        except StoreError as error:
            said.append(str(error))
    assert all(str(folder) in text and "│" not in text for text in said)
    assert len(said) >= (kind in ("manifests", "snapshots", "refs"))


def test_values_that_are_not_those_written_are_named_and_healed(folder: Path) -> None:
    store = Store.open(folder)
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["map/classes"][3, 12] += 1  # its checksum is right: what no read can find
    root["scenes/bands"][DAY, 0, 0, 0] += 1
    root["areas/km2"][0] = 7
    session.commit("by a stranger")
    heard: list[Any] = []
    found = verify(folder, tell=heard.append)
    assert {(bad.stage, bad.tile, bad.day) for bad in found.bad} == {
        ("map", str(Tile(0, 1)), None),
        ("scenes", str(Tile(0, 0)), str(index_day(DAY))),
        ("areas", str(Tile(0, 0)), None),
        ("store", "metadata", None),  # a commit that is not natmap's
    }
    assert tuple(heard) == found.bad
    assert all("other values" in bad.text for bad in found.bad if bad.stage != "store")
    assert not found.healed
    assert verify(folder, heal=True).healed
    ledger = Ledger.of(Store.open(folder).reader())
    assert ledger.get("map", Tile(0, 1)) is None
    assert ledger.get("scenes", Tile(0, 0), DAY) is None
    assert ledger.get("map", Tile(1, 1)) is not None
    again = verify(folder)
    assert (again.checked, again.bad) == (14, ())


def test_a_chunk_that_cannot_be_read_is_a_tile_that_can_be_healed(folder: Path) -> None:
    bands = [path for path in (folder / "chunks").iterdir() if path.stat().st_size > 2000]
    assert len(bands) > 20
    for path in bands:
        data = path.read_bytes()
        path.write_bytes(data[:-3])
        if [bad.tile for bad in verify(folder).bad if bad.stage == "scenes" and bad.day]:
            break
        path.write_bytes(data)
    found = verify(folder, heal=True)
    assert len(found.bad) == 1
    assert "cannot be read" in found.bad[0].text
    assert verify(folder).checked == 16


def test_coordinates_are_looked_at_too(folder: Path) -> None:
    bad = []
    for path in (folder / "chunks").iterdir():
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        bad += [bad for bad in verify(folder).bad if bad.tile == "time"]
        if bad:
            break
        path.write_bytes(data)
    assert bad


def test_arrays_that_a_store_got_later_do_not_make_its_tiles_bad(folder: Path) -> None:
    store = Store.open(folder)
    store.add_arrays(GRID, [ArraySpec("map/extra", "uint8", 100.0, 8, 0)])
    assert not verify(folder).bad


def test_a_release_is_verified_and_not_healed(folder: Path) -> None:
    Store.open(folder).tag("one")
    assert verify(folder, tag="one").checked == 17
    with pytest.raises(StoreError, match="cannot be healed"):
        verify(folder, tag="one", heal=True)
    with pytest.raises(StoreError, match="no such release"):
        verify(folder, tag="two")


def test_a_store_is_one_by_whatever_name(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(folder)
    with Store.open(folder).lock():
        for name in (link, folder.parent / "elsewhere" / ".." / "store"):
            with pytest.raises(LockedError), Store.open(name).lock():
                pass
        with pytest.raises(LockedError):
            verify(link, heal=True)
    with location_of(link).replace("items.parquet") as path:
        path.write_text("x")
    beside = location_of(folder).beside("items.parquet")
    assert beside is not None
    assert beside.read_text() == "x"


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "loop"])
def test_places_that_cannot_be_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    looks: list[Any] = [Store.exists, lambda path: location_of(path).beside("items.parquet")]
    for look in looks:
        said, there = "cannot be looked at", None
        try:
            there = look(tmp_path / name)
        except StoreError as error:
            said = str(error)
        assert not there
        assert "cannot be looked at" in said
    with pytest.raises(StoreError):
        read_status(tmp_path / name)


@pytest.mark.parametrize("days", [float("nan"), float("inf"), -1.0, 1e300])
def test_days_that_are_none(folder: Path, days: float) -> None:
    with pytest.raises(NatmapError, match="days"):
        prune(folder, keep_days=days)


def test_other_errors_say_nothing_of_the_store() -> None:
    assert damage_of(ValueError("no number")) is None
    assert damage_of(KeyError("zstd")) is None
    assert damage_of(ValueError("Stored and computed checksum do not match")) is not None


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("Unable to create dir /x/refs: Permission denied (os error 13)", "may not be"),
        ("Unable to open file: No space left on device (os error 28)", "no room"),
        ("Too many open files (os error 24)", "more files are open"),
        ("manifest file has an invalid header", "it is damaged"),
    ],
)
def test_what_the_machine_refused_is_no_damage(said: str, what: str) -> None:
    found = damage_of(icechunk.IcechunkError(f"  x object store error\n  | {said}"))
    assert found is not None
    assert what in found.what
    assert found.remedy
    assert "x object" not in str(found)


def test_a_release_that_cannot_be_named_does_not_make_the_store_damaged(folder: Path) -> None:
    shutil.rmtree(folder / "refs" / "tag.one", ignore_errors=True)
    (folder / "refs" / "tag.one").write_text("no folder can be made here")
    with pytest.raises(StoreError) as caught:
        Store.open(folder).tag("one")
    assert str(folder) in str(caught.value)


def test_a_store_of_before_digests_is_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with it, and nothing can be said of it; runs go on with it."""

    def before(session: icechunk.Session, message: str) -> str:
        return str(session.commit(message))

    for module in ("repository", "verify", "provenance"):
        monkeypatch.setattr(f"engine.store.{module}.commit", before)
    store = Store.create(tmp_path / "store", GRID, SPECS)
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    ledger = Ledger(GRID.shape, {"scenes": True, "map": False, "areas": False})
    ledger.create(root)
    classes = np.ones((8, 8), np.uint8)
    put(root, ledger, "map/classes", TILES[0], [classes, np.zeros((8, 8), np.uint8)])
    ledger.write(root)
    before(session, "by an older natmap")
    store.tag("old")
    told = ("metadata and ledger of the store",)
    for tag in (None, "old"):
        found = verify(tmp_path / "store", tag=tag)
        assert (found.checked, found.bad, found.unverified) == (1, (), told)
    monkeypatch.undo()
    begin_run(Store.open(tmp_path / "store"), {"recipe": {}}, {})
    assert verify(tmp_path / "store").unverified == ()
    # a release of before has no digest still: that is its age, no damage
    found = verify(tmp_path / "store", tag="old")
    assert (found.bad, found.unverified) == ((), told)
