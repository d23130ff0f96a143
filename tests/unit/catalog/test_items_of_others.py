"""Items as other catalogues write them: levels, pictures, copies of a band, systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyproj import CRS

from engine.catalog.cards import SourceCard
from engine.catalog.normalise import normalise
from engine.cube.radiometry import find_suspect
from engine.errors import ItemError
from engine.items import BANDS, Asset, Item

OWN = SourceCard(
    name="own",
    title="x",
    licence="x",
    offset="flag-then-asset",
    assets={**{name: name for name in BANDS}, "SCL": "SCL"},
)
RING = [[14.9, 46.9], [15.1, 46.9], [15.1, 47.0], [14.9, 47.0], [14.9, 46.9]]


def made(
    assets: dict[str, Any], *, id: str = "x", collection: str = "c", **properties: Any
) -> Item:
    raw = {
        "type": "Feature",
        "id": id,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [RING]},
        "properties": {"datetime": "2023-05-01T10:00:00Z", **properties},
        "assets": assets,
    }
    return normalise(raw, OWN)


def hrefs(item: Item) -> dict[str, str]:
    return {name: asset.href for name, asset in item.assets.items()}


@pytest.mark.parametrize(
    "said",
    [
        {"collection": "landsat-c2l1"},
        {"collection": "landsat-c2-l1"},
        {"collection": "sentinel-2-l1c"},
        {"collection": "LANDSAT_LC08_C02_T1_TOA"},
        {"id": "LC08_L1TP_190027_20230501_20230508_02_T1", "platform": "landsat-8"},
        {"landsat:correction": "L1GT"},
        {"processing:level": "Level-1C"},
        {"processing:level": "1C"},
        {"product:type": "S2MSI1C"},
        {"s2:product_type": "S2MSI1C"},
    ],
)
def test_what_is_no_surface_reflectance_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(ItemError, match="level 1"):
        made({"B02": {"href": "a"}}, **said)


@pytest.mark.parametrize(
    "said",
    [
        {"collection": "landsat-c2-l2"},
        {"collection": "landsat-c2l2-sr"},
        {"id": "LC08_L2SP_190027_20230501_20230508_02_T1", "platform": "landsat-8"},
        {"landsat:correction": "L2SP"},
        {"processing:level": "L2A"},
        {"product:type": "S2MSI2A"},
        {"id": "flight_L12_2023", "collection": "all1"},
    ],
)
def test_level_2_is_read(said: dict[str, str]) -> None:
    assert hrefs(made({"blue": {"href": "a"}}, **said)) == {"B02": "a"}


def test_a_picture_is_no_band_where_other_assets_have_bands() -> None:
    """Catalogues give it the role `data`, and list its colours as bands."""
    colours = [{"name": "B04"}, {"name": "B03"}, {"name": "B02", "common_name": "blue"}]
    picture = {"href": "tci", "roles": ["data"], "eo:bands": colours}
    one = {"href": "a", "roles": ["data"], "eo:bands": [{"name": "B02"}]}
    for name in ("visual", "TCI_10m", "overview", "rendered_preview", "true-color"):
        assert hrefs(made({name: picture, "img_0": one})) == {"B02": "a"}
        assert hrefs(made({name: picture, "B02": {"href": "b"}})) == {"B02": "b"}
        assert set(hrefs(made({name: picture}))) == {"B02", "B03", "B04"}  # there is nothing else


def test_of_copies_of_a_band_the_finest_is_taken() -> None:
    assets = {f"B02_{size}m": {"href": str(size)} for size in (60, 10, 20)}
    assets |= {f"SCL_{size}m": {"href": str(size)} for size in (60, 20)}
    assert hrefs(made(assets)) == {"B02": "10", "SCL": "20"}
    sizes = {"Band 2 coarse": 60, "b02": 10}
    assert hrefs(made({k: {"href": k, "gsd": v} for k, v in sizes.items()})) == {"B02": "b02"}


@pytest.mark.parametrize(
    "system",
    [
        {"proj:code": "EPSG:32633"},
        {"proj:epsg": 32633},
        {"proj:epsg": 32633.0},  # of a table with gaps
        {"proj:epsg": None, "proj:wkt2": CRS.from_epsg(32633).to_wkt()},
        {"proj:projjson": CRS.from_epsg(32633).to_json_dict()},
    ],
)
def test_a_system_in_any_of_the_extension_s_fields(system: dict[str, Any]) -> None:
    frame = {"proj:transform": [10, 0, 492380, 0, -10, 5205250], "proj:shape": [1200, 1600]}
    asset = made({"B02": {"href": "a"}}, **frame, **system).assets["B02"]
    assert asset.crs is not None
    assert CRS.from_user_input(asset.crs) == CRS.from_epsg(32633)
    assert asset.shape == (1200, 1600)


def test_a_scale_that_makes_no_reflectance_makes_the_item_suspect() -> None:
    """2,000 is 20 % where numbers are percent x 100, and the item says 0.01."""
    dn = np.ma.masked_equal(np.full((20, 20), 2000, np.uint16), 0)
    for scale, suspect in ((1e-4, False), (0.01, True)):
        found = find_suspect({"B02": dn}, {"B02": Asset("a", scale=scale)})
        assert (found is not None) is suspect
