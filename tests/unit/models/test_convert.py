"""Cards of weights from elsewhere, and the probe that shows whether a network is still itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.onnx_files import RGB, SIDE, small
from torch import nn
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import CardError, WeightsError
from engine.infer.predict import Predictor
from engine.models.card import ModelCard, Probe, load_card
from engine.models.convert import convert
from engine.models.gcn import InstanceGraphs
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.models.registry import load_model
from engine.models.unet import UNet

FIVE = ("B02", "B03", "B04", "B08", "B11")
WIDTHS: dict[str, Any] = {"branch": 4, "blocks": [8, 8, 8, 8, 8], "dense": 8}


def network(seed: int = 0, **more: Any) -> MSCNN:
    torch.manual_seed(seed)
    return MSCNN(bands=5, **WIDTHS, **more).eval()


def mscnn(source: Path, folder: Path, **fields: Any) -> ModelCard:
    told = {"architecture": "mscnn", "bands": FIVE, "parameters": WIDTHS}
    return convert(source, folder, **{**told, **fields})


def given_by(card: ModelCard, x: torch.Tensor) -> list[torch.Tensor]:
    made = load_model(load_card(card.folder))
    with torch.inference_mode():
        return list(made(x))


@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "prefix", "both"])
def test_a_checkpoint_becomes_a_card(tmp_path: Path, wrapped: str) -> None:
    made = network(leading=2)
    state: dict[str, Any] = dict(made.state_dict())
    if wrapped in ("prefix", "both"):
        state = {f"module.{name}": value for name, value in state.items()}
    if wrapped in ("state_dict", "both"):
        state = {"epoch": 3, "state_dict": state}
    torch.save(state, tmp_path / "net.pt")
    card = mscnn(tmp_path / "net.pt", tmp_path / "card", parameters={**WIDTHS, "leading": 2})
    assert (card.name, card.context, card.features, card.output) == ("card", 6, 8, "logit")
    assert card.probe is not None
    assert (len(card.probe.scores), len(card.probe.features)) == (16, 8)
    x = torch.randn(3, 5, 44, 44)
    found = given_by(card, x)
    with torch.inference_mode():
        for ours, theirs in zip(found, made(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    torch.save(network().half().state_dict(), tmp_path / "net.pth")
    card = mscnn(tmp_path / "net.pth", tmp_path / "card")
    assert {value.dtype for value in load_model(card).state_dict().values()} <= {
        torch.float32,
        torch.int64,
    }


def test_an_encoder_leaves_its_classes_behind(tmp_path: Path) -> None:
    made = network()
    torch.save(made.state_dict(), tmp_path / "net.pt")
    card = mscnn(tmp_path / "net.pt", tmp_path / "card", classes=())
    assert card.encodes
    x = torch.randn(2, 5, 32, 32)
    scores, features = given_by(card, x)
    assert scores.shape == (2, 0)
    with torch.inference_mode():
        torch.testing.assert_close(features, made(x)[1])
    assert Predictor(card, "cpu")(x.numpy())[0].shape == (2, 0)
    bare = {n: v for n, v in made.state_dict().items() if not n.startswith("fc2")}
    torch.save(bare, tmp_path / "bare.pt")
    assert mscnn(tmp_path / "bare.pt", tmp_path / "bare", classes=()).probe == card.probe
    told = json.loads((tmp_path / "card" / "card.json").read_text())["properties"]
    assert told["mlm:output"][0]["classification:classes"] == []
    assert told["mlm:output"][0]["result"]["shape"] == [-1, 8]
    assert told["mlm:output"][0]["result"]["dim_order"] == ["batch", "feature"]
    assert told["mlm:tasks"] == ["similarity-search"]


def test_a_segmenter_becomes_a_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = UNet(bands=3, classes=2, width=4).eval()
    torch.save(made.state_dict(), tmp_path / "net.pt")
    card = convert(
        tmp_path / "net.pt",
        tmp_path / "card",
        architecture="unet",
        bands=RGB,
        parameters={"width": 4},
        patch=128,
        overlap=32,
        resolution=1.0,
        cell=1.0,
    )
    assert card.segments
    assert card.probe is not None
    assert len(card.probe.scores) == 16
    load_model(load_card(tmp_path / "card"))


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": network().state_dict(), "more": _Harm()}, "net.pt")
    Path("raw.pt").write_bytes(pickle.dumps(_Harm()))
    torch.save(network(), "module.pt")
    Path("cut.pt").write_bytes(Path("net.pt").read_bytes()[:2000])
    for name in ("net.pt", "raw.pt", "module.pt", "cut.pt"):
        with pytest.raises(WeightsError, match="more than weights"):
            mscnn(Path(name), tmp_path / "card")
    assert not Path("harm-was-done").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="do not fit mscnn"):
        mscnn(tmp_path / "net.pt", tmp_path / "wider", parameters={**WIDTHS, "branch": 5})
    with pytest.raises(WeightsError, match="not those of sen2lcz"):
        convert(tmp_path / "net.pt", tmp_path / "other", architecture="sen2lcz", bands=FIVE)
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(WeightsError, match="by name"):
        mscnn(tmp_path / "tensor.pt", tmp_path / "tensor")
    with pytest.raises(CardError, match="--architecture"):
        convert(tmp_path / "net.pt", tmp_path / "none", bands=FIVE)
    with pytest.raises(CardError, match="bands must be of"):
        mscnn(tmp_path / "net.pt", tmp_path / "bands", bands=("X", *FIVE[1:]))
    (tmp_path / "net.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match="of this kind"):
        mscnn(tmp_path / "net.bin", tmp_path / "bin")
    with pytest.raises(WeightsError, match="no weights"):
        mscnn(tmp_path / "gone.pt", tmp_path / "gone")


def _keras(path: Path, made: InstanceGraphs, first: int = 0) -> None:
    """Weights as Keras 2 keeps those of Spektral's layers."""
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(made.gcn.layers):
            name = "gcs_conv" + (f"_{first + number}" if first + number else "")
            group = file.create_group(f"model_weights/{name}/gnn__net/{name}")
            group["kernel_1:0"] = layer.around.weight.detach().numpy().T  # type: ignore[union-attr]
            group["kernel_2:0"] = layer.own.weight.detach().numpy().T  # type: ignore[union-attr]
            group["bias:0"] = layer.own.bias.detach().numpy()  # type: ignore[union-attr]
        group = file.create_group("model_weights/dense/gnn__net/dense")
        group["kernel:0"] = made.gcn.head.weight.detach().numpy().T
        group["bias:0"] = made.gcn.head.bias.detach().numpy()
        file.create_group("optimizer_weights/Nadam")["m:0"] = np.zeros((5, 32))


@pytest.mark.parametrize("first", [0, 9])
def test_keras_s_graph_network_becomes_a_card(tmp_path: Path, first: int) -> None:
    torch.manual_seed(0)
    made = InstanceGraphs().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    _keras(tmp_path / "gnn.h5", made, first)
    card = convert(tmp_path / "gnn.h5", tmp_path / "card", architecture="gcn", bands=RGB)
    assert (card.features, card.output) == (32, "logit")
    graphs = torch.rand(4, 50, 5)
    graphs[:, 20:] = 0
    found = given_by(card, graphs)
    with torch.inference_mode():
        for ours, theirs in zip(found, made(graphs), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_hdf5_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.h5").write_bytes(b"\x89HDF")
    with pytest.raises(WeightsError, match="not an HDF5 file"):
        convert(tmp_path / "no.h5", tmp_path / "a", architecture="gcn", bands=RGB)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros((3, 4))
    with pytest.raises(WeightsError, match="another layout"):
        convert(tmp_path / "other.h5", tmp_path / "b", architecture="gcn", bands=RGB)
    with pytest.raises(WeightsError, match="two networks"):
        mscnn(tmp_path / "other.h5", tmp_path / "c")


def test_a_probe_shows_that_a_network_changed(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "net.pt")
    card = mscnn(tmp_path / "net.pt", tmp_path / "card")
    assert card.probe is not None
    key = card.key
    without = card.model_copy(update={"probe": None})
    assert without.key == key
    write_card(without, card.folder)
    assert "probe" not in (card.folder / "card.json").read_text()
    load_model(load_card(card.folder))
    for changed in (
        {"features": (card.probe.features[0] + 0.1, *card.probe.features[1:])},
        {"scores": card.probe.scores[:-1]},
    ):
        probe = Probe(**{**card.probe.model_dump(), **changed})
        write_card(card.model_copy(update={"probe": probe}), card.folder)
        with pytest.raises(WeightsError, match="for the probe"):
            load_model(load_card(card.folder))


def test_a_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    made = network()
    with torch.no_grad():
        made.fc2.weight.fill_(float("inf"))
    torch.save(made.state_dict(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="not numbers"):
        mscnn(tmp_path / "net.pt", tmp_path / "card")


def test_the_command_converts_an_onnx_file(tmp_path: Path) -> None:
    model = small(classes=0)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    command = ["convert", str(tmp_path / "net.onnx"), str(tmp_path / "card"), "--bands"]
    command += [",".join(RGB), "--set", f"patch={SIDE}", "--set", "cell=40", "--set", "classes=[]"]
    told = CliRunner().invoke(app, [*command, "--set", "licence=MIT"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    card = load_card(tmp_path / "card")
    assert (card.architecture, card.features, card.licence, card.classes) == ("onnx", 4, "MIT", ())
    assert card.probe is not None
    assert len(card.probe.features) == 4
    raw = json.loads((tmp_path / "card" / "card.json").read_text())
    assert raw["properties"]["mlm:framework"] == "ONNX"
    with pytest.raises(CardError, match="a card already"):
        convert(tmp_path / "net.onnx", tmp_path / "card", bands=RGB)


def test_an_onnx_file_tells_its_side_and_its_kind(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(small(3).SerializeToString())
    card = convert(tmp_path / "net.onnx", tmp_path / "card", bands=RGB, cell=40.0)
    assert (card.patch, card.features, card.output) == (SIDE, 4, "logit")
    (tmp_path / "open.onnx").write_bytes(small(side="s").SerializeToString())
    with pytest.raises(WeightsError, match="does not give the side"):
        convert(tmp_path / "open.onnx", tmp_path / "open", bands=RGB, cell=40.0)
    model = small(classes=2, segments=True)
    (tmp_path / "seg.onnx").write_bytes(model.SerializeToString())
    fields = {"bands": RGB, "task": "segment", "resolution": 1.0, "cell": 1.0}
    card = convert(tmp_path / "seg.onnx", tmp_path / "seg", **fields)
    assert card.segments
    assert card.classes == (0, 1)
    load_model(load_card(tmp_path / "seg"))
