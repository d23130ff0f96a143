"""A segmenter for each scene of a file, and chips that are learnt from by their scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.textures import texture, write_frame
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.chip_cutting import cut_chips
from engine.datasets.chips import open_chips
from engine.errors import LabelError, RecipeError
from engine.models.card import load_card
from engine.products.registry import load_training
from engine.products.scenes import SceneCards
from engine.recipes.sections import WindowModel
from engine.recipes.segmenting import SegmenterRecipe
from engine.similarity.grouping import balance
from engine.similarity.scenes import scenes
from engine.texture.scene_file import read_scenes
from engine.training.scene_models import train_scenes
from engine.training.segmenting import SegmenterTask
from engine.training.task import Listener
from engine.training.train import train

SIDE = 48
KINDS = {"train": [0] * 20 + [1] * 9 + [3] * 4, "val": [0, 0, 1, 1], "test": [0, 1, 3]}


def recipe(**more: Any) -> SegmenterRecipe:
    told = {
        "name": "green",
        "product": "ugs",
        "labels": [{"ugset": "set"}],
        "chips": "chips",
        "side": SIDE,
        "split": {"by": "own"},
        "model": {"architecture": "unet", "parameters": {"width": 4}, "overlap": 8},
        "training": {"epochs": 1, "batch": 4, "device": "cpu"},
        "out": "models",
    }
    return load_training(told | more)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips of three scenes, of the last none to validate on; and the file of these scenes."""
    folder = tmp_path_factory.mktemp("each")
    rng = np.random.default_rng(0)
    for split, kinds in KINDS.items():
        for kind in ("images", "labels"):
            (folder / "set" / split / kind).mkdir(parents=True)
        for k, kind in enumerate(kinds):
            grey = texture(kind, SIDE, rng)
            mask = 255 * (grey > 120)[None].astype(np.uint8)
            write_frame(folder / "set" / split / "images" / f"{k:02}.tif", np.stack([grey] * 3))
            write_frame(folder / "set" / split / "labels" / f"{k:02}.tif", mask)
    cut_chips(recipe(), folder)
    scenes(folder / "chips", folder / "out", by="texture", method="kmeans", count=3, repeats=1)
    return folder


def kinds_of(place: Path) -> dict[int, int]:
    """Kind of texture by the number of its scene."""
    mine = read_scenes(place / "out" / "scenes.json")
    known = json.loads((place / "out" / "scenes.json").read_text())["scenes"]
    sizes = [scene["patches"] for scene in known]
    assert len(mine) == 3
    assert sorted(sizes) == [5, 12, 23]
    return {sizes.index(size): kind for size, kind in ((23, 0), (12, 1), (5, 3))}


def test_each_scene_has_a_model_and_those_with_few_chips_are_listed(place: Path) -> None:
    file = place / "out" / "scenes.json"
    (place / "recipe.yaml").write_text(
        yaml.safe_dump(recipe().model_dump(mode="json", exclude_unset=True))
    )
    words = ["train", str(place / "recipe.yaml"), "--each", str(file)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1, found.output
    assert "2 of 3 scenes have a card, 1 failed" in found.output
    rare = next(number for number, kind in kinds_of(place).items() if kind == 3)
    report = json.loads((place / "models" / "report.json").read_text())
    states = {each["scene"]: each["state"] for each in report["scenes"]}
    assert states == {k: "failed" if k == rare else "trained" for k in range(3)}
    failed = next(each for each in report["scenes"] if each["scene"] == rare)
    assert "too few chips of these scenes: 4 to train on, 0 to validate on" in failed["reason"]
    for number, kind in kinds_of(place).items():
        folder = place / "models" / f"scene-{number}"
        if number == rare:
            assert not (folder / "card.json").exists()
            continue
        told = json.loads((folder / "report.json").read_text())
        counts = {name: KINDS[s].count(kind) for name, s in (("train", "train"), ("test", "test"))}
        assert told["chips"] == {**counts, "validation": KINDS["val"].count(kind)}
        assert told["scenes"]["only"] == [number]
        assert sum(told["scenes"]["sizes"]) == counts["train"]
    # a map takes what was written, by itself
    written = read_scenes(place / "models" / "scenes.json")
    assert written.key == read_scenes(file).key
    assert sorted(written.cards) == [k for k in range(3) if k != rare]
    choice = WindowModel(card="x", scenes={"file": "scenes.json"})  # type: ignore[arg-type]
    rest = load_card(place / "models" / f"scene-{min(written.cards)}")
    taken = SceneCards(choice, rest, place / "models")
    assert len(taken.cards) == 2


def test_what_is_done_is_kept_and_what_changed_is_done_again(place: Path) -> None:
    file = place / "out" / "scenes.json"
    first = train_scenes(recipe(out="kept"), file, base=place)
    keys = {each.scene: each.key for each in first.scenes}
    again = train_scenes(recipe(out="kept"), file, base=place)
    assert sorted(each.state for each in again.scenes) == ["failed", "kept", "kept"]
    assert {each.scene: each.key for each in again.scenes} == keys
    # by the file that it wrote itself, as well
    own = train_scenes(recipe(out="kept"), place / "kept" / "scenes.json", base=place)
    assert sorted(each.state for each in own.scenes) == ["failed", "kept", "kept"]
    number = next(each.scene for each in first.scenes if each.key)
    weights = next((place / "kept" / f"scene-{number}").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    third = train_scenes(recipe(out="kept"), file, base=place)
    states = {each.scene: each.state for each in third.scenes}
    assert states[number] == "trained"
    assert sorted(states.values()) == ["failed", "kept", "trained"]
    assert {each.scene: each.key for each in third.scenes} == keys
    other = recipe(out="kept", training={"epochs": 1, "batch": 4, "device": "cpu", "seed": 3})
    fourth = train_scenes(other, file, base=place)
    assert {e.reason for e in fourth.scenes if e.key} == {"of another settings than its card"}


def test_a_recipe_may_learn_from_some_scenes(place: Path) -> None:
    kinds = kinds_of(place)
    some = [number for number, kind in kinds.items() if kind in (0, 1)]
    told: list[str] = []
    wanted = recipe(scenes={"file": "out/scenes.json", "only": some}, out="some")
    task = SegmenterTask(wanted, place, Listener(told.append))
    chips = open_chips(place / "chips")
    assert len(task.parts["train"].x) == 29
    assert len(task.parts["test"].x) == 2
    mine = np.repeat([k for k, kind in sorted(kinds.items()) if kind != 3], [20, 9])
    often = task.parts["train"].often
    assert often is not None
    np.testing.assert_allclose(sorted(often), sorted(balance(mine)))
    assert any("nobody knows the pixel size" in line for line in told)
    plain = recipe(scenes={"file": "out/scenes.json", "balance": False}, out="all")
    every = SegmenterTask(plain, place, Listener())
    assert every.parts["train"].often is None
    assert len(every.parts["train"].x) == 33
    train(wanted, base=place)
    report = json.loads((place / "some" / "report.json").read_text())
    assert report["scenes"]["only"] == some
    # the set was cut once: scenes choose among its chips
    assert len(open_chips(place / "chips")) == len(chips)


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ({"only": [1]}, "name file, too"),
        ({"file": "s.json", "by": "texture"}, "by: of scenes that are found"),
        ({"file": "s.json", "only": [1, 1]}, "each once"),
        ({"file": "s.json", "only": [-1]}, "from 0"),
    ],
)
def test_choices_that_contradict_themselves_are_refused(scenes: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(scenes=scenes)


def test_scenes_that_do_not_serve_are_refused(place: Path) -> None:
    def task(**scenes: Any) -> None:
        SegmenterTask(recipe(scenes=scenes), place, Listener())

    with pytest.raises(LabelError, match=r"names scenes that are not there(.|\n)*9"):
        task(file="out/scenes.json", only=[9])
    with pytest.raises(LabelError, match="no such file of scenes"):
        task(file="gone.json")
    told = json.loads((place / "out" / "scenes.json").read_text())
    told["settings"]["side"] = 64
    (place / "large.json").write_text(json.dumps(told))
    with pytest.raises(LabelError, match="patches of another size"):
        task(file="large.json")
    with pytest.raises(LabelError, match="patches of another size"):
        train_scenes(recipe(out="large"), place / "large.json", base=place)
    assert not (place / "large").exists()
    wanted = recipe(scenes={"file": "out/scenes.json", "only": [0]})
    with pytest.raises(RecipeError, match=r"scenes come from --each(.|\n)*only"):
        train_scenes(wanted, place / "out" / "scenes.json", base=place)
    with pytest.raises(RecipeError, match="only segmenters are trained by scene"):
        train_scenes(
            {
                "name": "x",
                "labels": [{"recipe": "a.yaml", "areas": "a.kml"}],
                "patches": "p",
                "model": {"architecture": "forest"},
                "out": "o",
            },
            place / "out" / "scenes.json",
            base=place,
        )
