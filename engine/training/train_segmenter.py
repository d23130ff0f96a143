"""Train a segmenter from labelled images, and adapt one to a city without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from engine.datasets.chip_cutting import cut_chips
from engine.datasets.chips import ChipSet, open_chips
from engine.datasets.ground import City
from engine.datasets.splits import SPLITS
from engine.errors import CardError, RecipeError
from engine.infer.predict import choose_device
from engine.metrics import binary, by_class, several
from engine.models.card import ModelCard, find_card, load_card
from engine.models.imagenet import FIRST, read_imagenet
from engine.models.registry import load_model, load_weights, save_model
from engine.publishing.charts import draw_curves
from engine.recipes.segmenting import (
    AdaptRecipe,
    GreenRecipe,
    load_adapt_recipe,
    load_green_recipe,
)
from engine.training.adapt import Adapted, AdaptSettings, Checked, adapt
from engine.training.loop import Epoch
from engine.training.normalisation import ALIKE
from engine.training.segmenters import Chips, GreenSettings, count_pixels, fit_segmenter

__all__ = ["AdaptedGreen", "TrainedGreen", "adapt_green", "train_green"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, by red, green and blue; UGS-1m standardises by them."""


@dataclass(frozen=True)
class TrainedGreen:
    """A segmenter, and its figures on the test chips, None where there are none."""

    card: ModelCard
    figures: dict[str, float] | None


class AdaptedGreen(NamedTuple):
    """An adapted segmenter, and what its adaptation found."""

    card: ModelCard
    found: Adapted


def train_green(
    recipe: GreenRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    epoch: Callable[[Epoch], None] = lambda entry: None,
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None,
) -> TrainedGreen:
    """Train a segmenter: cut chips unless they are cut, fit, write card, weights and report.

    Parameters and errors as of `engine.training.train.train`.
    """
    if not isinstance(recipe, GreenRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_green_recipe(recipe)
    base = base or Path()
    chips = cut_chips(recipe, base, tell=tell)
    folder = base / recipe.out
    folder.mkdir(parents=True, exist_ok=True)
    card = _card(recipe, chips, folder)
    start = _start(recipe, card, base, tell)
    parts = {name: Chips(*chips.of(name)) for name in SPLITS}
    others = {"preset", "device", "devices"}
    settings = GreenSettings(**recipe.training.model_dump(exclude=others))
    tell(f"training {card.architecture} on {len(parts['train'].x)} chips of {chips.side} px")
    found = fit_segmenter(
        card,
        parts["train"],
        parts["validation"],
        settings,
        folder,
        device=recipe.training.device,
        devices=recipe.training.devices,
        start=start,
        tell=epoch,
        step=step,
    )
    card = save_model(card, found.weights, folder)
    draw_curves([asdict(entry) for entry in found.history], found.best, folder / "curves.png")
    test = parts["test"]
    figures = None
    if len(test.x):
        counts = count_pixels(load_model(card), None, card, test)[0]
        figures = several(counts) if card.names else binary(counts)
        if card.names:
            each = by_class(counts)["iou"]
            told = zip(card.legend, each.tolist(), strict=True)
            figures |= {f"iou_{c.name}": value for c, value in told if value == value}
    _report(
        folder,
        recipe=recipe.model_dump(mode="json"),
        places=list(chips.places),
        chips={name: len(part.x) for name, part in parts.items()},
        best_epoch=found.best,
        history=[asdict(entry) for entry in found.history],
        test=figures,
    )
    (folder / "state.pt").unlink(missing_ok=True)  # what it held is in the weights now
    return TrainedGreen(card, figures)


def adapt_green(
    recipe: AdaptRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    look: Callable[[Checked], None] = lambda entry: None,
) -> AdaptedGreen:
    """Adapt a segmenter to a city.

    Where its source loses too much at the first look, the weights are those of the model; the new
    card has the city's statistics where the city is of another kind, else it is the model as it
    was. The report says which (`step`, `statistics`) and names the model to fall back on.

    Parameters and errors as of `engine.training.train.train`; `look` hears of each look at the
    source.
    """
    if not isinstance(recipe, AdaptRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_adapt_recipe(recipe)
    base = base or Path()
    old = load_card(find_card(recipe.model, base))
    if not old.segments:
        raise CardError(
            "only segmenters are adapted", got=f"{old.name}: {old.architecture}", expected="ugsnet"
        )
    folder = base / recipe.out
    if folder.resolve() == old.folder.resolve():
        raise RecipeError(
            "out is the folder of the model that is adapted",
            got=str(folder),
            expected="another folder: the model is what to fall back on",
        )
    chips = open_chips(base / recipe.chips)
    if chips.bands != old.bands:
        raise CardError(
            "the chips have other bands than the model",
            got=", ".join(chips.bands),
            expected=", ".join(old.bands),
        )
    city = City(base / recipe.target, old.bands)
    tell(f"drawing chips of {city.name}")
    target, seen = city.draw(chips.side, recipe.most, recipe.training.seed)
    settings = AdaptSettings(**recipe.training.model_dump(exclude={"preset", "device"}))
    tell(f"adapting {old.name} to {len(target)} chips of {city.name}")
    found = adapt(
        old,
        load_weights(old),
        Chips(*chips.of("train")),
        Chips(*chips.of("validation")),
        target,
        settings,
        seen=seen,
        device=choose_device(recipe.training.device),
        compared=lambda agreed: tell(_words(agreed)),
        tell=look,
    )
    kept = "its statistics are the city's, its weights as before" if found.own else "not adapted"
    if not found.step:
        tell(f"the source lost over {settings.guard:g} points of F1 at once: {kept}")
    folder.mkdir(parents=True, exist_ok=True)
    words = f"{old.name} adapted to {city.name}" if found.step else f"{old.name}, {kept}"
    card = old.model_copy(
        update={"name": recipe.name, "provenance": f"{words}; {old.provenance}", "version": "1"}
    )
    card = save_model(card, found.weights, folder)
    _report(
        folder,
        recipe=recipe.model_dump(mode="json"),
        fallback={"name": old.name, "key": old.key},
        chips={"source": int((chips.split == 0).sum()), "target": len(target)},
        source_f1_before=found.before,
        agreement=found.agreement,
        statistics="city" if found.own else "source",
        step=found.step,
        history=[asdict(entry) for entry in found.history],
    )
    return AdaptedGreen(card, found)


def _words(agreed: float) -> str:
    """What an adaptation found of the city before its first step."""
    whose = "the source's, as for one more place of its kind" if agreed >= ALIKE else "the city's"
    return f"maps under the source's and the city's statistics agree by {agreed:.2f}: {whose}"


def _card(recipe: GreenRecipe, chips: ChipSet, folder: Path) -> ModelCard:
    """The card before the weights are there."""
    model = recipe.model
    if chips.bands != model.bands:
        raise CardError(
            "the chips have other bands than the model",
            got=", ".join(chips.bands),
            expected=", ".join(model.bands),
        )
    mean, std = MEAN, STD
    composite = chips.x.dtype == np.uint16
    if model.bands != ("B04", "B03", "B02") or composite:  # of what ImageNet says nothing
        x, _, seen = chips.of("train")
        part = (x - np.float32(1000)) / np.float32(10_000) if composite else x / np.float32(255)
        where = True if seen is None else seen[:, None]
        mean = tuple(round(float(v), 4) for v in part.mean((0, 2, 3), where=where))  # type: ignore[assignment]
        std = tuple(round(float(v), 4) for v in part.std((0, 2, 3), where=where))  # type: ignore[assignment]
    learnt = set(chips.place[chips.split == SPLITS.index("train")].tolist())
    places = ", ".join(name for k, name in enumerate(chips.places) if k in learnt)
    window = model.window or chips.side
    return ModelCard(
        name=recipe.name,
        architecture=model.architecture,
        parameters=model.parameters,
        bands=model.bands,
        mean=mean,
        std=std,
        patch=window,
        overlap=min(model.overlap, window // 2),
        resolution=chips.resolution,
        cell=chips.resolution,
        classes=recipe.codes,
        names=tuple(sorted(recipe.classes, key=lambda c: c.code)),
        ignored=recipe.ignored,
        features=0,
        output="logit",
        licence=model.licence,
        provenance=model.description or f"trained on chips of {places}",
        weights=f"{recipe.name}.safetensors",
        sha256="0" * 64,
        folder=folder,
    )


def _start(
    recipe: GreenRecipe, card: ModelCard, base: Path, tell: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """Weights to begin with; the rest of the network stays as it is drawn."""
    model = recipe.model
    if model.start is not None:
        other = load_card(find_card(model.start, base))
        if other.architecture != card.architecture or other.bands != card.bands:
            raise CardError(
                "the model to start from is another one",
                got=f"{other.architecture} of {', '.join(other.bands)}",
                expected=f"{card.architecture} of {', '.join(card.bands)}",
            )
        return load_weights(other)
    if model.imagenet is None:
        return None
    found = read_imagenet(base / model.imagenet, card)
    if FIRST not in found:
        tell(
            f"the first layer is drawn, not ImageNet's: that one looks at B04, B03, B02, "
            f"this one at {', '.join(card.bands)}"
        )
    return found


def _report(folder: Path, **found: Any) -> None:
    report = {
        "schema": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **found,
        "software": {name: version(name) for name in ("torch", "numpy")},
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
