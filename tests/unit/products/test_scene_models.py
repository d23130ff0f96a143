"""Scenes and their cards in a map recipe: what is taken, what is refused, and a window's shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cards import write_segmenter
from support.textures import texture

from engine.errors import CardError, NatmapError, RecipeError, WeightsError
from engine.infer import predict
from engine.infer.by_scene import LOADED, ByScene
from engine.models.card import find_card, load_card
from engine.products.registry import load_recipe
from engine.products.scenes import SceneCards
from engine.recipes.base import Given
from engine.recipes.sections import WindowModel
from engine.texture.lbp import texture_counts
from engine.texture.scene_file import SCHEMA, TEXTURE

SIDE = 64


def histogram(kind: int, seed: int = 0) -> np.ndarray:
    grey = texture(kind, SIDE, np.random.default_rng(seed))
    counts = texture_counts(np.repeat(grey[None], 3, 0), np.ones((SIDE, SIDE), bool))
    return np.asarray(counts / counts.sum())


def document(**more: Any) -> dict[str, Any]:
    """Scenes of noise, of soft noise, and of blobs; the last lies far from both."""
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "texture": dict(TEXTURE),
        "settings": {"by": "texture", "side": SIDE},
        "kind": "uint8",
        "pixel": 1.0,
        "codes": [],
        "far": None,
        "spread": 0.01,
        "scenes": [
            {"scene": k, "radius": 0.3, "centre": histogram(kind).tolist()}
            for k, kind in enumerate((0, 1, 3))
        ],
    }
    return told | more


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    for seed, name in enumerate(("rest", "a", "b")):
        write_segmenter(folder / name, patch=SIDE, overlap=16, seed=seed)
    write_segmenter(folder / "wide", patch=128, overlap=32)
    write_segmenter(folder / "bad", patch=SIDE, overlap=16, seed=9)
    path = folder / "bad" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    return folder


def scene_cards(folder: Path, told: dict[str, Any], card: str = "rest", **more: Any) -> SceneCards:
    (folder / "scenes.json").write_text(json.dumps(told))
    given = {"cards": {0: "a", 1: "./b/card.json"}} | more
    choice = WindowModel(card=card, scenes={"file": "scenes.json", **given})  # type: ignore[arg-type]
    return SceneCards(choice, load_card(folder / card), folder)


def test_cards_of_the_recipe_go_before_those_of_the_file(cards: Path) -> None:
    told = document()
    told["scenes"][0]["card"] = "./b"
    told["scenes"][2]["card"] = "a"
    found = scene_cards(cards, told, cards={0: "./a"})
    assert [c.name for c in found.cards] == ["rest", "a"]
    assert found.by is not None
    assert found.by.owner == (1, 0, 1)
    assert found.scenes_of(1) == (0, 2)
    assert found.scenes_of(0) == (1,)
    [note] = found.notes
    assert "1 of 3 scenes have no card of their own (scenes 1): rest maps them" in note
    assert found.gigabytes(4000) > 0
    # the recipe's own card may be a scene's
    same = scene_cards(cards, document(), cards={0: "rest", 1: "b"})
    assert [c.name for c in same.cards] == ["rest", "b"]
    unknown = scene_cards(cards, document(pixel=None))
    assert any("nobody knows the pixel size" in note for note in unknown.notes)
    none = SceneCards(WindowModel(card="rest"), load_card(cards / "rest"), cards)
    assert not none
    assert none.parameters == {}


def by_labels() -> dict[str, Any]:
    scenes = [{"scene": 0, "radius": 0.1, "centre": [0.5, 0.5]}]
    return document(settings={"by": "labels", "side": SIDE}, codes=[0, 1], scenes=scenes)


def with_card(card: Any) -> dict[str, Any]:
    told = document()
    told["scenes"][2]["card"] = card
    return told


def without_noise() -> dict[str, Any]:
    return document(spread=0.0)


@pytest.mark.parametrize(
    ("told", "more", "kind", "words"),
    [
        (by_labels(), {}, RecipeError, r"go by labels(.|\n)*--by texture"),
        (document(settings={"by": "texture", "side": 48}), {}, RecipeError, r"48 px(.|\n)*again"),
        (document(kind="reflectance"), {}, RecipeError, r"uint8(.|\n)*reflectance"),
        (document(pixel=0.5), {}, RecipeError, r"another resolution(.|\n)*1 m(.|\n)*0.5 m"),
        (document(schema="natmap-scenes/1"), {}, RecipeError, "this version"),
        (document(), {"cards": {7: "a"}}, RecipeError, r"not there(.|\n)*7(.|\n)*0 to 2"),
        (document(), {"cards": {}}, RecipeError, r"no scene has a card(.|\n)*train --each"),
        (document(), {"cards": {0: "gone"}}, CardError, "no card for scene 0"),
        (document(), {"cards": {0: "./gone"}}, CardError, "card of scene 0 cannot be used"),
        (document(), {"cards": {0: "wide"}}, CardError, r"scene 0 does not fit(.|\n)*patch 128"),
        (document(), {"cards": {0: "lcz-made-up"}}, CardError, "is of no segmenter"),
        (document(), {"cards": {0: "bad"}}, WeightsError, "model.safetensors"),
        (with_card("../a"), {}, RecipeError, "outside the file's folder"),
        (with_card("~/a"), {}, RecipeError, "shell"),
        (without_noise(), {"mode": "blend"}, RecipeError, r"cannot be blended(.|\n)*choose"),
    ],
)
def test_what_does_not_serve_is_refused(
    cards: Path, told: dict[str, Any], more: dict[str, Any], kind: type[NatmapError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        scene_cards(cards, told, **more)


def test_a_file_that_is_not_there_is_the_recipes_fault(cards: Path) -> None:
    choice = WindowModel(card="rest", scenes={"file": "gone.json"})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no such file of scenes"):
        SceneCards(choice, load_card(cards / "rest"), cards)


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ({"file": "s.json", "floor": 0.1}, "floor goes with mode: blend"),
        ({"file": "s.json", "mode": "blend", "floor": 0}, "greater than 0"),
        ({"file": "s.json", "mode": "blend", "floor": 0.6}, "less than or equal to 0.5"),
        ({"file": "s.json", "mode": "mean"}, "'choose' or 'blend'"),
        ({"file": "s.json", "cards": {"x": "a"}}, "not the number of a scene"),
        ({"file": "s.json", "cards": {1: "a", "01": "b"}}, "a scene is there twice"),
        ({"cards": {1: "a"}}, "model.scenes.file: missing"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(scenes: Any, words: str) -> None:
    told = {
        "name": "x",
        "product": "ugs",
        "area": {"bbox": [13.0, 52.0, 13.1, 52.1]},
        "grid": {"crs": "EPSG:32633"},
        "images": {"catalog": "c.json"},
        "model": {"card": "a", "scenes": scenes},
        "store": "s",
    }
    with pytest.raises(RecipeError, match=words):
        load_recipe(told)
    told["model"] = {"card": "a", "scenes": {"file": "s.json"}, "cities": "c.geojson"}
    with pytest.raises(RecipeError, match=r"cities and scenes: give one of the two"):
        load_recipe(told)
    told["model"] = {"card": "a", "scenes": {"file": "s.json"}}
    told |= {"product": "cover", "imagery": {"catalog": "c", "period": "2023-03-01/2023-06-30"}}
    del told["images"]
    with pytest.raises(RecipeError, match=r"model.scenes: goes with images"):
        load_recipe(told)


def test_cards_of_an_option_are_seen_from_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "name": "x",
        "product": "ugs",
        "area": {"bbox": [13.0, 52.0, 13.1, 52.1]},
        "grid": {"crs": "EPSG:32633"},
        "images": {"catalog": "c.json"},
        "model": {"card": "a", "scenes": {"file": "s.json"}},
        "store": "s",
    }
    for folder in ("recipes", "here"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "recipes" / "x.yaml"
    path.write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path / "here")
    given = Given({"model.scenes.cards": {0: "./own", 1: "ugs-made-up"}})
    found = load_recipe(path, given)
    assert found.model.scenes.cards == {0: "../here/own", 1: "ugs-made-up"}


def by_scene(least: float, **more: Any) -> ByScene:
    """Four scenes of three cards, of which the first has none."""
    centres = np.stack([histogram(kind) for kind in (0, 1, 2, 3)])
    card = load_card(find_card("ugs-made-up", Path()))
    told: dict[str, Any] = {
        "cards": (card, card, card),
        "owner": (0, 1, 2, 1),
        "centres": centres,
        "radii": np.full(4, 0.5),
        "spread": 0.1,
        "least": least,
        "rgb": (0, 1, 2),
    }
    return ByScene(**(told | more))


@pytest.mark.parametrize("floor", [0.02, 0.1, 0.3, 0.5])
def test_shares_are_the_formula_of_the_recipe(floor: float) -> None:
    rng = np.random.default_rng(5)
    every = np.ones((SIDE, SIDE), bool)
    counted = set()
    for k in range(40):
        mixed = np.where(np.arange(SIDE) < 2 * k, texture(k % 4, SIDE, rng), texture(1, SIDE, rng))
        pixels = np.repeat(mixed[None].astype(np.uint8), 3, 0)
        pixels[1] //= 1 + k % 3
        by = by_scene(floor)
        counts = texture_counts(pixels, every)
        apart = np.linalg.norm(by.centres - counts / counts.sum(), axis=1)
        wanted = np.exp(-(apart**2) / 0.1) / np.exp(-(apart**2) / 0.1).sum()
        wanted[(wanted < floor) & (wanted < wanted.max())] = 0
        wanted /= wanted.sum()
        if apart.min() > 0.5:
            wanted = np.array([1.0, 0, 0, 0])
        shares = [wanted[0], wanted[1] + wanted[3], wanted[2]]
        found = by.shares(pixels, every)
        np.testing.assert_allclose(found, shares, atol=1e-6)
        # floors bound the cost
        assert np.count_nonzero(wanted) <= max(1, int(1 / floor))
        counted.add(int(np.count_nonzero(found)))
        one = by_scene(1.0).shares(pixels, every)
        assert sorted(one.tolist()) == [0, 0, 1]
        near = (0, 1, 2, 1)[int(apart.argmin())] if apart.min() <= 0.5 else 0
        assert one[near] == 1
    assert len(counted) > 1 or floor == 0.5


def test_windows_with_gaps_or_like_no_scene_are_the_recipes() -> None:
    by = by_scene(1.0, owner=(1, 1, 2, 2))
    rng = np.random.default_rng(3)
    pixels = np.repeat(texture(0, SIDE, rng)[None], 3, 0)
    valid = np.ones((SIDE, SIDE), bool)
    assert by.shares(pixels, valid)[1] == 1
    valid[:6] = False  # less than a tenth
    assert by.shares(pixels, valid)[1] == 1
    valid[:7] = False
    assert by.shares(pixels, valid)[0] == 1
    spots = np.ones((SIDE, SIDE), bool)
    spots[::8, ::8] = False  # nine in ten are seen, and no circle is whole
    assert spots.mean() > 0.9
    assert by.shares(pixels, spots)[0] == 1
    far = by_scene(1.0, owner=(1, 1, 2, 2), radii=np.full(4, 1e-6))
    assert far.shares(pixels, np.ones((SIDE, SIDE), bool))[0] == 1
    # beyond the softmax's reach nothing is divided by nothing
    tight = by_scene(0.1, owner=(1, 1, 2, 2), spread=1e-300)
    assert tight.shares(pixels, np.ones((SIDE, SIDE), bool))[1] == 1


def test_a_worker_holds_a_few_networks(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Held:
        def __init__(self, card: Any, device: str, precision: str) -> None:
            made.append(card.name)

    monkeypatch.setattr(predict, "Predictor", Held)
    monkeypatch.setattr(predict, "_loaded", {})
    base = load_card(cards / "rest")
    many = [base.model_copy(update={"name": f"n{k}", "sha256": f"{k:064x}"}) for k in range(12)]
    for card in (*many[:LOADED], many[0], many[LOADED], many[0], many[1]):
        predict.get_predictor(card, "cpu", "float32", most=LOADED)
        assert len(predict._loaded) <= LOADED
    # the second was used least lately: it made room, and was loaded again
    assert made == [*(f"n{k}" for k in range(LOADED + 1)), "n1"]
