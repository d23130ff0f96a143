"""From sites to images: the frames that show each, and patches cut from them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from odc.geo.geobox import GeoBox

from engine.catalog.search import find_source, search
from engine.datasets.chips import CUT, UNKNOWN, ChipSet, unsplit, write_chips
from engine.datasets.ground import INVALID, Ground, open_ground
from engine.datasets.site_frames import FrameOfSite, Site, as_stac, frames_of, read_sites
from engine.errors import LabelError
from engine.files import together
from engine.grid.area import Area
from engine.items import Item, cube_band, is_ground, of_period
from engine.labels.rasters import onto, require_plain
from engine.products.registry import load_recipe
from engine.recipes.sections import Imagery
from engine.recipes.sections import Images as ImagesChoice

__all__ = ["FoundFrames", "frames"]

_LIST, _ITEMS, _REPORT = "frames.csv", "items.json", "frames.json"
_FEW = 2048  # px of the least piece of a label: so far about a patch they are looked at


@dataclass(frozen=True)
class FoundFrames:
    """What was found and cut.

    Attributes
    ----------
    folder : with ``frames.csv``, ``items.json``, ``frames.json``, and ``chips`` where asked for.
    frames : of each site, the best first.
    without : sites that no frame shows.
    cut : sites of which a patch was cut.
    left_out : reason by site, of those of which none was.
    """

    folder: Path
    frames: list[list[FrameOfSite]]
    without: tuple[str, ...]
    cut: tuple[str, ...]
    left_out: dict[str, str]


def frames(
    sites: str | Path,
    recipe: str | Path,
    out: str | Path,
    *,
    most: int | None = None,
    cut: int | None = None,
    bands: Sequence[str] | None = None,
    labels: str | Path | None = None,
    mapping: str | Path | None = None,
    least_area: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> FoundFrames:
    """List the frames that show sites, and cut a patch about each.

    Parameters
    ----------
    sites : file of points or polygons; `natmap sample` writes one.
    recipe : map recipe whose images (or else imagery) are asked; patches lie on its grid.
    out : folder; an earlier list there is replaced.
    most : frames of a site; by default all.
    cut : side of a patch, px; by default none are cut. Of a recipe without images of 1 m they are
        cut from its stored composite.
    bands : of the patches; by default red, green and blue. Of a cube with periods each is of one,
        as in B04@summer; by default they are of the first.
    labels : raster of codes, whose pixels go beside the patches; by default all are unknown.
    mapping : CSV with columns ``from`` and ``to``: the level of a hierarchy that is wanted. Every
        code of the labels must be in it; ``to`` is empty where a code says nothing.
    least_area : m2; connected pixels of one code that are fewer go to their largest neighbour, as
        GDAL sieves them.

    Raises
    ------
    NatmapError
        Before any frame is read, where sites, recipe, labels or the table cannot be used; where
        the catalogue has no frame, or no patch can be cut.
    """
    base, where = Path(recipe).parent, Path(out)
    told = load_recipe(Path(recipe))
    if cut is not None and not 8 <= cut <= 4096:
        raise LabelError("the side of a patch cannot be meant", got=cut, expected="8 to 4096 px")
    if cut is None and (labels is not None or mapping is not None or least_area):
        raise LabelError("labels, mapping and least_area go with patches", remedy="add --cut SIDE")
    if (mapping is not None or least_area) and labels is None:
        raise LabelError("mapping and least_area go with labels", remedy="add --labels RASTER")
    if not 0 <= least_area < math.inf:
        raise LabelError(
            "the least area is out of range", got=least_area, expected="0 m2 or more, finite"
        )
    found_sites = read_sites(Path(sites), told.grid.crs)
    if labels is not None:
        _require_labels(Path(labels))
    table = None if mapping is None else read_mapping(Path(mapping))
    periods = told.cube.labels if hasattr(told, "cube") else {}
    wanted = tuple(
        name if is_ground(name) else cube_band(name) for name in bands or _colours(periods)
    )
    images = getattr(told, "images", None)
    order: str | tuple[str, ...] = "newest"
    imagery: Any
    if isinstance(images, ImagesChoice):
        imagery, order, periods = images.wanted, images.order, {}
    else:
        imagery = getattr(told, "imagery", None)
    if not isinstance(imagery, Imagery):
        raise LabelError(
            "the recipe names no catalogue of images",
            got=f"{recipe}: product {told.product}",
            expected="a recipe with images, or with imagery",
        )
    side = (cut or 0) * told.grid.resolution
    card, place = find_source(imagery, base)
    tell(f"searching {card.name}")
    around, read = _ground(found_sites, told.grid.crs, side), _as_scenes_have(wanted)
    items = search(card, place, around, imagery, read, base, periods)
    listed = frames_of(found_sites, items.items, told.grid.crs, side=side, order=order, most=most)
    without = tuple(s.name for s, mine in zip(found_sites, listed, strict=True) if not mine)
    if len(without) == len(found_sites):
        raise LabelError("no frame of the catalogue shows a site", got=f"{len(without)} sites")
    chips, done, left_out = None, list[str](), dict[str, str]()
    if cut is not None:
        ground = open_ground(Path(recipe), wanted)
        cutter = _Cutter(ground, cut, None if labels is None else Path(labels), table, least_area)
        chips, done, left_out = cutter.cut(found_sites, set(without), tell)
    shown = {frame.frame for mine in listed for frame in mine}
    used = [item for item in items.items if item.id in shown]
    result = FoundFrames(where, listed, without, tuple(done), left_out)
    if chips is not None:
        write_chips(where / CUT, chips, sites=done)
    _write(result, used, where)
    return result


def _colours(periods: Iterable[str]) -> list[str]:
    """Red, green and blue; of a cube with periods those of the first."""
    of = next((f"@{label}" for label in periods), "")
    return [f"{band}{of}" for band in ("B04", "B03", "B02")]


def _as_scenes_have(bands: Iterable[str]) -> tuple[str, ...]:
    """The bands of scenes that a cube's bands are made of; features are of none."""
    return tuple(dict.fromkeys(of_period(name)[0] for name in bands if not is_ground(name)))


def _ground(sites: Sequence[Site], crs: str, side: float) -> Area:
    """Squares about the sites."""
    half = max(side / 2, 1.0)
    boxes = [shapely.box(x - half, y - half, x + half, y + half) for x, y in (s.xy for s in sites)]
    return Area(shapely.union_all(boxes), crs)


def read_mapping(path: Path) -> dict[int, int]:
    """A table of codes: what each becomes; `UNKNOWN` where ``to`` is empty.

    Raises
    ------
    LabelError
        Where it cannot be read, a code is given twice, or is not a whole number from 0 to 254.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError("the mapping cannot be read", got=f"{path.name}: {error}") from error
    if not rows or not {"from", "to"} <= set(rows[0]):
        raise LabelError(
            "the mapping has no columns from and to, or no row",
            got=f"{path.name}: {', '.join(map(str, rows[0])) if rows else 'nothing'}",
        )
    found: dict[int, int] = {}
    for number, row in enumerate(rows, 2):
        old, new = (str(row[key] or "").strip() for key in ("from", "to"))
        if not old.isdecimal() or int(old) > 65_535 or (new and not _is_code(new)):
            raise LabelError(
                f"line {number} of the mapping maps no code",
                got=f"{old or 'nothing'} to {new or 'nothing'}",
                expected="whole numbers, of 0 to 254 in the column to",
            )
        if int(old) in found:
            raise LabelError(f"line {number} of the mapping maps a code again", got=old)
        found[int(old)] = int(new) if new else UNKNOWN
    return found


def _is_code(text: str) -> bool:
    return text.isdecimal() and int(text) < UNKNOWN


def _require_labels(path: Path) -> None:
    try:
        with rasterio.open(path) as file:
            require_plain(file, LabelError)
            if file.crs is None:
                raise LabelError("the labels have no georeference", got=path.name)
    except rasterio.errors.RasterioError as error:
        raise LabelError("the labels cannot be read", got=error) from error


class _Cutter:
    """Cuts patches about sites, with labels beside them."""

    def __init__(
        self,
        ground: Ground,
        side: int,
        labels: Path | None,
        table: dict[int, int] | None,
        least_area: float,
    ) -> None:
        self.ground, self.side, self.table = ground, side, table
        self.few = math.ceil(least_area / ground.metres**2)
        if self.few > _FEW:
            raise LabelError(
                "the least area is larger than can be looked at about a patch",
                got=f"{least_area:g} m2, {self.few} px",
                expected=f"{_FEW} px at most",
            )
        self.labels = labels

    def cut(
        self, sites: Sequence[Site], without: set[str], tell: Callable[[str], None]
    ) -> tuple[ChipSet, list[str], dict[str, str]]:
        """The patches, the sites that have one, and why others have none."""
        x, y, seen, xy = [], [], [], []
        done: list[str] = []
        left_out = dict.fromkeys((s.name for s in sites if s.name in without), "no frame")
        shown = [site for site in sites if site.name not in without]
        windows = [self._window(site) for site in shown]
        masks = [self._mask(window) for window in windows]  # which may be refused, before images
        tell(f"cutting {len(shown)} patches")
        for site, window, mask in zip(shown, windows, masks, strict=True):
            pixels = self.ground.read(window, self.side)
            if pixels.valid.mean() < 1 - INVALID:
                left_out[site.name] = f"{1 - pixels.valid.mean():.0%} of it have no data"
                continue
            x.append(pixels.bands)
            seen.append(pixels.valid)
            y.append(np.where(pixels.valid, mask, UNKNOWN).astype(np.uint8))
            west, south, east, north = self.ground.box(window, self.side).boundingbox.bbox
            xy.append(((west + east) / 2, (south + north) / 2))
            done.append(site.name)
        if not x:
            raise LabelError(
                "no patch can be cut",
                got="; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3]),
                remedy="look at the recipe's images, and at where the sites lie",
            )
        n = len(x)
        chips = ChipSet(
            np.stack(x),
            np.stack(y),
            np.array(xy, np.float64),
            np.zeros(n, np.uint16),
            unsplit(n),
            self.ground.bands,
            (self.ground.name,),
            np.stack(seen),
            self.ground.metres,
            dict(self.ground.ranges),
            self.ground.grid.crs,
        )
        return chips, done, left_out

    def _window(self, site: Site) -> tuple[int, int]:
        """The site lies in its middle: of an even side at the nearest corner of pixels."""
        x0, y0 = self.ground.grid.anchor
        x, y = site.xy
        at = (y0 - y) / self.ground.metres, (x - x0) / self.ground.metres
        row, col = (math.floor(v) if self.side % 2 else round(v) for v in at)
        return row - self.side // 2, col - self.side // 2

    def _mask(self, window: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Codes of a window, mapped, without what is small; 255 unknown."""
        if self.labels is None:
            return np.full((self.side, self.side), UNKNOWN, np.uint8)
        # a piece that goes on beyond a rim of so many pixels has as many within it
        rim = self.few if self.few > 1 else 0
        wide = self.ground.box((window[0] - rim, window[1] - rim), self.side + 2 * rim)
        codes = self._mapped(self._read(wide))
        if self.few > 1:
            known = codes != UNKNOWN
            codes = rasterio.features.sieve(codes, self.few, mask=known, connectivity=4)
            codes = np.where(known, codes, UNKNOWN).astype(np.uint8)
        return codes[rim : rim + self.side, rim : rim + self.side]

    def _read(self, box: GeoBox) -> npt.NDArray[np.float64]:
        assert self.labels is not None, "there are labels"
        try:
            with (
                rasterio.open(self.labels) as file,
                onto(file, str(box.crs), box.transform, (box.shape[0], box.shape[1])) as view,
            ):
                found: npt.NDArray[np.float64] = view.read(1)
        except rasterio.errors.RasterioError as error:
            raise LabelError("the labels cannot be read", got=error) from error
        return found

    def _mapped(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        known = np.isfinite(values)
        codes = np.unique(values[known])
        table = self.table if self.table is not None else {UNKNOWN: UNKNOWN}
        strange = [
            code
            for code in codes.tolist()
            if code not in table and (self.table is not None or not _is_code(f"{code:g}"))
        ]
        if strange:
            raise LabelError(
                "the labels hold codes that the mapping lacks"
                if self.table is not None
                else "the labels hold values that are no codes",
                got=", ".join(f"{code:g}" for code in strange[:10]),
                expected="whole numbers of 0 to 254"
                if self.table is None
                else "each code in the column from; to may be empty",
            )
        found = np.full(values.shape, UNKNOWN, np.uint8)
        for code in codes.tolist():
            found[values == code] = table.get(int(code), int(code))
        return found


def _write(found: FoundFrames, items: Sequence[Item], folder: Path) -> None:
    with together(folder, _REPORT) as part:
        with (part / _LIST).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(FrameOfSite._fields)
            for mine in found.frames:
                table.writerows(["" if v is None else v for v in frame] for frame in mine)
        (part / _ITEMS).write_text(json.dumps(as_stac(items), indent=1) + "\n", encoding="utf-8")
        told: dict[str, Any] = {k: v for k, v in asdict(found).items() if k in _TOLD}
        told |= {"sites": len(found.frames), "frames": len(items)}
        (part / _REPORT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


_TOLD = ("without", "cut", "left_out")
