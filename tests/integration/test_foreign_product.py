"""A product of another package: a wheel, installed elsewhere, planned, run, published, drawn."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from support import shared
from support.worlds import SMALL, synthesize

import engine
from engine.errors import RecipeError

pytestmark = pytest.mark.slow

CODE = '''
"""Greenness: the NDVI of a composite, at its pixels. No model, no legend, nothing to judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from engine.grid.area import Support
from engine.legend import Reason, Scale
from engine.maps.mask import inside
from engine.products.common import REASON_ATTRS
from engine.products.composite import composite_stages
from engine.products.product import Context, Mask, Product, Resolved, find_area, fit_grid
from engine.products.sources import SceneSource
from engine.publishing.forms import Form, Layer, reason_layer
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Imagery
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

BANDS = ("B04", "B08")


class GreennessRecipe(Recipe):
    product: Literal["greenness"]
    imagery: Imagery
    cube: Cube = Cube()


@dataclass(frozen=True)
class MapGreenness:
    masked: bool

    def __call__(self, task: TileTask) -> Iterator[Output]:
        red, near = (task.read("composite/bands").astype("f4") - 1000) / 10_000
        reason = task.read("composite/reason").copy()
        if self.masked:
            within = inside(task.parts[0].payload, task.grid, task.tile, 10.0)
            reason[~within & (reason == Reason.DATA)] = Reason.OUTSIDE_MASK
        value = np.where(reason == Reason.DATA, (near - red) / np.maximum(near + red, 1e-3), np.nan)
        yield Output({"map/values": value.astype("f4"), "map/reason": reason})


def resolve(recipe: GreennessRecipe, context: Context) -> Resolved:
    choice = recipe.grid
    area, notes = find_area(recipe, context.base)
    scenes, mask = SceneSource(recipe.imagery, context.base), Mask(recipe, context.base)
    side, chunk, outside = choice.resolution, choice.chunk_pixels, int(Reason.OUTSIDE_AREA)
    stages = composite_stages(recipe.cube, choice, BANDS, scenes)
    stages.append(
        Stage(
            "map",
            MapGreenness(bool(mask)),
            (
                ArraySpec("map/values", "float32", side, chunk, float("nan")),
                ArraySpec(
                    "map/reason", "uint8", side, chunk, 255, outside=outside, attrs=REASON_ATTRS
                ),
            ),
            (Input("composite"),),
            parameters={"mask": mask.parameter},
            parts=mask.parts,
        )
    )
    grid, _ = fit_grid(area, choice, stages, side, unit=side)
    notes += mask.find(grid, area)
    found, more = scenes.find(area, BANDS, grid, known=context.judged, tell=context.tell)
    support = Support(area, grid, side)
    answers = {"imagery": found}
    return Resolved(
        area, grid, support, BANDS, answers, tuple(stages), FORM, (*notes, *more)
    )


FORM = Form(
    "Greenness",
    "greenness",
    ("NDVI",),
    (
        Layer("map", "", "NDVI", "float32", float("nan"), "average", "map/values"),
        reason_layer("map/reason"),
    ),
    scale=Scale(-0.2, 0.8, "", ("8C510A", "D8B365", "F6E8C3", "C7EAE5", "5AB4AC", "01665E")),
)
PRODUCT = Product("greenness", GreennessRecipe, resolve, ("imagery",), "name: greenness", FORM)
'''

SCRIPT = """
import json, sys
import natmap

if __name__ == "__main__":
    recipe = json.load(open(sys.argv[1]))
    plan = natmap.plan(recipe)
    done = natmap.run(recipe, workers=1, **({"cluster": sys.argv[2]} if sys.argv[2:] else {}))
    natmap.publish(recipe)
    print(json.dumps({"stages": [s.name for s in plan.stages], "failed": list(done.failed)}))
"""


def write_wheel(folder: Path) -> Path:
    """The package as a wheel: module, metadata, and the entry point that names the product."""
    info = "greenness-1.0.dist-info"
    files = {
        "greenness.py": CODE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greenness\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[natmap.products]\ngreenness = greenness:PRODUCT\n",
    }
    lines = []
    for name, text in files.items():
        digest = hashlib.sha256(text.encode()).digest()
        code = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        lines.append(f"{name},sha256={code},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    path = folder / "greenness-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has natmap, as this one has it, and the wheel."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    packages = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    ours = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", write_wheel(folder)], check=True)
    (folder / "script.py").write_text(SCRIPT)
    return python


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("country")
    made = yaml.safe_load(synthesize(SMALL, folder, tile=160).read_text())
    wanted = {
        "name": "green",
        "product": "greenness",
        "area": {"file": str(folder / "truth" / "area.geojson")},
        "grid": made["grid"],
        "imagery": {
            "catalog": str(folder / "scenes" / "catalog.json"),
            "period": made["imagery"]["period"],
        },
        "mask": {"boundaries": str(folder / "truth" / "urban.geojson")},
        "store": str(folder / "green-store"),
        "publish": str(folder / "green"),
    }
    path = folder / "green.json"
    path.write_text(json.dumps(wanted))
    return path


def call(python: Path, *words: object) -> subprocess.CompletedProcess[str]:
    script = python.parents[2] / "script.py"
    return subprocess.run(
        [python, script, *map(str, words)], capture_output=True, text=True, check=False
    )


def test_it_is_mapped_without_a_change_in_natmap(elsewhere: Path, recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such product(.|\n)*greenness(.|\n)*install"):
        engine.plan(json.loads(recipe.read_text()))  # this environment lacks it
    done = call(elsewhere, recipe)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"stages": ["scenes", "composite", "map"], "failed": []}
    product = recipe.parent / "green"
    with rasterio.open(product / "green.tif") as file:
        values = file.read(1)
        assert np.isnan(file.nodata)
        assert file.res == (10, 10)
    tree = engine.open_store(recipe.parent / "green-store", decode=False)
    bands = tree["composite"]["bands"].astype("f4").values
    red, near = (bands - 1000) / 10_000
    known = tree["map"]["reason"].values == 0
    straight = ((near - red) / np.maximum(near + red, np.float32(1e-3)))[known]
    assert 1000 < known.sum() < known.size
    np.testing.assert_array_equal(np.sort(values[~np.isnan(values)]), np.sort(straight))
    report = json.loads((product / "report.json").read_text())
    assert report["area_km2"] == pytest.approx(known.sum() / 1e4, abs=1e-4)
    assert report["minimum"] == pytest.approx(float(straight.min()))
    assert report["mean"] == pytest.approx(float(straight.mean()), rel=1e-5)
    assert report["maximum"] == pytest.approx(float(straight.max()))
    assert report["model"] == {}
    assert (product / "preview.png").stat().st_size > 5000
    item = json.loads((product / "items" / "green.json").read_text())
    assert item["assets"]["map"]["bands"][0]["nodata"] == "nan"


def test_workers_that_lack_it_are_refused(elsewhere: Path, recipe: Path, tmp_path: Path) -> None:
    wanted = json.loads(recipe.read_text()) | {"store": str(tmp_path / "store")}
    (tmp_path / "other.json").write_text(json.dumps(wanted))
    workers = shared.settings_of(shared.workers(), tmp_path)
    done = call(elsewhere, tmp_path / "other.json", str(workers))
    assert done.returncode != 0
    assert "2 of 2 workers lack product greenness" in done.stderr
    assert "install the package" in done.stderr
