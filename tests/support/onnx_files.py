"""ONNX files for tests: small ones made by hand, and the shipped network exported."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from engine.models.card import ModelCard, find_card, load_card
from engine.models.mlm import write_card
from engine.models.registry import load_model

RGB = ("B04", "B03", "B02")
SIDE, FEATURES = 8, 4
CLASSES = tuple(range(1, 18))


def small(
    batch: int | str = "n",
    classes: int = len(CLASSES),
    features: int = FEATURES,
    side: int | str = SIDE,
    segments: bool = False,
    nodes: tuple[Any, ...] = (),
    seed: int = 1,
) -> Any:
    """A classifier, encoder (classes 0) or segmenter: one or two layers with drawn weights."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, len(RGB), side, side])
    given, weights, outputs = list(nodes), [], []
    if segments:
        weights.append(weight("kernel", classes, len(RGB), 3, 3))
        given.append(helper.make_node("Conv", ["image", "kernel"], ["scores"], pads=[1, 1, 1, 1]))
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)]
    else:
        weights += [weight("w1", len(RGB) * SIDE * SIDE, features), weight("b1", features)]
        given += [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["features"]),
        ]
        if classes:
            weights.append(weight("w2", features, classes))
            given.append(helper.make_node("MatMul", ["features", "w2"], ["scores"]))
            outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, None))
        outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    graph = helper.make_graph(given, "small", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(folder: Path, model: Any, **fields: Any) -> ModelCard:
    """A card of a network of `small`, or of bytes, as it stands: nothing is checked."""
    folder.mkdir(parents=True, exist_ok=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    card = ModelCard(
        **{
            "name": "net",
            "architecture": "onnx",
            "bands": RGB,
            "patch": SIDE,
            "cell": 40.0,
            "features": FEATURES,
            "output": "logit",
            "weights": "net.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
            "folder": folder,
            **fields,
        }
    )
    write_card(card, folder)
    return card


def exported(folder: Path, name: str = "lcz-made-up") -> tuple[ModelCard, Path]:
    """A shipped classifier, and what torch exports of it, the batch left open."""
    card = load_card(find_card(name, Path()))
    side = card.patch + 2 * card.context
    path = folder / f"{name}.onnx"
    axes = {key: {0: "n"} for key in ("image", "scores", "features")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            load_model(card),
            (torch.zeros(2, len(card.bands), side, side),),
            str(path),
            input_names=["image"],
            output_names=["scores", "features"],
            dynamic_axes=axes,
            dynamo=False,
        )
    onnx.checker.check_model(path)
    return card, path
