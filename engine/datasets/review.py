"""A review of training areas: their outlines, the ground they lie on, and what is doubtful."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import zarr
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError
from engine.files import write_whole
from engine.grid.area import reproject
from engine.items import band_name
from engine.labels.training_areas import TrainingArea, read_training_areas
from engine.products.registry import load_recipe
from engine.publishing.areas_page import AreaCard, areas_page
from engine.store.location import location_of
from engine.store.repository import Store

__all__ = ["review"]

_MARGIN = 200.0  # metres about an area, in its picture
_BRIGHT = 0.25  # reflectance shown as white
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
    ground = None if recipe is None else _Ground(Path(recipe))
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


class _Ground:
    """A recipe's composite."""

    def __init__(self, path: Path) -> None:
        recipe = load_recipe(path)
        place = location_of(recipe.store, path.parent)
        if not Store.exists(place):
            raise LabelError(
                "there is no composite to look at",
                got=str(place),
                remedy=f"natmap run {path} --until composite",
            )
        store = Store.open(place)
        root: Any = zarr.open_group(store.reader().store, mode="r")
        self.crs: str = store.identity["crs"]
        self._bands: Any = root["composite/bands"]
        names = [band_name(name) for name in store.identity["band_names"]]
        wanted = [n for n in ("B04", "B03", "B02") if n in names] or names[:1]
        self._shown = [names.index(name) for name in (wanted * 3)[:3]]
        west, _, _, north = store.identity["bounds"]
        self._corner, self._pixel = (west, north), recipe.grid.resolution

    def _window(self, west: float, north: float, side: float) -> npt.NDArray[np.float32] | None:
        """Reflectance (band, y, x), NaN where there is none; None outside of the composite."""
        top = int((self._corner[1] - north) // self._pixel)
        left = int((west - self._corner[0]) // self._pixel)
        n = max(int(np.ceil(side / self._pixel)), 1)
        height, width = self._bands.shape[-2:]
        if top + n <= 0 or left + n <= 0 or top >= height or left >= width:
            return None
        stored = np.zeros((self._bands.shape[0], n, n), np.uint16)
        here = np.s_[max(-top, 0) : height - top, max(-left, 0) : width - left]
        rows, cols = slice(max(top, 0), top + n), slice(max(left, 0), left + n)
        part = self._bands[:, rows, cols]
        stored[:, *here][:, : part.shape[1], : part.shape[2]] = part
        values = (stored.astype(np.float32) - 1000) / 10_000
        return np.where(stored > 0, values, np.float32(np.nan))

    def picture(self, box: tuple[float, float, float]) -> npt.NDArray[np.uint8] | None:
        """True colour of a square, None where nothing of it is known."""
        values = self._window(*box)
        if values is None or np.isnan(values).all():
            return None
        shown = np.clip(np.nan_to_num(values[self._shown], nan=0.0) / _BRIGHT, 0, 1) ** 0.7
        found: npt.NDArray[np.uint8] = np.moveaxis((255 * shown).astype(np.uint8), 0, -1)
        return found

    def spectrum(self, shape: BaseGeometry) -> npt.NDArray[np.float64] | None:
        """Median of each band inside a shape."""
        west, south, east, north = shape.bounds
        side = max(east - west, north - south)
        values = self._window(west, north, side)
        if values is None:
            return None
        n = values.shape[1]
        left = self._corner[0] + self._pixel * ((west - self._corner[0]) // self._pixel)
        top = self._corner[1] - self._pixel * ((self._corner[1] - north) // self._pixel)
        x, y = np.meshgrid(
            left + (np.arange(n) + 0.5) * self._pixel, top - (np.arange(n) + 0.5) * self._pixel
        )
        inside = shapely.contains_xy(shape, x, y) & ~np.isnan(values).any(axis=0)
        if not inside.any():
            return None
        return np.asarray(np.median(values[:, inside], axis=1), np.float64)


def _strange(
    areas: Sequence[TrainingArea], shapes: Sequence[BaseGeometry], ground: _Ground | None
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
