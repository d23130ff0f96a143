"""The second stream: 1 m images to instances, their graphs to scores, both streams to one.

Instances are a stage of their own: they are what costs, and neither another graph network nor
another weight makes them anew. A training cuts its graphs from there, as it cuts patches from the
composite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.cube.access import Access
from engine.cube.images import Image, in_order, read_image
from engine.cube.read import Failure
from engine.errors import CardError
from engine.grid.grid import Grid
from engine.infer.fuse import SENTINEL_WEIGHT, fuse
from engine.infer.instances import BLOCK, CELL, RIM, find_graphs, score_graphs
from engine.models.card import ModelCard, find_card, load_card, verify_weights
from engine.models.graphs import FEATURES
from engine.models.superpixels import MOST, Kind, segment
from engine.prefetch import ahead
from engine.products.cells import CellModel
from engine.products.common import RESOURCES, gaps_of, predictor_for
from engine.products.index import Frames, frames_in
from engine.products.sources import RGB, ImageSource
from engine.recipes.sections import Device, GridChoice, Instances
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["fusion_stages", "fusion_weight", "instance_stage", "load_graph_card"]


@dataclass(frozen=True)
class FindInstances:
    """1 m images -> instances/nodes, instances/count: block by block, nothing stored of them."""

    kind: Kind
    shared: bool
    access: Access
    checkpoint: Path | None = None
    device: Device = "cpu"

    def __call__(self, task: TileTask) -> Iterator[Output]:
        n = task.grid.pixels(float(CELL))
        cut = partial(segment, kind=self.kind)
        if self.checkpoint is not None:
            cut = partial(cut, checkpoint=self.checkpoint, device=self._chosen(task))
        wanted = task.defined(float(CELL))
        nodes = np.zeros((MOST, len(FEATURES), n, n), np.float16)
        count = np.zeros((n, n), np.uint8)
        frames: Frames = task.parts[0].payload
        blocks = [b for b in _blocks(task) if wanted is None or wanted[b.rows, b.cols].any()]
        failures: list[Failure] = []
        fetched = 0

        def read(block: _Block) -> Image:
            return self._read(task.grid, block, frames)

        for block, coming in ahead(read, blocks):
            image = coming.result()
            failures += image.failures
            fetched += image.fetched
            cells = np.zeros((BLOCK // CELL, BLOCK // CELL), bool)
            inner = block.inner
            here = np.s_[block.rows, block.cols]
            cells[inner] = True if wanted is None else wanted[here]
            rgb = np.ascontiguousarray(np.moveaxis(image.bands, 0, -1))
            found, how_many = find_graphs(rgb, image.valid, cells, cut, shared=self.shared)
            nodes[:, :, *here] = found[:, :, *inner]
            count[here] = how_many[inner]
        flags, note = gaps_of(failures)
        arrays: dict[str, npt.NDArray[Any]] = {"instances/nodes": nodes, "instances/count": count}
        yield Output(arrays, flags=flags, note=note, bytes_read=fetched)

    def _chosen(self, task: TileTask) -> str:
        """Where Segment Anything runs; the task notes it."""
        from engine.models.device import (
            choose_device,
            name_of,
        )  # torch, which the others do without

        device = choose_device(task.device(self.device))
        task.devices.add(name_of(device))
        return device

    def _read(self, grid: Grid, block: _Block, frames: Frames) -> Image:
        side = BLOCK + 2 * RIM
        left, top = block.left - RIM, block.top + RIM
        near = frames_in(frames, (left, top - side, left + side, top))
        box = GeoBox((side, side), Affine(1, 0, left, 0, -1, top), grid.crs)
        return read_image(near, RGB, box, grid.anchor, access=self.access)


@dataclass(frozen=True)
class _Block:
    """A block of ground that meets a tile: its corner, its cells in the tile and in itself."""

    left: float
    top: float
    rows: slice
    cols: slice
    inner: tuple[slice, slice]


def _blocks(task: TileTask) -> Iterator[_Block]:
    """Blocks that meet a tile; they lie on the grid's lattice, whatever its tiles."""
    west, south, east, north = task.grid.tile_bounds(task.tile)
    x0, y0 = task.grid.anchor
    per, n = BLOCK // CELL, task.grid.pixels(float(CELL))
    for i in range(math.floor((y0 - north) / BLOCK), math.ceil((y0 - south) / BLOCK)):
        for j in range(math.floor((west - x0) / BLOCK), math.ceil((east - x0) / BLOCK)):
            left, top = x0 + j * BLOCK, y0 - i * BLOCK
            row, col = round((north - top) / CELL), round((left - west) / CELL)
            rows, cols = (
                slice(max(row, 0), min(row + per, n)),
                slice(max(col, 0), min(col + per, n)),
            )
            inner = (
                slice(rows.start - row, rows.stop - row),
                slice(cols.start - col, cols.stop - col),
            )
            yield _Block(left, top, rows, cols, inner)


@dataclass(frozen=True)
class ScoreGraphs:
    """instances -> graphs/probability."""

    card: ModelCard
    device: Device
    precision: str

    def __call__(self, task: TileTask) -> Iterator[Output]:
        predictor = predictor_for(task, self.card, self.device, self.precision)
        scores = score_graphs(
            task.read("instances/nodes"),
            task.read("instances/count"),
            predictor,
            len(self.card.classes),
        )
        spec = next(s for s in task.outputs if s.name == "probability")
        yield Output({"graphs/probability": scores.astype(spec.dtype)})


@dataclass(frozen=True)
class FuseScores:
    """scores, graphs -> fused/probability; a cell without instances keeps its scores."""

    sentinel_weight: float

    def __call__(self, task: TileTask) -> Iterator[Output]:
        scores = task.read("scores/probability")
        found = fuse(
            scores.astype(np.float32),
            task.read("graphs/probability").astype(np.float32),
            self.sentinel_weight,
        )
        yield Output({"fused/probability": found.astype(scores.dtype)})


def load_graph_card(name: str, base: Path, instances: Instances, other: ModelCard) -> ModelCard:
    """The card of a graph network, held against the recipe's instances and the other stream.

    Raises
    ------
    CardError, WeightsError
    """
    card = load_card(find_card(name, base))
    verify_weights(card)
    if card.architecture != "gcn":
        raise CardError(
            "model.instances is not a graph network", got=card.architecture, expected="gcn"
        )
    if card.classes != other.classes:
        raise CardError(
            "both streams must give the same classes",
            got=f"{card.name}: {card.classes}",
            expected=f"{other.name}: {other.classes}",
        )
    for key, value in instances.made.items():
        made = card.parameters.get(key, Instances.model_fields[key].default)
        if made != value:
            raise CardError(
                f"model {card.name} was trained on other instances",
                got=f"instances.{key}: {value}",
                expected=f"instances.{key}: {made}",
                remedy=f"set instances.{key} to {made}",
            )
    return card


def fusion_weight(asked: float | None, graph: ModelCard, other: ModelCard) -> tuple[float, str]:
    """Weight of the stream beside a graph network, and why it is this one, in words.

    Parameters
    ----------
    asked : by the recipe; None: what the graph network's card holds of the two, else the default.
    graph, other : cards of both streams.
    """
    if asked is not None:
        return asked, ""
    found = graph.fusion
    if found is None:
        return SENTINEL_WEIGHT, ", by default: no weight was found in its training"
    if found.key != other.key:
        why = f"its own weight, {1 - found.sentinel_weight:.0%}, was found beside {found.beside}"
        return SENTINEL_WEIGHT, f", by default: {why}, which {other.name} is not"
    return found.sentinel_weight, ", as found in its training"


def instance_stage(
    how: Instances, choice: GridChoice, base: Path, images: ImageSource, device: Device = "auto"
) -> Stage:
    """1 m images to graphs, by cell.

    Parameters
    ----------
    how : section `instances` of the recipe.
    choice : of the grid.
    base : folder of the recipe's relative paths.
    images : what is read.
    device : for Segment Anything; other segmenters run on CPUs.

    Raises
    ------
    WeightsError
        Where the segmenter's checkpoint cannot be used.
    """
    order = partial(in_order, order=images.images.order)
    parameters: dict[str, Any] = {**how.made, "block": BLOCK}
    checkpoint = None
    if how.checkpoint is not None:
        from engine.models.sam import load_sam

        checkpoint = (base / how.checkpoint).resolve()
        load_sam(checkpoint)
        weights = (checkpoint / "model.safetensors").read_bytes()
        parameters["checkpoint"] = hashlib.sha256(weights).hexdigest()
    n = round(choice.tile_metres / CELL)

    def spec(name: str, dtype: str, **more: object) -> ArraySpec:
        return ArraySpec(f"instances/{name}", dtype, float(CELL), n, 0, **more)  # type: ignore[arg-type]

    leading = (("node", tuple(range(MOST))), ("feature", FEATURES))
    return Stage(
        "instances",
        FindInstances(
            how.segmenter, how.segmentation == "shared", images.access, checkpoint, device
        ),
        (spec("nodes", "float16", leading=leading), spec("count", "uint8")),
        parameters=parameters,
        # a block reaches up to its own side beyond the tile
        parts=lambda tile: images.index.about(tile, BLOCK + RIM, order),
        resource="cpu" if checkpoint is None else RESOURCES[device],
        gigabytes=2.0 + 2 * MOST * len(FEATURES) * n * n * 2 / 1e9,
        reads=1.5,
    )


def fusion_stages(
    choice: CellModel, grid: GridChoice, card: ModelCard, sentinel_weight: float
) -> list[Stage]:
    """Graphs to scores, and both streams' scores to one.

    Parameters
    ----------
    choice : section `model` of the recipe.
    grid : of the recipe.
    card : of the graph network.
    sentinel_weight : of the scores from the composite; the rest is the graph's.
    """
    n = round(grid.tile_metres / CELL)
    labels = (("class", card.classes),)

    def spec(group: str) -> ArraySpec:
        return ArraySpec(
            f"{group}/probability", choice.scores, float(CELL), n, math.nan, leading=labels
        )

    return [
        Stage(
            "graphs",
            ScoreGraphs(card, choice.device, choice.precision),
            (spec("graphs"),),
            (Input("instances"),),
            parameters={
                "model": card.key,
                "precision": choice.precision,
                "dtype": choice.scores,
            },
            resource=RESOURCES[choice.device],
            gigabytes=2.0,
        ),
        Stage(
            "fused",
            FuseScores(sentinel_weight),
            (spec("fused"),),
            (Input("scores"), Input("graphs")),
            parameters={"sentinel_weight": sentinel_weight},
        ),
    ]
