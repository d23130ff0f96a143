"""The verb that draws samples of a map, to judge it by or to learn from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import read_codes

if TYPE_CHECKING:
    from engine.sites.advising import Advice
    from engine.sites.placing import Placed

__all__ = ["VERBS"]

_JUDGE, _LEARN, _ADVISE = "For accuracy", "For training", "With --advise"
_LAND = "Regions and units"


def sample(
    product: Annotated[
        str,
        typer.Argument(help="product folder or map; of training store, too", show_default=False),
    ],
    purpose: Annotated[str | None, typer.Option("--for", help="accuracy or training")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the sample")] = None,
    n: Annotated[int | None, typer.Option("--n", help="cells or sites in all")] = None,
    least: Annotated[
        int | None, typer.Option(help="of each stratum; by the map's classes alone 50, else 2")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="map, or classes: unfiltered, unmasked")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="another draws others")] = None,
    standard_error: Annotated[
        float | None,
        typer.Option(help="of the overall accuracy; .01", rich_help_panel=_JUDGE),
    ] = None,
    users: Annotated[
        float | None,
        typer.Option(help="user's accuracy that is expected; .8", rich_help_panel=_JUDGE),
    ] = None,
    strata: Annotated[
        Path | None, typer.Option(help="raster of strata", rich_help_panel=_JUDGE)
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(help="proportional, mixed, lsi or random", rich_help_panel=_JUDGE),
    ] = None,
    regions: Annotated[Path | None, typer.Option(help="polygons", rich_help_panel=_LAND)] = None,
    field: Annotated[
        str | None, typer.Option(help="that names regions", rich_help_panel=_LAND)
    ] = None,
    grid: Annotated[
        float | None,
        typer.Option(help="side of squares to cut them into", rich_help_panel=_LAND),
    ] = None,
    merge: Annotated[
        float | None,
        typer.Option(help="share of a square that joins a neighbour; .25", rich_help_panel=_LAND),
    ] = None,
    unit: Annotated[
        float | None,
        typer.Option(help="side, in the map's units; about 10 km", rich_help_panel=_LAND),
    ] = None,
    unknown: Annotated[
        str | None, typer.Option(help="codes that say nothing: 0,255", rich_help_panel=_LAND)
    ] = None,
    tag: Annotated[
        str | None, typer.Option(help="release of a store", rich_help_panel=_LAND)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="of units: pps, top or quantile", rich_help_panel=_LEARN),
    ] = None,
    least_of_class: Annotated[
        int | None, typer.Option(help="of each class in all; 2", rich_help_panel=_LEARN)
    ] = None,
    per_unit: Annotated[
        int | None,
        typer.Option(help="sites of a class in a unit at most; 1", rich_help_panel=_LEARN),
    ] = None,
    least_pixels: Annotated[
        int | None,
        typer.Option(help="of a class in a unit, or it is left out; 1", rich_help_panel=_LEARN),
    ] = None,
    even: Annotated[
        bool, typer.Option("--even", help="LSI over root of area", rich_help_panel=_LEARN)
    ] = False,
    spacing: Annotated[
        float | None, typer.Option(help="metres between sites", rich_help_panel=_LEARN)
    ] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="sample to top up", rich_help_panel=_LEARN)
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(help="draws by which is estimated", rich_help_panel=_LEARN),
    ] = None,
    advise: Annotated[
        bool,
        typer.Option("--advise", help="try designs and say which errs least"),
    ] = False,
    accuracy: Annotated[
        float | None,
        typer.Option(help="that the map is thought to have; .85", rich_help_panel=_ADVISE),
    ] = None,
    aim: Annotated[
        str | None, typer.Option(help="areas, accuracy or both", rich_help_panel=_ADVISE)
    ] = None,
    place_cost: Annotated[
        float | None,
        typer.Option(help="of opening another unit, in cells; 0", rich_help_panel=_ADVISE),
    ] = None,
) -> None:
    """Draw cells of a map, to judge it by (accuracy) or to label and learn from (training)."""
    from engine.cli.render import say
    from engine.errors import RecipeError

    given: dict[str, Any] = {
        "n": n,
        "least": least,
        "layer": layer,
        "seed": seed,
        "standard_error": standard_error,
        "users": users,
        "strata": strata,
        "allocation": allocation,
        "regions": regions,
        "field": field,
        "grid": grid,
        "merge": merge,
        "unit": unit,
        "unknown": None if unknown is None else read_codes("--unknown", unknown),
        "tag": tag,
        "mode": mode,
        "least_of_class": least_of_class,
        "per_unit": per_unit,
        "least_pixels": least_pixels,
        "even": even or None,
        "spacing": spacing,
        "earlier": earlier,
        "repeats": repeats,
        "accuracy": accuracy,
        "aim": aim,
        "place_cost": place_cost,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if advise:
        if purpose is not None:
            raise RecipeError("advice draws no sample", got=f"--advise --for {purpose}")
        _show_advice(product, out, settings)
        return
    if purpose is None or out is None:
        raise RecipeError(
            "a sample needs a purpose and a folder",
            expected="--for accuracy or training, and --out FOLDER; or --advise",
        )
    from engine.labels.design import Allocation
    from engine.sites.sampling import sample as draw
    from engine.sites.strata import Design

    if purpose == "training":
        settings["tell"] = say
    found = draw(product, out, purpose=purpose, **settings)  # type: ignore[arg-type]  # checked there
    if isinstance(found, Allocation | Design):
        if isinstance(found, Allocation):
            parts = f"{len(found.classes)} classes"
        else:
            parts = f"{len(found.strata)} strata"
            for note in found.notes:
                say(note)
        say(f"{found.sizes.sum()} cells of {parts}; fill in `lcz` of each, then")
        say(f"natmap evaluate {product} {out}")
        sys.stdout.write(f"{out / 'sample.geojson'}\n")
    else:
        _show_sites(found)
        sys.stdout.write(f"{out / 'sites.gpkg'}\n")


def _show_sites(placed: Placed) -> None:
    from rich.table import Table

    from engine.cli.render import out as console
    from engine.cli.render import say

    for note in placed.notes:
        say(note)
    table = Table(box=None)
    for name in ("class", "km2", "units", "by the equations", "sites"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in placed.by_class():
        numbers = (row["units"], row["equations"], row["sites"])
        table.add_row(row["class"], f"{row['km2']:,.1f}", *map(str, numbers))
    console.print(table)
    repeats = placed.chances.repeats
    say(f"probabilities are {f'estimated by {repeats} draws' if repeats else 'exact'}")


def _show_advice(product: str, out: Path | None, settings: dict[str, Any]) -> None:
    import inspect

    from engine.cli.render import say
    from engine.errors import RecipeError
    from engine.sites.advising import advise

    known = set(inspect.signature(advise).parameters)
    if odd := sorted(set(settings) - known):
        raise RecipeError("not a setting of advice", got=", ".join(odd))
    if "n" not in settings:
        raise RecipeError("advice needs the number of cells", expected="--n")
    found = advise(product, out, **settings)
    for note in found.notes:
        say(note)
    _draw_advice(found)
    if out is not None:
        sys.stdout.write(f"{out / 'advice.json'}\n")


def _draw_advice(found: Advice) -> None:
    from rich.table import Table

    from engine.cli.render import out as console
    from engine.cli.render import say

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = ("errors", "design", "places", "areas", "s.e.", "oa", "s.e.", "score")
    for k, name in enumerate(names):
        left = k < 2
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in found.rows:
        table.add_row(
            row.pattern,
            row.title,
            f"{row.places:.0f}",
            f"{100 * abs(row.bias).sum():.2f}",
            f"{100 * row.error.sum():.2f}",
            f"{100 * row.oa_bias:+.2f}",
            f"{100 * row.oa_error:.2f}",
            f"{found.scores[row.key]:.3f}",
        )
    console.print(table)
    say(
        f"{found.rows[0].sites} cells each. In points: bias and standard error of the classes' "
        "shares, summed over them, and of the overall accuracy (oa)"
    )
    of = {row.key: row for row in found.rows}
    best = of[found.best]
    say(f"smallest error for the cost: {best.title} ({best.draw}), for maps of zones")
    if found.alike:
        say("not told apart from it: " + "; ".join(of[key].title for key in found.alike))


VERBS = (sample,)
