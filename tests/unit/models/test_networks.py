"""Networks: parameter counts, published behaviour, and cards that lie."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.straight import Straight, berlin, patches

from engine.errors import CardError, WeightsError
from engine.infer.cells import score_cells
from engine.infer.predict import Predictor
from engine.models.card import ModelCard, load_card, verify_weights
from engine.models.import_sen2lcz import import_sen2lcz
from engine.models.inputs import prepare_input
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.models.registry import load_model

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="session")
def sen2lcz(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    folder = tmp_path_factory.mktemp("sen2lcz")
    return import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", folder)


def tiny(folder: Path, **more: object) -> ModelCard:
    """A random MSCNN of few weights."""
    parameters = {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8}
    torch.manual_seed(0)
    save_file(MSCNN(**parameters).state_dict(), folder / "w.safetensors")  # type: ignore[arg-type]
    values: dict[str, object] = {
        "name": "tiny",
        "architecture": "mscnn",
        "parameters": parameters,
        "bands": TEN,
        "features": 8,
        "output": "logit",
        "clip": (0.0, 1.0),
        "mean": (0.1,) * 10,
        "std": (0.1,) * 10,
        "weights": "w.safetensors",
        "sha256": hashlib.sha256((folder / "w.safetensors").read_bytes()).hexdigest(),
        "folder": folder,
        **more,
    }
    card = ModelCard.model_validate(values)
    write_card(card, folder)
    return card


def test_mscnn_is_the_specified_network() -> None:
    net = MSCNN()
    assert count(net) == 1_260_529
    assert count(net.scales) == 26_656
    assert count(net.blocks) == 1_163_712
    assert count(net.fc1) + count(net.fc2) == 70_161
    for side in (32, 48):
        logits, features = net.eval()(torch.zeros(2, 10, side, side))
        assert logits.shape == (2, 17)
        assert features.shape == (2, 256)
    with pytest.raises(ValueError, match="at least 32"):
        net(torch.zeros(1, 10, 31, 31))


def test_mscnn_bars_classes() -> None:
    net = MSCNN(allowed_classes=(0, 16)).eval()
    chances = torch.softmax(net(torch.rand(3, 10, 32, 32))[0], 1)
    assert (chances[:, 1:16] == 0).all()
    assert torch.allclose(chances.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("heads", "whole", "expected"),
    [
        (("1", "2", "5", "4"), True, 0.608),
        pytest.param(("1", "2", "5", "4"), False, 0.596, marks=pytest.mark.soak),
        pytest.param(("1", "2", "4", "5"), False, 0.333, marks=pytest.mark.soak),
    ],
)
def test_published_behaviour_written_straight(
    data: Path, heads: tuple[str, ...], whole: bool, expected: float
) -> None:
    net = Straight(data / "weights" / "sen2lcz_so2sat.hdf5", heads)
    image = berlin(data)
    if whole:
        # The file's corner is 40 m and 20 m off the 100 m lattice: cells whose window is inside.
        with __import__("rasterio").open(next((data / "sentinel2-berlin").glob("*.tif"))) as file:
            west, north = file.transform.c, file.transform.f
        first = [int(-west // 10 % 10), int(north // 10 % 10)]
        cols = [c for c in range(first[0] - 11, 348, 10) if 0 <= c <= 348 - 32]
        rows = [r for r in range(first[1] - 11, 348, 10) if 0 <= r <= 348 - 32]
        assert len(rows) * len(cols) == 32 * 32
    else:
        image = np.pad(image, ((0, 0), (16, 16), (16, 16)), mode="reflect")
        rows = cols = list(range(5, 5 + 350, 10))
    found = net(patches(image, rows, cols))
    assert found.max(1).mean() == pytest.approx(expected, abs=0.001)


def test_the_imported_module_is_the_published_network(data: Path, sen2lcz: ModelCard) -> None:
    x = patches(berlin(data), [0, 100, 316], [0, 50, 316])
    expected = Straight(data / "weights" / "sen2lcz_so2sat.hdf5")(x)
    with torch.no_grad():
        found, features = load_model(sen2lcz)(x)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert features.shape == (9, 128)


def test_scores_do_not_depend_on_the_tile(tmp_path: Path) -> None:
    """Bit for bit: also with data missing and cells not wanted."""
    card = tiny(tmp_path)
    predict = Predictor(card, "cpu")
    rng = np.random.default_rng(3)
    tile, side, halo = 160, 320, card.halo
    assert halo == 11
    stored = rng.integers(1000, 6000, (10, side + 22, side + 22)).astype(np.uint16)
    valid = rng.random((side + 22, side + 22)) > 0.1
    valid[50:90, 200:260] = False
    whole = score_cells(stored, valid, card, predict)
    for top in range(0, side, tile):
        for left in range(0, side, tile):
            window = np.s_[top : top + tile + 22, left : left + tile + 22]
            part = score_cells(stored[:, *window], valid[window], card, predict)
            cells = np.s_[:, top // 10 : (top + tile) // 10, left // 10 : (left + tile) // 10]
            assert np.array_equal(part.scores, whole.scores[cells], equal_nan=True)
            assert np.array_equal(part.features, whole.features[cells], equal_nan=True)
    assert tile % (10 * 16) == 0


def test_a_cell_s_bits_do_not_depend_on_its_batch(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    predict = Predictor(card, "cpu")
    batch = np.random.default_rng(0).random((256, 10, 32, 32)).astype(np.float32)
    alone = np.zeros_like(batch)
    alone[77] = batch[77]
    assert np.array_equal(predict(batch)[0][77], predict(alone)[0][77])


def test_the_halo_is_the_receptive_field(tmp_path: Path) -> None:
    """Pixels in [10 i - 11, 10 i + 21) change cell i; none outside does."""
    card = tiny(tmp_path)
    predict = Predictor(card, "cpu")
    rng = np.random.default_rng(1)
    stored = rng.integers(1000, 6000, (10, 182, 182)).astype(np.uint16)
    valid = np.ones((182, 182), bool)
    before = score_cells(stored, valid, card, predict).scores
    cell = 7
    for pixel, inside in [(-12, False), (-11, True), (20, True), (21, False)]:
        changed = stored.copy()
        changed[:, 11 + 10 * cell + pixel, 11 + 10 * cell] += 4000
        after = score_cells(changed, valid, card, predict).scores
        assert (after[:, cell, cell] != before[:, cell, cell]).any() == inside


def test_too_few_valid_pixels_give_no_class(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    stored = np.full((10, 182, 182), 3000, np.uint16)
    valid = np.ones((182, 182), bool)
    patch = valid[30:62, 30:62]  # cell (3, 3): pixels from 10 * 3 - 11 + 11
    patch.ravel()[:0] = False
    flat = np.ones(1024, bool)
    flat[:204] = False
    valid[30:62, 30:62] = flat.reshape(32, 32)
    assert score_cells(stored, valid, card, Predictor(card, "cpu")).scored[3, 3]
    flat[:205] = False
    valid[30:62, 30:62] = flat.reshape(32, 32)
    assert not score_cells(stored, valid, card, Predictor(card, "cpu")).scored[3, 3]


def test_input_is_clipped_standardised_and_filled(tmp_path: Path) -> None:
    card = tiny(tmp_path, fill=-7.0)
    stored = np.full((10, 1, 3), 3000, np.uint16)
    stored[:, 0, 1] = 65000
    x = prepare_input(stored, np.array([[True, True, False]]), card)
    assert x[0, 0].tolist() == pytest.approx([1.0, 9.0, -7.0])


def test_cards_go_round(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    assert load_card(tmp_path) == card
    assert load_card(tmp_path / "card.json").key == card.key


def break_card(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "card.json").read_text())
    raw["properties"]["natmap:card"].update(changes)
    (folder / "card.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": 7}, "card is wrong"),
        ({"bands": ["B02", "B99"]}, "card is wrong"),
        ({"bands": ["A00", "B02"]}, "bands must be of"),
        ({"bands": ["A00", "height.known"]}, "bands must be of"),
        ({"bands": ["A00@summer", "A01@summer"]}, "without @"),
        ({"bands": ["A00", "A01"], "ranges": {"A00": [0, 1]}}, "ranges"),
        ({"std": [0.0] * 10}, "positive"),
        ({"mean": [0.1]}, "values for 10 bands"),
        ({"classes": [1, 1]}, "different codes"),
        ({"weights": "../w.safetensors"}, "file name"),
        ({"surprise": 1}, "card is wrong"),
        ({"cell": 95.0}, "whole number"),
        ({"bands": ["B02"] * 10}, "must be different"),
        ({"clip": [1.0, 0.0]}, "low, high"),
        ({"classes": [], "features": 0}, "without classes"),
        ({"fill": float("nan")}, "finite"),
        ({"mean": [float("inf")] * 10}, "finite"),
        ({"bands": [*TEN[:9], "B01"]}, "contradicts itself"),
    ],
)
def test_wrong_cards_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    tiny(tmp_path)
    break_card(tmp_path, **changes)
    with pytest.raises(CardError, match=words):
        load_card(tmp_path)


def test_weights_that_are_not_the_card_s_are_refused(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    path = tmp_path / "w.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(WeightsError, match="not those of the card"):
        verify_weights(card)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="a pickle"):
        load_card(tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match="not there"):
        load_card(tmp_path)
    with pytest.raises(WeightsError, match="weights are not a card"):
        load_card(tmp_path / "model.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    card = tiny(tmp_path, parameters={"branch": 5, "blocks": [8, 8, 8, 8, 8], "dense": 8})
    with pytest.raises(WeightsError, match=r"scales\.0"):
        load_model(card)
    with pytest.raises(CardError, match="unknown architecture"):
        load_model(tiny(tmp_path, architecture="vgg"))
    with pytest.raises(CardError, match="wrong parameters"):
        load_model(tiny(tmp_path, parameters={"depth": 3}))


def test_a_network_that_is_not_the_card_s_is_refused(tmp_path: Path) -> None:
    """Parameters, lengths and kind of output: tried on one patch when the weights are loaded."""
    small = {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8}
    for changes, words in [
        ({"parameters": {**small, "ms_act": "rleu"}}, "ms_act"),
        ({"parameters": {**small, "allowed_classes": [17]}}, "wrong parameters"),
        ({"parameters": {**small, "branch": -1}}, "wrong parameters"),
        ({"features": 9}, "number of features"),
        ({"patch": 31}, "cannot take"),
        ({"output": "probability"}, "output for something else"),
    ]:
        with pytest.raises(CardError, match=words):
            load_model(tiny(tmp_path, **changes))


def test_probabilities_are_not_taken_for_logits(sen2lcz: ModelCard) -> None:
    """A second softmax would flatten them."""
    with pytest.raises(CardError, match="they sum to 1"):
        load_model(sen2lcz.model_copy(update={"output": "logit"}))


def test_weights_that_diverged_are_refused(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    state = MSCNN(**card.parameters).state_dict()
    state["fc2.bias"][3] = torch.nan
    path = tmp_path / card.weights
    save_file(state, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=r"fc2\.bias"):
        load_model(card.model_copy(update={"sha256": found}))


def test_a_patch_within_its_cell_needs_no_halo(tmp_path: Path) -> None:
    """8 px amid a cell of 10: pixels 1 to 8 count, 0 and 9 do not."""
    small = {"branch": 2, "blocks": [4, 4, 4], "dense": 8}
    torch.manual_seed(0)
    card = tiny(tmp_path, patch=8, parameters=small)
    save_file(MSCNN(**small).state_dict(), tmp_path / card.weights)  # type: ignore[arg-type]
    found = hashlib.sha256((tmp_path / card.weights).read_bytes()).hexdigest()
    predict = Predictor(card.model_copy(update={"sha256": found}), "cpu")
    assert card.halo == 0
    stored = np.random.default_rng(2).integers(1000, 6000, (10, 160, 160)).astype(np.uint16)
    valid = np.ones((160, 160), bool)
    before = score_cells(stored, valid, card, predict).scores
    for pixel, inside in [(0, False), (1, True), (8, True), (9, False)]:
        changed = stored.copy()
        changed[:, 50 + pixel, 55] += 4000
        after = score_cells(changed, valid, card, predict).scores
        assert (after[:, 5, 5] != before[:, 5, 5]).any() == inside


def test_a_card_lists_its_classes_in_the_network_s_order(tmp_path: Path) -> None:
    write_card(tiny(tmp_path).model_copy(update={"classes": (17, 1)}), tmp_path)
    raw = json.loads((tmp_path / "card.json").read_text())
    listed = raw["properties"]["mlm:output"][0]["classification:classes"]
    assert [c["value"] for c in listed] == [17, 1]


def test_a_cube_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    card = tiny(tmp_path)
    card.check_cube(("blue", *TEN[1:]), 10.0)
    with pytest.raises(CardError, match="B12"):
        card.check_cube(TEN[:-1], 10.0)
    with pytest.raises(CardError, match="another resolution"):
        card.check_cube(TEN, 20.0)


def test_foreign_hdf5_is_refused(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "x.h5").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not an HDF5"):
        import_sen2lcz(tmp_path / "x.h5", tmp_path / "out")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(WeightsError, match="another layout"):
        import_sen2lcz(tmp_path / "y.h5", tmp_path / "out")
    layer = "conv2d_1/conv2d_1/kernel:0"
    for name, at in [("axes", layer), ("dataset", "conv2d_1"), ("root", "model_weights")]:
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[at] = np.zeros((3, 3))
        with pytest.raises(WeightsError, match="another layout"):
            import_sen2lcz(tmp_path / f"{name}.h5", tmp_path / "out")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group(f"{layer}/deeper")
    with pytest.raises(WeightsError, match="another layout"):
        import_sen2lcz(tmp_path / "group.h5", tmp_path / "out")
    assert not (tmp_path / "out").exists()
