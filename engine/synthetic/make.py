"""A made-up country, written whole: scenes with their items, truth, and a recipe to map it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely

from engine.synthetic.country import Country, to_degrees, write_scenes
from engine.synthetic.materials import BANDS
from engine.synthetic.photo import write_photos
from engine.synthetic.reference import write_reference
from engine.synthetic.scene import CRS

__all__ = ["synthesize", "write_green"]

_RECIPE = """\
# A made-up country, seed {seed}: {width:g} x {height:g} km about the border of two UTM zones.
name: {name}
product: lcz
area: {{file: truth/area.geojson}}
grid: {{crs: {crs}, resolution: 10, tile: {tile}}}
imagery: {{catalog: scenes/catalog.json, period: {first}/{last}{bands}}}
cube: {{composite: median, keep_scenes: true}}
{model}filter: {{method: gaussian}}
mask: {{boundaries: truth/urban.geojson}}
store: ./store
publish: ./product
"""


_GREEN = """\
# Its green space at 1 m, from orthophotos.
name: {name}
product: ugs
area: {{file: photos/area.geojson}}
grid: {{crs: {crs}, tile: 1600, chunk: 800}}
images: {{catalog: photos/catalog.json}}
model: {{card: {model}}}
mask: {{boundaries: truth/urban.geojson}}
store: ./green-store
publish: ./green-product
"""


def write_green(
    country: Country,
    folder: Path,
    *,
    model: str,
    name: str = "made-up-green",
    bounds: tuple[int, int, int, int] | None = None,
) -> Path:
    """Write orthophotos of a made-up country, and a recipe that maps its green space.

    Parameters
    ----------
    country : Country
    folder : that of the country, with its truth.
    model : folder of a model card for the recipe.
    name : of the recipe.
    bounds : left, bottom, right, top of the photos; by default the country's.

    Returns
    -------
    Path of the recipe, ``green.yaml``
    """
    bounds = bounds or country.bounds
    towns = geopandas.read_file(folder / "truth" / "urban.geojson").to_crs(CRS)
    write_photos(country.world, bounds, folder / "photos", list(towns.geometry))
    outline = to_degrees(shapely.box(*bounds).buffer(-1, join_style="mitre"))
    (folder / "photos" / "area.geojson").write_text(shapely.to_geojson(outline))
    recipe = folder / "green.yaml"
    recipe.write_text(_GREEN.format(name=name, crs=CRS, model=model))
    return recipe


def synthesize(
    country: Country,
    folder: str | Path,
    *,
    model: str | None = None,
    tile: int = 800,
    name: str = "made-up-country",
    orthophotos: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a made-up country into a folder.

    ``scenes/`` holds COGs, items in the form of Earth Search and ``catalog.json``; ``truth/`` what
    is true (`engine.synthetic.reference`); ``recipe.yaml`` maps it; ``country.json`` says what it
    is made of. A second call adds dates that are not there yet.

    Parameters
    ----------
    country : Country
    folder : str or Path
    model : folder of a model card for the recipe, optional
    tile : of the recipe, in pixels of 10 m.
    name : of the recipe.
    orthophotos : also ``photos/``: 1 m frames and what is green in them, and ``green.yaml``.
    tell : gets a line of text for each step.

    Returns
    -------
    Path of the recipe
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "country.json").exists():
        tell(f"truth of {country.width * country.height / 1e6:g} km2")
        written = write_reference(country, folder / "truth")
        with rasterio.open(written["truth-lcz"]) as file:
            counts = np.bincount(file.read(1).ravel(), minlength=18)[1:]
        shares = {str(code): round(float(n / counts.sum()), 4) for code, n in enumerate(counts, 1)}
    else:
        shares = json.loads((folder / "country.json").read_text())["shares"]
    tell(f"scenes of {len(country.overpasses)} dates")
    write_scenes(country, folder / "scenes")
    if orthophotos:
        tell("orthophotos")
        write_green(country, folder, model="ugs-made-up")
    days = sorted(overpass.when.date() for overpass in country.overpasses)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        _RECIPE.format(
            seed=country.world.seed,
            width=country.width / 1000,
            height=country.height / 1000,
            name=name,
            tile=tile,
            crs=CRS,
            first=days[0],
            last=days[-1],
            bands="" if model else f", bands: [{', '.join(BANDS)}]",
            model=f"model: {{card: {model}}}\n" if model else "",
        )
    )
    facts = {
        "world": asdict(country.world),
        "bounds": country.bounds,
        "crs": CRS,
        "overpasses": [
            {"when": o.when.isoformat(), "baseline": o.baseline, "cover": o.cover, "haze": o.haze}
            for o in country.overpasses
        ],
        "shares": shares,
    }
    (folder / "country.json").write_text(json.dumps(facts, indent=1) + "\n")
    return recipe
