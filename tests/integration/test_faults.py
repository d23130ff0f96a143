"""Images over a network that fails: the same map, or a pixel's reason says otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.ndimage import maximum_filter
from services.faulty import KINDS, PROGRAMS, Files, Proxy, far_catalogue
from services.required import need
from support import shared
from support.near import near

import engine
from engine.catalog.snapshot import read_snapshot
from engine.clusters.local import Local
from engine.cube.clouds import READ_FAILED
from engine.cube.read import sample_item
from engine.items import Item
from engine.legend import Reason
from engine.pipeline import prepare
from engine.pipeline.status import read_status
from engine.products import sources
from engine.products.registry import load_recipe
from engine.runs.execute import Summary
from engine.synthetic.country import AUTUMN

pytestmark = pytest.mark.slow
SOAK = pytest.mark.soak
DISC = 6  # px about a cloud that are masked with it
NAMES = ("bands", "observations", "reason")


@pytest.fixture(scope="module", params=["small"])
def country(request: pytest.FixtureRequest) -> Path:
    """A country that was mapped from files on disk: four tiles, or nine with a date more."""
    return near() if request.param == "small" else shared.reference()


@pytest.fixture(scope="module")
def files(country: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    need(*PROGRAMS)
    found = Files(scenes(country), tmp_path_factory.mktemp("nginx"))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The workers that all tests share, not patient with servers for once, like their driver."""
    told = {
        "NATMAP_HTTP_SECONDS": "4",
        "NATMAP_VERIFIED": str(tmp_path_factory.mktemp("verified")),
    }
    found = shared.workers()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        found.client.run(os.environ.update, told)
        yield found
    for name in told:
        found.client.run(os.environ.pop, name, None)


@pytest.fixture
def run(workers: Local) -> Callable[..., Summary]:
    """Composites of a recipe."""
    return partial(engine.run, cluster=workers, until="composite")


@pytest.fixture(scope="module")
def clean(country: Path) -> dict[str, np.ndarray]:
    """The composite of files on disk."""
    return composite(country / "store")


def scenes(country: Path) -> Path:
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    return (country / recipe["imagery"]["catalog"]).parent


def composite(store: Path) -> dict[str, np.ndarray]:
    tree = engine.open_store(store, decode=False)["composite"]
    return {name: tree[name].values for name in NAMES}


def changed_tiles(one: Path, other: Path) -> set[str]:
    """Tiles whose scenes differ."""
    a, b = (engine.open_store(path, decode=False, days="all")["scenes"] for path in (one, other))
    found = set()
    for overpass in AUTUMN[:3]:
        for name in ("bands", "scl", "source"):
            left, right = (x[name].sel(time=f"{overpass.when:%Y-%m-%d}").values for x in (a, b))
            where = np.argwhere(left != right)[:, -2:] // 160
            found |= {f"r{row:04}c{col:04}" for row, col in np.unique(where, axis=0)}
    return found


def lost_pixels(clean: Path, store: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of which some day was lost, and those of them where another image shows instead.

    Of no other pixel may a day differ from the faultless one. A day's pixel says itself that it
    could not be read, or that another image of that day shows there (`source`), as where two zones
    overlap.
    """
    a, b = (engine.open_store(path, decode=False, days="all")["scenes"] for path in (clean, store))
    found, replaced = np.zeros((2, *a["scl"].shape[-2:]), bool)
    for overpass in AUTUMN[:3]:
        day = {"time": f"{overpass.when:%Y-%m-%d}"}
        one, other = (
            {name: x[name].sel(day).values for name in ("bands", "scl", "source")} for x in (a, b)
        )
        differs = (one["bands"] != other["bands"]).any(axis=0)
        differs |= (one["scl"] != other["scl"]) | (one["source"] != other["source"])
        unread, another = other["scl"] == READ_FAILED, one["source"] != other["source"]
        assert not (differs & ~unread & ~another).any()
        found |= differs
        replaced |= another & ~unread
    return found, replaced


def over_http(country: Path, folder: Path, port: int) -> dict[str, Any]:
    """The recipe with a catalogue whose assets are addresses."""
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    recipe["imagery"]["catalog"] = far_catalogue(scenes(country), folder, port)
    recipe["area"] = {"file": str(country / "truth" / "area.geojson")}
    del recipe["mask"]
    return recipe | {"store": str(folder / "store")}


@pytest.mark.parametrize(
    ("country", "rate"),
    [("small", 0.3), *(pytest.param("larger", rate, marks=SOAK) for rate in (0.01, 0.1, 0.3))],
    indirect=["country"],
)
def test_a_failing_network_changes_no_pixel_in_silence(
    country: Path,
    files: Files,
    clean: dict[str, np.ndarray],
    tmp_path: Path,
    rate: float,
    run: Callable[..., Summary],
) -> None:
    proxy = Proxy(files.port, rate, seed=round(1000 * rate))
    try:
        recipe = over_http(country, tmp_path, proxy.port)
        assert not run(recipe).failed
        assert sum(proxy.done[kind] for kind in KINDS) > 0.3 * rate * proxy.done.total()
        assert rate < 0.3 or min(proxy.done[kind] for kind in KINDS) > 2, proxy.done
        # whatever is not the faultless map is a gap that the ledger tells
        plan = engine.plan(recipe, until="composite")
        gaps = next(stage.tiles for stage in plan.stages if stage.name == "scenes")
        assert set(gaps.values()) <= {"gap"}
        different = changed_tiles(country / "store", tmp_path / "store")
        told = read_status(tmp_path / "store")["notes"], _suspects(tmp_path / "store")
        assert different <= gaps.keys(), told
        found = composite(tmp_path / "store")
        # pixel by pixel: the composite differs only where a day was lost, or a cloud's disc with it
        lost, replaced = lost_pixels(country / "store", tmp_path / "store")
        assert lost.any() == bool(different)
        beside = maximum_filter(lost, 2 * DISC + 1)
        # where it has nothing, the read failed, or the image that shows instead is cloudy there
        blind = (found["observations"] == 0) & (clean["observations"] > 0)
        cloudy = blind & maximum_filter(replaced, 2 * DISC + 1)
        assert np.isin(found["reason"][cloudy], (Reason.READ_FAILED, Reason.ALL_CLOUD)).all()
        assert (found["reason"][blind & ~cloudy] == Reason.READ_FAILED).all()
        for name, values in found.items():
            assert (values == clean[name])[..., ~beside].all(), name
        # the next run over a healed network mends all of it
        proxy.rate = 0.0
        run(recipe)
        for name, values in composite(tmp_path / "store").items():
            np.testing.assert_array_equal(values, clean[name], err_msg=name)
    finally:
        proxy.stop()


def test_other_bytes_than_asked_for_are_never_decoded(
    country: Path,
    files: Files,
    tmp_path: Path,
    run: Callable[..., Summary],
) -> None:
    """Answers of another place, cut, or whole: GDAL would decode many of them without an error."""
    proxy = Proxy(files.port, 0.4, ("range", "truncate", "whole"), seed=11)
    try:
        recipe = over_http(country, tmp_path, proxy.port)
        assert not run(recipe).failed
        assert min(proxy.done[kind] for kind in proxy.kinds) > 20
        plan = engine.plan(recipe, until="composite")
        gaps = next(stage.tiles for stage in plan.stages if stage.name == "scenes")
        assert changed_tiles(country / "store", tmp_path / "store") <= gaps.keys()
        lost_pixels(country / "store", tmp_path / "store")
    finally:
        proxy.stop()


@SOAK
@pytest.mark.parametrize("country", ["larger"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_failure_heals(
    country: Path,
    files: Files,
    clean: dict[str, np.ndarray],
    tmp_path: Path,
    kind: str,
    run: Callable[..., Summary],
) -> None:
    proxy = Proxy(files.port, 0.03, (kind,), seed=7)
    try:
        recipe = over_http(country, tmp_path, proxy.port)
        assert not run(recipe).failed
        assert proxy.done[kind] > 2
        proxy.rate = 0.0
        run(recipe)
        for name, values in composite(tmp_path / "store").items():
            np.testing.assert_array_equal(values, clean[name], err_msg=f"{kind}: {name}")
    finally:
        proxy.stop()


def _suspects(store: Path) -> list[str]:
    snapshot = read_snapshot(store.with_name(f"{store.name}.items.parquet"))
    return [item.id for item in snapshot if item.suspect]


def test_flipped_bits_are_caught_where_files_are_verified(
    country: Path,
    files: Files,
    clean: dict[str, np.ndarray],
    tmp_path: Path,
    run: Callable[..., Summary],
) -> None:
    proxy = Proxy(files.port, 0.25, ("flip",), seed=28)  # 9 of the first 15 answers
    try:
        recipe = over_http(country, tmp_path, proxy.port)
        recipe["imagery"]["verify"] = True
        assert not run(recipe).failed
        assert proxy.done["flip"] > 5
        assert not _suspects(tmp_path / "store")  # no scene was lost to a flipped sample
        plan = engine.plan(recipe, until="composite")
        gaps = next(stage.tiles for stage in plan.stages if stage.name == "scenes")
        assert changed_tiles(country / "store", tmp_path / "store") <= gaps.keys()
        proxy.rate = 0.0
        run(recipe)
        for name, values in composite(tmp_path / "store").items():
            np.testing.assert_array_equal(values, clean[name], err_msg=name)
        # each file came once for all tiles, or again after it was found damaged
        whole = sum(path.stat().st_size for path in scenes(country).glob("*.tif"))
        assert proxy.sent < 3 * whole
    finally:
        proxy.stop()


def test_flipped_bits_pass_unseen_otherwise(
    country: Path,
    files: Files,
    tmp_path: Path,
    run: Callable[..., Summary],
) -> None:
    """The limit that is documented, and the proof that the test above tests something."""
    proxy = Proxy(files.port, 0.3, ("flip",), seed=3)
    try:
        recipe = over_http(country, tmp_path, proxy.port)
        run(recipe)
        plan = engine.plan(recipe, until="composite")
        gaps = next(stage.tiles for stage in plan.stages if stage.name == "scenes")
        assert changed_tiles(country / "store", tmp_path / "store") - gaps.keys()
    finally:
        proxy.stop()


@pytest.mark.parametrize(("flipped", "suspect"), [(1, False), (2, True)])
def test_a_suspicion_is_confirmed_by_a_second_reading(
    country: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipped: int, suspect: bool
) -> None:
    recipe = yaml.safe_load((country / "recipe.yaml").read_text()) | {"store": str(tmp_path / "s")}
    calls: dict[str, list[bool]] = {}

    def sample(item: Item, bands: Any, **more: Any) -> Any:
        found = sample_item(item, bands, **more)
        if item.assets["B02"].offset < 0:
            mine = calls.setdefault(item.id, [])
            mine.append(more.get("again", False))
            if len(mine) <= flipped:  # as if it had been shifted already
                found["B02"] = np.ones_like(found["B02"])
        return found

    monkeypatch.setattr(sources, "sample_item", sample)
    found = prepare.prepare(load_recipe(recipe), country)
    assert calls
    assert all(mine == [False, True] for mine in calls.values())
    assert {i.id for i in found.resolved.items if i.suspect} == (set(calls) if suspect else set())
