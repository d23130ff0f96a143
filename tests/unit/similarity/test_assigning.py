"""Patches assigned to the scenes of an earlier set, and files of scenes that will not do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy.spatial.distance import cdist
from support.textures import scenes as known
from support.textures import texture, write_frame
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.chips import write_chips
from engine.errors import LabelError
from engine.similarity.assigning import assign_scenes
from engine.similarity.scenes import scenes
from engine.texture.scene_file import read_scenes

SIDE = 48
QUICK: dict[str, Any] = {"repeats": 1, "bandwidth": 0.2}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips of known scenes, grouped by labels and texture."""
    folder = tmp_path_factory.mktemp("earlier")
    write_chips(folder / "set", known(200, SIDE)[0])
    scenes(folder / "set", folder / "out", **QUICK)
    return folder


def table(folder: Path) -> pandas.DataFrame:
    return pandas.read_parquet(folder / "patches.parquet")


def test_the_earlier_patches_get_what_they_had(earlier: Path, tmp_path: Path) -> None:
    assign_scenes(earlier / "set", earlier / "out" / "scenes.json", tmp_path / "again")
    first, again = table(earlier / "out"), table(tmp_path / "again")
    for column in ("patch", "scene", "distance", "outlying", "weight", "split"):
        assert again[column].tolist() == first[column].tolist(), column
    assert first[first.scene >= 0].outlying.sum() == 0
    # what is written serves as what was read
    old, new = (read_scenes(f / "scenes.json") for f in (earlier / "out", tmp_path / "again"))
    assert new.key == old.key
    assert json.loads((tmp_path / "again" / "scenes.json").read_text())["like"]["key"] == old.key


def test_others_get_the_nearest_scene_and_strangers_are_marked(
    earlier: Path, tmp_path: Path
) -> None:
    chips, truth = known(120, SIDE, seed=9)
    x = chips.x.copy()
    rng = np.random.default_rng(4)
    for k in range(5):  # a texture that the earlier set has not: a checkerboard
        board = 255 * (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 2)
        x[k] = np.clip(board + rng.integers(0, 2, (SIDE, SIDE)), 0, 255)
    write_chips(tmp_path / "set", replace(chips, x=x))
    words = ["scenes", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*words, "--like", str(earlier / "out" / "scenes.json")])
    assert found.exit_code == 0, found.output
    mine, file = table(tmp_path / "out"), read_scenes(earlier / "out" / "scenes.json")
    points = np.concatenate([np.stack(mine.h_lab), np.stack(mine.h_tex)], axis=1)
    apart = cdist(points, file.centres)
    near = apart.argmin(axis=1)
    np.testing.assert_allclose(mine.distance, apart.min(axis=1), atol=1e-12)
    assert mine.scene.tolist() == np.where(apart.min(axis=1) > file.far, -1, near).tolist()
    assert mine.outlying.tolist() == (mine.distance > file.radii[near]).tolist()
    assert mine.outlying[:5].all()
    # scenes that were found in others are the known ones here
    usual = np.arange(5, 120)[~mine.outlying[5:]]
    assert len(usual) > 90
    pairs = {(t, s) for t, s in zip(truth[usual], mine.scene[usual], strict=True)}
    assert len(pairs) == 4
    assert "farther from their scene than any earlier patch" in found.output


def test_images_are_cut_as_the_earlier_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, kinds in (("a", (0, 1, 2)), ("b", (2, 1))):
        (tmp_path / folder).mkdir()
        for k, kind in enumerate(kinds):
            grey = texture(kind, 4 * SIDE, rng)
            write_frame(
                tmp_path / folder / f"{k}.tif", np.repeat(grey[None], 3, 0), 5e5, 5e6, "EPSG:32633"
            )
    scenes(tmp_path / "a", tmp_path / "out", side=SIDE, **QUICK)
    like = tmp_path / "out" / "scenes.json"
    first = table(tmp_path / "out")
    by_kind = first[first.scene >= 0].groupby("frame").scene.agg(lambda v: v.mode()[0])
    described, found = assign_scenes(tmp_path / "b", like)
    assert len(described.rows) == 32
    for frame, kind in enumerate((2, 1)):
        mine = found.scene[16 * frame : 16 * frame + 16]
        assert (mine == by_kind[f"{kind}.tif"]).mean() > 0.7
    grey = np.repeat(texture(0, 4 * SIDE, rng)[None], 3, 0)
    write_frame(tmp_path / "b" / "0.tif", grey, 5e5, 5e6, "EPSG:32633", metres=2.0)
    write_frame(tmp_path / "b" / "1.tif", grey, 6e5, 5e6, "EPSG:32633", metres=2.0)
    with pytest.raises(LabelError, match=r"of another resolution(.|\n)*2 m(.|\n)*1 m"):
        assign_scenes(tmp_path / "b", like)
    for name in ("0.tif", "1.tif"):
        write_frame(tmp_path / "b" / name, grey.astype(np.uint16), 5e5, 5e6, "EPSG:32633")
    with pytest.raises(LabelError, match=r"of other pixels(.|\n)*uint16(.|\n)*uint8"):
        assign_scenes(tmp_path / "b", like)


def test_patches_that_cannot_be_described_alike_are_refused(earlier: Path, tmp_path: Path) -> None:
    like = earlier / "out" / "scenes.json"
    write_chips(tmp_path / "large", known(20, 64)[0])
    with pytest.raises(LabelError, match=r"another size(.|\n)*64 px(.|\n)*48 px"):
        assign_scenes(tmp_path / "large", like, tmp_path / "out")
    chips, _ = known(20, SIDE)
    labels = chips.y.copy()
    labels[3, :5] = 77
    write_chips(tmp_path / "codes", replace(chips, y=labels))
    with pytest.raises(LabelError, match=r"codes that the scenes do not know(.|\n)*77"):
        assign_scenes(tmp_path / "codes", like, tmp_path / "out")
    (tmp_path / "photos").mkdir()
    grey = texture(0, 4 * SIDE, np.random.default_rng(0))
    write_frame(tmp_path / "photos" / "a.tif", np.repeat(grey[None], 3, 0))
    with pytest.raises(LabelError, match=r"go by labels, and the patches have none"):
        assign_scenes(tmp_path / "photos", like, tmp_path / "out")
    words = ["scenes", str(earlier / "set"), "--out", str(tmp_path / "out"), "--like", str(like)]
    found = CliRunner().invoke(app, [*words, "--by", "texture", "--most", "100"])
    assert isinstance(found.exception, LabelError)
    assert "--by, --most" in str(found.exception)
    assert not (tmp_path / "out").exists()


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parts, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        place: Any = document
        for part in parts:
            place = place[part]
        if value is None and last != "pixel":
            del place[last]
        else:
            place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("schema", "natmap-scenes/1"), r"not a file of scenes of this version(.|\n)*again"),
        (_set("texture.points", 8), "described otherwise"),
        (_set("texture.rim", 4.5), "described otherwise"),
        (_set("settings.by", "colour"), "settings.by"),
        (_set("settings.side", True), "settings.side"),
        (_set("settings.side", None), "settings.side: missing"),
        (_set("kind", "float32"), "kind"),
        (_set("pixel", -1.0), "pixel"),
        (_set("far", 0), "far"),
        (_set("spread", "wide"), "spread"),
        (_set("codes", [3, 1]), "codes"),
        (_set("codes", [1, 2, 300]), "codes"),
        (_set("codes", []), "codes"),
        (_set("scenes", []), "scenes"),
        (_set("scenes.1.scene", 0), r"scenes.1.scene: 0, expected 1"),
        (_set("scenes.0.centre", [0.5, 0.5]), "2 numbers, expected 25"),
        (_set("scenes.0.centre.3", 1e999), "scenes.0.centre.3"),
        (_set("scenes.0.centre.3", 0.9), "sum to 1"),
        (_set("scenes.0.centre.3", "x"), "scenes.0.centre.3"),
        (_set("scenes.0.radius", 1.9), "beyond far"),
        (_set("scenes.0.radius", None), "scenes.0.radius: missing"),
        (_set("scenes.0.card", 7), "scenes.0.card"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    earlier: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    document = json.loads((earlier / "out" / "scenes.json").read_text())
    changed = copy.deepcopy(document)
    change(changed)
    path = tmp_path / "scenes.json"
    text = json.dumps(changed).replace("Infinity", "1e999")
    path.write_text(text)
    with pytest.raises(LabelError, match=words):
        read_scenes(path)


def test_files_that_are_none_are_refused(earlier: Path, tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    text = (earlier / "out" / "scenes.json").read_text()
    number = json.loads(text)["scenes"][0]["centre"][0]
    for content, words in (
        (text.replace(repr(number), "NaN", 1), "NaN is not a finite number"),
        (text[:-20], "cannot be read"),
        ("[1]", "schema None"),
        (text.replace('"far"', '"far": 1, "far"', 1), "twice"),
        ("[" * 100_000, "nested"),
        (" " * (17 << 20), "more than"),
    ):
        path.write_text(content)
        with pytest.raises(LabelError, match=words):
            read_scenes(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(LabelError, match="cannot be read"):
        read_scenes(path)
    with pytest.raises(LabelError, match="no such file of scenes"):
        read_scenes(tmp_path / "gone.json")
