"""A review of training areas: their outlines, the ground they lie on, and what is doubtful."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.datasets.pictures import StoredImage
from engine.files import write_whole
from engine.grid.area import reproject
from engine.labels.training_areas import TrainingArea, read_training_areas
from engine.products.registry import load_recipe
from engine.publishing.areas_page import AreaCard, areas_page
from engine.store.location import location_of

__all__ = ["review"]

_MARGIN = 200.0  # metres about an area, in its picture
_STRANGE = 4.0  # spreads from the class's median, in the mean of all bands
_ENOUGH = 5  # areas of a class that can tell what is strange


def review(
    path: str | Path,
    out: str | Path = "areas.html",
    *,
    recipe: str | Path | None = None,
    field: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
    """Write a page of training areas with pictures, the doubtful ones first.

    Parameters
    ----------
    path : KML, KMZ, GeoJSON, GPKG or shapefile.
    out : the page, HTML.
    recipe : whose composite shows the ground and tells which areas look unlike their class.
    field : that holds the type; by default the folder's name, or lcz, Class or Name.
    tell : hears what was left out or repaired.

    Returns
    -------
    (areas, areas with doubts)

    Raises
    ------
    LabelError
        Where areas cannot be read, or the recipe has no composite.
    """
    found = read_training_areas(path, field=field)
    ground = None if recipe is None else _image_of(Path(recipe))
    crs = "EPSG:3857" if ground is None else ground.crs
    shapes = [reproject(area.geometry, "EPSG:4326", crs) for area in found.areas]
    strange = _strange(found.areas, shapes, ground)
    cards = []
    for area, shape, more in zip(found.areas, shapes, strange, strict=True):
        box = _frame(shape)
        cards.append(
            AreaCard(
                area.id,
                area.lcz,
                area.square_metres / 1e6,
                area.circularity,
                shapely.get_num_coordinates(area.geometry) - 1,
                _outline(shape, box),
                None if ground is None else ground.picture(box),
                (*area.doubts, *more),
            )
        )
    ids = {area.id for area in found.areas if area.doubts}
    notes = [note for note in found.notes if not any(f" {name}: " in note for name in ids)]
    for note in notes:
        tell(note)
    write_whole(Path(out), areas_page(Path(path).name, cards, notes))
    return len(cards), sum(bool(card.doubts) for card in cards)


def _image_of(recipe: Path) -> StoredImage:
    place = location_of(load_recipe(recipe).store, recipe.parent)
    return StoredImage(place, f"natmap run {recipe} --until composite")


def _frame(shape: BaseGeometry) -> tuple[float, float, float]:
    """A square about a shape: its western and northern edge, and its side."""
    west, south, east, north = shape.bounds
    side = max(east - west, north - south) + 2 * _MARGIN
    return (west + east - side) / 2, (south + north + side) / 2, side


def _outline(
    shape: BaseGeometry, box: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], ...]:
    west, north, side = box
    rings = [shape.exterior, *shape.interiors]
    return tuple(
        (np.array(ring.coords)[:, :2] - [west, north]) * [1 / side, -1 / side] for ring in rings
    )


def _strange(
    areas: Sequence[TrainingArea], shapes: Sequence[BaseGeometry], ground: StoredImage | None
) -> list[tuple[str, ...]]:
    """Areas whose colour is unlike that of the others of their class."""
    found: list[tuple[str, ...]] = [() for _ in areas]
    if ground is None:
        return found
    spectra = [ground.spectrum(shape) for shape in shapes]
    for k, spectrum in enumerate(spectra):
        if spectrum is None:
            found[k] = ("no imagery inside it",)
    for lcz in sorted({area.lcz for area in areas}):
        mine = [k for k, a in enumerate(areas) if a.lcz == lcz and spectra[k] is not None]
        if len(mine) < _ENOUGH:
            continue
        values = np.stack([spectra[k] for k in mine])  # type: ignore[misc]
        middle = np.median(values, axis=0)
        spread = 1.4826 * np.median(np.abs(values - middle), axis=0) + 0.005
        far = (np.abs(values - middle) / spread).mean(axis=1)
        for k, distance in zip(mine, far.tolist(), strict=True):
            if distance > _STRANGE:
                text = f"unlike its class: {distance:.0f} spreads from the others' colour"
                found[k] = (*found[k], text)
    return found
