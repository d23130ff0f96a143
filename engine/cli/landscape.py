"""Verbs that look where to label: landscape, frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import read_codes
from engine.items import band_name

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
        f"regions: {len(found.by_region.region)}, "
        f"classes: {len(set(found.by_class.code.tolist()))}, "
        f"units of {found.unit} x {found.unit} px"
    )
    sys.stdout.write(f"{out / 'landscape.json'}\n")


def frames(
    sites: Annotated[Path, typer.Argument(help="file of points or polygons", show_default=False)],
    recipe: Annotated[
        Path, typer.Argument(help="map recipe whose catalogue is asked", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder of the list, and of patches")],
    most: Annotated[
        int | None, typer.Option(min=1, help="frames of a site; by default all")
    ] = None,
    cut: Annotated[
        int | None, typer.Option(help="side of a patch about each site, in pixels")
    ] = None,
    bands: Annotated[str, typer.Option(help="of the patches")] = "B04,B03,B02",
    labels: Annotated[
        Path | None, typer.Option(help="raster of codes, to go beside the patches")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="CSV of codes, from and to: a level of a hierarchy")
    ] = None,
    least_area: Annotated[
        float, typer.Option(help="m2; smaller pieces of a label go to their largest neighbour")
    ] = 0.0,
) -> None:
    """List the frames that show sites, as a table and as STAC, and cut patches about them."""
    from engine.cli.render import say
    from engine.datasets.site_chips import frames as find

    found = find(
        sites,
        recipe,
        out,
        most=most,
        cut=cut,
        bands=tuple(band_name(name.strip()) for name in bands.split(",")),
        labels=labels,
        mapping=mapping,
        least_area=least_area,
        tell=say,
    )
    say(f"{len(found.frames) - len(found.without)} of {len(found.frames)} sites are shown")
    if found.without:
        say(f"note: no frame shows {', '.join(found.without[:8])}" + _more(found.without))
    if cut is not None:
        say(f"{len(found.cut)} patches")
        for name, why in list(found.left_out.items())[:8]:
            say(f"note: no patch of {name}: {why}")
    sys.stdout.write(f"{out / 'frames.csv'}\n")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 8} more" if len(names) > 8 else ""


VERBS = (landscape, frames)
