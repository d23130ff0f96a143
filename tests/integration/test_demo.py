"""The demo that `make demo` left: its maps are as good as it said, and no miss is let pass."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from engine.cli import demo
from engine.cli.app import app
from engine.cli.demo import Facts, conclude, judge
from engine.errors import RunError
from engine.pipeline.status import read_status

FOLDER = Path(__file__).resolve().parents[2] / "natmap-demo"
GOOD = Facts(
    oa=0.8,
    kappa=0.78,
    f1=0.9,
    new_days=2,
    scenes=frozenset({"a", "b"}),
    scores=frozenset({"a", "b", "c"}),
    touched=frozenset({"a"}),
    near=frozenset({"a", "b", "d"}),
    seeing=frozenset({"a", "b", "c", "d"}),
)


@pytest.fixture(scope="module")
def left() -> Path:
    """The demo's folder. A demo takes minutes, so the suite does not run one of its own."""
    if not (FOLDER / "demo.json").is_file():
        message = "run `make demo` first"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return FOLDER


@pytest.fixture(scope="module")
def told(left: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((left / "demo.json").read_text())
    return found


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read(1)
    return values


def test_everything_that_the_demo_expects_held(told: dict[str, Any]) -> None:
    assert told["code"] == 0
    assert len(told["expectations"]) == 3
    assert all(told["expectations"].values())
    facts = {k: frozenset(v) if isinstance(v, list) else v for k, v in told["facts"].items()}
    assert judge(Facts(**facts)) == told["expectations"]
    # the new date came over a part only, or nothing would be shown
    assert facts["touched"]
    assert 0 < facts["new_days"] < read_status(FOLDER / "store")["stages"]["scores"]["done"]


def test_the_map_is_as_good_as_it_said(left: Path, told: dict[str, Any]) -> None:
    """Counted anew from the files, pixel by pixel."""
    with (
        rasterio.open(left / "product" / "demo-classes.tif") as found,
        rasterio.open(left / "truth" / "truth-lcz.tif") as known,
    ):
        x, y = found.transform.c - known.transform.c, known.transform.f - found.transform.f
        row, col = round(y / found.res[1]), round(x / found.res[0])
        classes = found.read(1)
        window = rasterio.windows.Window(col, row, found.width, found.height)
        truth = known.read(1, window=window, boundless=True, fill_value=0)
    both = (classes > 0) & (truth > 0)
    oa = float((classes == truth)[both].mean())
    assert oa == pytest.approx(told["facts"]["oa"], abs=1e-6)
    judged = json.loads((left / "accuracy-second" / "accuracy.json").read_text())
    assert judged["figures"]["oa"] == pytest.approx(oa, abs=1e-4)
    assert judged["figures"]["kappa"] == pytest.approx(told["facts"]["kappa"], abs=1e-4)
    assert len(judged["by_observations"]) > 1


def test_maps_pictures_tables_and_reports_are_there(left: Path) -> None:
    with Image.open(left / "beside" / "beside.png") as picture:
        assert picture.size[0] > 1500  # both maps and their legends
    zones = (left / "beside" / "green-by-zone.csv").read_text().splitlines()
    assert len(zones) > 3
    assert set(np.unique(read(left / "green-product" / "demo-green.tif"))) >= {0, 1}
    assert len(np.unique(read(left / "product" / "demo.tif"))) > 8
    for name in ("preview.png", "report.json", "collection.json"):
        assert (left / "product" / name).stat().st_size > 500
    assert (left / "accuracy-first" / "confusion.png").is_file()
    assert read_status(left / "store")["releases"] == ["first", "second"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oa": 0.7499}, "accuracy at least"),
        ({"kappa": 0.7199}, "accuracy at least"),
        ({"f1": 0.7999}, "F1 of green space 0.800"),
        ({"new_days": 3}, "only the new day"),  # another day was read again
        ({"scenes": frozenset({"b"}), "new_days": 1}, "only the new day"),  # one was left out
        ({"near": frozenset({"a"})}, "only the new day"),  # one was read too much
        ({"scores": frozenset({"e"})}, "only the new day"),  # one was classified too much
    ],
)
def test_a_miss_is_said_and_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    paper = io.StringIO()
    monkeypatch.setattr(demo, "out", Console(file=paper, width=120))
    assert conclude(GOOD, tmp_path) == 0
    assert "MISSED" not in paper.getvalue()
    assert conclude(replace(GOOD, **change), tmp_path) == 1
    assert f"MISSED  {words}" in paper.getvalue()
    assert paper.getvalue().count("MISSED") == 1
    kept = json.loads((tmp_path / "demo.json").read_text())
    assert kept["code"] == 1
    [missed] = [text for text, holds in kept["expectations"].items() if not holds]
    assert missed.startswith(words)


def test_a_miss_is_the_command_s_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` takes all steps and misses nothing; here they are left out, and one misses."""
    given: dict[str, Any] = {
        "_run": (1.0, []),
        "_tile_days": 0,
        "_boxes": {},
        "_most_urban": (0, 0, 100, 100),
        "evaluate_green": SimpleNamespace(figures={"f1": 0.9}),
    }
    left_out = ("synthesize", "plan", "draw_plan", "publish", "write_green", "beside", "draw_zones")
    for name in (*given, *left_out):
        monkeypatch.setattr(demo, name, partial(lambda found, *_, **__: found, given.get(name)))
    for oa, code in ((0.75, 0), (0.74, 1)):
        reached = SimpleNamespace(oa=oa, kappa=0.72, oa_u=0.7, f1_macro=0.6)
        monkeypatch.setattr(demo, "_judge", lambda *_, a=reached: SimpleNamespace(accuracy=a))
        said = CliRunner().invoke(app, ["demo", str(tmp_path / "demo")])
        assert said.exit_code == code, said.output
        assert json.loads((tmp_path / "demo" / "demo.json").read_text())["code"] == code


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="no demo made it"):
        demo.show(tmp_path)
    assert (tmp_path / "mine.txt").exists()
