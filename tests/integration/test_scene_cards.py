"""Windows of different scenes in one map, each scene by a network of its own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import from_bounds
from scipy.ndimage import maximum_filter
from scipy.special import expit
from skimage.feature import local_binary_pattern
from support.cards import write_segmenter
from support.shared import run
from support.textures import texture
from test_cities import stale, write_cities

import engine
from engine.datasets.chips import ChipSet, write_chips
from engine.legend import Reason
from engine.models.card import load_card
from engine.pipeline.doctor import examine
from engine.similarity.scenes import scenes
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow

SIDE, PATCH, OVERLAP = 500, 64, 16
WEST, SOUTH = 500_050, 5_200_060
EAST, NORTH = WEST + SIDE, SOUTH + SIDE
BOUNDS = WEST, SOUTH, EAST, NORTH
ANSWERS = {"rest": 0.7, "noise": -2.0, "soft": 3.0, "other": 1.5}
LAYERS = ("", "-probability", "-reason", "-green-fraction-100m", "-models")


def picture() -> np.ndarray:
    """Noise in the west, blurred noise in the east, a board between that is like none, holes."""
    rng = np.random.default_rng(0)
    grey = np.where(np.arange(SIDE) < 250, texture(0, SIDE, rng), texture(1, SIDE, rng))
    board = 255 * (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 2)
    grey[:160, 160:340] = board[:160, 160:340]
    rgb = np.repeat(np.clip(grey, 1, 255)[None].astype(np.uint8), 3, 0)
    rgb[2] = 255 - rgb[2] // 2  # brightness is of all three
    rgb[:, 380:480, 50:130] = 0
    rgb[:, 440:443, 320:400] = 0
    return rgb


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, four networks that give one answer each, and scenes found in other pictures."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "photos").mkdir()
    form = {"count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8", "nodata": 0, "crs": CRS}
    form |= {"driver": "GTiff", "transform": Affine(1, 0, WEST, 0, -1, NORTH)}
    with rasterio.open(folder / "photos" / "p_2024-05-01.tif", "w", photometric="RGB", **form) as f:
        f.write(picture())
    engine.ingest(folder / "photos", folder / "stac", licence="CC0-1.0", attribution="nobody")
    for seed, (name, logit) in enumerate(ANSWERS.items()):
        write_segmenter(
            folder / "cards" / name, patch=PATCH, overlap=OVERLAP, seed=seed, answer=(0.0, logit)
        )
    write_cities(folder / "area.geojson", [("all", shapely.box(*BOUNDS), {})])
    rng = np.random.default_rng(1)
    kinds = np.arange(120) % 5 < 2  # noise is the larger scene: number 0
    x = np.stack([np.repeat(texture(int(k), PATCH, rng)[None], 3, 0) for k in kinds])
    xy = np.stack([5e5 + 64 * np.arange(120), np.full(120, 5.2e6)], axis=1)
    none, zero = np.full(120, 255, np.uint8), np.zeros(120, np.uint16)
    bands = ("B04", "B03", "B02")
    chips = ChipSet(x, np.zeros((120, PATCH, PATCH), np.uint8), xy, zero, none, bands, ("a",))
    write_chips(folder / "chips", chips)
    scenes(folder / "chips", folder / "scenes", by="texture", method="kmeans", count=2, repeats=1)
    return folder


def recipe(name: str, tile: int = 200, keep: bool = False, **more: Any) -> dict[str, Any]:
    told = {
        "name": name,
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": tile, "chunk": 100},
        "images": {"catalog": "stac/catalog.json", "keep": keep},
        "model": {
            "card": "./cards/rest",
            "scenes": {
                "file": "scenes/scenes.json",
                "cards": {0: "./cards/noise", 1: "./cards/soft"},
            },
        },
        "store": name,
        "publish": f"{name}-product",
    }
    told["model"]["scenes"] |= more
    return told


def product(place: Path, told: dict[str, Any]) -> Path:
    assert not run(told, base=place).failed
    return Path(engine.publish(told, base=place))


def layer(folder: Path, suffix: str) -> np.ndarray:
    with rasterio.open(folder / f"{folder.name.removesuffix('-product')}{suffix}.tif") as file:
        here = from_bounds(*BOUNDS, file.transform)
        found: np.ndarray = file.read(1, window=here, boundless=True, fill_value=99)
        return found


def wide(place: Path) -> str:
    """The same scenes, but wide ones: windows of both textures are in them, and near to both."""
    told = json.loads((place / "scenes" / "scenes.json").read_text())
    told["scenes"] = [scene | {"radius": 0.6} for scene in told["scenes"]]
    (place / "wide.json").write_text(json.dumps(told | {"spread": 0.2}))
    return "wide.json"


@pytest.fixture(scope="module")
def chosen(place: Path) -> Path:
    """Scenes come to a map that is there."""
    plain = recipe("chosen")
    del plain["model"]["scenes"]
    assert not run(plain, base=place).failed
    assert stale(place, plain) == set()
    assert len(stale(place, recipe("chosen"))) == 9
    return product(place, recipe("chosen"))


@cache
def histograms() -> dict[tuple[int, int], np.ndarray | None]:
    """Texture of each window that meets the picture, by its first row and column in it; None where
    too little is seen. By scikit-image, in no tile at all."""
    image = np.pad(picture(), ((0, 0), (PATCH, PATCH), (PATCH, PATCH)))
    stride, found = PATCH - OVERLAP, {}
    for top in range((-NORTH - PATCH) // stride * stride, -NORTH + SIDE, stride):
        for left in range((WEST - PATCH) // stride * stride, WEST + SIDE, stride):
            row, col = top + NORTH, left - WEST
            if row <= -PATCH or col <= -PATCH:
                continue
            window = image[:, row + PATCH : row + 2 * PATCH, col + PATCH : col + 2 * PATCH]
            red, green, blue = window.astype(int)
            grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
            hole = (window == 0).any(axis=0)
            codes = local_binary_pattern(grey, 20, 3, "uniform").astype(int)
            whole = ~maximum_filter(hole, 9)[4:-4, 4:-4]
            counts = np.bincount(codes[4:-4, 4:-4][whole], minlength=22)
            enough = (~hole).mean() >= 0.9 and counts.any()
            found[row, col] = counts / counts.sum() if enough else None
    return found


def witness(
    file: Path, cards: dict[int, str], floor: float | None = None
) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Percent and model of each pixel by numpy alone, and which cards had a window."""
    told = json.loads(file.read_text())
    centres = np.array([scene["centre"] for scene in told["scenes"]])
    names = ["rest", *dict.fromkeys(cards[k] for k in sorted(cards))]
    ramp = np.sin(np.pi / 2 * (np.arange(OVERLAP) + 0.5) / OVERLAP) ** 2
    along = np.concatenate([ramp, np.ones(PATCH - 2 * OVERLAP), ramp[::-1]])
    lattice = np.outer(along, along).astype(np.float32)
    size = SIDE + 2 * PATCH
    total = np.zeros((size, size), np.float32)
    mine = np.zeros((len(names), size, size), np.float32)
    used = set()
    for (row, col), counts in sorted(histograms().items()):
        share = dict.fromkeys(names, 0.0)
        if counts is None:
            share["rest"] = 1.0
        else:
            apart = np.sqrt(((counts - centres) ** 2).sum(axis=1))
            near = int(apart.argmin())
            if apart[near] > told["scenes"][near]["radius"]:
                share["rest"] = 1.0
            elif floor is None:
                share[cards.get(near, "rest")] = 1.0
            else:
                weight = np.exp(-(apart**2) / told["spread"])
                weight /= weight.sum()
                weight[(weight < floor) & (np.arange(len(weight)) != near)] = 0
                for k, value in enumerate(weight / weight.sum()):
                    share[cards.get(k, "rest")] += value
        here = np.s_[row + PATCH : row + 2 * PATCH, col + PATCH : col + 2 * PATCH]
        logit = np.float32(0)
        for k, name in enumerate(names):
            if share[name]:
                used.add(name)
                logit += np.float32(share[name]) * np.float32(ANSWERS[name])
            mine[k][here] += lattice * np.float32(share[name])
        total[here] += lattice * logit
    inner = np.s_[..., PATCH:-PATCH, PATCH:-PATCH]
    seen = (picture() > 0).all(axis=0)
    percent = np.where(seen, np.rint(100 * expit(total[inner].astype(float))), 255)
    return percent.astype(np.uint8), np.where(seen, mine[inner].argmax(axis=0), 255), used


def test_each_window_has_the_card_of_what_it_shows(place: Path, chosen: Path) -> None:
    cards = {0: "noise", 1: "soft"}
    percent, model, used = witness(place / "scenes" / "scenes.json", cards)
    assert used == {"rest", "noise", "soft"}
    np.testing.assert_array_equal(layer(chosen, "-probability"), percent)
    np.testing.assert_array_equal(layer(chosen, "-models"), model)
    # deep in each texture its own card alone
    for cols, name in ((slice(0, 180), "noise"), (slice(320, 500), "soft")):
        mine = percent[200:360, cols] == round(100 * expit(ANSWERS[name]))
        assert mine.mean() > 0.6, name
    assert (model[40:110, 210:290] == 0).all()  # the board is like neither
    near_hole = model[400:460, 20:50]  # windows with more than a tenth of the hole
    assert (near_hole == 0).any()
    assert (layer(chosen, "-reason")[percent != 255] == Reason.DATA).all()


def test_cards_are_blended_by_how_near_their_scenes_are(place: Path) -> None:
    told = recipe("blended", tile=400, file=wide(place), mode="blend", floor=0.02)
    cards = {0: "noise", 1: "soft"}
    percent, model, used = witness(place / "wide.json", cards, 0.02)
    assert used == {"rest", "noise", "soft"}
    made = product(place, told)
    np.testing.assert_array_equal(layer(made, "-probability"), percent)
    np.testing.assert_array_equal(layer(made, "-models"), model)
    plain, _, _ = witness(place / "wide.json", cards)
    assert (plain != percent)[percent != 255].mean() > 0.05  # it could differ


def test_the_layout_leaves_no_trace(place: Path, chosen: Path) -> None:
    told = recipe("tiles", tile=300, keep=True)
    other = product(place, told)
    for suffix in LAYERS:
        np.testing.assert_array_equal(layer(other, suffix), layer(chosen, suffix))


def test_report_and_items_name_every_model(place: Path, chosen: Path) -> None:
    report = json.loads((chosen / "report.json").read_text())
    keys = {name: load_card(place / "cards" / name).key for name in ANSWERS}
    _, model, _ = witness(place / "scenes" / "scenes.json", {0: "noise", 1: "soft"})
    wanted = [("rest", []), ("noise", [0]), ("soft", [1])]
    assert report["models"] == [
        {
            "name": n,
            "key": keys[n],
            "scenes": s,
            "area_km2": pytest.approx((model == k).sum() / 1e6),
        }
        for k, (n, s) in enumerate(wanted)
    ]
    note = next(text for text in report["notes"] if text.startswith("several models"))
    assert "scene 0 by noise, scene 1 by soft; all other windows by rest" in note
    assert report["runs"][-1]["scenes"]["models"][2]["key"] == keys["soft"]
    assert [m["name"] for m in report["rights"]["models"]] == ["noise", "soft"]
    item = json.loads(next((chosen / "items").glob("*.json")).read_text())
    assert item["properties"]["natmap:models"] == report["models"]
    assert [c["value"] for c in item["assets"]["models"]["classification:classes"]][:3] == [0, 1, 2]
    for key in ("noise", "soft"):
        asset = item["assets"][f"model-{key}-{keys[key][:8]}"]
        file = (chosen / "items" / asset["href"]).resolve()
        assert file.read_bytes() == (place / "cards" / key / "model.safetensors").read_bytes()
    # the folder alone makes the map again
    again = recipe("chosen")
    folder = chosen.relative_to(place)
    again["model"] = {"card": f"{folder}/model", "scenes": {"file": f"{folder}/scenes.json"}}
    assert stale(place, again) == set()


def test_what_decides_a_window_makes_the_map_again(place: Path, chosen: Path) -> None:
    told = recipe("chosen")
    assert stale(place, told) == set()
    text = json.loads((place / "scenes" / "scenes.json").read_text())
    (place / "copy.json").write_text(json.dumps(text | {"notes": ["read by somebody"]}))
    assert stale(place, recipe("chosen", file="copy.json")) == set()
    same = recipe("chosen", cards={0: "./cards/noise", 1: "./cards/soft/card.json"})
    assert stale(place, same) == set()
    every = stale(place, recipe("chosen", file=wide(place)))
    assert len(every) == 9
    for more in (
        {"cards": {0: "./cards/noise", 1: "./cards/other"}},
        {"cards": {0: "./cards/soft", 1: "./cards/noise"}},
        {"cards": {1: "./cards/soft"}},
        {"mode": "blend"},
    ):
        assert stale(place, recipe("chosen", **more)) == every, more
    low = recipe("chosen", mode="blend", floor=0.1)
    assert stale(place, low) == every
    later = recipe("chosen", cards={0: "./cards/noise", 1: "./cards/other"})
    with pytest.raises(engine.PublishError, match="another map"):
        engine.publish(later, base=place)
    told = Path(engine.publish(later | {"publish": "as-made"}, base=place, as_made=True))
    models = json.loads((told / "report.json").read_text())["models"]
    assert [(m["name"], m["scenes"], m["area_km2"]) for m in models] == [
        ("rest", [], None),
        ("noise", [0], None),
        ("soft", [1], None),
    ]
    assert not (told / "scenes.json").exists()


def test_doctor_looks_at_all_weights(place: Path, chosen: Path) -> None:
    path = place / "chosen.yaml"
    path.write_text(json.dumps(recipe("chosen")))
    found = {finding.name: finding for finding in examine(str(path))}
    assert "and 2 of scenes" in found["model"].text
    weights = place / "cards" / "soft" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert not {f.name: f for f in examine(str(path))}["model"].ok
    finally:
        weights.write_bytes(kept)


def test_land_cover_of_several_classes_has_scenes_too(place: Path) -> None:
    names = tuple(
        {"code": k, "name": n, "colour": "102030"} for k, n in ((1, "a"), (4, "b"), (7, "c"))
    )
    for name, answer in (("rest", (1, 0, 0)), ("noise", (0, 2, 0)), ("soft", (0, 0, 3))):
        write_segmenter(
            place / "covers" / name, patch=PATCH, overlap=OVERLAP, names=names, answer=answer
        )
    told = recipe("cover", tile=400, cards={0: "./covers/noise", 1: "./covers/soft"}) | {
        "product": "cover"
    }
    told["model"]["card"] = "./covers/rest"
    made = product(place, told)
    _, model, _ = witness(place / "scenes" / "scenes.json", {0: "noise", 1: "soft"})
    np.testing.assert_array_equal(layer(made, "-models"), model)
    found = layer(made, "")
    assert (found[200:360, :180] == 4).mean() > 0.6
    assert (found[200:360, 320:] == 7).mean() > 0.6
    assert (found[40:110, 210:290] == 1).all()
