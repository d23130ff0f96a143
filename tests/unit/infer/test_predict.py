"""The predictor with the real networks: a cell's bits depend on its own patch, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import DeviceError
from engine.infer.cells import score_cells
from engine.infer.predict import Predictor, get_predictor
from engine.models.card import ModelCard
from engine.models.device import choose_device
from engine.models.import_sen2lcz import import_sen2lcz
from engine.models.mscnn import MSCNN

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
Batch = np.ndarray


@pytest.fixture(scope="module")
def mscnn(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """MSCNN as specified, with random weights."""
    folder = tmp_path_factory.mktemp("mscnn")
    torch.manual_seed(1)
    path = folder / "w.safetensors"
    save_file(MSCNN().state_dict(), path)
    return ModelCard(
        name="random",
        architecture="mscnn",
        bands=TEN,
        features=256,
        output="logit",
        weights=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        folder=folder,
    )


@pytest.fixture(scope="module")
def sen2lcz(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    folder = tmp_path_factory.mktemp("sen2lcz")
    return import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", folder)


@pytest.fixture(scope="module", params=["mscnn", "sen2lcz"])
def card(request: pytest.FixtureRequest) -> ModelCard:
    found: ModelCard = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def batch() -> Batch:
    shape = (256, 10, 32, 32)
    return (0.4 * np.random.default_rng(0).random(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(card: ModelCard, batch: Batch) -> tuple[Batch, Batch]:
    """Scores and features of all, by one thread."""
    found: tuple[Batch, Batch] = Predictor(card, "cpu", threads=1)(batch)
    return found


@pytest.mark.parametrize("threads", [3, *(pytest.param(n, marks=pytest.mark.soak) for n in (2, 5))])
def test_bits_do_not_depend_on_threads(
    card: ModelCard, batch: Batch, whole: tuple[Batch, Batch], threads: int
) -> None:
    """With three threads on one product MKL's last bits are others than with one or two."""
    for one, other in zip(whole, Predictor(card, "cpu", threads=threads)(batch), strict=True):
        assert np.array_equal(one, other)


def test_bits_do_not_depend_on_the_other_patches(
    card: ModelCard, batch: Batch, whole: tuple[Batch, Batch]
) -> None:
    slots = [0, 77, 255]
    alone = np.zeros_like(batch)
    alone[slots] = batch[slots]
    for one, other in zip(whole, Predictor(card, "cpu")(alone), strict=True):
        assert np.array_equal(one[slots], other[slots])


def test_parts_in_which_nothing_is_wanted_are_left_out(
    card: ModelCard, batch: Batch, whole: tuple[Batch, Batch]
) -> None:
    """A part is 32 patches; the others' bits are the same."""
    wanted = np.zeros(256, bool)
    wanted[[40, 200]] = True
    for one, other in zip(whole, Predictor(card, "cpu")(batch, wanted), strict=True):
        assert np.array_equal(one[wanted], other[wanted])
        assert np.isnan(other[:32]).all()
        assert np.isnan(other).any(axis=1).sum() == 256 - 2 * 32


def test_scores_are_the_network_s(card: ModelCard, batch: Batch) -> None:
    """Against the module itself, whole batch at once; and they are probabilities."""
    predict = Predictor(card, "cpu")
    scores, features = predict(batch[:40])
    with torch.no_grad():
        expected, hidden = predict.model(torch.from_numpy(batch[:40]))
    if card.output == "logit":
        expected = torch.softmax(expected, dim=1)
    assert np.abs(scores - expected.numpy()).max() < 1e-6
    assert np.abs(features - hidden.numpy()).max() < 1e-4 * np.abs(hidden.numpy()).max()
    assert scores.dtype == features.dtype == np.float32
    assert scores.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_bfloat16_is_near(sen2lcz: ModelCard, batch: Batch) -> None:
    full, half = (Predictor(sen2lcz, "cpu", p)(batch[:32])[0] for p in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1


def test_layouts_agree_bit_for_bit(sen2lcz: ModelCard) -> None:
    """One tile of 160 x 320 px against both halves of it, of which only some cells are wanted."""
    rng = np.random.default_rng(5)
    predict = Predictor(sen2lcz, "cpu")
    stored = rng.integers(1000, 6000, (10, 182, 342)).astype(np.uint16)
    valid = rng.random((182, 342)) > 0.15
    whole = score_cells(stored, valid, sen2lcz, predict)
    assert 0 < whole.scored.sum() <= 16 * 32
    for left in (0, 160):
        window = np.s_[:, left : left + 182]
        cells = np.s_[:, left // 10 : left // 10 + 16]
        wanted = rng.random((16, 16)) > 0.5
        part = score_cells(stored[:, *window], valid[window], sen2lcz, predict, wanted)
        assert np.array_equal(part.scored, whole.scored[cells] & wanted)
        for found, all_ in ((part.scores, whole.scores), (part.features, whole.features)):
            assert np.array_equal(found[:, part.scored], all_[:, *cells][:, part.scored])
            assert np.isnan(found[:, ~part.scored]).all()


def test_only_the_patch_has_influence(sen2lcz: ModelCard) -> None:
    """The gradient's extent over the input is the halo: 11 px before the cell, 11 px after."""
    net = Predictor(sen2lcz, "cpu").model
    size, start = 10 + 2 * 20, 20  # one cell amid 20 px of image
    image = torch.rand(1, 10, size, size, requires_grad=True)
    first = start - sen2lcz.before
    patch = image[:, :, first : first + 32, first : first + 32]
    net(patch)[0].square().sum().backward()
    assert image.grad is not None
    touched = image.grad.abs().sum(dim=(0, 1)) > 0
    for axis in (0, 1):
        along = touched.any(dim=axis).nonzero().ravel()
        assert start - int(along.min()) == sen2lcz.halo == 11
        assert int(along.max()) + 1 - (start + 10) == sen2lcz.halo


def test_a_batch_too_large_is_halved_for_good(
    mscnn: ModelCard, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU can be filled up here, so the network raises what one would."""
    predict = Predictor(mscnn, "cpu")
    expected = predict(batch[:32])[0]
    run, sizes = predict._run, []

    def within_memory(part: Batch, most: int = 10) -> tuple[Batch, Batch]:
        if len(part) > most:
            raise torch.cuda.OutOfMemoryError
        sizes.append(len(part))
        return run(part)

    monkeypatch.setattr(predict, "_run", within_memory)
    for _ in range(2):
        assert np.abs(predict(batch[:32])[0] - expected).max() < 1e-5
    assert predict.size == 8
    assert sizes == [8] * 8
    monkeypatch.setattr(predict, "_run", lambda part: within_memory(part, most=0))
    with pytest.raises(DeviceError, match="one patch"):
        predict(batch[:32])


def test_a_process_keeps_the_predictors_of_one_recipe(mscnn: ModelCard, sen2lcz: ModelCard) -> None:
    first = get_predictor(mscnn, "cpu", "float32")
    assert get_predictor(mscnn, "cpu", "float32") is first
    other = get_predictor(sen2lcz, "cpu", "float32")
    assert other is not first
    assert get_predictor(mscnn, "cpu", "float32") is first  # two streams take turns
    get_predictor(mscnn, "cpu", "bfloat16")
    assert get_predictor(mscnn, "cpu", "float32") is first
    assert get_predictor(sen2lcz, "cpu", "float32") is not other  # what was used least lately went


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="no GPU"):
        choose_device("cuda")
