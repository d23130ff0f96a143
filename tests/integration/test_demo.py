"""The demo on a smaller country: it ends, it says what holds, and it does not let a miss pass."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rich.console import Console

from engine.cli import demo
from engine.errors import RunError


@pytest.mark.slow
def test_the_demo_says_what_holds_and_what_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_WIDTH", 6400)
    monkeypatch.setattr(demo, "_HEIGHT", 4800)
    monkeypatch.setattr(demo, "_TILE", 160)
    monkeypatch.setattr(demo, "_LEAST_OA", 0.999)  # no map is that good
    paper = io.StringIO()
    monkeypatch.setattr(demo, "out", Console(file=paper, width=120))
    assert demo.show(tmp_path / "demo", workers=1) == 1
    said = paper.getvalue()
    assert "holds  only the new day was read" in said
    assert "MISSED  accuracy at least 0.999" in said
    assert "holds  F1 of green space" in said
    with Image.open(tmp_path / "demo" / "beside" / "beside.png") as picture:
        assert picture.size[0] > 1500  # both maps and their legends
    zones = (tmp_path / "demo" / "beside" / "green-by-zone.csv").read_text().splitlines()
    assert len(zones) > 3
    with rasterio.open(tmp_path / "demo" / "green-product" / "demo-green.tif") as file:
        assert set(np.unique(file.read(1))) >= {0, 1}
    assert (tmp_path / "demo" / "product" / "preview.png").exists()
    judged = json.loads((tmp_path / "demo" / "accuracy-second" / "accuracy.json").read_text())
    assert judged["figures"]["oa"] > 0.6
    assert len(judged["by_observations"]) > 1


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="no demo made it"):
        demo.show(tmp_path)
    assert (tmp_path / "mine.txt").exists()
