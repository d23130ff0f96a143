"""What an ONNX file must be before anything runs it. Imports no torch, and onnx only when asked.

The file is parsed, not run: operators and tensors are looked at one by one, its data is put into
it from bytes that were checked, shapes are inferred for one fixed batch, and what a run would need
of memory follows from them. onnxruntime is given the result and opens no file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import WeightsError
from engine.models.onnx_tensors import check_tensor
from engine.models.weights import ONNX, read_onnx, verify_weights

if TYPE_CHECKING:
    from engine.models.card import ModelCard

__all__ = [
    "Checked",
    "Form",
    "check_network",
    "examine",
    "examine_weights",
    "parse_network",
    "require_package",
]

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_REFUSED = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "controls the flow of the computation"),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"),
        "draws random numbers",
    ),
    "Bernoulli": "draws random numbers",
}
_PATCHES, _WINDOWS = 32, 1
"""Of a batch, where the file leaves it open."""
_MOST_BATCH = 1024
_MOST_NODES = 100_000
_MOST_BYTES = 4 << 30
"""Of all that is held at once in a run."""
_BYTES = 8  # of a number: twice those of most, which leaves room for an operator's own work


@dataclass(frozen=True)
class Form:
    """What a network is fed and gives, as its card says.

    Attributes
    ----------
    bands, side : of the input, side in px; side is None where the file says it.
    classes : number of scores; 0: none.
    features : their number; None: that of the file's second output, or of an encoder's only one.
    segments : whether scores are of each pixel.
    """

    bands: int
    side: int | None
    classes: int
    features: int | None
    segments: bool = False


@dataclass(frozen=True)
class Checked:
    """A network that may be run.

    Attributes
    ----------
    content : the file with all its data, for one fixed batch.
    input : name; batch, side : of it.
    scores, features : names of the outputs, None where there are none.
    width : number of features.
    gigabytes : of weights and of all that is held at once in a run.
    """

    content: bytes
    input: str
    batch: int
    side: int
    scores: str | None
    features: str | None
    width: int
    gigabytes: float


def require_package(name: str) -> Any:
    """A package of the extra ``onnx``.

    Raises
    ------
    WeightsError
        Where it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            "the model is an ONNX file, and the packages that read such files are not installed",
            got=f"no package {name}",
            expected="onnx and onnxruntime",
            remedy='pip install "natmap[onnx]", on workers too',
        ) from error


def examine_weights(card: ModelCard) -> None:
    """Verify a card's weights; of an ONNX file also that it may be run, and fits the card.

    Raises
    ------
    WeightsError
    """
    if card.architecture == ONNX:
        examine(card)
    else:
        verify_weights(card)


def examine(card: ModelCard) -> Checked:
    """The ONNX file of a card, checked.

    Raises
    ------
    WeightsError
    """
    form = Form(len(card.bands), card.patch, len(card.classes), card.features, card.segments)
    return check_network(*read_onnx(card), form)


def parse_network(content: bytes) -> Any:
    """The bytes of a file as a network, not looked at yet.

    Raises
    ------
    WeightsError
        Where they are none.
    """
    onnx = require_package("onnx")
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError) as error:
        raise WeightsError(
            "the file is not ONNX, or not all of it is there", got=str(error)
        ) from error
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        raise WeightsError("the file is not ONNX", got="no graph", expected="a network")
    return model


def check_network(content: bytes, data: Mapping[str, bytes], form: Form) -> Checked:
    """Refuse a file that could do harm or does not fit; give what may be run.

    Parameters
    ----------
    content : of the file.
    data : contents of the files with weights of it that its card lists, by name.
    form : Form

    Raises
    ------
    WeightsError
    """
    onnx = require_package("onnx")
    model = parse_network(content)
    _check_operators(model, onnx)
    held = 0
    for tensor in _tensors(model.graph, onnx):
        held += check_tensor(tensor, data)
    if held > _MOST_BYTES:
        raise _too_large(f"{held:,} bytes of weights")
    into, batch, side = _fix_input(model.graph, form, onnx)
    shapes = _infer(model, onnx)
    held += _peak(model.graph, shapes)
    if held > _MOST_BYTES:
        raise _too_large(f"{held:,} bytes for a batch of {batch}")
    scores, features, width = _find_outputs(model.graph, shapes, form, batch, side)
    return Checked(
        model.SerializeToString(), into, batch, side, scores, features, width, held / 1e9
    )


def _too_large(got: str) -> WeightsError:
    return WeightsError(
        "the network would need too much memory",
        got=got,
        expected=f"at most {_MOST_BYTES:,}",
        remedy="export it with a smaller fixed batch",
    )


def _check_operators(model: Any, onnx: Any) -> None:
    """Only operators of the standard, each of which is computed once and gives the same again."""
    if model.functions or model.training_info:
        raise WeightsError(
            "the network brings functions or a training of its own",
            got=", ".join(f.name for f in model.functions[:5]) or "training_info",
            expected="operators of the ONNX standard alone",
            remedy="inline the functions first: onnx.inliner.inline_local_functions",
        )
    if len(model.graph.node) > _MOST_NODES:
        raise WeightsError(
            "the network has too many operators",
            got=f"{len(model.graph.node):,}",
            expected=f"at most {_MOST_NODES:,}",
        )
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for domain in (*versions, *{node.domain for node in model.graph.node}):
        if domain not in _DOMAINS:
            raise WeightsError(
                "the network needs operators that are not part of ONNX",
                got=f"domain {domain}",
                expected="ai.onnx or ai.onnx.ml",
                remedy="export it without the optimisations of one runtime, and without custom "
                "operators",
            )
    kinds = onnx.AttributeProto
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = versions.get(domain, versions.get("ai.onnx", 0) if not domain else 0)
        try:
            onnx.defs.get_schema(node.op_type, max(version, 1), domain)
        except Exception as error:
            raise WeightsError(
                "the network needs an operator that is not part of ONNX",
                got=f"{node.op_type} of opset {version}",
            ) from error
        why = _REFUSED.get(node.op_type)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            why = "may draw random numbers"
        if any(a.type in (kinds.GRAPH, kinds.GRAPHS) or a.ref_attr_name for a in node.attribute):
            why = why or "contains a subgraph"
        if why:
            raise WeightsError(
                "the network needs an operator that natmap does not run",
                got=f"{node.op_type}, which {why}",
                remedy="export it for evaluation, with fixed shapes",
            )


def _tensors(graph: Any, onnx: Any) -> Iterator[Any]:
    """All tensors that the file holds."""
    sparse = bool(graph.sparse_initializer)
    yield from graph.initializer
    kinds = onnx.AttributeProto
    for node in graph.node:
        for attribute in node.attribute:
            sparse |= attribute.type in (kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS)
            sparse |= attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
    if sparse:
        raise WeightsError("the network has sparse weights", expected="dense ones")


def _fix_input(graph: Any, form: Form, onnx: Any) -> tuple[str, int, int]:
    """Give the only input its shape; its name, batch and side."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise WeightsError(
            "the network must have one input",
            got=", ".join(value.name for value in inputs[:5]) or "none",
        )
    kind = inputs[0].type.tensor_type
    given = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    wanted = f"float32 (n, {form.bands}, {form.side or 'side'}, {form.side or 'side'})"
    if kind.elem_type != onnx.TensorProto.FLOAT or len(given) != 4:
        name = onnx.TensorProto.DataType.keys()[kind.elem_type] if kind.elem_type < 17 else "?"
        raise WeightsError(
            "the network's input has the wrong type or number of axes",
            got=f"{name} of {len(given)} axes",
            expected=wanted,
            remedy="export it with the bands as second axis",
        )
    batch = given[0] if given[0] is not None else _WINDOWS if form.segments else _PATCHES
    side = form.side or given[2]
    if side is None:
        raise WeightsError(
            "the network's file does not give the side of its input",
            remedy="say it: --set patch=32",
        )
    shape = (batch, form.bands, side, side)
    if not 0 < batch <= _MOST_BATCH or any(
        there not in (None, value) for there, value in zip(given, shape, strict=True)
    ):
        raise WeightsError(
            "the network's input has another shape than its card says",
            got=str(tuple("?" if value is None else value for value in given)),
            expected=f"{wanted}, n up to {_MOST_BATCH}",
        )
    for axis, value in zip(kind.shape.dim, shape, strict=True):
        axis.dim_value = value
    return str(inputs[0].name), batch, side


def _infer(model: Any, onnx: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of all that the operators give, for the batch that was fixed.

    What the file itself says of them is forgotten: it was said of another batch, or is not true.
    """
    graph = model.graph
    del graph.value_info[:]
    for value in graph.output:
        if not value.type.HasField("tensor_type"):
            raise WeightsError("an output of the network is no tensor", got=value.name)
        value.type.tensor_type.ClearField("shape")
    try:
        found = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(found)
    except Exception as error:  # of onnx, in C++, several kinds
        raise WeightsError(
            "the shapes of the network contradict each other",
            got=str(error).strip(),
            remedy="check it with onnx.checker.check_model; a batch that was fixed at export in "
            "some places must be fixed at the input too",
        ) from error
    del graph.output[:]
    graph.output.extend(found.graph.output)
    shapes = {}
    for value in (*found.graph.value_info, *found.graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            axes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
            if min(axes, default=0) >= 0:
                shapes[value.name] = tuple(axes)
    open_ended = [
        f"{node.op_type} {name}"
        for node in graph.node
        for name in node.output
        if name and name not in shapes
    ]
    if open_ended:
        raise WeightsError(
            "the shapes within the network are not known before it runs",
            got=", ".join(open_ended[:3]),
            remedy="export it with a fixed batch and a fixed side",
        )
    return shapes


def _peak(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes held at once, at most, if each value is kept until its last use."""
    sizes = {name: _BYTES * math.prod(shape) for name, shape in shapes.items()}
    last: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        last.update(dict.fromkeys(node.input, number))
    last.update((value.name, len(graph.node)) for value in graph.output)
    held = peak = 0
    for number, node in enumerate(graph.node):
        held += sum(sizes[name] for name in node.output if name)
        peak = max(peak, held)
        done = {*node.input, *node.output}
        held -= sum(sizes.get(name, 0) for name in done if last.get(name, number) == number)
    return peak


def _find_outputs(
    graph: Any, shapes: Mapping[str, tuple[int, ...]], form: Form, batch: int, side: int
) -> tuple[str | None, str | None, int]:
    """Names of scores and features, by name or else by order, and the number of features."""
    names = [value.name for value in graph.output]
    rest = [name for name in names if name not in ("scores", "features")]
    scores = features = None
    if form.classes:
        scores = "scores" if "scores" in names else rest.pop(0) if rest else None
        wanted = (batch, form.classes) + ((side, side) if form.segments else ())
        if scores is None or shapes[scores] != wanted:
            raise _wrong_output("scores", names, shapes, wanted)
    if form.features == 0 or form.segments:
        return scores, None, 0
    features = "features" if "features" in names else rest.pop(0) if rest else None
    if features is None:
        if form.features is None and form.classes:
            return scores, None, 0
        raise _wrong_output("features", names, shapes, (batch, form.features or "features"))
    shape = shapes[features]
    width = math.prod(shape[1:])
    if not shape or shape[0] != batch or form.features not in (None, width) or not width:
        raise _wrong_output("features", names, shapes, (batch, form.features or "features"))
    return scores, features, width


def _wrong_output(
    what: str, names: list[str], shapes: Mapping[str, tuple[int, ...]], wanted: tuple[Any, ...]
) -> WeightsError:
    return WeightsError(
        f"the network does not give the {what} that its card says",
        got=", ".join(f"{name} {shapes[name]}" for name in names[:5]),
        expected=f"{what} ({', '.join(map(str, wanted))})",
        remedy="name the outputs scores and features, or put scores first",
    )
