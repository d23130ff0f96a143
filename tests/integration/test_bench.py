"""`natmap bench` on a small country: the same maps, floors that are floors, and comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from support import shared
from support.worlds import PLAIN, synthesize
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.errors import MetricError
from engine.pipeline.prepare import prepare
from engine.pipeline.verbs import load
from engine.runs.schedule import Status
from engine.synthetic.country import AUTUMN
from engine.throughput.floors import Blocks
from engine.throughput.inline import run_inline

pytestmark = pytest.mark.slow
OPEN = (Status.WAITING, Status.READY)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    synthesize(replace(PLAIN, overpasses=AUTUMN[:1]), folder, tile=160)
    return folder / "recipe.yaml"


def test_tiles_in_one_process_are_those_of_a_run(recipe: Path, tmp_path: Path) -> None:
    """And the blocks that a floor decodes are those of a brute-force search, and no others."""
    told, base = load(recipe, None)
    prepared = prepare(told.model_copy(update={"store": str(tmp_path / "inline")}), base)
    tiles = prepared.schedule(None).tiles("composite", *OPEN)[:2]
    blocks = Blocks()
    found = run_inline(prepared, tiles=tiles, seen=blocks.note)
    again = told.model_copy(update={"store": str(tmp_path / "run")})
    shared.run(again, base=base, tiles=[str(tile) for tile in tiles])
    one, other = (
        engine.open_store(tmp_path / name, decode=False)["composite"]["bands"].values
        for name in ("inline", "run")
    )
    np.testing.assert_array_equal(one, other)
    assert one.any()
    assert found.usage.stages["composite"].tiles == 2
    assert found.cpu > 0
    blocks.decode()
    grid = prepared.grid
    read = set(tiles) | set(prepared.schedule(None, tiles=tiles).tiles("scenes", *OPEN))
    for path, known in blocks.windows.items():
        with rasterio.open(path) as file:
            expected = set()
            for tile in read:
                box = shapely.segmentize(shapely.box(*grid.tile_bounds(tile)), 100)
                ring = rasterio.warp.transform_geom(grid.crs, file.crs, box)
                bounds = shapely.box(*shapely.geometry.shape(ring).bounds)
                for block, window in file.block_windows(1):
                    if bounds.intersects(shapely.box(*file.window_bounds(window))):
                        expected.add(block)
            assert expected >= known
            assert len(known) >= 0.8 * len(expected)  # blocks that only touch are not needed


def test_the_command_measures_and_compares(recipe: Path, tmp_path: Path) -> None:
    words = ["bench", str(recipe), "--what", "parts", "--tiles", "1", "--rounds", "2"]
    words += ["--work", str(tmp_path / "work")]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "a")])
    assert told.exit_code == 0, told.output
    assert "images cpu / floor decode cpu" in told.stdout
    kept = json.loads((tmp_path / "a" / "bench.json").read_text())
    assert len(kept["rounds"]) == 2
    for each in kept["rounds"]:
        assert each["parts: images cpu"] > each["parts: floor decode cpu"] > 0
        assert each["parts: floor write wall"] > each["parts: floor copy wall"] > 0
    assert kept["machine"]["cores"] >= 1
    assert (tmp_path / "a" / "bench.png").stat().st_size > 5000
    assert not (tmp_path / "work" / "floor").exists()
    # twice as slow as it was: worse, and the command says so by its exit code
    faster = [
        {name: v if "floor" in name else v / 3 for name, v in each.items()}
        for each in [kept["rounds"][0]] * 3 + [{k: v * 1.01 for k, v in kept["rounds"][0].items()}]
    ]
    (tmp_path / "old.json").write_text(json.dumps({**kept, "rounds": faster}))
    told = CliRunner().invoke(app, [*words, "--compare", str(tmp_path / "old.json")])
    assert "against the earlier one" in told.stdout
    (tmp_path / "other.json").write_text(json.dumps({**kept, "tiles": 9}))
    with pytest.raises(MetricError, match="another tiles"):
        engine.bench(
            recipe,
            what=("parts",),
            tiles=1,
            work=tmp_path / "work",
            compare=tmp_path / "other.json",
        )
