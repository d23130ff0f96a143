"""The normal form, on real items of each catalogue, and the offset's test vector."""

from __future__ import annotations

import json
import pickle
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from engine.addresses import public_address
from engine.catalog.cards import card_names, load_boundary_card, load_source_card
from engine.catalog.normalise import normalise
from engine.catalog.signing import S3, PlanetaryComputer, make_signer
from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.catalog.versions import newest
from engine.errors import CardError, CatalogError, ItemError
from engine.items import Item


def raw(data: Path, name: str) -> dict[str, Any]:
    [path] = (data / "stac-items").glob(name)
    found = json.loads(path.read_text())
    first: dict[str, Any] = found["features"][0] if "features" in found else found
    return first


def made(data: Path, name: str, card: str) -> Item:
    return normalise(raw(data, name), load_source_card(card), "/somewhere/item.json")


@pytest.mark.parametrize(
    ("flag", "baseline", "expected"),
    [
        (True, "05.00", 0.0),
        (True, "03.00", 0.0),
        (False, "05.00", -0.1),
        (False, "03.00", 0.0),
        (None, None, 0.0),
        (None, "04.00", -0.1),
    ],
)
def test_the_offset_of_earth_search(
    data: Path, flag: bool | None, baseline: str | None, expected: float
) -> None:
    """raster:bands says -0.1 in every row; flag and baseline decide."""
    item = raw(data, "S2B_31QGB_20200831_0_L2A.json")
    item["properties"].pop("earthsearch:boa_offset_applied", None)
    item["properties"].pop("s2:processing_baseline", None)
    if flag is not None:
        item["properties"]["earthsearch:boa_offset_applied"] = flag
    if baseline is not None:
        item["properties"]["s2:processing_baseline"] = baseline
    item["properties"]["datetime"] = "2024-01-01T10:00:00Z"  # the date must not matter
    item["assets"]["blue"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1, "nodata": 0}]
    found = normalise(item, load_source_card("earth-search"))
    assert found.assets["B02"].offset == expected
    assert found.assets["SCL"].offset == 0.0


@pytest.mark.parametrize(
    ("card", "baseline", "flag", "own", "expected"),
    [
        ("earth-search-c1", "05.00", None, -0.1, -0.1),
        ("earth-search-c1", "05.00", True, -0.1, 0.0),
        ("planetary-computer", "04.00", None, None, -0.1),
        ("planetary-computer", "03.01", None, None, 0.0),
        ("planetary-computer", None, None, None, 0.0),
        ("cdse", "05.10", None, -0.1, -0.1),
        ("cdse", "02.14", None, -0.1, 0.0),
    ],
)
def test_the_offset_of_the_other_cards(
    card: str, baseline: str | None, flag: bool | None, own: float | None, expected: float
) -> None:
    source = load_source_card(card)
    properties: dict[str, Any] = {"datetime": "2020-05-01T10:00:00Z"}
    if baseline and card == "cdse":
        properties["processing:version"] = baseline
    elif baseline:
        properties["s2:processing_baseline"] = baseline
    if flag is not None:
        properties["earthsearch:boa_offset_applied"] = flag
    asset: dict[str, Any] = {"href": "s3://eodata/x.jp2"}
    if own is not None:
        asset |= {"raster:scale": 1e-4, "raster:offset": own}
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    item = {
        "id": "x",
        "collection": source.collection,
        "geometry": square,
        "properties": properties,
        "assets": {source.assets["B02"]: asset},
    }
    assert normalise(item, source).assets["B02"].offset == expected


@pytest.mark.parametrize(
    ("name", "card", "tile", "baseline", "crs"),
    [
        ("S2A_17SPR_20221106_0_L2A.json", "earth-search", "17SPR", "04.00", "EPSG:32617"),
        ("S2A_28QCH_20200714_0_L2A.json", "earth-search", "28QCH", "02.14", "EPSG:32628"),
        ("S2B_31QGB_20200831_0_L2A.json", "earth-search", "31QGB", "02.14", "EPSG:32631"),
        ("earth-search-v1-items.json", "earth-search", "31UDQ", "05.09", "EPSG:32631"),
        ("S2B_MSIL2A_20190629*080531.json", "planetary-computer", "06VVN", "02.12", "EPSG:32606"),
        ("site1-20200606*", "planetary-computer", "35MNM", "02.12", "EPSG:32735"),
        ("stactools_S2B*T33XWJ*", "cdse", "33XWJ", "04.00", "EPSG:32633"),
    ],
)
def test_real_items_of_every_form(
    data: Path, name: str, card: str, tile: str, baseline: str | None, crs: str
) -> None:
    item = made(data, name, card)
    assert (item.tile, item.baseline) == (tile, baseline)
    assert {"B02", "B03", "B04", "B08", "B11", "SCL"} <= set(item.assets)
    asset = item.assets["B02"]
    assert asset.crs == crs
    assert asset.shape == (10980, 10980)
    assert asset.transform is not None
    assert 0 in (asset.nodata, asset.card_nodata)
    assert asset.nodata in (0, None)
    assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item


@pytest.mark.parametrize(
    ("name", "lon", "day"),
    [
        ("stactools_S2A*T01KAB*", 179.76, date(2023, 8, 22)),
        ("stactools_S2B*T01VCG*", -179.2, date(2020, 9, 14)),
    ],
)
def test_footprints_at_the_antimeridian(data: Path, name: str, lon: float, day: date) -> None:
    """The solar day follows the centroid's side of the line, whatever day UTC has."""
    item = made(data, name, "earth-search")
    assert item.centroid_lon == pytest.approx(lon, abs=0.05)
    assert item.solar_day == day
    west, _, east, _ = item.bbox
    assert (east - west) % 360 < 2


def test_the_stamp_is_of_the_content(data: Path) -> None:
    item = raw(data, "S2B_31QGB_20200831_0_L2A.json")
    card = load_source_card("earth-search")
    before = normalise(item, card).stamp
    item["properties"]["updated"] = "2030-01-01T00:00:00Z"
    assert normalise(item, card).stamp == before
    for asset in item["assets"].values():
        asset["href"] += "?sig=secret&se=2030"
    assert normalise(item, card).stamp == before
    item["properties"]["s2:processing_baseline"] = "05.00"
    assert normalise(item, card).stamp != before


def test_other_levels_are_refused(data: Path) -> None:
    with pytest.raises(ItemError, match="L1C"):
        made(data, "earth-search-v1-search.json", "earth-search")


@pytest.mark.parametrize("geometry", [None, {"type": "Polygon", "coordinates": []}, {"type": "x"}])
def test_an_item_without_a_footprint_is_refused(data: Path, geometry: Any) -> None:
    item = {**raw(data, "S2A_17SPR_20221106_0_L2A.json"), "geometry": geometry}
    with pytest.raises(ItemError, match="footprint"):
        normalise(item, load_source_card("earth-search"), "/somewhere/item.json")


def test_the_newest_baseline_of_a_scene_stays(data: Path) -> None:
    old = raw(data, "S2B_31QGB_20200831_0_L2A.json")
    new = json.loads(json.dumps(old))
    new["id"], new["properties"]["s2:processing_baseline"] = "newer", "05.00"
    new["properties"]["s2:datatake_id"] = "GS2B_20200831T100559_018209_N05.00"
    card = load_source_card("earth-search")
    kept, dropped = newest([normalise(new, card), normalise(old, card)])
    assert [item.id for item in kept] == ["newer"]
    assert dropped == 1


def test_versions_are_told_by_their_ids_where_nothing_else_says_so(data: Path) -> None:
    old = raw(data, "S2A_28QCH_20200714_0_L2A.json")
    assert not {"s2:datatake_id", "s2:processing_baseline"} & set(old["properties"])
    card = load_source_card("earth-search")
    again = {**old, "id": "S2A_28QCH_20200714_1_L2A"}
    kept, dropped = newest([normalise(old, card), normalise(again, card)])
    assert [item.id for item in kept] == ["S2A_28QCH_20200714_1_L2A"]
    assert dropped == 1


@pytest.mark.parametrize("said", [{}, {"grid:code": "MGRS-33TWM"}])
def test_frames_of_one_square_and_minute_are_no_versions(said: dict[str, str]) -> None:
    """Names of frames may hold a square of the military grid, as those of scenes do."""
    ring = [[15.0, 45.0], [15.01, 45.0], [15.01, 45.01], [15.0, 45.01], [15.0, 45.0]]
    frames = [
        {
            "id": f"ortho_33TWM_{k:04}_2020-07-01",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": "2020-07-01T12:00:00Z", **said},
            "assets": {"red": {"href": f"/photos/{k}.tif"}},
        }
        for k in range(3)
    ]
    items = [normalise(frame, load_source_card("naip")) for frame in frames]
    assert {item.tile for item in items} == {"33TWM"}
    kept, dropped = newest(items)
    assert (len(kept), dropped) == (3, 0)


def test_signatures_do_not_stay_in_addresses() -> None:
    href = "https://a.blob.core.windows.net/c/x.tif"
    assert public_address(href + "?st=1&se=2&sp=rl&sig=SECRET") == href
    assert public_address(href + "?version=3&sig=SECRET") == href + "?version=3"
    assert public_address("/local/file.tif") == "/local/file.tif"


def test_snapshots_go_round_and_hold_no_secret(data: Path, tmp_path: Path) -> None:
    item = raw(data, "S2B_MSIL2A_20190629*080531.json")
    for asset in item["assets"].values():
        asset["href"] += "?sig=SECRET"
    antimeridian = made(data, "stactools_S2A*T01KAB*", "earth-search")
    items = [normalise(item, load_source_card("planetary-computer")), antimeridian]
    write_snapshot(items, tmp_path / "items.parquet")
    assert {i.id: i for i in read_snapshot(tmp_path / "items.parquet")} == {i.id: i for i in items}
    assert b"SECRET" not in (tmp_path / "items.parquet").read_bytes()
    with pytest.raises(CatalogError, match="snapshot"):
        read_snapshot(tmp_path / "none.parquet")


def test_signers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_signer(load_source_card("earth-search"))("https://x/y") == "https://x/y"
    signer = make_signer(load_source_card("planetary-computer"))
    assert isinstance(signer, PlanetaryComputer)
    assert signer("https://elsewhere.org/x.tif") == "https://elsewhere.org/x.tif"
    assert pickle.loads(pickle.dumps(signer))("https://e.org/x") == "https://e.org/x"
    s3 = make_signer(load_source_card("cdse"))
    assert isinstance(s3, S3)
    monkeypatch.delenv("CDSE_ACCESS_KEY", raising=False)
    with pytest.raises(CatalogError, match="CDSE_ACCESS_KEY"):
        s3("s3://eodata/x.jp2")
    monkeypatch.setenv("CDSE_ACCESS_KEY", "me")
    monkeypatch.setenv("CDSE_SECRET_KEY", "hush")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_ENDPOINT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "")
    assert s3("s3://eodata/x.jp2") == "/vsis3/eodata/x.jp2"
    assert "hush" not in repr(s3)


def test_every_shipped_card_loads(tmp_path: Path) -> None:
    assert len(card_names("sources")) == 5
    for name in card_names("sources"):
        assert load_source_card(name).name == name
    for name in card_names("boundaries"):
        assert load_boundary_card(name).name == name
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine\ntitle: Mine\nlicence: mine\nassets: {B02: b2}\n")
    assert load_source_card(str(own)).assets == {"B02": "b2"}
    own.write_text("name: mine\nsurprise: 1\n")
    with pytest.raises(CardError, match="card is wrong"):
        load_source_card(str(own))
    with pytest.raises(CardError, match="no such card"):
        load_source_card(str(tmp_path / "none.yaml"))
