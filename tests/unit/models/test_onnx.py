"""ONNX files: what they give as cards, and what is refused before anything runs them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_files import CLASSES, FEATURES, RGB, SIDE, exported, small, write

from engine.errors import CardError, RunError, WeightsError
from engine.infer.cells import score_cells
from engine.infer.predict import Predictor
from engine.models import onnx_checks
from engine.models.card import DataFile, ModelCard, load_card
from engine.models.convert import convert
from engine.models.onnx_checks import examine
from engine.models.onnx_network import choose_provider
from engine.models.registry import load_model, load_weights
from engine.models.weights import verify_weights
from engine.products.cells import require_classifier
from engine.publishing.model import place_model
from engine.recipes.sections import GridChoice


def patches(n: int, seed: int = 0) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(seed).normal(size=(n, len(RGB), SIDE, SIDE))
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelCard, ModelCard]:
    """The shipped network, and itself as an ONNX card."""
    folder = tmp_path_factory.mktemp("exported")
    card, path = exported(folder)
    told = card.model_dump(include={"bands", "clip", "mean", "std", "fill", "licence"})
    return card, convert(path, folder / "card", patch=card.patch + 2 * card.context, **told)


def test_the_shipped_network_gives_the_same_as_onnx(shipped: tuple[ModelCard, ModelCard]) -> None:
    torch_card, card = shipped
    assert (card.features, card.output, card.halo) == (192, "logit", torch_card.halo)
    batch = np.random.default_rng(0).normal(size=(70, 10, 44, 44)).astype(np.float32)
    one, other = Predictor(torch_card, "cpu"), Predictor(load_card(card.folder), "cpu")
    for ours, theirs in zip(one(batch), other(batch), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
        if ours.shape[1] == len(card.classes):
            assert (ours.argmax(1) == theirs.argmax(1)).all()


def test_the_shipped_network_gives_the_same_cells(shipped: tuple[ModelCard, ModelCard]) -> None:
    torch_card, card = shipped
    side = 20 * card.step + 2 * card.halo
    rng = np.random.default_rng(1)
    coarse = rng.integers(1100, 4500, (10, side // 8 + 1, side // 8 + 1))
    image = np.kron(coarse, np.ones((8, 8), int))[:, :side, :side] + rng.integers(0, 200, side)
    valid = np.ones((side, side), bool)
    found = [
        score_cells(image.astype(np.uint16), valid, each, Predictor(each, "cpu"))
        for each in (torch_card, card)
    ]
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)
    np.testing.assert_allclose(found[0].features, found[1].features, atol=1e-3)
    same = found[0].scores.argmax(0) == found[1].scores.argmax(0)
    assert same.mean() >= 0.999
    assert len(np.unique(found[0].scores.argmax(0))) > 2


@pytest.mark.parametrize("batch", ["n", 1, 5])
def test_results_depend_on_nothing_else_in_the_batch(tmp_path: Path, batch: int | str) -> None:
    card = write(tmp_path, small(batch))
    predict = Predictor(card, "cpu", threads=2)
    assert predict.size == {"n": 32}.get(str(batch), batch)
    x = patches(40)
    scores, features = predict(x)
    weights = {t.name: numpy_helper.to_array(t) for t in small(batch).graph.initializer}
    hidden = np.maximum(x.reshape(40, -1) @ weights["w1"] + weights["b1"], 0)
    np.testing.assert_allclose(features, hidden, atol=1e-4)
    np.testing.assert_array_equal(predict(x[:1])[0], scores[:1])  # filled with zeros
    others = patches(40, seed=9)
    others[3], others[35] = x[3], x[35]
    np.testing.assert_array_equal(predict(others)[0][[3, 35]], scores[[3, 35]])
    np.testing.assert_allclose(
        predict(x[::-1].copy())[0][::-1], scores, atol=1e-6
    )  # at another place
    wanted = np.zeros(40, bool)
    wanted[37] = True
    np.testing.assert_array_equal(predict(x, wanted)[0][37], scores[37])


def test_a_segmenter_runs_window_by_window(tmp_path: Path) -> None:
    card = write(
        tmp_path,
        small(classes=2, segments=True),
        task="segment",
        classes=(0, 1),
        features=0,
        resolution=1.0,
        cell=1.0,
    )
    assert card.segments
    x = patches(3)
    found = Predictor(card, "cpu").segment(x)
    assert found.shape == (3, SIDE, SIDE)
    kernel = numpy_helper.to_array(small(classes=2, segments=True).graph.initializer[0])
    middle = x[1, :, 2:5, 3:6]
    wanted = (kernel[1] * middle).sum() - (kernel[0] * middle).sum()
    np.testing.assert_allclose(found[1, 3, 4], wanted, atol=1e-4)


def test_an_encoder_gives_features_alone(tmp_path: Path) -> None:
    card = write(tmp_path, small(classes=0), classes=())
    scores, features = Predictor(load_card(tmp_path), "cpu")(patches(3))
    assert (scores.shape, features.shape) == ((3, 0), (3, FEATURES))
    side = 8 * card.step + 2 * card.halo
    image = np.random.default_rng(0).integers(1000, 3000, (3, side, side)).astype(np.uint16)
    found = score_cells(image, np.ones((side, side), bool), card, Predictor(card, "cpu"))
    assert found.scores.shape == (0, 8, 8)
    assert np.isfinite(found.features).all()
    with pytest.raises(CardError, match="product: embedding"):
        require_classifier(card, GridChoice(crs="EPSG:32633", tile=160), RGB, {})


def test_a_classifier_without_features_has_none_to_store(tmp_path: Path) -> None:
    card = write(tmp_path, small(), features=0)
    scores, features = Predictor(card, "cpu")(patches(3))
    assert (scores.shape, features.shape) == ((3, len(CLASSES)), (3, 0))
    with pytest.raises(CardError, match="gives no features"):
        card.check_features()


def test_outputs_without_names_are_taken_in_order(tmp_path: Path) -> None:
    model = small()
    wanted = Predictor(write(tmp_path / "named", model), "cpu")(patches(4))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"scores": "out1", "features": "out2"}.get(n, n) for n in names]
    for value, name in zip(model.graph.output, ("out1", "out2"), strict=True):
        value.name = name
    found = Predictor(write(tmp_path / "ordered", model), "cpu")(patches(4))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


def external(model: Any, location: str, length: int | None = None, offset: int = 0) -> bytes:
    """A network whose first weights are said to lie elsewhere; the bytes that they have."""
    tensor = model.graph.initializer[0]
    content = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    told = {"location": location, "offset": str(offset)}
    if length is not None:
        told["length"] = str(length)
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    return content


def listed(content: bytes, name: str = "data.bin") -> tuple[DataFile, ...]:
    return (DataFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()),)


def test_data_beside_the_file_is_read_and_published(tmp_path: Path) -> None:
    model = small()
    content = external(model, "data.bin")
    card = write(tmp_path / "card", model, data=listed(content), licence="CC0-1.0")
    (tmp_path / "card" / "data.bin").write_bytes(content)
    inside = write(tmp_path / "inside", small())
    x = patches(4)
    np.testing.assert_array_equal(Predictor(card, "cpu")(x)[0], Predictor(inside, "cpu")(x)[0])
    assert card.key != inside.key
    product = tmp_path / "product"
    product.mkdir()
    asset = place_model(product, card)
    assert asset is not None
    assert asset["mlm:artifact_type"] == "onnx"
    np.testing.assert_array_equal(
        Predictor(load_card(product / "model"), "cpu")(x)[0], Predictor(card, "cpu")(x)[0]
    )
    (tmp_path / "card" / "data.bin").write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(WeightsError, match="not those of the card"):
        verify_weights(card)


@pytest.mark.parametrize("place", ["/etc/passwd", "../data.bin", "sub/data.bin", "..", ".x", ""])
def test_data_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    model = small()
    content = external(model, place)
    (tmp_path / "data.bin").write_bytes(content)
    card = write(tmp_path / "card", model, data=listed(content))
    (tmp_path / "card" / "data.bin").write_bytes(content)
    with pytest.raises(WeightsError, match="does not lie in its folder"):
        load_model(card)


def test_data_that_is_a_link_not_listed_or_too_short_is_refused(tmp_path: Path) -> None:
    model = small()
    content = external(model, "data.bin")
    (tmp_path / "outside").write_bytes(content)
    folder = tmp_path / "card"
    card = write(folder, model, data=listed(content))
    (folder / "data.bin").symlink_to(tmp_path / "outside")
    with pytest.raises(WeightsError, match="no plain file"):
        load_model(card)
    (folder / "data.bin").unlink()
    os.mkfifo(folder / "data.bin")
    with pytest.raises(WeightsError, match="no plain file"):
        load_model(card)
    (folder / "data.bin").unlink()
    (folder / "data.bin").write_bytes(content + b"more")
    with pytest.raises(WeightsError, match="another size"):
        load_model(card)
    with pytest.raises(WeightsError, match="does not list"):
        load_model(write(tmp_path / "unlisted", model))
    for more in ({"offset": 4}, {"length": 2**40}, {"offset": -4}, {"length": 4}):
        model = small()
        external(model, "data.bin", **more)
        card = write(tmp_path / "short", model, data=listed(content))
        (tmp_path / "short" / "data.bin").write_bytes(content)
        with pytest.raises(WeightsError, match=r"as large as it says|is not valid"):
            load_model(card)


def _huge_initializer(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.dims[:] = [2**20, 2**20]


def _huge_typed(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])


def _huge_value(model: Any) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape")
    model.graph.initializer.append(shape)
    _add(model, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


def _huge_attribute(model: Any) -> None:
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[2**40], raw_data=b"\0" * 4)
    _add(model, helper.make_node("Constant", [], ["huge"], value=value))


def _data_dependent(model: Any) -> None:
    _add(model, helper.make_node("NonZero", ["image"], ["places"]))


def _custom(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    _add(model, helper.make_node("Run", ["image"], ["ran"], domain="com.evil"))


def _contrib(model: Any) -> None:
    _add(model, helper.make_node("EPContext", ["image"], ["ran"], domain="com.microsoft"))


def _unknown(model: Any) -> None:
    _add(model, helper.make_node("Exec", ["image"], ["ran"]))


def _random(model: Any) -> None:
    _add(model, helper.make_node("RandomNormalLike", ["image"], ["noise"]))


def _loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    _add(model, helper.make_node("Loop", ["", "", "image"], ["out"], body=body))


def _function(model: Any) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("", 20)]
    node = helper.make_node("F", ["x"], ["y"])
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [node], opsets))
    _add(model, helper.make_node("F", ["image"], ["ran"]))


def _sparse(model: Any) -> None:
    model.graph.sparse_initializer.add().dims.extend([2**40])


def _rank(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2)


def _bands(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def _half(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def _two_inputs(model: Any) -> None:
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40


def _contradiction(model: Any) -> None:
    fixed = numpy_helper.from_array(np.array([7, 192], np.int64), "fixed")
    model.graph.initializer.append(fixed)
    model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["image", "fixed"], ["flat"]))


def _mixing(model: Any) -> None:
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    model.graph.initializer.append(axes)
    _add(model, helper.make_node("ReduceMean", ["hidden", "axes"], ["mean"]))
    _add(model, helper.make_node("Sub", ["hidden", "mean"], ["apart"]))
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.input[0] = "apart"
    nodes = sorted(model.graph.node, key=lambda n: n.op_type in ("Relu", "MatMul"))
    order = sorted(nodes, key=lambda n: n.op_type == "MatMul")
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _strings(model: Any) -> None:
    text = TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])
    model.graph.initializer.append(text)


def _add(model: Any, node: Any) -> None:
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_huge_initializer, "as large as it says"),
        (_huge_typed, "as large as it says"),
        (_huge_value, "too much memory"),
        (_huge_attribute, "as large as it says"),
        (_data_dependent, "not known before"),
        (_custom, "com.evil"),
        (_contrib, "com.microsoft"),
        (_unknown, "Exec"),
        (_random, "random numbers"),
        (_loop, "Loop"),
        (_function, "functions"),
        (_sparse, "sparse"),
        (_rank, "5 axes"),
        (_bands, "another shape"),
        (_half, "FLOAT16"),
        (_two_inputs, "one input"),
        (_batch, "another shape"),
        (_contradiction, "contradict each other|does not give"),
        (_mixing, "mixes the patches"),
        (_strings, "type that natmap does not read"),
    ],
)
def test_a_file_that_could_do_harm_or_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    model = small()
    change(model)
    with pytest.raises(WeightsError, match=message):
        load_model(write(tmp_path, model))


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    for content in (whole[:-7], whole[:40], b"\x08\x0a", b"surely no network", os.urandom(4000)):
        with pytest.raises(WeightsError):
            load_model(write(tmp_path, content))
    with pytest.raises(WeightsError, match="a pickle"):
        load_card(write(tmp_path, b"PK\x03\x04" + whole).folder)
    with pytest.raises(WeightsError, match="not those of the card"):
        load_model(write(tmp_path, whole, sha256="0" * 64))


@pytest.mark.parametrize(
    "fields",
    [{"features": 5}, {"classes": (1, 2)}, {"bands": RGB[:2]}, {"patch": 9, "cell": 10.0}],
)
def test_a_card_of_another_network_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        load_model(write(tmp_path, small(), **fields))


def test_a_wrong_kind_of_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="output"):
        load_model(write(tmp_path, small(), output="probability"))


def test_memory_follows_from_the_shapes(tmp_path: Path) -> None:
    one = examine(write(tmp_path / "1", small(1)))
    many = examine(write(tmp_path / "64", small(64)))
    weights = sum(len(t.raw_data) for t in small().graph.initializer)
    assert one.gigabytes * 1e9 > weights
    spent = [found.gigabytes * 1e9 - weights for found in (one, many)]
    assert spent[1] == pytest.approx(64 * spent[0])


def test_without_the_extra_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = write(tmp_path, small())
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"natmap\[onnx\]"):
        onnx_checks.examine_weights(card)


def test_cuda_is_refused_where_onnxruntime_has_none() -> None:
    assert choose_provider("auto", "cpu") == "cpu"
    assert choose_provider("auto", "cuda") == "cpu"
    with pytest.raises(RunError, match="onnxruntime-gpu"):
        choose_provider("cuda", "cuda")


def test_what_an_onnx_file_cannot_do_is_said(tmp_path: Path) -> None:
    card = write(tmp_path, small())
    with pytest.raises(WeightsError, match="trained further"):
        load_weights(card)
    with pytest.raises(CardError, match="own precision"):
        card.check_precision("bfloat16")
    for fields in ({"context": 6}, {"parameters": {"width": 4}}, {"data": listed(b"", "net.onnx")}):
        with pytest.raises(ValueError, match=r"onnx|different"):
            write(tmp_path, small(), **fields)
