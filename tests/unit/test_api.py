"""The package's surface: what is exported is there, documented, typed, and instant to import."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import engine
import engine.errors
import natmap
from engine.cli.app import app
from engine.compare.releases import Difference
from engine.pipeline.verbs import Plan, StagePlan
from engine.runs.execute import Summary

ROOT = Path(__file__).resolve().parents[2]


def test_every_name_is_exported_and_documented() -> None:
    assert natmap.__doc__ == engine.__doc__
    listed = set(re.findall(r"^(\w+) +\S.*$", engine.__doc__ or "", re.MULTILINE))
    for name in natmap.__all__:
        found = getattr(natmap, name)
        assert found is getattr(engine, name)
        assert len(inspect.getdoc(found) or "") > 20, f"{name} has no docstring of its own"
        assert name in listed, f"{name} is not in the package's docstring"
    assert sorted(natmap.__all__) == sorted(engine.__all__)
    assert {*natmap.__all__, "__version__"} <= set(dir(natmap))
    assert natmap.__version__ == engine.__version__ == version("natmap")
    for package in (natmap, engine):
        with pytest.raises(AttributeError, match="nonsense"):
            _ = package.nonsense


def test_every_verb_of_the_command_is_in_the_package() -> None:
    verbs = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    # the demo draws for a terminal; `engine.compare` is a room, so its verb is called otherwise
    assert {*verbs - {"demo", "compare"}, "compare_systems"} <= set(natmap.__all__)


def test_every_error_is_exported_and_stands_in_the_tree() -> None:
    errors = {
        name
        for name, found in vars(engine.errors).items()
        if isinstance(found, type) and issubclass(found, engine.NatmapError)
    }
    assert errors == {name for name in natmap.__all__ if name.endswith("Error")}
    assert errors == set(re.findall(r"\b\w+Error\b", engine.errors.__doc__ or ""))


def test_the_import_is_instant_because_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, natmap\n"
        "dir(natmap), natmap.__doc__\n"
        "heavy = {'torch', 'xarray', 'dask', 'distributed', 'zarr', 'numpy', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.slow
def test_checkers_see_signatures(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "import natmap\n"
        "natmap.run(1, nonsense=2)\n"  # 2
        "natmap.nonsense\n"  # 3
        "natmap.run('recipe.yaml', workers=2).done + 1\n"
        "natmap.open_store('store', days='some')\n"  # 5
        "natmap.evaluate('product', 'truth.tif').figures['oa'] + 1.0\n"
        "found: natmap.Recipe = natmap.load_recipe('recipe.yaml')\n"
        "raise natmap.AreaError('no', got=natmap.__version__)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", snippet],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    wrong = {int(n) for n in re.findall(r"snippet\.py:(\d+): error", ran.stdout)}
    assert wrong == {2, 3, 5}, ran.stdout + ran.stderr
    assert 'Unexpected keyword argument "nonsense"' in ran.stdout


# -- results show themselves -----------------------------------------------------------------------


def test_a_plan_is_short_and_its_table_escaped() -> None:
    tiles = {f"r{n:04d}c0000": "new item" for n in range(1000)}
    stages = (StagePlan("scenes", {"new <item>": 1000}, 0, 7, tiles),)
    plan = Plan(
        "<b>city</b>", 1000, 6, 3, (), stages, 1.5, 0.5, 60.0, None, ("scores",), ("a & b",)
    )
    assert len(repr(plan)) < 200
    for words in ("1000 tiles, 6 scenes of 3 days", "scenes 1000+0", "not priced"):
        assert words in repr(plan)
    shown = plan._repr_html_()
    assert "<b>city</b>" not in shown
    assert "&lt;b&gt;city&lt;/b&gt;" in shown
    assert "1000 new &lt;item&gt;" in shown
    assert "rough guesses for scores" in shown
    assert "a &amp; b" in shown
    assert len(shown) < 2000


def test_a_summary_shows_what_failed() -> None:
    failed = tuple(("scores", f"r0000c{n:04d}", f"<no> {n}\nmore") for n in range(30))
    summary = Summary(12, failed, 4, True, 61.2)
    assert repr(summary) == (
        "<Summary 12 tiles done in 61 s, 30 failed, 4 wait for these, stopped: run again to resume>"
    )
    shown = summary._repr_html_()
    assert "&lt;no&gt; 19" in shown
    assert "more</td>" not in shown
    assert "and 10 more" in shown
    assert "<table>" not in Summary(1, (), 0, False, 2.0)._repr_html_()


def test_a_difference_shows_the_largest_changes() -> None:
    cells = np.array([[0, 0, 0], [2, 50, 8], [0, 3, 37]])
    found = Difference("a<b", "now", cells, ("none", "Old", "New"), ("", "o", "n"), 0.01, None)
    assert repr(found) == "<Difference a<b -> now: 13 cells changed (0.13 km2, 13.00 % of the map)>"
    shown = found._repr_html_()
    assert "a&lt;b" in shown
    first, *_ = re.findall(r"<tr><td.*?</tr>", shown)
    assert re.findall(r">([^<>]+)</td>", first) == ["Old", "New", "8", "0.08"]


# -- open_cube refuses, before anything is searched ------------------------------------------------

BOX = GeoBox((4, 4), Affine(10, 0, 500_000, 0, -10, 5_200_000), "EPSG:32633")
ASKED = {"period": "2023-05-01/2023-05-31", "bands": ["B02"]}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({}, natmap.RecipeError, "one argument says where"),
        ({"like": BOX, "bbox": (15, 46, 16, 47)}, natmap.RecipeError, "bbox and like"),
        ({"like": BOX, "period": None}, natmap.RecipeError, "lacks a period"),
        ({"like": BOX, "period": "2023"}, natmap.RecipeError, "FIRST/LAST"),
        ({"like": BOX, "period": ("2023-05-01",)}, natmap.RecipeError, "two days"),
        ({"like": BOX, "period": ("2023-05-02", "2023-05-01")}, natmap.RecipeError, "ends"),
        ({"like": BOX, "bands": None}, natmap.RecipeError, "lacks bands"),
        ({"like": BOX, "bands": "B02"}, natmap.RecipeError, "one word"),
        ({"like": BOX, "bands": ["B99"]}, natmap.RecipeError, "unknown band"),
        ({"like": BOX, "max_cloud_cover": 101}, natmap.RecipeError, "max_cloud_cover"),
        ({"like": BOX, "chunk": 0}, natmap.RecipeError, "chunk"),
        ({"like": BOX, "crs": "EPSG:3035"}, natmap.RecipeError, "leave crs"),
        ({"like": BOX, "origin": (3, 3)}, natmap.GridError, "lattice of origin"),
        ({"like": "box"}, natmap.RecipeError, "not a grid"),
        ({"like": BOX.rotate(10)}, natmap.GridError, "north up"),
        ({"bbox": (15, 46, 16, 47)}, natmap.RecipeError, "lacks a CRS"),
        ({"bbox": (15, 46, 16, 47), "crs": "EPSG:4326"}, natmap.GridError, "projected"),
        ({"bbox": (15, 46, 16), "crs": "EPSG:3035"}, natmap.RecipeError, "bbox"),
        ({"bbox": (15, 46, 15, 47), "crs": "EPSG:3035"}, natmap.AreaError, "no width"),
        ({"area": "nowhere.gpkg", "crs": "EPSG:3035"}, natmap.AreaError, "no such polygon file"),
        (
            {"bbox": (15, 46, 16, 47), "crs": "EPSG:3035", "resolution": -1},
            natmap.GridError,
            "not positive",
        ),
    ],
)
def test_a_cube_that_cannot_be_is_refused(wrong: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        natmap.open_cube("nowhere.json", **{**ASKED, **wrong})
