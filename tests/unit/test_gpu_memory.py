"""Memory of a GPU that is not there: what is full is halved, let go first, and refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cards import write_segmenter
from support.fake_gpu import FakeGPU
from support.paths_of_networks import CLASSIFIERS, DENSE, asked, classifier

from engine.errors import DeviceError
from engine.infer.predict import Predictor
from engine.models import sam
from engine.models.card import ModelCard
from engine.models.device import is_out_of_memory

WORDS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    mode = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(mode)


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")


def batch(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 32, 32)).astype(np.float32)


def test_a_full_gpu_halves_the_batch_and_lets_go_first(card: ModelCard) -> None:
    x = batch()
    with FakeGPU() as gpu:
        predict = Predictor(card, "cuda")
        loaded = gpu.held
        wanted = predict(x)
        gpu.memory = 1 << 62
        predict(x)
        least = gpu.peak
        gpu.memory, gpu.peak = loaded + (least - loaded) // 3, 0
        found = predict(x)
        assert predict.size == 16
        # nothing of the pass that failed was held when the cache was emptied
        assert gpu.held_at_empty == [loaded, loaded]
        predict(x)
        assert len(gpu.held_at_empty) == 2  # the size that fits is kept
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize("words", WORDS)
def test_all_libraries_words_for_it_are_known(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


def test_a_library_that_finds_no_room_halves_the_batch(card: ModelCard) -> None:
    x = batch(8)
    with FakeGPU() as gpu:
        predict = Predictor(card, "cuda")
        wanted = predict(x)[0]
        # in the last product more than 4 patches do not fit
        gpu.fail("CUBLAS_STATUS_ALLOC_FAILED", ("addmm",), over=4 * 17 * 4)
        np.testing.assert_allclose(predict(x)[0], wanted, atol=1e-5)
        assert predict.size == 4
        gpu.fail("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        with pytest.raises(DeviceError, match="one patch does not fit"):
            predict(x)


def test_other_errors_are_not_taken_for_it(card: ModelCard) -> None:
    lost = "CUDA error: an illegal memory access was encountered"
    assert not is_out_of_memory(RuntimeError(lost))
    assert not is_out_of_memory(MemoryError("out of memory"))
    with FakeGPU() as gpu:
        predict = Predictor(card, "cuda")
        gpu.fail(lost)
        for _ in range(2):  # the context is lost: so is all that follows
            with pytest.raises(torch.AcceleratorError, match="illegal memory"):
                predict(batch(4))
    assert predict.size is None


@pytest.mark.parametrize(
    "name", ["mscnn", *(pytest.param(n, marks=pytest.mark.soak) for n in DENSE if n != "mscnn")]
)
def test_dense_evaluation_is_halved_by_rows(name: str, tmp_path: Path) -> None:
    card = classifier(name, DENSE[name], tmp_path)
    side = (card.block - 1) * card.step + card.patch + 2 * card.context
    block = np.random.default_rng(0).random((3, side, side)).astype(np.float32)
    with FakeGPU() as gpu:
        predict = Predictor(card, "cuda")
        (wanted,) = predict.dense([block])
        loaded = gpu.held  # folded weights, which the network keeps, too
        gpu.memory = 1 << 62
        list(predict.dense([block]))
        gpu.memory = loaded + int(0.7 * (gpu.peak - loaded))
        found = list(predict.dense([block, block]))
        assert predict.rows < card.block
        assert set(gpu.held_at_empty) == {loaded}
        gpu.memory = loaded
        with pytest.raises(DeviceError, match="one row of cells"):
            list(predict.dense([block]))
    for each in found:
        for one, other in zip(wanted, each, strict=True):
            np.testing.assert_allclose(other, one, atol=2e-5)


def test_windows_are_halved_too(tmp_path: Path) -> None:
    card = write_segmenter(tmp_path / "unet", "unet", 64, 16)
    x = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float32)
    with FakeGPU() as gpu:
        predict = Predictor(card, "cuda")
        loaded = gpu.held
        wanted = predict.segment(x)
        gpu.memory = 1 << 62
        predict.segment(x)
        gpu.memory = loaded + (gpu.peak - loaded) // 3
        np.testing.assert_allclose(predict.segment(x), wanted, atol=1e-4)
        assert predict.size == 2
        gpu.memory = loaded
        with pytest.raises(DeviceError, match="one window"):
            predict.segment(x)


def test_segment_anything_asks_fewer_points(tmp_path: Path) -> None:
    from support.tiny_sam import write_sam

    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    points = np.random.default_rng(1).uniform(0, 48, (64, 2)).astype(np.float32)
    sam._load.cache_clear()
    with FakeGPU() as gpu:
        prompt = sam.load_sam(write_sam(tmp_path), "cuda")
        loaded = gpu.held
        wanted = prompt(rgb, points)
        gpu.memory = 1 << 62
        prompt(rgb, points)
        gpu.memory = loaded + (gpu.peak - loaded) // 2
        found = prompt(rgb, points)
        assert len(gpu.held_at_empty) >= 1
    sam._load.cache_clear()
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_a_cpu_is_not_asked_twice(card: ModelCard) -> None:
    """Its own want of memory is another error, and goes up as it is."""
    assert not is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert np.isfinite(asked(card, "cpu")[0]).all()
