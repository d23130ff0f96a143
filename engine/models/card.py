"""Model card: what a network is, what it must be fed, and what it gives. Imports no torch.

A card is one JSON file, a STAC item with the fields of the MLM extension, beside a safetensors or
ONNX file. What MLM has no field for (fill, context, cell) stands under ``natmap:``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.addresses import from_anywhere
from engine.errors import CardError, WeightsError
from engine.legend import LCZ, UGS, LandClass, NamedClass
from engine.models.card_parts import (
    DataFile,
    Fusion,
    MultiLabel,
    Probe,
    Ranges,
    Terms,
    of_vectors,
    require_bands,
    require_ground,
    require_inputs,
    require_multilabel,
    require_names,
)
from engine.models.weights import ONNX, require_form, verify_weights
from engine.recipes.base import Strict, explain
from engine.recipes.documents import read_document, read_json

__all__ = [
    "ABOUT",
    "SEGMENTERS",
    "DataFile",
    "Fusion",
    "ModelCard",
    "Probe",
    "find_card",
    "load_card",
    "verify_weights",
]


_BLOCK = 16
_LARGEST = 4096  # px: a patch or window of more is no network's that a worker could hold
_MOST_BYTES = 4 << 20  # of a card
SEGMENTERS = ("ugsnet", "unet", "segnet", "pspnet", "upernet", "bisenet")
"""Architectures that give every pixel of a window a class; all others give one to a patch, but for
an ONNX file, of which `task` says it."""
LATER = (
    "names",
    "ranges",
    "ignored",
    "fusion",
    "attribution",
    "citation",
    "address",
    "shareable",
    "task",
    "data",
    "probe",
    "encoder",
    "multilabel",
)
"""Fields that cards of before lack: where they are empty they are neither written nor hashed."""
ABOUT = {
    "name", "version", "licence", "attribution", "citation", "address", "shareable", "provenance",
    "probe", "encoder",
}  # fmt: skip
"""Fields that decide no result."""
_DENSE_BLOCKS = {"mscnn": 32, "resnet11": 20, "resnet11-3d": 20}


class ModelCard(Strict):
    """A model, described.

    Attributes
    ----------
    architecture : key of the registry, or "onnx".
    task : of an ONNX file: "segment", or None where it is fed patches.
    parameters : arguments of its builder.
    bands : B-names, in input order, of a cube with periods each with its own, as in B04@summer;
        then bands of features, as in ``height.mean``. Or channels of published vectors, taken as
        they are.
    encoder : of published vectors, the model that made them (`geoemb:model`), if it is known.
    ranges : of features' bands, what their stored numbers stand for (`engine.models.coding`).
    clip : reflectance is clipped to [low, high] first, or not at all.
    mean, std : of each band, in reflectance; None: not standardised.
    fill : value of invalid pixels, after standardising.
    patch : side of an input patch, px, or of a segmenter's window; context : px beyond it that
        leading blocks see.
    overlap : of neighbouring windows of a segmenter, px.
    resolution, cell : metres of an input pixel and of an output cell.
    inference_block : side of an inference block in cells; by default the architecture's.
    classes : codes of the outputs, in order; none of an encoder, which gives features alone.
    names : what these are, of a model with classes of its own; without it a segmenter of the
        classes 0 and 1 gives green space and what is not, any other model local climate zones.
    multilabel : of a model that says of each class whether a patch shows it; others give one.
    ignored : codes of labels that say nothing; for the training of such a segmenter.
    features : length of the penultimate vector; 0 of a segmenter, and of an ONNX file that gives
        none.
    fusion : of a graph network, the weight that was found for it beside another stream.
    output : what the network gives: "probability" or "logit".
    licence, attribution, citation : under which terms it may be used, who is to be named, and how
        it is cited.
    address : where anybody can get the weights.
    shareable : whether the weights may be handed on; None: where a licence is stated.
    weights : name of the safetensors or ONNX file, in the card's folder.
    sha256 : of that file.
    data : files that hold weights of an ONNX file.
    probe : what the network gives for a fixed input.
    folder : where the card lies; not part of the card.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = "1"
    architecture: str
    task: Literal["segment"] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    bands: tuple[str, ...]
    encoder: str | None = Field(None, max_length=2000)
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    clip: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fill: float = 0.0
    patch: int = Field(32, gt=0, le=_LARGEST)
    context: int = Field(0, ge=0, le=_LARGEST)
    overlap: int = Field(0, ge=0, le=_LARGEST)
    resolution: float = Field(10.0, ge=0.01, le=1e4)
    cell: float = Field(100.0, gt=0, le=1e5)
    inference_block: int | None = Field(None, gt=0, le=128)
    classes: tuple[int, ...] = tuple(c.code for c in LCZ)
    names: tuple[NamedClass, ...] = ()
    ignored: tuple[int, ...] = ()
    multilabel: MultiLabel | None = None
    features: int = Field(ge=0, le=1_000_000)
    output: str = Field("probability", pattern="^(probability|logit)$")
    fusion: Fusion | None = None
    licence: Terms = "unknown"
    attribution: Terms | None = None
    citation: Terms | None = None
    address: str | None = None
    shareable: bool | None = None
    provenance: str = ""
    weights: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    data: tuple[DataFile, ...] = Field((), max_length=64)
    probe: Probe | None = None
    folder: Path = Field(Path(), exclude=True)

    @model_validator(mode="after")
    def _fits(self) -> ModelCard:
        require_bands(self.bands, self.ranges)
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip must be [low, high]; got {self.clip}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.bands):
                raise ValueError(f"{name} has {len(values)} values for {len(self.bands)} bands")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        if self.step * self.resolution != self.cell:
            raise ValueError("cell must be a whole number of pixels")
        if "/" in self.weights or "\\" in self.weights or self.weights.startswith("."):
            raise ValueError(
                f"weights must be a file name in the card's folder; got {self.weights}"
            )
        known = {c.code for c in self.legend}
        given = set(self.classes)
        if len(given) != len(self.classes) or not given <= known:
            wanted = f"{min(known)}..{max(known)}"
            raise ValueError(f"classes must be different codes of {wanted}; got {self.classes}")
        if (self.segments or self.names) and self.classes != tuple(sorted(known)):
            wanted = ", ".join(map(str, sorted(known)))
            raise ValueError(f"the model's classes are {wanted}, in order; got {self.classes}")
        if self.address is not None and not from_anywhere(self.address):
            raise ValueError(f"address must lead there from anywhere; got {self.address}")
        labels = self.multilabel is not None
        require_names(self.names, known, self.ignored, self.segments, labels)
        require_multilabel(self.multilabel, self.architecture, len(given), self.output)
        least = 0 if self.segments or (self.architecture == ONNX and given) else 1
        if not least <= self.features <= (0 if self.segments else self.features):
            raise ValueError(
                f"features: {self.features} of architecture {self.architecture}"
                + ("" if given else " without classes")
            )
        self._fits_onnx()
        if 2 * self.overlap > self.patch:
            raise ValueError(f"overlap: {self.overlap} is over half of patch: {self.patch}")
        return self

    def _fits_onnx(self) -> None:
        if self.architecture != ONNX:
            if self.task or self.data:
                raise ValueError("task and data are of architecture onnx")
            return
        if self.context or self.parameters:
            raise ValueError("architecture onnx has neither context nor parameters")
        names = [file.name for file in self.data]
        if len({self.weights, "card.json", *names}) < len(names) + 2:
            raise ValueError("names of data must be different, and neither card nor weights")

    @property
    def segments(self) -> bool:
        """Whether it gives every pixel of a window a class."""
        return self.architecture in SEGMENTERS or self.task == "segment"

    @property
    def vectors(self) -> bool:
        """Whether it takes published vectors, and not reflectance or images."""
        return of_vectors(self.bands)

    @property
    def zones(self) -> bool:
        """Whether it is a segmenter of local climate zones, whose pixels are pooled to cells."""
        codes = tuple(c.code for c in LCZ)
        return self.segments and not self.names and self.classes == codes

    @property
    def several(self) -> bool:
        """Whether it is a segmenter that scores each of several classes, not green alone."""
        return self.segments and (bool(self.names) or self.zones)

    @property
    def encodes(self) -> bool:
        """Whether it has no classes, and gives features alone."""
        return not self.classes

    @property
    def imagery(self) -> tuple[str, ...]:
        """Its bands that are of imagery; the others are of features, and follow them."""
        return self.bands[: len(self.bands) - len(self.ranges)]

    @property
    def legend(self) -> tuple[LandClass, ...]:
        """What its classes are of."""
        if self.names:
            return tuple(
                LandClass(
                    c.code, str(c.code), c.name, c.name.replace("_", " ").capitalize(), c.colour
                )
                for c in self.names
            )
        return UGS if self.segments and not self.zones else LCZ

    @property
    def step(self) -> int:
        """Pixels from one cell to the next."""
        return round(self.cell / self.resolution)

    @property
    def before(self) -> int:
        """Pixels of a cell's patch before the cell's first: 11 for 32 px at a 10 px step."""
        return (self.patch - self.step) // 2 + self.context

    @property
    def halo(self) -> int:
        """Pixels around a tile that its cells' patches need."""
        return max(0, self.before, self.patch + 2 * self.context - self.step - self.before)

    @property
    def block(self) -> int:
        """Side of an inference block in cells, anchored to the grid's origin.

        A tile is a whole number of them, so a cell has the same place in the same block whatever
        the tile. Networks with context evaluate a block as one image: larger ones share more, and
        need more memory.
        """
        if self.inference_block is not None:
            return self.inference_block
        return _DENSE_BLOCKS.get(self.architecture, _BLOCK) if self.context else _BLOCK

    @property
    def idle(self) -> set[str]:
        """Fields of `LATER` that say nothing."""
        return {name for name in LATER if getattr(self, name) in (None, (), {})}

    @property
    def key(self) -> str:
        """What decides the result: architecture, input, weights; not with whom it is fused."""
        text = self.model_dump_json(exclude={"fusion"} | ABOUT | self.idle)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_features(self) -> None:
        """Refuse a model of which no features can be stored.

        Raises
        ------
        CardError
        """
        if not self.features:
            raise CardError(
                f"model {self.name} gives no features",
                got=f"features: 0 of architecture {self.architecture}",
                remedy="export it with its features as a second output",
            )

    def check_precision(self, precision: str) -> None:
        """Refuse a precision that the model cannot be told.

        Raises
        ------
        CardError
        """
        if self.architecture == ONNX and precision != "float32":
            raise CardError(
                "an ONNX file computes in its own precision",
                got=f"precision: {precision}",
                remedy="leave model.precision out",
            )

    def check_cube(
        self,
        bands: tuple[str, ...],
        resolution: float,
        ground: Ranges | None = None,
        vectors: bool = False,
    ) -> None:
        """Refuse a cube, or published vectors, that the model was not made for.

        Parameters
        ----------
        bands : as the recipe names them, or (`vectors`) channels of the source.
        resolution : metres.
        ground : bands of the recipe's features, and their ranges.
        vectors : whether the recipe has published embeddings in place of imagery.

        Raises
        ------
        CardError
        """
        require_inputs(self.name, self.imagery, bands, vectors)
        require_ground(self.name, self.ranges, ground or {})
        if not math.isclose(resolution, self.resolution):
            raise CardError(
                f"model {self.name} was made for another resolution",
                got=f"{resolution:g} m",
                expected=f"{self.resolution:g} m",
                remedy=f"set grid.resolution to {self.resolution:g}",
            )


def find_card(name: str, base: Path) -> Path:
    """Where a card named in a recipe lies: a path from the recipe's folder, or a shipped model.

    Raises
    ------
    CardError
        With the names of the shipped models.
    """
    path = base / name
    if path.exists() or "/" in name or "\\" in name or path.suffix:
        return path
    shipped = Path(str(files("engine.models").joinpath("shipped")))
    if (shipped / name / "card.json").is_file():
        return shipped / name
    names = sorted(p.name for p in shipped.glob("*") if (p / "card.json").is_file())
    raise CardError(
        "there is no such model",
        got=name,
        expected=f"the folder of a model card, or one of {', '.join(names) or 'no shipped models'}",
    )


def load_card(path: str | Path) -> ModelCard:
    """Read a card; its weights are not opened, but must be there and be of the card's kind.

    Raises
    ------
    CardError, WeightsError
    """
    path = Path(path)
    if path.is_dir():
        path = path / "card.json"
    if path.suffix in (".pt", ".pth", ".pkl", ".h5", ".hdf5", ".ckpt", ".onnx", ".safetensors"):
        raise WeightsError(
            "weights are not a card",
            got=path.name,
            expected="a card (JSON) beside a safetensors or ONNX file",
            remedy="make a card of them first: natmap convert",
        )
    try:
        raw = read_json(read_document(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise CardError("the model card cannot be read", got=f"{path}: {error}") from error
    try:
        card = _parse(raw, path.parent)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CardError("the model card lacks a field", got=f"{path.name}: {error}") from error
    except ValidationError as error:
        said = explain(error, ModelCard)
        raise CardError("the model card is wrong", got=f"{path.name}: {said}") from error
    require_form(card)
    return card


def _parse(raw: Mapping[str, Any], folder: Path) -> ModelCard:
    properties = raw["properties"]
    card = ModelCard.model_validate({**properties["natmap:card"], "folder": folder})
    said = properties["mlm:input"][0]["bands"]
    if list(card.bands) != list(said):
        raise CardError(
            "the card contradicts itself",
            got=f"mlm:input bands {said}",
            expected=f"natmap:card bands {list(card.bands)}",
        )
    return card
