"""Adapt a segmenter to each city of a file: one card a city, and the file that a map takes."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from engine.addresses import public
from engine.catalog.named import Named, read_named
from engine.errors import NatmapError, RecipeError, first_line
from engine.files import together, write_whole
from engine.grid.area import reproject
from engine.models.card import ModelCard, load_card, verify_weights
from engine.recipes.adapting import AdaptRecipe
from engine.training.adapt import Start
from engine.training.adversarial import Checked
from engine.training.segmenters import Chips
from engine.training.task import write_report

__all__ = ["CITIES", "AdaptedCities", "AdaptedCity", "adapt_cities"]

CITIES = "cities.geojson"
"""Of the folder of cities: polygons with name and card, for `model.cities` of a map recipe."""

_REPORT = "report.json"
_DIGITS = 16  # of a digest that is kept


@dataclass(frozen=True)
class AdaptedCity:
    """What became of a city.

    Attributes
    ----------
    city : its name.
    state : adapted; kept from an earlier call; or failed.
    reason : why.
    folder : of its card, by its name beside the others; None where there is no card.
    card, key : name and key of its card.
    step : of the weights, 0 where they are as before.
    statistics : of its normalisations: the city's, or the source's.
    """

    city: str
    state: str
    reason: str
    folder: str | None = None
    card: str | None = None
    key: str | None = None
    step: int | None = None
    statistics: str | None = None


@dataclass(frozen=True)
class AdaptedCities:
    """Where the cities are, and what became of each."""

    folder: Path
    cities: tuple[AdaptedCity, ...]

    @property
    def failed(self) -> tuple[AdaptedCity, ...]:
        """Those without a card."""
        return tuple(city for city in self.cities if city.state == "failed")


def adapt_cities(
    recipe: AdaptRecipe | str | Path | Mapping[str, Any],
    each: str | Path,
    *,
    field: str = "name",
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    look: Callable[[Checked], None] = lambda entry: None,
) -> AdaptedCities:
    """Adapt a segmenter to each city of a polygon file, from chips drawn in its polygon.

    Each city gets a folder of its own in the recipe's `out`, with card, weights and report. One
    that is there, whole, and of the same model, chips, settings, polygon and images is kept. A city
    that cannot be adapted, for want of images say, is listed with the reason in `report.json`, and
    the others are done. `cities.geojson` names those that have a card; it is written last.

    Parameters
    ----------
    recipe : an AdaptRecipe, a mapping, or the path of a recipe file; its target is the map recipe
        in whose area and mask the cities lie.
    each : polygons of the cities, in any form that natmap reads.
    field : of the file, with the name of each city.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, look : hear of steps, and of each look at the source.

    Raises
    ------
    NatmapError
        Before the first adaptation, where model, chips, target or polygons do not serve.
    """
    start = Start.of(recipe, base, tell)
    found, notes = read_named(Path(each), start.city.area, start.city.metres, name=field)
    out = start.base / start.recipe.out
    folders = _folders([city.name for city in found])
    for name in folders.values():
        start.require_other(out / name)
    boundary = start.city.boundary()
    source = _source_of(start)
    for note in notes:
        tell(f"note: {note}")
    done: list[AdaptedCity] = []
    for number, city in enumerate(found, 1):
        tell(f"city {number} of {len(found)}: {city.name}")
        within, folder = city.within(boundary), out / folders[city.name]
        if within.area <= 0:
            why = "it lies outside the mask of the target"
            done.append(AdaptedCity(city.name, "failed", why))
            tell(f"{city.name} failed: {why}")
            continue
        made_of = source | {
            "polygon": _digest([shapely.to_wkb(shapely.normalize(within))]),
            "images": _digest(s.encode() for s in start.city.stamp_near(within, 2.0 * start.side)),
        }
        card, why = _kept(folder, made_of)
        state = "adapted" if card is None else "kept"
        tell(f"{state} {city.name}: {why}" if card else f"{city.name} is adapted: {why}")
        if card is None:
            (out / CITIES).unlink(missing_ok=True)  # it may name a card that now changes
            try:
                card = _adapted(start, city, within, folder, look, made_of)
            except NatmapError as error:
                why = error.what if error.got is None else f"{error.what}: {error.got}"
                done.append(AdaptedCity(city.name, "failed", why))
                tell(f"{city.name} failed: {why}")
                continue
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        done.append(
            AdaptedCity(
                city.name,
                state,
                why,
                folder.name,
                card.name,
                card.key,
                int(report["step"]),
                str(report["statistics"]),
            )
        )
    _write(start, out, found, done)
    return AdaptedCities(out, tuple(done))


def _adapted(
    start: Start,
    city: Named,
    within: BaseGeometry,
    folder: Path,
    look: Callable[[Checked], None],
    made_of: Mapping[str, str],
) -> ModelCard:
    name = f"{start.recipe.name[: 99 - len(folder.name)]}-{folder.name}"
    return start.adapt(
        city.name, within, name, folder, look=look, city=city.name, made_of=dict(made_of)
    ).card


def _source_of(start: Start) -> dict[str, str]:
    """What all cities share, each by a digest: model, chips and settings."""
    settings = start.recipe.training.model_dump(mode="json", exclude={"preset", "device"})
    told = json.dumps([settings, start.recipe.most], sort_keys=True)
    return {
        "model": start.old.key,
        "chips": _digest(_bytes_of(start.train, start.validation)),
        "settings": _digest([told.encode()]),
    }


def _bytes_of(*parts: Chips) -> Iterable[bytes]:
    for part in parts:
        for values in (part.x, part.y, part.seen):
            if values is None:
                yield b"everywhere"
                continue
            yield str((values.shape, values.dtype)).encode()
            for row in values:  # a second copy of gigabytes is spared
                yield row.tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:_DIGITS]


def _kept(folder: Path, made_of: Mapping[str, str]) -> tuple[ModelCard | None, str]:
    """The card of an earlier call where it serves, and why it does or does not."""
    if not (folder / "card.json").is_file():
        return None, "it has no card yet"
    try:
        then = json.loads((folder / _REPORT).read_text(encoding="utf-8"))["made_of"]
        card = load_card(folder)
        verify_weights(card)
        changed = [name for name, value in made_of.items() if then.get(name) != value]
    except NatmapError as error:
        return None, f"its card is not whole ({first_line(error)})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "nothing says what its card was made of"
    if changed:
        return None, f"of another {', '.join(changed)} than its card"
    return card, f"its card is of the same {', '.join(made_of)}"


def _folders(names: Sequence[str]) -> dict[str, str]:
    """Folders by the cities' names: letters and digits that every file system takes."""
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        text = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:60]
        if not text or len(re.sub(r"\W", "", name)) > 2 * len(re.sub(r"\W", "", text)):
            # of another script: too little is left to tell it from others
            text = f"city-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if other := taken.get(text.lower()):
            raise RecipeError(
                "two cities would have one folder",
                got=f"{other} and {name}: {text}",
                expected="names that differ in letters or digits",
            )
        taken[text.lower()] = name
        found[name] = text
    return found


def _write(start: Start, out: Path, found: Sequence[Named], done: Sequence[AdaptedCity]) -> None:
    """The report, and the cities that have a card."""
    with together(out) as part:
        write_report(
            part,
            ("torch", "numpy"),
            recipe=public(start.recipe.model_dump(mode="json")),
            model={"name": start.old.name, "key": start.old.key},
            cities=[asdict(city) for city in done],
        )
    folders = {city.city: city.folder for city in done if city.folder is not None}
    features = [
        {
            "type": "Feature",
            "properties": {"name": city.name, "card": f"./{folders[city.name]}"},
            "geometry": mapping(_degrees(city)),
        }
        for city in found
        if city.name in folders
    ]
    if features:
        document = {"type": "FeatureCollection", "features": features}
        write_whole(out / CITIES, json.dumps(document, ensure_ascii=False) + "\n")
    else:
        (out / CITIES).unlink(missing_ok=True)


def _degrees(city: Named) -> BaseGeometry:
    """Its polygons as the file has them, in degrees."""
    moved = [reproject(polygon, city.crs, "EPSG:4326") for polygon in city.source]
    return shapely.MultiPolygon([p for shape in moved for p in getattr(shape, "geoms", [shape])])
