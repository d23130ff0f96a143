"""`natmap compare` on patches: models say what their networks give; who may not judge is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cards import write_segmenter
from support.onnx_files import RGB, SIDE, small, write
from typer.testing import CliRunner

from engine.cli.app import app
from engine.compare import scoring
from engine.compare.comparison import compare_systems
from engine.compare.patch_ground import groups_of
from engine.compare.systems import find_systems
from engine.datasets.patches import PatchSet, Place, write_patches
from engine.errors import CardError, LabelError, MetricError, NatmapError
from engine.models.card import ModelCard
from engine.models.footprint import Footprint, Ground, write_footprint
from engine.models.inputs import prepare_input
from engine.models.registry import build, load_model, measure, save_model

N = 1500
BANDS = ("B11", *reversed(RGB))  # another order than the cards', and a band more
WIDE = {"leading": 1}
PLACES = (Place("a", "2021", "EPSG:32633"), Place("b", "2021", "EPSG:32634"))


def patch_set(**more: Any) -> PatchSet:
    draw = np.random.default_rng(1)
    where = np.arange(N)
    fields: dict[str, Any] = {
        "x": draw.integers(900, 9000, (N, len(BANDS), SIDE, SIDE)).astype(np.uint16),
        "y": draw.integers(1, 18, N).astype(np.uint8),
        "xy": np.stack([4e5 + where % 40 * 700.0, 5e6 + where // 40 * 700.0], 1),
        "group": where // 10,
        "place": (where % 2).astype(np.uint16),
        "split": (where % 3).astype(np.uint8),
    }
    fields |= {"bands": BANDS, "patch": SIDE, "context": 0, "resolution": 10.0, "places": PLACES}
    return PatchSet(**fields | more)


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    write_patches(tmp_path / "set", patch_set())
    return tmp_path / "set"


def model(folder: Path, seed: int, **fields: Any) -> ModelCard:
    form = {"name": folder.name, "resolution": 10.0, "cell": 100.0, "output": "logit"} | fields
    return write(folder, small(seed=seed), **form)


def scores_of(card: ModelCard, found: PatchSet, where: np.ndarray) -> np.ndarray:
    """By the network itself."""
    stored = found.x[where][:, [BANDS.index(band) for band in card.bands]]
    x = prepare_input(stored, np.ones((len(where), SIDE, SIDE), bool), card)
    with torch.inference_mode():
        return torch.softmax(load_model(card)(torch.from_numpy(x))[0], 1).numpy()


def test_models_say_what_their_networks_give(tmp_path: Path, patches: Path) -> None:
    """Alone and together, over chunks of patches; what was said is kept."""
    cards = [model(tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2))]
    names = [str(card.folder) for card in cards]
    asked = [*names, f"both={'+'.join(names)}"]
    heard: list[str] = []
    out = tmp_path / "out"
    found = compare_systems(asked, patches, out=out, repeats=20, tell=heard.append)
    whole, where = patch_set(), np.arange(2, N, 3)
    scores = [scores_of(card, whole, where) for card in cards]
    expected = {"one": scores[0], "two": scores[1], "both": (scores[0] + scores[1]) / 2}
    for name, values in expected.items():
        right = values.argmax(1) + 1 == whole.y[where]
        assert found.figures[name]["oa"] == pytest.approx(right.mean())
    assert (found.examples, found.against, len(found.systems)) == (500, "one", 3)
    assert len(list((out / "scores").glob("*.npy"))) == 3
    again = compare_systems(asked, patches, out=out, repeats=20, tell=heard.append)
    assert again.figures == found.figures
    assert [line for line in heard if "kept" in line] == [
        f"{n}: kept from before" for n in expected
    ]


def test_pseudo_labels_judge_nobody(tmp_path: Path) -> None:
    """Of a set with some the labels alone are examples, also where all splits are asked for."""
    sure = np.where(np.arange(N) % 4 == 0, 0.9, np.nan).astype(np.float32)
    write_patches(tmp_path / "set", patch_set(confidence=sure, pseudo_side=320.0))
    card = model(tmp_path / "one", 1)
    found = compare_systems([str(card.folder)], tmp_path / "set", split="all", repeats=2)
    where = np.flatnonzero(np.isnan(sure))
    assert found.examples == len(where) < N
    whole = patch_set()
    right = scores_of(card, whole, where).argmax(1) + 1 == whole.y[where]
    assert found.figures["one"]["oa"] == pytest.approx(right.mean())
    write_patches(tmp_path / "odd", patch_set(confidence=sure[:-1], pseudo_side=320.0))
    with pytest.raises(LabelError, match="arrays do not go together"):
        compare_systems([str(card.folder)], tmp_path / "odd", split="all", repeats=2)


def test_what_was_said_is_asked_anew_of_other_patches(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, out = str(model(tmp_path / "one", 1).folder), tmp_path / "out"
    compare_systems([name], patches, out=out, repeats=2)
    asked: list[str] = []

    def hear(card: ModelCard, parts: Any) -> Any:
        asked.append(card.name)
        return original(card, parts)

    original = scoring.score_parts
    monkeypatch.setattr(scoring, "score_parts", hear)
    compare_systems([name], patches, out=out, repeats=2)
    assert asked == []
    compare_systems([name], patches, split="train", out=out, repeats=2)
    assert asked == ["one"]
    for file in (out / "scores").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-3])  # broken off
    compare_systems([name], patches, out=out, repeats=2)
    write_patches(patches, patch_set(y=np.full(N, 3, np.uint8)))
    changed = compare_systems([name], patches, out=out, repeats=2)
    assert len(asked) == 3
    assert changed.ranked[0].counts[2].sum() == changed.examples


def test_scores_that_are_no_numbers_are_no_class(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(model(tmp_path / name, seed).folder) for name, seed in (("one", 1), ("two", 2))]
    original = scoring.score_parts

    def spoil(card: ModelCard, parts: Any) -> Any:
        for scores in original(card, parts):
            if card.name == "two":
                scores[:7] = np.nan
            yield scores

    monkeypatch.setattr(scoring, "score_parts", spoil)
    found = compare_systems(names, patches, repeats=2)
    assert found.left == {"one": 0, "two": 14}  # of two chunks
    assert found.examples == 486
    assert any("14 of the labelled examples no class" in note for note in found.notes)


def graph_card(folder: Path) -> ModelCard:
    folder.mkdir()
    torch.manual_seed(4)
    form = measure("gcn", {}, 3, 17, 320)
    card = ModelCard(
        name="graphs", architecture="gcn", bands=RGB, patch=320, resolution=1.0,
        weights="x", sha256="0" * 64, **form._asdict(),
    )  # fmt: skip
    return save_model(card, build(card).state_dict(), folder)


def test_a_network_of_graphs_is_fused_as_in_a_map(tmp_path: Path) -> None:
    nodes = np.random.default_rng(2).random((N, 50, 5)).astype(np.float16)
    nodes[5] = 0
    made = {"segmenter": "felzenszwalb", "segmentation": "shared"}
    whole = patch_set(nodes=nodes, instances=made)
    write_patches(tmp_path / "set", whole)
    first, graphs = model(tmp_path / "one", 1), graph_card(tmp_path / "graphs")
    text = f"{first.folder}+{graphs.folder}"
    found = compare_systems([f"fused={text}", str(graphs.folder)], tmp_path / "set", repeats=2)
    assert found.systems[0].kind == "fusion, 60% one"
    assert found.left == {"fused": 0, "graphs": 1}  # where nothing is, the other stream decides
    where = np.setdiff1d(np.arange(2, N, 3), [5])
    with torch.inference_mode():
        own = load_model(graphs)(torch.from_numpy(nodes[where].astype(np.float32)))[0]
    own = torch.softmax(own, 1).numpy() if graphs.output == "logit" else own.numpy()
    mixed = 0.6 * scores_of(first, whole, where) + 0.4 * own
    right = mixed.argmax(1) + 1 == whole.y[where]
    assert found.figures["fused"]["oa"] == pytest.approx(right.mean(), abs=1e-9)
    write_patches(
        tmp_path / "other", patch_set(nodes=nodes, instances=made | {"segmenter": "slic"})
    )
    with pytest.raises(CardError, match="other instances"):
        compare_systems([str(graphs.folder)], tmp_path / "other")
    write_patches(tmp_path / "none", patch_set())
    with pytest.raises(CardError, match="the patch set has none"):
        compare_systems([str(graphs.folder)], tmp_path / "none")


# -- refusals, before a network is loaded ----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bands": ("B02", "B03", "B08", "B11")}, "bands that the patches lack"),
        ({"x": np.ones((N, 4, 16, 16), np.uint16), "patch": 16}, "other patches"),
        ({"resolution": 20.0}, "other patches"),
    ],
)
def test_other_patches_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    card = model(tmp_path / "one", 1)
    write_patches(tmp_path / "set", patch_set(**change))
    with pytest.raises(CardError, match=words):
        compare_systems([str(card.folder)], tmp_path / "set")


def test_a_network_that_looks_beyond_a_patch_wants_its_context(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    form = measure("mscnn", WIDE, 3, 17, 32)
    assert form.context > 0
    card = ModelCard(
        name="wide", architecture="mscnn", parameters=WIDE, bands=RGB, weights="x",
        sha256="0" * 64, **form._asdict(),
    )  # fmt: skip
    save_model(card, build(card).state_dict(), folder)
    x = np.ones((N, 4, 32, 32), np.uint16)
    write_patches(tmp_path / "set", patch_set(x=x, patch=32))
    with pytest.raises(CardError, match="farther beyond a patch"):
        compare_systems([str(folder)], tmp_path / "set")


def test_what_cannot_be_compared_is_refused(tmp_path: Path, patches: Path) -> None:
    one, two = (str(model(tmp_path / name, 1).folder) for name in ("one", "two"))
    form = {"name": "few", "resolution": 10.0, "cell": 100.0, "classes": tuple(range(1, 17))}
    few = str(write(tmp_path / "few", small(classes=16), **form).folder)
    segmenter = write_segmenter(tmp_path / "green")
    encoder = write(tmp_path / "encoder", small(classes=0), name="encoder", classes=())
    empty, strange = tmp_path / "empty", tmp_path / "strange"
    write_patches(empty, patch_set(split=np.full(N, 255, np.uint8)))
    write_patches(strange, patch_set(y=np.full(N, 18, np.uint8)))
    wrong: list[tuple[Callable[[], Any], type[NatmapError], str]] = [
        (lambda: compare_systems([], patches), MetricError, "nothing to compare"),
        (lambda: compare_systems([one, one], patches), MetricError, "one name"),
        (lambda: compare_systems([f"={one}"], patches), MetricError, "not named"),
        (lambda: compare_systems(["nonsense"], patches), CardError, "no such model"),
        (lambda: compare_systems([one], tmp_path / "away"), MetricError, "no such reference"),
        (lambda: compare_systems([one], patches, against="x"), MetricError, "to compare with"),
        (lambda: compare_systems([one], patches, split="tests"), MetricError, "no such split"),
        (lambda: compare_systems([one], patches, repeats=1), MetricError, "too few draws"),
        (lambda: compare_systems([one], patches, field="lcz"), MetricError, "does not take"),
        (lambda: compare_systems([str(segmenter.folder)], patches), CardError, "other classes"),
        (lambda: compare_systems([str(encoder.folder)], patches), CardError, "other classes"),
        (lambda: compare_systems([f"{one}+{few}"], patches), CardError, "the same classes"),
        (lambda: compare_systems([one], empty), LabelError, "cannot be compared on"),
        (lambda: compare_systems([one], strange), LabelError, "cannot be compared on"),
    ]
    for call, error, words in wrong:
        with pytest.raises(error, match=words):
            call()
    for change in ({"split": np.zeros(9, np.uint8)}, {"place": np.full(N, 2, np.uint16)}):
        write_patches(tmp_path / "torn", patch_set(**change))
        with pytest.raises(LabelError, match="do not go together"):
            compare_systems(one, tmp_path / "torn")
    assert [s.name for s in find_systems([one, f"b={two}"])] == ["one", "b"]


def test_a_model_that_lacks_a_class_is_told(tmp_path: Path, patches: Path) -> None:
    few = write(
        tmp_path / "few", small(classes=16), name="few", resolution=10.0, cell=100.0,
        classes=tuple(range(2, 18)), output="logit",
    )  # fmt: skip
    found = compare_systems([str(few.folder)], patches, repeats=2)
    count = int((patch_set().y[2::3] == 1).sum())
    assert f"few does not know LCZ 1, of {count} patches" in found.notes
    assert found.ranked[0].counts[:, 0].sum() == 0


def test_who_was_trained_on_the_patches_does_not_judge(tmp_path: Path, patches: Path) -> None:
    """The nearest test patch of place a lies at (2, 0) * 700 m; patches of 80 m part at 80 m."""
    card = model(tmp_path / "one", 1)
    found = compare_systems([str(card.folder)], patches, repeats=2)
    assert "whether model one was trained on these patches is unknown" in found.notes
    at = np.array([[4e5 + 2 * 700.0, 5e6]])
    for crs, off, refused in (
        ("EPSG:32633", 79.0, True),
        ("EPSG:32633", 80.0, False),
        ("EPSG:3857", 79.0, False),
    ):
        ground = Ground(crs, at + np.array([0, off]))
        write_footprint(card.folder, Footprint(80.0, (ground,)))
        if refused:
            with pytest.raises(MetricError, match="ground of the patches"):
                compare_systems([str(card.folder)], patches, repeats=2)
        else:
            assert not any(
                "unknown" in n
                for n in compare_systems([str(card.folder)], patches, repeats=2).notes
            )
    write_patches(tmp_path / "nowhere", patch_set(xy=np.full((N, 2), np.nan)))
    found = compare_systems([str(card.folder)], tmp_path / "nowhere", repeats=2)
    assert any("some of these patches is unknown" in note for note in found.notes)


def test_what_is_drawn_as_a_whole() -> None:
    where = np.arange(N)
    cities = patch_set(place=(where % 8).astype(np.uint16), places=PLACES * 4)
    assert groups_of(cities, where)[1] == "cities"
    group, words = groups_of(patch_set(), where)
    assert words == "blocks of 2 km"
    whole = patch_set()
    for first, second in ((0, 1), (0, 2), (0, 80), (3, 1203)):
        same = whole.place[first] == whole.place[second] and (
            (whole.xy[first] // 2000 == whole.xy[second] // 2000).all()
        )
        assert (group[first] == group[second]) == same
    nowhere = np.full((N, 2), np.nan)
    group, words = groups_of(patch_set(xy=nowhere), where)
    assert (words, len(np.unique(group))) == ("training areas", 300)  # of two places each
    assert "patches" in groups_of(patch_set(xy=nowhere, group=where), where)[1]


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_tables_and_a_page(tmp_path: Path, patches: Path) -> None:
    one, two = (model(tmp_path / name, seed).folder for name, seed in (("one", 1), ("two", 2)))
    out = tmp_path / "out"
    asked = ["compare", str(one), f"<b>|two={two}", "--on", str(patches), "--out", str(out)]
    ran = CliRunner().invoke(app, [*asked, "--repeats", "20"])
    assert ran.exit_code == 0, ran.output
    assert "<b>|two less one" in ran.output
    told = json.loads((out / "comparison.json").read_text())
    assert told["examples"] == 500
    assert "blocks of 2 km" in told["intervals"]
    page = (out / "comparison.html").read_text()
    assert "<script" not in page
    assert "<b>|two" not in page
    assert "&lt;b&gt;|two" in page
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http-equiv", "")
    lines = (out / "comparison.md").read_text().splitlines()
    oa = told["systems"][1]["figures"]["oa"]
    assert lines[3].startswith(f"| <b>\\|two | {oa[0]:.3f} |")
    assert len((out / "systems.csv").read_text().splitlines()) == 3
    assert len((out / "classes.csv").read_text().splitlines()) == 18
    as_json = CliRunner().invoke(app, [*asked, "--repeats", "20", "--json"])
    assert json.loads(as_json.stdout)["systems"][1]["figures"]["oa"] == oa
