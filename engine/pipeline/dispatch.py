"""Verbs of several kinds: which training, which adaptation, which comparison is meant.

The command and the package ask here, so that both do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compare.cells import Evaluation
from engine.compare.cells import evaluate as compare
from engine.compare.classes import ClassEvaluation, evaluate_classes
from engine.compare.folder import read_folder
from engine.compare.pixels import GreenEvaluation, evaluate_green
from engine.compare.sample import Judged, is_sample, judge
from engine.errors import MetricError
from engine.recipes.base import product_of
from engine.recipes.segmenting import AdaptRecipe, GreenRecipe, load_green_recipe
from engine.recipes.training import TrainRecipe, load_train_recipe

if TYPE_CHECKING:  # torch: only where something is trained
    from engine.training.adapt import Checked
    from engine.training.loop import Epoch
    from engine.training.train import Trained
    from engine.training.train_segmenter import AdaptedGreen, TrainedGreen

__all__ = ["adapt", "evaluate", "load_training", "train"]


def load_training(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> TrainRecipe | GreenRecipe:
    """Read and validate the recipe of a training, of whichever product it names.

    Parameters and errors as of `engine.recipes.run.load_recipe`.
    """
    named = source.get("product") if isinstance(source, Mapping) else product_of(source)
    load = load_green_recipe if named in ("ugs", "cover") else load_train_recipe
    return load(source, overrides)


def train(
    recipe: TrainRecipe | GreenRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    epoch: Callable[[Epoch], None] = lambda entry: None,
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None,
) -> Trained | TrainedGreen:
    """Train the model that a recipe describes: of local climate zones, or of green space.

    What it learns from is cut unless it is cut; a training that was killed goes on from its last
    epoch. Card, weights and report are written into the recipe's ``out``.

    Parameters
    ----------
    recipe : a recipe of a training, a mapping, or the path of a recipe file. One of
        ``product: ugs`` trains a segmenter of green space, any other a classifier of zones.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, epoch, step : hear of steps, finished epochs and batches.

    Returns
    -------
    Trained or TrainedGreen
        Both have the model's ``card`` and its ``figures`` on the test split, which are None where
        that is empty.

    Raises
    ------
    NatmapError
        Before the training starts, where labels, images or the split do not serve.
    """
    if base is None and isinstance(recipe, str | Path):
        base = Path(recipe).parent
    if not isinstance(recipe, TrainRecipe | GreenRecipe):
        recipe = load_training(recipe)
    if isinstance(recipe, GreenRecipe):
        from engine.training.train_segmenter import train_green

        return train_green(recipe, base=base, tell=tell, epoch=epoch, step=step)
    from engine.training.train import train as train_zones

    return train_zones(recipe, base=base, tell=tell, epoch=epoch, step=step)


def adapt(
    recipe: AdaptRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    look: Callable[[Checked], None] = lambda entry: None,
) -> AdaptedGreen:
    """Adapt a segmenter of green space to a city that nobody has labelled.

    Parameters
    ----------
    recipe : a recipe of an adaptation, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, look : hear of steps, and of each look at the source.

    Returns
    -------
    AdaptedGreen
        The new ``card``, and what the adaptation ``found``; a pair as well.

    Raises
    ------
    NatmapError
        Before the adaptation starts, where model, chips or city do not serve.
    """
    from engine.training.train_segmenter import adapt_green

    return adapt_green(recipe, base=base, tell=tell, look=look)


def evaluate(
    product: str | Path,
    reference: str | Path,
    *,
    within: str | Path | None = None,
    layer: str = "map",
    green: Sequence[int] | None = None,
    unknown: Sequence[int] | None = None,
    land_cover: str | None = None,
    out: str | Path | None = None,
) -> Evaluation | GreenEvaluation | ClassEvaluation | Judged:
    """Compare a finished map with what is known.

    A map of green space is compared pixel by pixel, one of local climate zones cell by cell; where
    the reference is a folder that `sample` wrote and somebody filled in, the map's accuracy and
    areas are estimated from it.

    Parameters
    ----------
    product : a product folder of natmap, or a raster of codes: 1 to 17; of green space 1, 0, 255.
    reference : raster of codes, training areas (KML, KMZ, GeoJSON, GPKG), or a sample's folder.
    within : raster, optional; only where it is not 0. Not of a sample.
    layer : "map" (filtered, masked) or "classes" (unfiltered, unmasked) of local climate zones.
    green, unknown, land_cover : of green space, as `engine.compare.pixels` takes them; a
        raster that is no product folder of green space is one where `green` or `land_cover` is
        given.
    out : folder of the report; by default nowhere.

    Returns
    -------
    Evaluation, GreenEvaluation, ClassEvaluation or Judged
        All have ``figures``: the single figures by name, NaN where nothing was counted.

    Raises
    ------
    MetricError, LabelError
        Where map or reference cannot be read, or share no ground.
    """
    product, reference = Path(product), Path(reference)
    folder = read_folder(product)
    judged = "cells" if folder is None else folder.product.reference
    if judged is None:
        raise MetricError(
            "maps of this product are not compared with a reference",
            got=f"{product}: product {folder and folder.product_name}",
        )
    if judged == "classes" and folder is not None:
        if green is not None or land_cover is not None:
            raise MetricError(
                "codes of green space are for maps of green space",
                got=f"{product}: product {folder.product_name}",
                expected="a reference in the map's own codes, without --green and --land-cover",
            )
        return evaluate_classes(
            product, reference, folder.legend, unknown=unknown, within=within, out=out
        )
    if judged == "pixels" or green is not None or land_cover is not None:
        return evaluate_green(
            product,
            reference,
            green=green,
            unknown=unknown,
            land_cover=land_cover,
            within=within,
            out=out,
        )
    if is_sample(reference):
        return judge(product, reference, layer=layer, out=out)
    return compare(product, reference, within=within, layer=layer, out=out)
