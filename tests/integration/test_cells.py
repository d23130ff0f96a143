"""A stage of 320 m beside cells of 100 m: the area is measured in each stage's own cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from scipy.ndimage import maximum_filter
from support import shared
from support.toys import Toy, blob, field_at

from engine.errors import GridError
from engine.runs.execute import execute
from engine.runs.schedule import Status
from engine.runs.stage import Input, Output, Stage, link
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

WIDE = 320.0


def sum_wide(task: TileTask) -> Iterator[Output]:
    pixels = task.read("composite/bands").astype(np.int64)
    n = len(pixels) // 32
    yield Output({"wide/sums": pixels.reshape(n, 32, n, 32).sum(axis=(1, 3))})


@dataclass(frozen=True)
class WideToy(Toy):
    """A toy with a fourth stage: sums of the composite in cells of 320 m."""

    halo: float = 0.0

    def stages(self) -> list[Stage]:
        wide = Stage(
            "wide",
            sum_wide,
            (ArraySpec("wide/sums", "int64", WIDE, self.tile * 10 // 320, -1),),
            (Input("composite", self.halo),),
        )
        return [*super().stages(), wide]

    def expected_wide(self) -> np.ndarray:
        """The sums by brute force: one array, no tiles."""
        grid = self.grid
        west, _, _, north = grid.bounds
        height, width = grid.array_shape(10.0)
        x = np.arange(width) + round(west / 10)
        y = round(-north / 10) + np.arange(height)
        area = centres_inside(self, 100.0)
        reach = max(1, round(self.halo / 100))
        scenes, made = (
            np.kron(maximum_filter(area, 2 * cells + 1, mode="constant"), np.ones((10, 10), bool))
            for cells in (reach + 1, reach)
        )
        total = sum(np.where(scenes, field_at(x, y, day), 0).astype(np.uint32) for day in self.days)
        composite = maximum_filter(total, 5, mode="constant") * made
        sums = composite.astype(np.int64).reshape(height // 32, 32, width // 32, 32).sum((1, 3))
        return np.where(centres_inside(self, WIDE), sums, -1)


def centres_inside(toy: Toy, cell: float) -> np.ndarray:
    west, _, _, north = toy.grid.bounds
    rows, cols = toy.grid.array_shape(cell)
    x, y = west + (np.arange(cols) + 0.5) * cell, north - (np.arange(rows) + 0.5) * cell
    return np.array(shapely.intersects_xy(toy.area.geometry, *np.meshgrid(x, y)))


def run(toy: Toy, path: Path) -> zarr.Group:
    store, schedule = toy.open(path)
    with store.lock():
        assert not execute(schedule, store, shared.workers()).failed
    return zarr.open_group(store.reader().store, mode="r")


def values(root: zarr.Group, path: str) -> np.ndarray:
    array: Any = root[path]
    return np.asarray(array[:])


def test_it_equals_numpy_and_changes_nothing_beside_it(tmp_path: Path) -> None:
    alone, both = Toy(blob()), WideToy(blob())
    first = run(alone, tmp_path / "alone")
    found = run(both, tmp_path / "both")
    for path in ("scenes/bands", "composite/bands", "map/classes"):
        index = both.days[0] if path == "scenes/bands" else Ellipsis
        one, other = (root[path][index] for root in (first, found))  # type: ignore[index]
        assert one.tobytes() == other.tobytes(), path
    expected = both.expected_wide()
    assert (values(found, "wide/sums") == expected).all()
    # the border differs from that of 100 m both ways, or the test would show nothing
    fine = np.kron(centres_inside(both, 100.0), np.ones((10, 10), bool))
    wide = np.kron(centres_inside(both, WIDE), np.ones((32, 32), bool))
    assert (fine & ~wide).any()
    assert (wide & ~fine).any()


def test_it_does_not_depend_on_the_tile(tmp_path: Path) -> None:
    found = {}
    for tile in (160, 320):
        toy = WideToy(blob(0.6), tile=tile, halo=160.0)
        sums = values(run(toy, tmp_path / str(tile)), "wide/sums")
        assert (sums == toy.expected_wide()).all()
        west, _, _, north = toy.grid.bounds
        rows, cols = np.nonzero(sums >= 0)
        at = zip(rows - round(north / WIDE), cols + round(west / WIDE), strict=True)
        found[tile] = dict(zip(at, sums[sums >= 0], strict=True))
    assert found[160] == found[320]
    assert len(found[160]) > 50


def test_adding_it_to_a_store_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    run(Toy(blob(0.4)), path)
    toy = WideToy(blob(0.4))
    store, _ = Toy(blob(0.4)).open(path)
    store.add_arrays(toy.grid, [spec for stage in toy.stages() for spec in stage.outputs])
    _, schedule = toy.open(path)
    open_ = {name for name in schedule.stages if schedule.count(name, Status.READY, Status.WAITING)}
    assert open_ == {"wide"}


@pytest.mark.parametrize(("tile", "cell"), [(80, None), (160, 300.0)])
def test_a_tile_that_cuts_a_cell_is_refused(tmp_path: Path, tile: int, cell: float | None) -> None:
    toy = WideToy(blob(), tile=tile)
    stages = toy.stages()
    if cell:
        stages[-1] = replace(stages[-1], outputs=(ArraySpec("wide/sums", "int64", cell, 1, -1),))
    with pytest.raises(GridError, match="not a whole number of the cells of stage wide") as found:
        link(stages, toy.grid, 100.0)
    assert found.value.expected == f"a multiple of {1600 if tile == 80 else 300:g} m"
    assert "grid.tile" in str(found.value.remedy)


def test_a_cell_that_cuts_a_pixel_is_refused() -> None:
    toy = WideToy(blob())
    stages = toy.stages()
    stages[-1] = replace(stages[-1], cell=400.0)
    with pytest.raises(GridError, match="not multiples of each other"):
        link(stages, toy.grid, 100.0)


def test_a_kernel_that_asks_for_other_pixels_is_refused() -> None:
    toy = Toy(blob())
    task = TileTask("map", sum_wide, (), toy.grid, toy.grid.tiles()[0], (), (), cell=100.0)
    with pytest.raises(GridError, match="where pixels of this size are defined"):
        task.defined(320.0)
