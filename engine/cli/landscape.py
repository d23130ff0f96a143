"""Verbs that look where to label: landscape."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import read_codes

__all__ = ["VERBS"]


def landscape(
    place: Annotated[
        str, typer.Argument(help="raster of classes, product folder or store", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder of the figures")],
    regions: Annotated[
        Path | None, typer.Option(help="polygons; by default the map is one region")
    ] = None,
    field: Annotated[str | None, typer.Option(help="of the polygons, that names regions")] = None,
    grid: Annotated[
        float | None, typer.Option(help="side of squares to cut them into, in the map's units")
    ] = None,
    merge: Annotated[
        float, typer.Option(help="share of a square below which a piece joins a neighbour")
    ] = 0.25,
    unit: Annotated[
        float | None, typer.Option(help="side of a unit, in the map's units; by default 10 km")
    ] = None,
    unknown: Annotated[str, typer.Option(help="codes that say nothing: 0,255")] = "",
    layer: Annotated[str, typer.Option(help="of a product folder")] = "map",
    tag: Annotated[str | None, typer.Option(help="release of a store")] = None,
    form: Annotated[str, typer.Option(help="patton or fragstats")] = "patton",
    inner: Annotated[
        str, typer.Option(help="once or twice: borders between classes, in a region's edges")
    ] = "once",
) -> None:
    """Measure how fragmented a map is, by region, class and unit: where labels are worth most."""
    from engine.cli.render import say
    from engine.sites.landscape import landscape as measure

    found = measure(
        place,
        out,
        regions=regions,
        field=field,
        grid=grid,
        merge=merge,
        unit=unit,
        unknown=read_codes("--unknown", unknown),
        layer=layer,
        tag=tag,
        form=form,  # type: ignore[arg-type]  # it is checked where it is used
        inner=inner,  # type: ignore[arg-type]
    )
    for note in found.notes:
        say(note)
    say(
        f"{len(found.by_region.region)} regions, {len(set(found.by_class.code.tolist()))} classes, "
        f"units of {found.unit} x {found.unit} px"
    )
    sys.stdout.write(f"{out / 'landscape.json'}\n")


VERBS = (landscape,)
