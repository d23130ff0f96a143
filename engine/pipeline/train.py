"""Train: labels and composites to a patch set, a patch set to a model with its card and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox
from safetensors.torch import save_file

from engine.errors import LabelError
from engine.infer.predict import Predictor
from engine.labels.areas import read_training_areas
from engine.labels.sampling import cells_of_areas, cells_of_raster, thin
from engine.legend import LCZ
from engine.metrics import assess, confusion
from engine.models.card import ModelCard, write_card
from engine.models.inputs import prepare_input
from engine.models.registry import measure
from engine.publishing.charts import draw_confusion, draw_curves
from engine.recipe import Recipe, load_recipe
from engine.store.place import place_of
from engine.store.repository import Store
from engine.train_recipe import Labels, TrainRecipe, load_train_recipe
from engine.training.fit import Batches, Epoch, Settings, fit, statistics
from engine.training.forest import grow
from engine.training.patches import PatchSet, Place, cut, join, open_patches, write_patches
from engine.training.splits import SPLITS, UNUSED, find_leaks, split_by_block, split_by_group

__all__ = ["Trained", "cut_patches", "train"]

_CELL = 100.0
_FOREST = {"statistics": "mean-std", "side": 10, "trees": 30, "balanced": False}


@dataclass(frozen=True)
class Trained:
    """A model, and how good it is on patches that it has not seen.

    Attributes
    ----------
    card : ModelCard
    figures : of the test split, None where it is empty.
    epochs : of the training; 0 of a forest.
    """

    card: ModelCard
    figures: dict[str, float] | None
    epochs: int


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
    forest = recipe.model.architecture == "forest"
    context, features = 0, 28
    if not forest:
        model = recipe.model
        context, features = measure(
            model.architecture, model.parameters, len(model.bands), len(LCZ), patches.patch
        )
    parts = _parts(patches, context)
    folder = base / recipe.out
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(**recipe.training.model_dump(exclude={"device", "devices"}))
    history: tuple[Epoch, ...] = ()
    best = 0
    card = _card(recipe, patches, parts["train"].x, folder).model_copy(
        update={"context": context, "features": features}
    )
    tell(f"training {card.architecture} on {len(parts['train'].y)} patches")
    if forest:
        choice = {**_FOREST, **recipe.model.parameters}
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
            tell=epoch,
            step=step,
        )
        weights, history, best = found.weights, found.history, found.best
    target = folder / f"{recipe.name}.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items() if "num_batches" not in k}, target)
    target.chmod(0o644)  # safetensors writes for the owner alone
    card = card.model_copy(
        update={
            "weights": target.name,
            "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            "folder": folder,
        }
    )
    write_card(card, folder)
    figures = _report(recipe, card, patches, parts, history, best, folder)
    (folder / "state.pt").unlink(missing_ok=True)  # what it held is in the weights now
    return Trained(card, figures, len(history))


def cut_patches(
    recipe: TrainRecipe, base: Path, *, tell: Callable[[str], None] = lambda text: None
) -> PatchSet:
    """The recipe's patch set, split; cut anew where labels, composites or choices changed."""
    where = base / recipe.patches
    sources = [_Source(label, base) for label in recipe.labels]
    key = _key(recipe, sources)
    if (where / "zarr.json").exists():
        if zarr.open_group(str(where), mode="r").attrs.get("natmap:key") == key:
            return open_patches(where)
        tell("labels or composites have changed: cutting patches again")
    parts = []
    for source in sources:
        tell(f"cutting patches of {source.name}")
        parts.append(source.cut(recipe))
    found = join(parts)
    found = replace(found, split=_split(recipe, found))
    write_patches(where, found)
    zarr.open_group(str(where), mode="r+").attrs["natmap:key"] = key
    return open_patches(where)


class _Source:
    """One place: its labels and its composite."""

    def __init__(self, label: Labels, base: Path) -> None:
        path = base / label.recipe
        self.label, self.base = label, base
        self.recipe: Recipe = load_recipe(path)
        self.name = label.place or self.recipe.name
        self.store = place_of(self.recipe.store, path.parent)
        if not Store.exists(self.store):
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            )
        store = Store.open(self.store)
        self.identity = store.identity
        self.session = store.reader()
        root = zarr.open_group(self.session.store, mode="r")
        try:
            self.bands: Any = root["composite/bands"]
            self.seen: Any = root["composite/observations"]
        except KeyError:
            raise LabelError(
                "there is no composite to cut patches from",
                got=str(self.store),
                remedy=f"natmap run {path} --until composite",
            ) from None
        self.names = [str(band) for band in self.identity["band_names"]]

    def read(
        self, rows: slice, cols: slice, wanted: list[int]
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
        """Pixels of the composite, nothing valid beyond it."""
        height, width = self.seen.shape
        values = np.zeros((len(wanted), rows.stop - rows.start, cols.stop - cols.start), np.uint16)
        valid = np.zeros(values.shape[1:], bool)
        top, bottom = max(rows.start, 0), min(rows.stop, height)
        left, right = max(cols.start, 0), min(cols.stop, width)
        if top < bottom and left < right:
            here = np.s_[
                top - rows.start : bottom - rows.start, left - cols.start : right - cols.start
            ]
            part = self.bands[:, top:bottom, left:right]
            values[:, *here] = part[wanted]
            valid[here] = self.seen[top:bottom, left:right] > 0
        return values, valid

    def cut(self, recipe: TrainRecipe) -> PatchSet:
        missing = [band for band in recipe.model.bands if band not in self.names]
        if missing:
            raise LabelError(
                f"the composite of {self.name} lacks bands of the model",
                got=", ".join(self.names),
                expected=", ".join(recipe.model.bands),
            )
        wanted = [self.names.index(band) for band in recipe.model.bands]
        identity = self.identity
        cells = GeoBox.from_bbox(
            tuple(identity["bounds"]), identity["crs"], resolution=_CELL, tight=True
        )
        label = self.label
        if label.areas is not None:
            areas = read_training_areas(self.base / label.areas).areas
            samples = cells_of_areas(areas, cells)
        else:
            assert label.raster is not None
            within = None if label.within is None else self.base / label.within
            samples = cells_of_raster(self.base / label.raster, cells, within=within)
        if label.most is not None:
            samples = thin(samples, label.most, recipe.split.seed)
        step = round(_CELL / self.recipe.grid.resolution)
        x, good = cut(
            lambda rows, cols: self.read(rows, cols, wanted),
            samples["row"],
            samples["col"],
            len(wanted),
            context=recipe.context,
            step=step,
        )
        if not good.any():
            raise LabelError(
                f"no patch of {self.name} can be cut",
                got=f"{len(samples)} labelled cells, none with enough valid pixels",
                remedy="make the composite of the labelled ground, and look at its observations",
            )
        samples, x = samples[good], x[good]
        left, top = cells.transform.c, cells.transform.f
        xy = np.stack(
            [left + (samples["col"] + 0.5) * _CELL, top - (samples["row"] + 0.5) * _CELL], axis=1
        )
        period = self.recipe.imagery.period
        place = Place(self.name, f"{period.first}/{period.last}", identity["crs"])
        return PatchSet(
            x,
            samples["lcz"],
            xy,
            samples["group"],
            np.zeros(len(x), np.uint16),
            np.full(len(x), UNUSED, np.uint8),
            recipe.model.bands,
            32,
            recipe.context,
            self.recipe.grid.resolution,
            (place,),
        )


def _split(recipe: TrainRecipe, patches: PatchSet) -> npt.NDArray[np.uint8]:
    choice = recipe.split
    reach = (patches.patch + 2 * patches.context) * patches.resolution
    if choice.by == "place":
        names = [place.name for place in patches.places]
        for name in (*choice.validation, *choice.test):
            if name not in names:
                raise LabelError("no such place to split by", got=name, expected=", ".join(names))
        code = np.array(
            [2 if n in choice.test else 1 if n in choice.validation else 0 for n in names], np.uint8
        )
        return code[patches.place]
    found = np.full(len(patches), UNUSED, np.uint8)
    for number in range(len(patches.places)):
        here = patches.place == number
        xy = patches.xy[here]
        if choice.by == "group":
            found[here] = split_by_group(
                patches.group[here], patches.y[here], xy, reach, choice.shares, choice.seed
            )
        else:
            found[here] = split_by_block(
                xy, reach, choice.side, choice.shares, choice.seed + 1009 * number
            )
        leaks = find_leaks(xy, found[here], reach)
        assert leaks == 0, f"{leaks} pairs of patches leak"
    return found


def _parts(patches: PatchSet, context: int) -> dict[str, Batches]:
    found = {}
    for k, name in enumerate(SPLITS):
        where = np.flatnonzero(patches.split == k)
        found[name] = Batches(patches.take(where, context), patches.y[where])
    return found


def _card(
    recipe: TrainRecipe, patches: PatchSet, x: npt.NDArray[np.uint16], folder: Path
) -> ModelCard:
    """The card before the weights are there."""
    forest = recipe.model.architecture == "forest"
    if not len(x):
        raise LabelError("there are no training patches", remedy="look at the split's shares")
    mean, std = (None, None) if forest else statistics(x)
    places = ", ".join(sorted({place.name for place in patches.places}))
    return ModelCard(
        name=recipe.name,
        architecture=recipe.model.architecture,
        parameters={} if forest else recipe.model.parameters,
        bands=recipe.model.bands,
        clip=(0.0, 1.0),
        mean=mean,
        std=std,
        fill=0.0,
        patch=patches.patch,
        resolution=patches.resolution,
        classes=tuple(c.code for c in LCZ),
        features=1,  # until it is measured
        output="probability" if forest else "logit",
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
    folder: Path,
) -> dict[str, float] | None:
    """Write what the model was made of, and what it does on patches it has not seen."""
    figures = None
    test = parts["test"]
    if len(test.y):
        predictor = Predictor(card, "cpu")
        found = []
        for first in range(0, len(test.y), 256):
            x = test.x[first : first + 256]
            found.append(predictor(prepare_input(x, np.asarray((x > 0).all(1)), card))[0].argmax(1))
        counts = confusion(test.y, np.array(card.classes)[np.concatenate(found)])
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
        "software": {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return figures


def _key(recipe: TrainRecipe, sources: list[_Source]) -> str:
    """What decides the patch set."""
    digest = hashlib.sha256()
    digest.update(recipe.model_dump_json(include={"labels", "context", "split"}).encode())
    digest.update(json.dumps(recipe.model.bands).encode())
    for source in sources:
        digest.update(str(source.session.snapshot_id).encode())
        for name in (source.label.areas, source.label.raster, source.label.within):
            if name is not None:
                path = source.base / name
                if not path.is_file():
                    raise LabelError("there is no such file of labels", got=str(path))
                digest.update(path.read_bytes())
    return digest.hexdigest()
