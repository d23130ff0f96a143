"""Evaluate: a finished map and what is known, each kind of map by its own comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.compare.cells import Evaluation
from engine.compare.cells import evaluate as compare
from engine.compare.classes import ClassEvaluation, evaluate_classes
from engine.compare.folder import read_folder
from engine.compare.labels import LabelEvaluation, evaluate_labels
from engine.compare.lines import LineEvaluation, evaluate_lines
from engine.compare.patches import evaluate_patches, is_patch_set
from engine.compare.pixels import GreenEvaluation, evaluate_green
from engine.compare.sample import Judged, judge
from engine.compare.sample_files import is_sample
from engine.datasets.chips import chip_set_of
from engine.errors import MetricError

__all__ = ["evaluate"]


def evaluate(
    product: str | Path,
    reference: str | Path,
    *,
    within: str | Path | None = None,
    layer: str = "map",
    green: Sequence[int] | None = None,
    unknown: Sequence[int] | None = None,
    land_cover: str | None = None,
    field: str | None = None,
    lines: str | int | None = None,
    codes: Sequence[int] | None = None,
    buffer: float = 5.0,
    out: str | Path | None = None,
) -> Evaluation | GreenEvaluation | ClassEvaluation | LineEvaluation | LabelEvaluation | Judged:
    """Compare a finished map with what is known.

    A map of green space is compared pixel by pixel, one of local climate zones cell by cell; where
    the reference is a folder that `sample` wrote and somebody filled in, the map's accuracy and
    areas are estimated from it.

    Parameters
    ----------
    product : a product folder of natmap, or a raster of codes: 1 to 17; of green space 1, 0, 255.
        With a patch set or chip set, the folder of a model's card.
    reference : raster of codes, training areas (KML, KMZ, GeoJSON, GPKG), a sample's folder, or the
        folder of a patch set, or chip set: its test patches are scored by the model.
    within : raster, optional; only where it is not 0. Not of a sample.
    layer : "map" (filtered, masked) or "classes" (unfiltered, unmasked) of local climate zones.
    green, land_cover : of green space, as `engine.compare.pixels` takes them; a raster that is not
        in a product folder of green space is one where `green` or `land_cover` is given.
    unknown : codes of a reference raster that say nothing.
    field : of training areas, the one that holds the type; by default lcz, Class or Name.
    lines : class of the map, by name or code, whose centrelines are compared by length; the
        reference is a file of lines, or a raster.
    codes : with `lines`, those of a reference raster that are lines; by default the map's.
    buffer : with `lines`, metres within which two of them are one.
    out : folder of the report; by default nowhere.

    Returns
    -------
    Evaluation, GreenEvaluation, ClassEvaluation, LineEvaluation, LabelEvaluation or Judged
        All have ``figures``: the single figures by name, NaN where nothing was counted.

    Raises
    ------
    MetricError, LabelError
        Where map or reference cannot be read, or share no ground.
    """
    product, reference = Path(product), Path(reference)
    chips = chip_set_of(reference)
    if chips is not None or is_patch_set(reference):
        told = {"within": within, "green": green, "unknown": unknown, "field": field}
        if others := [name for name, value in told.items() if value is not None]:
            raise MetricError("patches are scored as they are", got=", ".join(others))
        if chips is not None:
            return evaluate_labels(product, chips, out=out)
        return evaluate_patches(product, reference, out=out)
    if lines is not None:
        told = {"green": green, "land_cover": land_cover, "field": field}
        if others := [name for name, value in told.items() if value is not None]:
            raise MetricError("lines are compared by length alone", got=", ".join(others))
        return evaluate_lines(
            product, reference, lines,
            buffer=buffer, codes=codes, unknown=unknown, within=within, out=out,
        )  # fmt: skip
    if codes is not None:
        raise MetricError("codes are those of lines", got="--codes", expected="--lines as well")
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
        if within is not None or unknown is not None:
            raise MetricError(
                "a sample is judged as a whole, or its weights would be wrong",
                got="--within" if within is not None else "--unknown",
                expected="a sample's folder without them",
            )
        return judge(product, reference, layer=layer, out=out)
    return compare(
        product,
        reference,
        within=within,
        layer=layer,
        unknown=unknown,
        field=field,
        out=out,
    )
