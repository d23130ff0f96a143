"""Synthetic countries for tests: made once, kept on disk, copied for whoever asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import shapely
import yaml

from engine.synthetic import make
from engine.synthetic.country import AUTUMN, Country, to_degrees
from engine.synthetic.districts import World
from engine.synthetic.photo import write_photos
from engine.synthetic.scene import CRS
from support.cache import kept, source_hash

_BEYOND = 400
"""Metres of imagery about a country of the tests. The engine's 2,000 make it two and a half times
as dear; the area begins 800 m inside, and patches, filter and clouds reach 670 m beyond it."""

PLAIN = Country(World(5), 4800, 4800, AUTUMN[:3])
"""Nine tiles of 160 px about two UTM zones, three dates, two baselines: enough for most tests."""
SMALL = Country(World(5), 3200, 3200, AUTUMN[:2])
"""Four of its tiles and two dates, its scenes cut from the same: the least with a tile's border."""


def synthesize(
    country: Country,
    folder: str | Path,
    *,
    model: str | None = None,
    tile: int = 800,
    name: str = "made-up-country",
    orthophotos: bool = False,
) -> Path:
    """What `engine.synthetic.make.synthesize` writes, from the cache: the recipe's path.

    Countries inside `PLAIN` get its scenes and truth, which reach beyond their own bounds, and an
    area of their own: another date or a smaller country costs nothing. The folder is the caller's
    to change.
    """
    folder = Path(folder)
    source = scenes_of(country)
    days = {f"{overpass.when:%Y%m%d}" for overpass in country.overpasses}
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    for path in (source / "scenes").iterdir():
        if path.name != "catalog.json" and path.name.split("_")[2] in days:
            shutil.copy(path, folder / "scenes")
    if not (folder / "truth").exists():
        shutil.copytree(source / "truth", folder / "truth")
        (folder / "truth" / "area.geojson").write_text(shapely.to_geojson(country.outline))
    shutil.copy(source / "country.json", folder)
    if orthophotos:
        whole = _whole(country)
        photos = kept(
            "photos",
            f"{replace(whole, overpasses=())} {source_hash('engine/synthetic')}",
            lambda f: _photograph(whole, source, f),
        )
        shutil.copytree(photos, folder, dirs_exist_ok=True)
    # all is there: this writes the catalogue, the recipe and the facts alone
    with _narrow():
        return make.synthesize(country, folder, model=model, tile=tile, name=name)


def scenes_of(country: Country) -> Path:
    """The kept folder whose ``scenes`` and ``truth`` hold a country; to be read only."""
    whole = _whole(country)
    return kept(
        "worlds",
        f"{whole} {_BEYOND} {source_hash('engine/synthetic')}",
        lambda folder: _synthesize(whole, folder),
    )


def _synthesize(country: Country, folder: Path) -> None:
    with _narrow():
        make.synthesize(country, folder, tile=160)


@contextmanager
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.synthetic.country._BEYOND", _BEYOND)
        yield


def _whole(country: Country) -> Country:
    """The country that is kept for this one: `PLAIN` where that has all of it, else itself."""
    left, bottom, right, top = country.bounds
    x0, y0, x1, y1 = PLAIN.bounds
    inside = left >= x0 and bottom >= y0 and right <= x1 and top <= y1
    dates = set(country.overpasses) <= set(PLAIN.overpasses)
    return PLAIN if inside and dates and country.world == PLAIN.world else country


def _photograph(country: Country, source: Path, folder: Path) -> None:
    shutil.copytree(source / "truth", folder / "truth")
    make.write_green(country, folder, model="ugs-made-up")
    shutil.rmtree(folder / "truth")


def photograph(world: World, bounds: tuple[int, int, int, int], folder: Path) -> Path:
    """Orthophotos of a window of a world, its green space known everywhere, from the cache."""
    source = kept(
        "photos",
        f"{world} {bounds} known {source_hash('engine/synthetic')}",
        lambda f: write_photos(world, bounds, f, [shapely.box(*bounds)]),
    )
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def square_of(folder: Path, half: float) -> Path:
    """An area of `SMALL` about the corner of four of its tiles, so many metres to each side.

    Half of it costs a quarter, and has as many borders of tiles.
    """
    left, bottom, right, top = SMALL.bounds
    middle = shapely.Point((left + right) / 2, (bottom + top) / 2)
    shape = to_degrees(middle.buffer(half, cap_style="square"), CRS)
    path = folder / f"square-{half:g}.geojson"
    path.write_text(shapely.to_geojson(shape))
    return path


def change_recipe(path: Path, **changes: object) -> Path:
    """Set top-level keys of a recipe file; None takes a key out."""
    recipe = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    return path


def list_items(folder: Path, names: list[str]) -> None:
    """Let the catalogue of a country's scenes name these items only."""
    path = folder / "scenes" / "catalog.json"
    catalog = json.loads(path.read_text())
    catalog["links"] = [{"rel": "item", "href": f"./{name}.json"} for name in sorted(names)]
    path.write_text(json.dumps(catalog))
