"""A corner of a synthetic world, as a run leaves it, for pages on which people label its sites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
import zarr

from engine.grid import Grid
from engine.models.coding import encode_ground
from engine.store.arrays import ArraySpec
from engine.store.digests import commit
from engine.store.repository import Store
from engine.synthetic.country import to_degrees
from engine.synthetic.districts import World
from engine.synthetic.materials import BANDS as SEEN
from engine.synthetic.materials import COVER, Cover, spectra
from engine.synthetic.scene import CRS
from engine.synthetic.surface import paint
from support.worlds import photograph

WORLD = World(5)
BOUNDS = 4_465_600, 2_932_800, 4_467_200, 2_934_400
"""Left, bottom, right and top, metres of the world's CRS."""
BANDS = ("B02", "B03", "B04", "B08")
SITES = {  # metres from the upper left corner, and the class of the ground
    "estate": ((1300, 200), 5),
    "halls": ((850, 550), 8),
    "meadow": ((190, 500), 14),
    "plots": ((600, 1250), 9),
    "pasture": ((1400, 1400), 14),
    "under cloud": ((1400, 1000), 12),
}
PHOTOS = 480, 150, 800
"""Of the ground with images of 1 m: left, top and side, from the upper left corner."""

_SHARES = ("building", "pervious", "impervious", "trees", "scrub", "low", "bare", "rock", "water")
_OTHER = ("pervious", "impervious", "low")  # what no kind of cover is called
_SPANS = {
    "height.mean": (0.0, 100.0), "height.std": (0.0, 100.0), "height.max": (0.0, 100.0),
    "height.share": (0.0, 1.0), "height.known": (0.0, 1.0),
    **{f"cover.{name}": (0.0, 1.0) for name in (*_SHARES, "known")},
}  # fmt: skip
_SIDE = 1600


def build_town(folder: Path) -> Path:
    """A store with composite and features, images of 1 m, `sites.geojson`; its recipe's path.

    Most buildings of the estate have no height, so that sources contradict each other.
    """
    bands, ground = _painted()
    west, south, east, north = BOUNDS
    grid = Grid.fit((west, south, east, north), crs=CRS, tile_size=float(_SIDE))
    specs = [
        ArraySpec("composite/bands", "uint16", 10.0, _SIDE // 10, 0, leading=(("band", BANDS),)),
        ArraySpec(
            "features/bands", "uint16", 10.0, _SIDE // 10, 0, leading=(("band", tuple(_SPANS)),),
            attrs={"ranges": {name: list(span) for name, span in _SPANS.items()}},
        ),
    ]  # fmt: skip
    store = Store.create(folder / "store", grid, specs, band_names=list(BANDS))
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["composite/bands"][:] = bands
    root["features/bands"][:] = np.stack(
        [encode_ground(ground[name], *span) for name, span in _SPANS.items()]
    )
    commit(session, "by hand")
    left, top, side = PHOTOS
    box = west + left, north - top - side, west + left + side, north - top
    photograph(WORLD, box, folder / "photos")
    area = to_degrees(shapely.box(west, south, east, north))
    (folder / "area.geojson").write_text(shapely.to_geojson(area))
    recipe = {
        "name": "Neustadt", "product": "lcz", "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "resolution": 10, "tile": _SIDE // 10}, "store": "./store",
        "imagery": {"catalog": "nowhere.json", "period": "2023-01-01/2023-12-31"},
        "images": {"catalog": "photos/catalog.json"},
        "features": [
            {"name": "height", "kind": "heights", "path": "h.tif", "year": 2020, "absent": 0},
            {"name": "cover", "kind": "classes", "path": "c.tif", "year": 2020,
             "classes": {name: k for k, name in enumerate(_SHARES, 1)}},
        ],
    }  # fmt: skip
    features = [
        {"type": "Feature", "properties": {"id": name},
         "geometry": json.loads(shapely.to_geojson(
             to_degrees(shapely.Point(west + x, north - y))))}
        for name, ((x, y), _) in SITES.items()
    ]  # fmt: skip
    sites = {"type": "FeatureCollection", "features": features}
    (folder / "sites.geojson").write_text(json.dumps(sites))
    path = folder / "town.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def _painted() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Composite (band, y, x) and planes of features, of pixels of 10 m."""
    left, _, _, top = BOUNDS
    seen = paint(WORLD, left, top, _SIDE, _SIDE)
    take = [SEEN.index(name) for name in BANDS]
    tables = np.stack([spectra(WORLD.seed, key, 190)[:, take] for key in seen.cities])
    light = tables[seen.city, seen.material] * (seen.tone[..., None] / 128)
    bands = np.stack([_mean(light[..., k]) for k in range(len(BANDS))])
    bands = np.rint(bands * 10_000 + 1000).astype(np.uint16)
    bands[:, 80:120, 120:] = 0
    kind = COVER[seen.material]
    of = {name: Cover[name.upper()] for name in _SHARES if name not in _OTHER}
    of |= {"low": Cover.LOW_PLANTS, "impervious": Cover.PAVED}
    share = {name: _mean(kind == cover) for name, cover in of.items()}
    share["pervious"] = sum(share[name] for name in ("trees", "scrub", "low", "bare"))
    built = kind == Cover.BUILDING
    x, y = SITES["estate"][0]
    built[y - 160 : y + 160, x - 160 : x + 80] = False
    high = np.where(built, seen.height, 0).astype(np.float64)
    mean = _mean(high)
    ground = {f"cover.{name}": plane for name, plane in share.items()} | {
        "height.mean": mean, "height.share": _mean(built),
        "height.std": np.sqrt(np.maximum(_mean(high**2) - mean**2, 0)),
        "height.max": high.reshape(160, 10, 160, 10).max((1, 3)),
        "height.known": np.ones_like(mean), "cover.known": np.ones_like(mean),
    }  # fmt: skip
    return bands, {name: np.clip(ground[name], *span) for name, span in _SPANS.items()}


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each 10 x 10 pixels of 1 m."""
    rows, cols = values.shape
    return values.reshape(rows // 10, 10, cols // 10, 10).mean((1, 3), dtype=np.float64)
