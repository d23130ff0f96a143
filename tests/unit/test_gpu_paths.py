"""Every path of a network on a device that is not there: what it is moved by, and what it refuses.

The device is `support.fake_gpu`: it sees places, operations and transfers, and no real GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from support.cards import write_segmenter
from support.fake_gpu import NAME, FakeGPU
from support.paths_of_networks import (
    CLASSIFIERS,
    DENSE,
    SEGMENTERS,
    SIDE,
    TEN,
    adapted,
    asked,
    chips,
    classifier,
    graphs,
    learn,
    learn_segmenter,
    patches,
)
from support.tiny_sam import write_sam
from torch import nn

from engine.errors import DeviceError
from engine.grid.grid import Tile
from engine.infer import predict
from engine.infer.examples import score_examples
from engine.infer.predict import Predictor, get_predictor
from engine.models import device as devices
from engine.models import sam
from engine.models.card import ModelCard
from engine.models.device import be_exact, choose_device
from engine.models.head import Head
from engine.models.points import draw_points, sample
from engine.models.registry import build, load_model
from engine.products.common import predictor_for
from engine.products.instances import FindInstances
from engine.propagation.heads import ForestHead, KnnHead, LogisticHead
from engine.propagation.pool import moments, standard_of
from engine.runs.task import TileTask
from engine.training.fit import fit
from engine.training.forest import grow
from engine.training.head_mlp import MlpHead
from engine.training.head_networks import as_network
from engine.training.segmenters import Chips, SegmenterSettings, count_pixels, fit_segmenter
from engine.training.settings import Settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What is set for a whole process goes back; and it begins as PyTorch has it."""
    mode = torch.get_deterministic_debug_mode()
    workspace = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


def exact() -> bool:
    """Whether TensorFloat-32 is off and cuBLAS has its workspace."""
    off = not (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return off and os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"


def segmenter(name: str, folder: Path) -> ModelCard:
    return write_segmenter(folder / name, name, SIDE, 16, **SEGMENTERS[name])


# -- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    # its 24 million weights take ten seconds to keep
    [pytest.param(n, marks=pytest.mark.soak) if n == "resnet50" else n for n in CLASSIFIERS],
)
def test_a_classifier_is_trained(name: str, tmp_path: Path) -> None:
    card = classifier(name, CLASSIFIERS[name], tmp_path / "model")
    with FakeGPU() as gpu:
        fitted = learn(card, patches(), tmp_path / "there", "cuda")
        assert gpu.ups
        assert gpu.ops
        assert not gpu.alerts
    assert exact()
    if name == "mscnn":
        here = learn(card, patches(), tmp_path / "here", "cpu")
        assert fitted.history[0].loss == pytest.approx(here.history[0].loss, rel=1e-3)


def test_graphs_and_bfloat16_are_trained(tmp_path: Path) -> None:
    for name, data, more in (
        ("gcn", graphs(), {}),
        ("mscnn", patches(), {"precision": "bfloat16"}),
    ):
        card = classifier(name, CLASSIFIERS.get(name, {}), tmp_path / name)
        with FakeGPU() as gpu:
            learn(card, data, tmp_path / f"{name}-out", "auto", **more)
            assert gpu.ups
            assert not gpu.alerts


@pytest.mark.parametrize(
    "name",  # UperNet has PSPNet's pyramid
    [pytest.param(n, marks=pytest.mark.soak) if n == "pspnet" else n for n in SEGMENTERS],
)
def test_a_segmenter_is_trained(name: str, tmp_path: Path) -> None:
    card = segmenter(name, tmp_path)
    with FakeGPU() as gpu:
        learn_segmenter(card, tmp_path / "out", "cuda")
        assert gpu.ups
        # no form of these repeats bits on CUDA: they warn there, and are said so
        assert set(gpu.alerts) <= {
            "nll_loss2d_forward",
            "grid_sampler_2d_backward",
            "_adaptive_avg_pool2d_backward",
        }
        assert ("grid_sampler_2d_backward" in gpu.alerts) == (name == "ugsnet")
    assert exact()


def test_a_segmenter_of_classes_with_weights_is_trained(tmp_path: Path) -> None:
    """As of local climate zones: codes of a legend, and what each pixel counts."""
    legend = tuple({"code": c, "name": f"c{c}", "colour": "ffffff"} for c in (1, 4, 7))
    card = write_segmenter(tmp_path / "unet", "unet", SIDE, 16, names=legend, width=4)
    plain = chips()
    y = np.where(plain.y == 1, np.uint8(4), plain.y + np.uint8(7) * (plain.y == 0))
    weights = np.linspace(0.5, 1, y.size, dtype=np.float32).reshape(y.shape)
    some = Chips(plain.x, y.astype(np.uint8), weights=weights)
    with FakeGPU() as gpu:
        settings = SegmenterSettings(epochs=1, batch=2)
        fit_segmenter(card, some, some, settings, tmp_path / "out", device="cuda")
        assert set(gpu.alerts) <= {"nll_loss2d_forward"}


def test_a_resumed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    with FakeGPU():
        first = learn(card, patches(), tmp_path / "out", "cuda")
        again = learn(card, patches(), tmp_path / "out", "cuda")
    assert all(torch.equal(value, again.weights[key]) for key, value in first.weights.items())


@pytest.mark.parametrize("statistics", ["auto", "target", "source", "batch"])
def test_a_segmenter_is_adapted(statistics: str, tmp_path: Path) -> None:
    card = segmenter("ugsnet" if statistics == "auto" else "unet", tmp_path)
    with FakeGPU() as gpu:
        found = adapted(card, statistics, "cuda")
        assert gpu.ups
    assert found.step == 1
    assert exact()


def test_more_gpus_than_there_are_and_none_are_refused(tmp_path: Path) -> None:
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    with pytest.raises(DeviceError, match="no GPU on"):
        learn(card, patches(), tmp_path / "out", "cuda")
    with FakeGPU(), pytest.raises(DeviceError, match="fewer GPUs") as caught:
        fit(card, patches(), patches(), Settings(), tmp_path / "o", device="cuda", devices=2)
    assert "training.devices to 1" in str(caught.value)


# -- inference ---------------------------------------------------------------------------------

INFERRED: list[Any] = [
    pytest.param("resnet50", {}, "float32", marks=pytest.mark.soak),
    *(
        (name, more, "float32")
        for name, more in CLASSIFIERS.items()
        if name not in {*DENSE, "resnet50"}
    ),
    *((name, more, "float32") for name, more in DENSE.items()),
    ("gcn", {}, "float32"),
    *((name, {}, "float32") for name in ("unet", "segnet", "ugsnet")),
    *(
        pytest.param(name, {}, "float32", marks=pytest.mark.soak)
        for name in ("pspnet", "upernet", "bisenet")  # their training asks them too
    ),
    ("mscnn", CLASSIFIERS["mscnn"], "bfloat16"),
    ("resnet11-3d", DENSE["resnet11-3d"], "bfloat16"),
    ("unet", {}, "bfloat16"),
    ("ugsnet", {}, "bfloat16"),
]


@pytest.mark.parametrize(("name", "more", "precision"), INFERRED)
def test_it_gives_there_what_it_gives_here(
    name: str, more: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    card = segmenter(name, tmp_path) if name in SEGMENTERS else classifier(name, more, tmp_path)
    here = asked(card, "cpu", precision)
    with FakeGPU() as gpu:
        there = asked(card, "cuda", precision)
        assert gpu.ups
        assert gpu.downs
        assert not gpu.alerts
    assert exact()
    for one, other in zip(here, there, strict=True):
        assert np.isfinite(one).all()
        close = 1e-5 if precision == "float32" else 0.1
        np.testing.assert_allclose(other, one, atol=close * max(1.0, np.abs(one).max()))


def test_heads_and_forests_are_asked_there(tmp_path: Path) -> None:
    """They are fitted on CPUs, and score as networks wherever a map is made."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 9)).astype(np.float32), np.resize([2, 6, 14], 40)
    standard = standard_of(moments(x))
    cells = torch.from_numpy(x[:7])
    for head in (
        LogisticHead(),
        KnnHead(3),
        ForestHead(3),
        MlpHead(hidden=(8, 4), epochs=1, least=1),
    ):
        parameters, arrays = as_network(head.fit(standard.apply(x), y, None, 0), standard)
        network = Head(3, 17, **parameters)
        network.load_state_dict(arrays)
        _same_there(network.eval(), network.classify, cells)
    data = patches(30, bands=10)
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path).model_copy(
        update={"architecture": "forest", "bands": TEN, "mean": None, "std": None}
    )
    grown = grow(data.x, data.y, card, seed=0, trees=3, statistics="mean")
    network = build(card.model_copy(update={"parameters": grown.parameters}))
    network.load_state_dict(grown.weights, strict=False)
    _same_there(network.eval(), lambda x: network(x)[0], torch.rand(3, 10, 32, 32))


def _same_there(network: nn.Module, ask: Callable[[torch.Tensor], Any], x: torch.Tensor) -> None:
    with torch.no_grad():
        here = ask(x)
        with FakeGPU() as gpu:
            network.to("cuda")
            torch.testing.assert_close(ask(x.to("cuda")).cpu(), here)
            assert gpu.ops


# -- instances, figures ------------------------------------------------------------------------


def test_segment_anything_runs_there(tmp_path: Path) -> None:
    checkpoint = write_sam(tmp_path)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (40, 56, 3)).astype(np.uint8)
    points = np.float32([[5, 5], [30, 20], [50, 35]])
    sam._load.cache_clear()
    here = sam.load_sam(checkpoint)(rgb, points)
    be_exact()  # as a worker is, in which a predictor was loaded before
    with FakeGPU() as gpu:
        there = sam.load_sam(checkpoint, "cuda")(rgb, points)
        assert gpu.ups
        assert gpu.downs == 2
        assert not gpu.alerts
    sam._load.cache_clear()
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_figures_are_made_there(tmp_path: Path) -> None:
    """Of classifiers, of both streams of a fusion, and of segmenters."""
    for name, data in (("mscnn", patches()), ("gcn", graphs())):
        card = classifier(name, CLASSIFIERS.get(name, {}), tmp_path / name)
        here = score_examples(card, data.x)
        with FakeGPU() as gpu:
            np.testing.assert_allclose(score_examples(card, data.x, "auto"), here, atol=1e-5)
            assert gpu.downs
    card = segmenter("unet", tmp_path)
    counts, loss = count_pixels(load_model(card), card, chips())
    with FakeGPU() as gpu:
        found = count_pixels(load_model(card, choose_device("auto")), card, chips())
        assert gpu.downs
    np.testing.assert_array_equal(found[0], counts)
    assert found[1] == pytest.approx(loss, rel=1e-4)


# -- a transfer left out -----------------------------------------------------------------------


def _of_mscnn(run: Callable[[ModelCard, Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: run(classifier("mscnn", CLASSIFIERS["mscnn"], folder / "m"), folder)


def _of_unet(run: Callable[[ModelCard, Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: run(segmenter("unet", folder), folder)


def _of_sam(folder: Path) -> Any:
    sam._load.cache_clear()
    prompt = sam.load_sam(write_sam(folder), "cuda")
    found = prompt(np.zeros((40, 56, 3), np.uint8), np.float32([[5, 5]]))
    return [part.numpy() for part in found]


LEFT_OUT: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("load_model", "model.to(device)", _of_mscnn(lambda card, _: asked(card, "cuda"))),
    ("_apply", ".to(self.device)", _of_mscnn(lambda card, _: asked(card, "cuda"))),
    ("_infer", "features.float().cpu()", _of_mscnn(lambda card, _: asked(card, "cuda"))),
    ("evaluate", "logits.cpu()", _of_unet(lambda card, _: asked(card, "cuda"))),
    ("batch", "_prepared(", _of_mscnn(lambda card, at: learn(card, patches(), at, "cuda"))),
    ("batch", "self.position", _of_mscnn(lambda card, at: learn(card, patches(), at, "cuda"))),
    ("batch", "(mask)", _of_unet(lambda card, at: learn_segmenter(card, at, "cuda"))),
    ("count_pixels", "mask.to(device)", _of_unet(lambda card, _: adapted(card, "batch", "cuda"))),
    ("measure", "x.to(device)", _of_unet(lambda card, _: adapted(card, "target", "cuda"))),
    ("agreement", ".to(device)", _of_unet(lambda card, _: adapted(card, "auto", "cuda"))),
    ("align", "z.to(device)", _of_unet(lambda card, _: adapted(card, "batch", "cuda"))),
    ("_ask", "functional.pad", _of_sam),
    ("_ask", ".cpu()", _of_sam),
]


@pytest.mark.parametrize(("where", "what", "path"), LEFT_OUT)
def test_a_transfer_that_is_left_out_is_noticed(
    where: str, what: str, path: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Each path passes with all of its transfers (above), and fails without this one."""
    with (
        FakeGPU(leave_out=(where, what)) as gpu,
        pytest.raises((RuntimeError, TypeError), match=r"same device|to numpy"),
    ):
        path(tmp_path)
    assert gpu.left_out
    sam._load.cache_clear()


# -- one device, one arithmetic ----------------------------------------------------------------


def test_points_keep_their_places_in_bfloat16() -> None:
    """512 columns of which each has a value of its own, asked in their middles."""
    columns = torch.arange(512.0)
    maps = columns.div(512).repeat(1, 1, 4, 1).bfloat16()
    points = torch.stack([(columns + 0.5) / 512, torch.full((512,), 0.5)], dim=1)[None]
    found = sample(maps, points)[0, 0]
    assert torch.equal(found.float(), maps[0, 0, 0].float())
    rounded = (2 * points - 1).bfloat16().float()
    assert len(rounded[..., 0].unique()) < 400  # what it was rounded to before
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = draw_points(torch.randn(1, 2, 8, 8).bfloat16(), 16)
    assert drawn.dtype == torch.float32


def test_tf32_is_off_whatever_ran_before(tmp_path: Path) -> None:
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    runs: list[Callable[[], Any]] = [
        lambda: Predictor(card, "cpu"),
        lambda: learn(card, patches(), tmp_path / "out", "cpu"),
        lambda: adapted(segmenter("unet", tmp_path), "source", "cpu"),
    ]
    for run in runs:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        run()
        assert exact()


def test_two_slots_load_a_network_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_loaded", {})
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    both, made = Barrier(2), []
    usual = predict.load_model

    def load(*args: Any) -> Any:
        made.append(args)
        return usual(*args)

    monkeypatch.setattr(predict, "load_model", load)
    found: list[Predictor] = []

    def ask() -> None:
        both.wait()
        found.append(get_predictor(card, "cpu", "float32"))

    slots = [Thread(target=ask) for _ in range(2)]
    for slot in slots:
        slot.start()
    for slot in slots:
        slot.join()
    assert len(made) == 1
    assert found[0] is found[1]


def test_a_tile_that_was_sent_to_a_gpu_runs_on_it_or_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_loaded", {})
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    grid: Any = None  # nothing is read or written here
    plain = TileTask("scores", lambda task: iter(()), (), grid, Tile(0, 0), (), ())
    sent = replace(plain, gpu=True)
    assert [plain.device(d) for d in ("auto", "cpu", "cuda")] == ["auto", "cpu", "cuda"]
    assert [sent.device(d) for d in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert predictor_for(plain, card, "auto", "float32").device == "cpu"
    assert plain.devices == {"cpu"}
    with pytest.raises(DeviceError, match="no GPU on") as caught:
        predictor_for(sent, card, "auto", "float32")
    assert "set device to cpu" in str(caught.value)
    with FakeGPU():
        assert predictor_for(sent, card, "auto", "float32").device == "cuda"
        finder = FindInstances("sam", True, grid, tmp_path, "auto")
        assert finder._chosen(sent) == "cuda"
    assert sent.devices == {NAME}


def test_the_device_says_its_name_and_a_worker_takes_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = classifier("mscnn", CLASSIFIERS["mscnn"], tmp_path / "model")
    monkeypatch.setenv("NATMAP_GPU_SHARE", "0.45")
    with FakeGPU() as gpu:
        assert Predictor(card, "cuda").runs_on == NAME
        assert gpu.shares == [0.45]
    assert Predictor(card, "cpu").runs_on == "cpu"
    assert devices.name_of("cpu") == "cpu"
