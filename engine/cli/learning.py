"""Verbs that learn, judge and compare: train, adapt, convert, propagate, evaluate, compare, …"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json, RecipePath, Set, read_codes, read_overrides, read_source

__all__ = ["VERBS"]


Field = Annotated[
    str | None,
    typer.Option(help="of training areas: field of the type; by default lcz, Class or Name"),
]


def train(
    recipe: RecipePath,
    each: Annotated[
        Path | None,
        typer.Option(help="scenes.json: a segmenter for each scene, and what a map takes of them"),
    ] = None,
    overrides: Set = None,
) -> None:
    """Train a model from labels and composites; a killed training resumes where it was."""
    from engine.cli.render import say, training
    from engine.products.registry import load_training
    from engine.training.train import train as start

    wanted = load_training(read_source(recipe), read_overrides(overrides))
    if each is not None:
        _train_each(wanted, each, recipe.parent)
        return
    with training(wanted.training.epochs) as (epoch, step):
        found = start(wanted, base=recipe.parent, tell=say, epoch=epoch, step=step)
    if found.words:
        say(found.words)
    sys.stdout.write(f"{found.card.folder / 'card.json'}\n")


def _train_each(wanted: Any, each: Path, base: Path) -> None:
    """Train a segmenter for each scene of a file."""
    from engine.cli.render import say, training
    from engine.training.scene_models import SCENES, train_scenes

    with training(wanted.training.epochs) as (epoch, step):
        made = train_scenes(wanted, each, base=base, tell=say, epoch=epoch, step=step)
    count = len(made.scenes) - len(made.failed)
    say(f"{count} of {len(made.scenes)} scenes have a card, {len(made.failed)} failed")
    for scene in made.failed:
        say(f"  scene {scene.scene}: {scene.reason}", "red")
    if count:
        sys.stdout.write(f"{made.folder / SCENES}\n")
    if made.failed:
        raise typer.Exit(1)


def adapt(
    recipe: RecipePath,
    each: Annotated[
        Path | None,
        typer.Option(help="polygons of cities: adapt to each, and write what a map takes of them"),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(help="with --each: field of the city's name; by default name"),
    ] = None,
    overrides: Set = None,
) -> None:
    """Adapt a segmenter of green space to a city that nobody has labelled, or to each of many."""
    from engine.cli.render import say
    from engine.errors import RecipeError
    from engine.recipes.adapting import load_adapt_recipe

    wanted = load_adapt_recipe(read_source(recipe), read_overrides(overrides))

    def look(entry: Any) -> None:
        say(
            f"step {entry.step} of {wanted.training.steps}: green {entry.green:.3f}, adversarial "
            f"{entry.adversarial:.3f}, told {entry.told:.2f}, F1 of the source "
            f"{entry.source_f1:.1f}"
        )

    if each is not None:
        from engine.training.adapt_cities import CITIES, adapt_cities

        made = adapt_cities(
            wanted, each, field=field or "name", base=recipe.parent, tell=say, look=look
        )
        count = len(made.cities) - len(made.failed)
        say(f"{count} of {len(made.cities)} cities have a card, {len(made.failed)} failed")
        for city in made.failed:
            say(f"  {city.city}: {city.reason}", "red")
        if count:
            sys.stdout.write(f"{made.folder / CITIES}\n")
        if made.failed:
            raise typer.Exit(1)
        return
    if field is not None:
        raise RecipeError("--field is of the polygons of --each", got="no --each")
    from engine.training.adapt import adapt as start

    card, found = start(wanted, base=recipe.parent, tell=say, look=look)
    last = found.history[-1]
    say(f"kept step {found.step}; F1 of the source {found.before:.1f}, then {last.source_f1:.1f}")
    sys.stdout.write(f"{card.folder / 'card.json'}\n")


def propagate(recipe: RecipePath, overrides: Set = None) -> None:
    """Give cells the labels of cells that look like them, from embeddings of several cities."""
    from engine.cli.render import say
    from engine.recipes.propagating import load_propagation_recipe
    from engine.training.propagation import LABELS, propagate_labels

    wanted = load_propagation_recipe(read_source(recipe), read_overrides(overrides))
    made = propagate_labels(wanted, base=recipe.parent, tell=say)
    report = made.report
    if report.reason:
        say(f"no pseudo-labels: {report.reason}")
    else:
        say(f"{sum(report.pseudo.values())} pseudo-labels from {report.used} labels")
    sys.stdout.write(f"{made.folder / LABELS}\n")


def evaluate(
    product: Annotated[Path, typer.Argument(help="product folder or map", show_default=False)],
    reference: Annotated[
        Path,
        typer.Argument(
            help="raster of codes, areas, lines, a sample, a patch set or chip set",
            show_default=False,
        ),
    ],
    within: Annotated[Path | None, typer.Option(help="raster: only where it is not 0")] = None,
    layer: Annotated[str, typer.Option(help="map, or classes: unfiltered, unmasked")] = "map",
    green: Annotated[
        str | None,
        typer.Option(help="of a map of green space: codes of the reference that are it, as 10,20"),
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(help="codes of the reference that say nothing; by default 0, of green 255"),
    ] = None,
    land_cover: Annotated[
        str | None, typer.Option(help="in place of --green: worldcover, esri, dynamic-world, …")
    ] = None,
    field: Field = None,
    lines: Annotated[
        str | None,
        typer.Option(help="class of the map, road say: its centrelines are compared by length"),
    ] = None,
    codes: Annotated[
        str | None, typer.Option(help="with --lines: codes of a reference raster that are lines")
    ] = None,
    buffer: Annotated[
        float, typer.Option(help="with --lines: metres within which two lines are one")
    ] = 5.0,
    out: Annotated[Path | None, typer.Option(help="folder of the report")] = None,
    as_json: Json = False,
) -> None:
    """Compare a finished map with a reference, or with a sample drawn by `natmap sample`."""
    from engine.cli.figures import (
        draw_classes,
        draw_evaluation,
        draw_green,
        draw_judged,
        draw_labels,
        draw_lines,
    )
    from engine.cli.render import say
    from engine.compare.cells import Evaluation
    from engine.compare.classes import ClassEvaluation
    from engine.compare.evaluate import evaluate as compare
    from engine.compare.labels import LabelEvaluation
    from engine.compare.lines import LineEvaluation
    from engine.compare.sample import Judged

    found = compare(
        product,
        reference,
        within=within,
        layer=layer,
        green=None if green is None else read_codes("--green", green),
        unknown=None if unknown is None else read_codes("--unknown", unknown),
        land_cover=land_cover,
        field=field,
        lines=lines,
        codes=None if codes is None else read_codes("--codes", codes),
        buffer=buffer,
        out=out,
    )
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        plain = {k: None if v != v else v for k, v in found.figures.items()}
        values = found.to_json() if isinstance(found, Judged) else plain
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
    elif isinstance(found, Judged):
        draw_judged(found)
    elif isinstance(found, Evaluation):
        draw_evaluation(found)
    elif isinstance(found, ClassEvaluation):
        draw_classes(found)
    elif isinstance(found, LineEvaluation):
        draw_lines(found)
    elif isinstance(found, LabelEvaluation):
        draw_labels(found)
    else:
        draw_green(found)


def tag(
    model: Annotated[Path, typer.Argument(help="card of a multi-label model", show_default=False)],
    place: Annotated[
        Path, typer.Argument(help="chip set, folder of frames, or map recipe", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="the table: .parquet or .csv")],
) -> None:
    """Say which classes occur in patches: a table of probabilities by a multi-label model."""
    from engine.cli.render import say
    from engine.compare.tagging import tag as score

    found = score(model, place, out)
    count = len(found.table)
    for name, occurs in zip(found.classes, found.occurs, strict=True):
        say(f"{name} occurs in {occurs} of {count} patches")
    if found.unscored:
        say(f"note: {found.unscored} patches have too little data, and are not scored")
    sys.stdout.write(f"{out}\n")


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="model cards (A+B together), product folders or maps; NAME= before one names it",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path,
        typer.Option("--on", help="patch set, raster of codes, training areas, or a sample"),
    ],
    against: Annotated[
        str | None, typer.Option(help="the system to compare with; by default the first")
    ] = None,
    split: Annotated[str, typer.Option(help="of patches: train, validation, test, all")] = "test",
    layer: Annotated[str, typer.Option(help="map, or classes: unfiltered, unmasked")] = "map",
    within: Annotated[Path | None, typer.Option(help="raster: only where it is not 0")] = None,
    unknown: Annotated[
        str | None, typer.Option(help="codes of the reference raster that say nothing, beside 0")
    ] = None,
    field: Field = None,
    repeats: Annotated[int, typer.Option(help="draws, for the intervals")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of the draws")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder of tables and page")] = None,
    as_json: Json = False,
) -> None:
    """Compare models, or finished maps, on the same examples: one table, differences, intervals."""
    from engine.cli.figures import draw_comparison
    from engine.cli.render import say
    from engine.compare.comparison import compare_systems

    found = compare_systems(
        systems,
        reference,
        against=against,
        split=split,
        layer=layer,
        within=within,
        unknown=None if unknown is None else read_codes("--unknown", unknown),
        field=field,
        repeats=repeats,
        seed=seed,
        out=out,
        tell=say,
    )
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n")
    else:
        draw_comparison(found)


def areas(
    path: Annotated[Path, typer.Argument(help="training areas", show_default=False)],
    out: Annotated[Path, typer.Option(help="the page, HTML")] = Path("areas.html"),
    recipe: Annotated[Path | None, typer.Option(help="whose composite shows the ground")] = None,
    field: Field = None,
) -> None:
    """Write a page of training areas with pictures, the doubtful ones first."""
    from engine.cli.render import say
    from engine.datasets.review import review

    count, doubtful = review(
        path, out, recipe=recipe, field=field, tell=lambda text: say(f"note: {text}")
    )
    say(f"{count} training areas, {doubtful} to look at")
    sys.stdout.write(f"{out}\n")


def beside(
    lcz: Annotated[Path, typer.Argument(help="product of local climate zones")],
    ugs: Annotated[Path, typer.Argument(help="product of green space")],
    out: Annotated[Path | None, typer.Option(help="folder for picture and table")] = None,
    as_json: Json = False,
) -> None:
    """Set both maps of a place side by side: how green each local climate zone is."""
    from engine.cli.figures import draw_zones
    from engine.compare.crosstab import beside as compare

    found = compare(lcz, ugs, out=out)
    if as_json:
        rows = [dataclasses.asdict(zone) for zone in found.zones]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        draw_zones(found)


def convert(
    source: Annotated[
        Path, typer.Argument(help=".pt, .safetensors, .h5 or .onnx", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(help="of the model card", show_default=False)],
    architecture: Annotated[
        str | None, typer.Option(help="that natmap knows: mscnn, gcn …")
    ] = None,
    bands: Annotated[str | None, typer.Option(help="B02,B03,… in the network's order")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, any field of the card; repeatable"),
    ] = None,
) -> None:
    """Make a model card of weights from elsewhere, as weights alone: no code of a file is run."""
    from engine.models.convert import convert as make

    given: dict[str, Any] = {} if architecture is None else {"architecture": architecture}
    if bands:
        given["bands"] = [name.strip() for name in bands.split(",")]
    for key, value in read_overrides(fields).items():
        inner = given
        *path, last = key.split(".")
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    card = make(source, folder, **given)
    sys.stdout.write(f"{folder / 'card.json'}: {card.name}\n")


VERBS = (train, adapt, convert, propagate, evaluate, tag, compare, areas, beside)
"""In the order in which the command lists them."""
