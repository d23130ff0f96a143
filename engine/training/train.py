"""Train: a patch set to a model with its card and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.patch_cutting import cut_patches
from engine.datasets.patches import PatchSet
from engine.datasets.splits import SPLITS
from engine.errors import CardError, LabelError
from engine.infer.examples import score_examples
from engine.legend import LCZ
from engine.metrics import assess, confusion
from engine.models.card import ModelCard, find_card, load_card
from engine.models.registry import Measured, load_weights, measure, save_model
from engine.publishing.charts import draw_confusion, draw_curves
from engine.recipes.training import TrainRecipe, load_train_recipe
from engine.training.fit import Batches, Settings, fit, statistics
from engine.training.forest import grow
from engine.training.fusion import graph_form, weigh
from engine.training.loop import Epoch
from engine.training.repeats import Repeats, repeat

__all__ = ["Trained", "train"]

_FOREST = {"statistics": "mean-std", "side": 10, "trees": 30, "balanced": False}


@dataclass(frozen=True)
class Trained:
    """A model, and how good it is on patches that it has not seen.

    Attributes
    ----------
    card : ModelCard
    figures : of the test split, None where it is empty.
    epochs : of the training; 0 of a forest.
    fusion : of a graph network beside another stream, what `engine.training.fusion.weigh` found.
    """

    card: ModelCard
    figures: dict[str, float] | None
    epochs: int
    fusion: dict[str, Any] | None = None


def train(
    recipe: TrainRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    epoch: Callable[[Epoch], None] = lambda entry: None,
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None,
) -> Trained:
    """Train a model: cut patches unless they are cut, fit, write card, weights and report.

    A training that was killed goes on from its last epoch.

    Parameters
    ----------
    recipe : a TrainRecipe, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, epoch, step : hear of steps, finished epochs and batches.

    Raises
    ------
    NatmapError
        Before the training starts, where labels, composites or the split do not serve.
    """
    if not isinstance(recipe, TrainRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_train_recipe(recipe)
    base = base or Path()
    patches = cut_patches(recipe, base, tell=tell)
    forest, graph = (recipe.model.architecture == name for name in ("forest", "gcn"))
    model = recipe.model
    if patches.bands != model.bands:
        raise LabelError(
            "the patch set has other bands than the model",
            got=", ".join(patches.bands),
            expected=", ".join(model.bands),
        )
    form = Measured(0, 28, "probability")
    own: dict[str, Any] = {"parameters": model.parameters}
    if graph:
        own = graph_form(recipe, patches)
    start = _start(recipe, base, own.get("bands", model.bands))
    if not forest:
        bands = own.get("bands", model.bands)
        form = measure(model.architecture, own["parameters"], len(bands), len(LCZ), patches.patch)
    parts = _graphs(patches) if graph else _parts(patches, form.context)
    folder = base / recipe.out
    folder.mkdir(parents=True, exist_ok=True)
    others = {"preset", "bootstraps", "device", "devices"}
    settings = Settings(**recipe.training.model_dump(exclude=others))
    history: tuple[Epoch, ...] = ()
    best = 0
    card = _card(recipe, patches, parts["train"].x, folder)
    card = card.model_copy(update={**own, **form._asdict()})
    if start is not None and not model.restandardise:
        same = ("clip", "mean", "std", "fill")
        card = card.model_copy(update={name: getattr(start, name) for name in same})
    what = "graphs" if graph else "patches"
    tell(f"training {card.architecture} on {len(parts['train'].y)} {what}")
    repeats = None
    if forest:
        choice = {**_FOREST, **recipe.model.parameters}
        if recipe.training.bootstraps:
            tell(f"judging by {recipe.training.bootstraps} splits of the training areas")
            repeats = repeat(
                patches, card, recipe.training.bootstraps, seed=settings.seed, **choice
            )
        grown = grow(parts["train"].x, parts["train"].y, card, seed=settings.seed, **choice)
        card = card.model_copy(
            update={
                "parameters": grown.parameters,
                "features": 14 if choice["statistics"] == "mean" else 28,
            }
        )
        weights = grown.weights
    else:
        found = fit(
            card,
            parts["train"],
            parts["validation"],
            settings,
            folder,
            device=recipe.training.device,
            devices=recipe.training.devices,
            start=None if start is None else load_weights(start),
            tell=epoch,
            step=step,
        )
        weights, history, best = found.weights, found.history, found.best
    card = save_model(card, weights, folder)
    fusion = weigh(recipe, base, patches, card) if graph else None
    if fusion is not None:
        tell(f"fused with {fusion['beside']}: sentinel_weight {fusion['sentinel_weight']:g}")
    figures = _report(recipe, card, patches, parts, history, best, repeats, fusion, folder)
    (folder / "state.pt").unlink(missing_ok=True)  # what it held is in the weights now
    return Trained(card, figures, len(history), fusion)


def _start(recipe: TrainRecipe, base: Path, bands: tuple[str, ...]) -> ModelCard | None:
    """The card to go on from, of the same network and bands."""
    model = recipe.model
    if model.start is None:
        return None
    card = load_card(find_card(model.start, base))
    for name, wanted in (("architecture", model.architecture), ("bands", bands)):
        if getattr(card, name) != wanted:
            raise CardError(
                f"the model to start from has other {name}",
                got=getattr(card, name),
                expected=wanted,
                remedy=f"set model.{name} to what {card.name} has",
            )
    return card


def _parts(patches: PatchSet, context: int) -> dict[str, Batches]:
    found = {}
    for k, name in enumerate(SPLITS):
        where = np.flatnonzero(patches.split == k)
        found[name] = Batches(patches.take(where, context), patches.y[where])
    return found


def _graphs(patches: PatchSet) -> dict[str, Batches]:
    """Graphs of patches; windows without instances teach nothing."""
    nodes = np.asarray(patches.nodes[:])
    some = nodes.any(axis=(1, 2))
    found = {}
    for k, name in enumerate(SPLITS):
        where = np.flatnonzero((patches.split == k) & some)
        found[name] = Batches(nodes[where], patches.y[where])
    return found


def _card(recipe: TrainRecipe, patches: PatchSet, x: npt.NDArray[Any], folder: Path) -> ModelCard:
    """The card before the weights are there."""
    if not len(x):
        raise LabelError("there are no training patches", remedy="look at the split's shares")
    plain = recipe.model.architecture in ("forest", "gcn")
    mean, std = (None, None) if plain else statistics(x)
    places = ", ".join(sorted({place.name for place in patches.places}))
    return ModelCard(
        name=recipe.name,
        architecture=recipe.model.architecture,
        parameters={},  # until they are known
        bands=recipe.model.bands,
        clip=(0.0, 1.0),
        mean=mean,
        std=std,
        fill=0.0,
        patch=patches.patch,
        resolution=patches.resolution,
        inference_block=recipe.model.inference_block,
        classes=tuple(c.code for c in LCZ),
        features=1,  # until it is measured
        licence=recipe.model.licence,
        provenance=recipe.model.description or f"trained on {len(x)} patches of {places}",
        weights=f"{recipe.name}.safetensors",
        sha256="0" * 64,
        folder=folder,
    )


def _report(
    recipe: TrainRecipe,
    card: ModelCard,
    patches: PatchSet,
    parts: Mapping[str, Batches],
    history: tuple[Epoch, ...],
    best: int,
    repeats: Repeats | None,
    fusion: dict[str, Any] | None,
    folder: Path,
) -> dict[str, float] | None:
    """Write what the model was made of, and what it does on patches it has not seen."""
    figures = None
    test = parts["test"]
    if len(test.y):
        scores = score_examples(card, test.x)
        counts = confusion(test.y, np.array(card.classes)[scores.argmax(1)])
        figures = assess(counts).figures()
        draw_confusion(counts, folder / "confusion.png", f"{card.name}: test patches, %")
    if history:
        draw_curves([asdict(entry) for entry in history], best, folder / "curves.png")
    classes = [c.code for c in LCZ]
    report = {
        "schema": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.model_dump(mode="json"),
        "places": [vars(place) for place in patches.places],
        "patches": {
            name: {
                "count": len(part.y),
                "classes": dict(
                    zip(
                        map(str, classes),
                        np.bincount(part.y, minlength=18)[1:].tolist(),
                        strict=True,
                    )
                ),
                "sha256": hashlib.sha256(np.ascontiguousarray(part.x).data).hexdigest(),
            }
            for name, part in parts.items()
        },
        "best_epoch": best,
        "history": [asdict(entry) for entry in history],
        "test": figures,
        "bootstraps": None if repeats is None else asdict(repeats),
        "fusion": fusion,
        "software": {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return figures
