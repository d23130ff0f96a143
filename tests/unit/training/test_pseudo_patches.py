"""Pseudo-labels as training patches: where they are cut, what they count, what they never do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import torch
import zarr
from support.cities import CELL, CRS, NORTH, SIDE, WEST, composite, embed, label
from torch.nn import functional

import engine
from engine.datasets.patch_cutting import cut_patches
from engine.datasets.patches import NO_GROUP, PatchSet, Place, join, open_patches
from engine.datasets.pseudo_labels import LABELS
from engine.datasets.sparse import paint_labels
from engine.errors import LabelError, RecipeError
from engine.models.ugsnet import Trained
from engine.products.registry import load_training
from engine.recipes.propagating import load_propagation_recipe
from engine.store.repository import Store
from engine.training.losses import cover_loss
from engine.training.propagation import propagate_labels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled cities, the labels of one propagated to the fourth; two composites."""
    folder = tmp_path_factory.mktemp("cities")
    for k, name in enumerate("abc"):
        embed(folder, name, k)
        label(folder, name, k)
    embed(folder, "target", 9)
    composite(folder, "a", 0)
    composite(folder, "target", 9)
    cities = [{"recipe": f"{name}.yaml", "raster": f"{name}.tif"} for name in "abc"]
    wanted = {"name": "p", "preset": "notes", "cities": [*cities, {"recipe": "target.yaml"}]}
    propagate_labels(load_propagation_recipe({**wanted, "out": "guessed"}), base=folder)
    return folder


def recipe(labels: list[dict[str, Any]], **changes: Any) -> Any:
    values: dict[str, Any] = {
        "name": "net",
        "product": "lcz",
        "labels": labels,
        "patches": "patches",
        "split": {"by": "block", "side": 1600, "shares": [0.5, 0.2, 0.3]},
        "context": 0,
        "model": {"architecture": "forest"},
        "out": "net",
    }
    return load_training(values, changes)


A = {"recipe": "a-map.yaml", "raster": "a.tif"}
TARGET = {"recipe": "target-map.yaml", "pseudo": "guessed"}


def test_a_patch_is_the_pseudo_label_s_own_cell(place: Path, tmp_path: Path) -> None:
    said: list[str] = []
    wanted = recipe([A, TARGET], patches=str(tmp_path / "set"))
    found = cut_patches(wanted, place, tell=said.append)
    frame = geopandas.read_parquet(place / "guessed" / LABELS)
    frame = frame[(frame["source"] != "label") & (frame["city"] == "target")]
    mine = found.pseudo & (found.place == 1)
    assert mine.sum() == len(frame) > 150
    assert not found.pseudo[found.place == 0].any()
    session = Store.open(place / "target-map-store").reader()
    stored: Any = zarr.open_group(session.store, mode="r")["composite/bands"]
    image = stored[:]
    x = found.take(np.flatnonzero(mine))
    told = {(row, col): k for k, (row, col) in enumerate(map(divmod, frame["cell"], [SIDE] * 9999))}
    for patch, code, sure, (east, north) in zip(
        x,
        found.y[mine],
        found.confidence[mine],
        found.xy[mine],
        strict=True,  # type: ignore[index]
    ):
        row, col = int((NORTH - north) // CELL), int((east - WEST) // CELL)
        assert (east - WEST - 160) % CELL == 0
        np.testing.assert_array_equal(
            patch, image[:, 32 * row : 32 * row + 32, 32 * col : 32 * col + 32]
        )
        own = frame.iloc[told[row, col]]
        assert (code, sure) == (own["code"], np.float32(own["confidence"]))
    assert (found.group[found.pseudo] == NO_GROUP).all()
    assert found.pseudo_side == CELL
    assert any("target: " in line and "pseudo-labels; left out: " in line for line in said)


@pytest.mark.parametrize("by", ["group", "block", "place", "pool"])
def test_pseudo_labels_train_and_share_no_ground_with_what_judges(
    place: Path, tmp_path: Path, by: str
) -> None:
    """And labels are split as they are without them."""
    split: dict[str, Any] = {"by": by, "shares": [0.5, 0.2, 0.3], "side": 1600}
    if by == "place":
        split |= {"validation": ["a"]}
    both = [{**A, "pseudo": "guessed"}, TARGET]
    here = {"split": split, "patches": str(tmp_path / "set")}
    found = cut_patches(recipe(both, **here), place)
    guessed = found.pseudo
    assert set(found.split[guessed].tolist()) <= {0, 255}
    train, judges = guessed & (found.split == 0), ~guessed & np.isin(found.split, (1, 2))
    assert train.sum() > 50
    for xy in found.xy[judges]:  # both composites are of one ground
        assert (np.abs(found.xy[train] - xy).max(axis=1) >= 320).all()
    if by == "place":
        assert not train[found.place == 0].any()
    plain = cut_patches(recipe([A], **here), place)
    mine = ~guessed
    np.testing.assert_array_equal(plain.split, found.split[mine])
    np.testing.assert_array_equal(plain.xy, found.xy[mine])


def test_a_label_is_worth_more_than_a_guess(place: Path, tmp_path: Path) -> None:
    """A pseudo-label of a cell that the training areas label is left out."""
    twice = [{**A, "raster": "b.tif", "pseudo": "guessed"}]
    found = cut_patches(recipe(twice, patches=str(tmp_path / "set")), place)
    guessed = found.pseudo
    labelled = found.xy[~guessed]
    for xy in found.xy[guessed]:
        assert (np.abs(labelled - xy).max(axis=1) >= (CELL + 100) / 2).all()


@pytest.mark.parametrize("architecture", ["forest", "mscnn", "unet"])
def test_what_learns_from_them_reports_them(place: Path, tmp_path: Path, architecture: str) -> None:
    parameters = {
        "mscnn": {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8}, "unet": {"width": 4},
    }.get(architecture, {})  # fmt: skip
    training: dict[str, Any] = {"seed": 1}
    if architecture != "forest":
        training |= {"epochs": 2, "batch": 32, "rate": 1e-2, "device": "cpu"}
    if architecture == "unet":
        training["augment"] = True
    wanted = recipe(
        [A, TARGET],
        model={"architecture": architecture, "parameters": parameters},
        training=training,
        patches=str(tmp_path / "set"),
        out=str(tmp_path / "net"),
    )
    made = engine.train(wanted, base=place)
    report = json.loads((tmp_path / "net" / "report.json").read_text())
    told, counts = report["pseudo_labels"], report["patches"]
    found = open_patches(tmp_path / "set")
    used = found.pseudo & (found.split == 0)
    assert told["count"] == used.sum() > 50
    assert told["weight"] == pytest.approx(found.confidence[used].sum(), abs=1e-2)  # type: ignore[index]
    assert sum(told["classes"].values()) == told["count"]
    assert counts["train"]["count"] == (found.split == 0).sum()
    assert f"{told['count']} of them pseudo-labels" in made.card.provenance
    if architecture == "forest":
        assert report["test"]["oa"] > 0.9


def test_a_weight_is_so_many_copies() -> None:
    """Of a forest's patch and of a segmenter's pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 4, 4, generator=generator)
    mask = torch.randint(0, 3, (2, 4, 4), generator=generator).float()
    mask[0, 0] = torch.nan
    mask[1] = mask[0]  # so that both images have the same pixels
    coarse[1] = coarse[0]
    weight = torch.ones(2, 4, 4)
    plain = cover_loss(Trained(coarse, None, None), mask)
    torch.testing.assert_close(plain, cover_loss(Trained(coarse, None, None), mask, weight))
    # an image that counts 2 beside one that counts 0 is two images
    weight[0], weight[1] = 2, 0
    torch.testing.assert_close(plain, cover_loss(Trained(coarse, None, None), mask, weight))
    # a pixel that counts 0 is one that nobody has labelled
    weight[:] = 1
    weight[:, 1] = 0
    unknown = mask.clone()
    unknown[:, 1] = torch.nan
    torch.testing.assert_close(
        cover_loss(Trained(coarse, None, None), mask, weight),
        cover_loss(Trained(coarse, None, None), unknown),
    )
    half = torch.full_like(weight, 0.5)
    entropy = functional.cross_entropy(coarse, mask.nan_to_num(-100).long())
    dice = cover_loss(Trained(coarse, None, None), mask, half) - entropy
    assert 0 < dice < 1


def test_pseudo_labels_are_painted_under_labels() -> None:
    """Brute force: of each pixel the label's cell, else the pseudo-label's larger one."""
    rng = np.random.default_rng(2)
    n = 40
    xy = np.concatenate(
        [
            10_050 + 100.0 * rng.integers(0, 20, (20, 2)),
            10_160 + 320.0 * rng.integers(0, 6, (20, 2)),
        ]
    )
    sure = np.where(np.arange(n) < 20, np.nan, rng.uniform(0.8, 1, n)).astype(np.float32)
    found = PatchSet(
        np.zeros((n, 1, 32, 32), np.uint16), rng.integers(1, 18, n).astype(np.uint8), xy,
        np.arange(n), np.zeros(n, np.uint16), np.zeros(n, np.uint8), ("B04",), 32, 0, 10.0,
        (Place("a", "", CRS),), confidence=sure, pseudo_side=320.0,
    )  # fmt: skip
    _, first = np.unique(xy, axis=0, return_index=True)
    where = np.sort(first)
    codes, weights = paint_labels(found, where)
    assert weights is not None
    for mask, weight, k in zip(codes, weights, where, strict=True):
        for row in range(0, 32, 3):
            for col in range(0, 32, 3):
                at = xy[k] + np.array([(col - 15.5) * 10, (15.5 - row) * 10])
                far = np.abs(xy[where] - at).max(axis=1)
                labels = where[(where < 20) & (far < 50)]
                expected = labels if len(labels) else where[(where >= 20) & (far < 160)]
                if len(expected):
                    assert mask[row, col] == found.y[expected[0]]
                    own = sure[expected[0]]
                    assert weight[row, col] == (1 if np.isnan(own) else own)
                else:
                    assert mask[row, col] == 255


def broken(place: Path, folder: Path, **columns: Any) -> Path:
    frame = geopandas.read_parquet(place / "guessed" / LABELS)
    for name, value in columns.items():
        if name == "crs":
            frame = frame.set_crs(value, allow_override=True)
        elif value is None:
            frame = frame.drop(columns=name)
        else:
            frame[name] = value
    frame.to_parquet(folder / "odd.parquet")
    return folder / "odd.parquet"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"code": 18}, "say what no label can"),
        ({"confidence": 1.5}, "say what no label can"),
        ({"confidence": float("inf")}, "say what no label can"),
        ({"code": 2.0}, "another type"),
        ({"source": "guess"}, "say what no label can"),
        ({"source": None}, "cannot be read"),
        ({"geometry": shapely.Point(12, 46)}, "other shapes"),
        ({"geometry": shapely.box(20, 50, 20.01, 50.01)}, "no pseudo-label lies on the composite"),
        ({"crs": "EPSG:32633"}, "no pseudo-label lies on the composite"),
    ],
)
def test_other_files_are_refused(
    place: Path, tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    odd = broken(place, tmp_path, **columns)
    wanted = recipe([A, {**TARGET, "pseudo": str(odd)}], patches=str(tmp_path / "set"))
    with pytest.raises(LabelError, match=said):
        cut_patches(wanted, place)
    assert not (tmp_path / "set").exists()


def test_a_file_that_is_no_parquet_or_not_there_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    for name, said in (("text.parquet", "cannot be read"), ("none.parquet", "no such file")):
        wanted = recipe(
            [A, {**TARGET, "pseudo": str(tmp_path / name)}], patches=str(tmp_path / "s")
        )
        with pytest.raises(LabelError, match=said):
            cut_patches(wanted, place)


def test_recipes_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(RecipeError, match="leave nothing to validate on"):
        recipe([TARGET])
    with pytest.raises(RecipeError, match="give areas or raster"):
        recipe([A, {"recipe": "x.yaml"}])
    with pytest.raises(RecipeError, match="pseudo-labels train networks of patches"):
        recipe([A, TARGET], model={"architecture": "gcn"})


def test_cells_of_other_crs_and_of_other_sizes(place: Path, tmp_path: Path) -> None:
    """A file in another CRS is cut where it lies; cells larger than a patch are refused."""
    frame = geopandas.read_parquet(place / "guessed" / LABELS)
    frame.to_crs(3035).to_parquet(tmp_path / "laea.parquet")
    plain = cut_patches(recipe([A, TARGET], patches=str(tmp_path / "one")), place)
    other = {**TARGET, "pseudo": str(tmp_path / "laea.parquet")}
    moved = cut_patches(recipe([A, other], patches=str(tmp_path / "two")), place)
    np.testing.assert_array_equal(plain.x[:], moved.x[:])
    np.testing.assert_array_equal(plain.confidence, moved.confidence)
    wide = frame.copy()
    wide["geometry"] = frame.geometry.to_crs(CRS).buffer(100, join_style="mitre").to_crs(4326)
    wide.to_parquet(tmp_path / "wide.parquet")
    wanted = recipe(
        [A, {**TARGET, "pseudo": str(tmp_path / "wide.parquet")}], patches=str(tmp_path / "three")
    )
    with pytest.raises(LabelError, match="larger ground than a patch"):
        cut_patches(wanted, place)


def test_sets_of_places_with_and_without_go_together() -> None:
    def part(sure: Any, side: float) -> PatchSet:
        return PatchSet(
            np.zeros((2, 1, 32, 32), np.uint16), np.ones(2, np.uint8), np.zeros((2, 2)),
            np.arange(2), np.zeros(2, np.uint16), np.zeros(2, np.uint8), ("B04",), 32, 0, 10.0,
            (Place("a", "", CRS),), confidence=sure, pseudo_side=side,
        )  # fmt: skip

    sure = np.array([np.nan, 0.9], np.float32)
    both = join([part(None, 0.0), part(sure, 320.0)])
    assert both.pseudo.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(both.weights, np.array([1, 1, 1, 0.9], np.float32))
    assert join([part(None, 0.0)]).weights is None
    with pytest.raises(LabelError, match="cells of different sizes"):
        join([part(sure, 320.0), part(sure, 160.0)])
