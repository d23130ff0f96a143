"""Which asset is which band, and what its numbers are: the table of docs/assets.md, by row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from engine.catalog.cards import SourceCard, load_source_card
from engine.catalog.forms import baseline_of
from engine.catalog.ingest import ingest
from engine.catalog.names import numbering_of, understand
from engine.catalog.normalise import normalise
from engine.catalog.origin import origin_of
from engine.errors import ItemError, RecipeError
from engine.items import BANDS, Item

OWN = SourceCard(
    name="own",
    title="x",
    licence="x",
    offset="flag-then-asset",
    assets={**{name: name for name in BANDS}, "SCL": "SCL"},
)
RING = [[14.9, 46.9], [15.1, 46.9], [15.1, 47.0], [14.9, 47.0], [14.9, 46.9]]


def raw(assets: dict[str, Any], *, collection: str = "mine", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "x",
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [RING]},
        "properties": {"datetime": "2023-05-01T10:00:00Z", **properties},
        "assets": assets,
    }


def bands_of(item: Item) -> dict[str, tuple[str, int]]:
    return {name: (asset.href, asset.index) for name, asset in item.assets.items()}


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        *(
            (text, "B02")
            for text in ("B2", "b02", "Band 2", "band_02", "B02_10m", "Blue", "S2_B02")
        ),
        *((text, "B8A") for text in ("B8A", "b8a_20m", "nir08", "NIR narrow", "Band 8A")),
        ("B4, central wavelength 665 nm", "B04"),
        ("red (665 nm)", "B04"),
        ("Red Edge 2", "B06"),
        ("rededge071", "B05"),
        ("swir16", "B11"),
        ("Band 11", "B11"),
        ("scene classification", "SCL"),
        *((text, None) for text in ("rededge", "B10", "B13", "2", "band", "", "ndvi", "B0", "qa")),
    ],
)
def test_the_usual_spellings(spelt: str, name: str | None) -> None:
    assert understand(spelt) == name


@given(
    st.sampled_from(sorted(BANDS)),
    st.sampled_from(["{}", " {} ", "band {}", "{}_20m", "S2-{}"]),
    st.booleans(),
)
def test_every_band_in_every_dress(band: str, dress: str, lower: bool) -> None:
    for text in (band, band.replace("B0", "B"), BANDS[band]):
        if text == BANDS[band] and dress != " {} ":
            continue
        spelt = dress.format(text.removeprefix("B") if dress.startswith("band") else text)
        assert understand(spelt.lower() if lower else spelt) == band


def test_numbers_mean_what_the_platform_says() -> None:
    landsat = raw(
        {k: {"href": f"/{k}.tif"} for k in ("B2", "B4", "B5", "B6", "B7")}, platform="landsat-9"
    )
    found = bands_of(normalise(landsat, OWN))
    assert found == {
        "B02": ("/B2.tif", 1),
        "B04": ("/B4.tif", 1),
        "B8A": ("/B5.tif", 1),
        "B11": ("/B6.tif", 1),
        "B12": ("/B7.tif", 1),
    }
    hls = raw({"B05": {"href": "/n.tif"}}, collection="HLSL30_2.0")
    assert list(normalise(hls, OWN).assets) == ["B8A"]
    assert list(normalise(raw({"B05": {"href": "/r.tif"}}), OWN).assets) == ["B05"]
    assert numbering_of(raw({}, platform="landsat-7")) is None
    # a card says what its user wants it to say
    card = OWN.model_copy(update={"name": "mine", "assets": {"B08": "B5"}})
    assert bands_of(normalise(landsat, card))["B08"] == ("/B5.tif", 1)


def test_names_within_an_asset_are_found_and_pictures_are_not() -> None:
    whole = {
        "href": "/all.tif",
        "eo:bands": [{"name": "x"}, {"name": "B8A"}, {"name": "y", "common_name": "red"}],
    }
    picture = {"href": "/rgb.png", "roles": ["visual"], "bands": [{"name": "green"}]}
    found = bands_of(normalise(raw({"picture": picture, "data": whole}), OWN))
    assert found == {"B8A": ("/all.tif", 2), "B04": ("/all.tif", 3)}


@pytest.mark.parametrize("platform", [{"platform": "CBERS-4"}, {"constellation": "spot"}, {}])
def test_numbers_of_other_platforms_mean_nothing(platform: dict[str, str]) -> None:
    """CBERS counts green, red, infrared as 2, 3, 4; without a platform the common names tell."""
    told = ((2, "green"), (3, "red"), (4, "nir"))
    assets = {
        f"BAND{k}": {"href": f"/{k}.tif", "eo:bands": [{"name": f"BAND{k}", "common_name": name}]}
        for k, name in told
    }
    found = bands_of(normalise(raw(assets, **platform), OWN))
    assert found == {"B03": ("/2.tif", 1), "B04": ("/3.tif", 1), "B08": ("/4.tif", 1)}
    if platform:
        with pytest.raises(ItemError, match="name its bands"):
            normalise(raw({"B2": {"href": "/2.tif"}}, **platform), OWN)
    real = raw({"B02": {"href": "/2.tif"}}, platform="Sentinel-2B", instruments=["MSI"])
    assert list(normalise(real, OWN).assets) == ["B02"]


def test_two_bands_are_never_one() -> None:
    """A card without positions, and assets that name one file of several bands."""
    mine = SourceCard(name="mine", title="x", licence="x", assets={"B02": "all", "B04": "all"})
    several: dict[str, dict[str, Any]] = {key: {"href": "/all.tif"} for key in ("red", "blue")}
    for assets, card in (({"all": {"href": "/all.tif"}}, mine), (several, OWN)):
        with pytest.raises(ItemError, match="B02 and B04 in one place"):
            normalise(raw(assets), card)
    for k, asset in enumerate(several.values(), 1):
        asset["natmap:band"] = k
    assert len(normalise(raw(several), OWN).assets) == 2
    # the name of a band goes before its common name
    one = {"B08": {"href": "/8.tif", "bands": [{"name": "B08", "eo:common_name": "nir08"}]}}
    assert list(normalise(raw(one, platform="sentinel-2a"), OWN).assets) == ["B08"]


# -- scale, offset, nodata -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["raster:bands", "bands"])
def test_each_band_of_a_file_has_its_own_form(key: str) -> None:
    forms = [{"scale": 1e-4, "offset": -0.1, "nodata": 0}, {"scale": 1e-5, "nodata": -1}]
    if key == "bands":
        forms = [{f"raster:{k}" if k != "nodata" else k: v for k, v in f.items()} for f in forms]
    asset = {"href": "/two.tif", key: forms}
    card = OWN.model_copy(
        update={"name": "mine", "assets": dict.fromkeys(("B02", "B04", "B08"), "two")}
    )
    card = card.model_copy(update={"positions": {"B02": 1, "B04": 2, "B08": 3}})
    found = normalise(raw({"two": asset}), card).assets
    assert (found["B02"].scale, found["B02"].offset, found["B02"].nodata) == (1e-4, -0.1, 0)
    assert (found["B04"].scale, found["B04"].offset, found["B04"].nodata) == (1e-5, 0, -1)
    assert (found["B08"].scale, found["B08"].nodata) == (1e-4, None)  # it says nothing of the third
    one = normalise(raw({"two": {**asset, key: forms[:1]}}), card).assets  # one for all
    assert {a.offset for a in one.values()} == {-0.1}


@pytest.mark.parametrize("value", ["much", True, [1], {"a": 1}])
@pytest.mark.parametrize("key", ["nodata", "scale", "offset"])
def test_what_is_not_a_number_leaves_the_item_out(key: str, value: Any) -> None:
    asset = {"href": "/a.tif", "raster:bands": [{key: value}]}
    with pytest.raises(ItemError, match=f"its {key} is not a number"):
        normalise(raw({"B02": asset}), OWN)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"earthsearch:boa_offset_applied": "false"}, "neither true nor false"),
        ({"earthsearch:boa_offset_applied": 1}, "neither true nor false"),
        ({"s2:processing_baseline": "late"}, "not a processing baseline"),
        ({"eo:cloud_cover": True}, "not a number"),
        ({"eo:cloud_cover": "1_0"}, "not a number"),
    ],
)
def test_what_would_decide_wrongly_leaves_the_item_out(
    properties: dict[str, Any], words: str
) -> None:
    with pytest.raises(ItemError, match=words):
        normalise(raw({"B02": {"href": "/a.tif"}}, **properties), OWN)


@pytest.mark.parametrize("entries", [{"scale": 1}, "x", [{"scale": 1}, 3]])
def test_a_list_of_bands_that_is_none_leaves_the_item_out(entries: Any) -> None:
    with pytest.raises(ItemError, match="not a list of objects"):
        normalise(raw({"B02": {"href": "/a.tif", "raster:bands": entries}}), OWN)


@pytest.mark.parametrize(
    ("said", "meant"), [("N0509", "05.09"), (5.09, "05.09"), ("0509", "05.09")]
)
def test_baselines_are_understood(said: Any, meant: str) -> None:
    band = {"href": "/a.tif", "raster:bands": [{"offset": 0}]}
    found = normalise(raw({"B02": band}, **{"s2:processing_baseline": said}), OWN)
    assert found.baseline == meant


def test_the_nodata_of_a_card_may_be_nan() -> None:
    card = type(OWN).model_validate(OWN.model_dump() | {"nodata": math.nan})
    assert card.nodata is not None
    assert math.isnan(card.nodata)


def test_a_cloud_cover_that_cannot_be_says_nothing() -> None:
    found = normalise(raw({"B02": {"href": "/a.tif"}}, **{"eo:cloud_cover": -9999}), OWN)
    assert found.cloud_cover is None
    assert "eo:cloud_cover is not from 0 to 100" in " ".join(found.notes)


def test_frames_that_contradict_the_footprint_are_not_believed() -> None:
    def claim(**more: Any) -> tuple[Any, ...]:
        place = {
            "proj:epsg": 32633,
            "proj:transform": [10, 0, 490_000, 0, -10, 5_210_000],
            "proj:shape": [2000, 2000],
        }
        item = normalise(raw({"B02": {"href": "/a.tif"}}, **{**place, **more}), OWN)
        asset = item.assets["B02"]
        told = any("contradict its footprint" in note for note in item.notes)
        assert told == (asset.crs is None)
        return asset.crs, asset.transform, asset.shape

    right = claim()
    assert right == ("EPSG:32633", (10, 0, 490_000, 0, -10, 5_210_000), (2000, 2000))
    for wrong in (
        {"proj:epsg": 32634},
        {"proj:epsg": 99_999_999},
        {"proj:transform": [490_000, 10, 0, 5_210_000, 0, -10]},
        {"proj:transform": [1, 0, 490_000, 0, -1, 5_210_000]},
        {"proj:shape": [500, 2000]},
        {"proj:shape": [0, 0]},
    ):
        assert claim(**wrong) == (None, None, None), wrong
    for nothing in ({"proj:transform": "abc"}, {"proj:shape": "2000"}, {"proj:transform": [10, 0]}):
        with pytest.raises(ItemError, match="cannot be read"):
            claim(**nothing)


@pytest.mark.parametrize(
    ("form", "stated"),
    [
        ({}, False),
        ({"scale": 1e-4}, False),
        ({"offset": 0}, False),
        ({"scale": 1, "offset": 0}, True),
    ],
)
def test_what_an_item_does_not_say_the_file_may_contradict(
    form: dict[str, float], stated: bool
) -> None:
    asset = {"href": "/a.tif", "raster:bands": [form]}
    assert normalise(raw({"B02": asset}), OWN).assets["B02"].stated is stated
    flagged = raw({"B02": asset}, **{"sentinel:boa_offset_applied": True})
    assert normalise(flagged, OWN).assets["B02"].stated is ("scale" in form)
    policy = load_source_card("planetary-computer")
    assert normalise(raw({"B02": asset}), policy).assets["B02"].stated


@pytest.mark.parametrize("said", [0, -1, -5.09, -0.0, 5e-324, float("nan")])
def test_a_number_that_is_no_baseline_is_none(said: float) -> None:
    with pytest.raises(ItemError, match="not a processing baseline"):
        normalise(raw({"B02": {"href": "/a.tif"}}, **{"s2:processing_baseline": said}), OWN)


@pytest.mark.parametrize("said", ["05.09", "5.09", 5.09, "N0509", "0509", None, "unknown"])
def test_a_baseline_in_any_dress(said: Any) -> None:
    """The last two by the product's name."""
    product = "S2B_MSIL2A_20230501T100029_N0509_R122_T33TWM_20230501T160000.SAFE"
    told = {"s2:processing_baseline": said, "s2:product_uri": product}
    card = load_source_card("planetary-computer")
    item = normalise(raw({"B02": {"href": "/a.tif"}}, **told), card)
    assert (item.baseline, item.assets["B02"].offset) == ("05.09", -0.1)
    assert baseline_of({"s2:processing_baseline": 5.1}, OWN) == "05.10"
    assert baseline_of({"processing:version": "2.10"}, OWN) is None  # of anybody's processor


def test_an_offset_that_nobody_tells_is_not_guessed() -> None:
    with pytest.raises(ItemError, match="is not a processing baseline"):
        baseline_of({"s2:processing_baseline": "newest"}, OWN)
    late: dict[str, Any] = {"s2:processing_baseline": "05.09"}
    for more in ({}, {"raster:bands": [{"scale": 1e-4}]}):
        with pytest.raises(ItemError, match="does not say whether the offset"):
            normalise(raw({"B02": {"href": "/a.tif", **more}}, **late), OWN)
    told = {"href": "/a.tif", "raster:bands": [{"offset": 0}]}
    assert normalise(raw({"B02": told}, **late), OWN).assets["B02"].offset == 0
    early = raw({"B02": {"href": "/a.tif"}}, **{"s2:processing_baseline": "03.01"})
    assert normalise(early, OWN).assets["B02"].offset == 0


@pytest.mark.parametrize("text", ["2023-06-30T23:59:60Z", "2023-06-30t23:59:59z"])
def test_moments_as_rfc_3339_allows_them(text: str) -> None:
    item = normalise(raw({"B02": {"href": "/a.tif"}}, datetime=text), OWN)
    assert item.datetime.isoformat() == "2023-06-30T23:59:59+00:00"


# -- origin ----------------------------------------------------------------------------------------


def test_the_policy_follows_where_an_item_comes_from(data: Path) -> None:
    copies = sorted((data / "stac-items").glob("*.json"))
    planetary = next(p for p in copies if "T06VVN" in p.name and "raster_ext" not in p.name)
    item = json.loads(planetary.read_text())
    assert origin_of(item, OWN).name == "planetary-computer"
    item["properties"]["s2:processing_baseline"] = "05.09"
    for asset in item["assets"].values():  # taken home
        asset["href"] = "./" + asset["href"].rsplit("/", 1)[1]
    found = normalise(item, origin_of(item, OWN), "/home/item.json")
    assert found.assets["B02"].offset == -0.1
    # what its new owner states is believed
    item["assets"]["B02"]["raster:bands"] = [{"scale": 1e-4, "offset": 0}]
    assert normalise(item, origin_of(item, OWN), "/home/item.json").assets["B02"].offset == 0
    # a user's own card decides, and nothing is known of an item that names nobody
    mine = OWN.model_copy(update={"name": "mine"})
    assert origin_of(item, mine) is mine
    item["links"] = ["a", 3, {"href": "http://[x"}]
    item["properties"].pop("providers", None)
    for key, name in (("B02", "planetary-computer"), ("blue", "earth-search"), ("B02_10m", "cdse")):
        item["assets"] = {key: {"href": "./b.tif"}}
        assert origin_of(item, OWN).name == name
    assert origin_of(item | {"collection": "mine"}, OWN) is OWN
    assert origin_of(item | {"assets": ["a"]}, OWN) is OWN
    assert load_source_card("planetary-computer").hosts


# -- ingest ----------------------------------------------------------------------------------------


def write(path: Path, names: list[str], **tags: Any) -> None:
    form = {"driver": "GTiff", "height": 8, "width": 8, "count": len(names), "crs": "EPSG:32633"}
    at = {"transform": Affine(10, 0, 5e5, 0, -10, 5.2e6), "dtype": "uint16"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{**form, **at, **tags.pop("form", {})}) as file:
        file.write(np.full((len(names), 8, 8), 2000, file.dtypes[0]))
        file.descriptions = names
        for key, value in tags.items():
            setattr(file, key, value)


def described(folder: Path) -> dict[str, Any]:
    [path] = set(folder.glob("*.json")) - {folder / "catalog.json"}
    found: dict[str, Any] = json.loads(path.read_text())["assets"]
    return found


def test_a_folder_s_files_name_their_bands_and_their_scale(tmp_path: Path) -> None:
    names = ["B8", "B8A", "red edge 1", "Band 12"]
    write(tmp_path / "a" / "x_2023-05-01.tif", names, scales=(2.75e-5,) * 4, offsets=(-0.2,) * 4)
    found = ingest(tmp_path / "a")
    assets = described(found.catalog.parent)
    assert {k: a["natmap:band"] for k, a in assets.items()} == {
        "B08": 1,
        "B8A": 2,
        "B05": 3,
        "B12": 4,
    }
    assert assets["B05"]["bands"][0]["raster:scale"] == 2.75e-5
    assert assets["B05"]["bands"][0]["raster:offset"] == -0.2
    assert "scale and offset are the files'" in found.notes[0]
    found = ingest(tmp_path / "a", tmp_path / "b", scale=1e-4)
    assert described(found.catalog.parent)["B05"]["bands"][0]["raster:scale"] == 1e-4
    assert "command's" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        ([*"abcdefghij"], {}, r"not understood(.|\n)*a, b, c"),
        (["B2", "B2"], {}, r"not understood(.|\n)*each once"),
        ([""], {}, r"no names(.|\n)*one band each are not described"),
        (["B2"], {"form": {"transform": Affine.identity()}}, "no georeference"),
        (["B2"], {"scales": (0.0,)}, "scale cannot be"),
        (["B2"], {"scales": (float("nan"),)}, "scale cannot be"),
        (["B2"], {"offsets": (-1000.0,)}, r"no reflectance of its numbers(.|\n)*make 1000"),
        (["B2"], {"scales": (0.01,)}, "no reflectance of its numbers"),
        (["Band_1", "Band_2"], {}, "no names"),
        (["layer 1", "layer 2"], {}, "no names"),
    ],
)
def test_a_folder_s_files_are_not_guessed_at(
    tmp_path: Path, names: list[str], more: dict[str, Any], words: str
) -> None:
    write(tmp_path / "a" / "x_2023-05-01.tif", names, **more)
    with pytest.raises(RecipeError, match=words):
        ingest(tmp_path / "a")


@pytest.mark.parametrize("name", ["", "Alpha"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_alpha_is_no_band_wherever_it_lies(tmp_path: Path, name: str, place: int) -> None:
    names, uses = ["B02", "B04"], [ColorInterp.gray] * 2
    names.insert(place, name)
    uses.insert(place, ColorInterp.alpha)
    path = tmp_path / "a" / "x_2023-05-01.tif"
    write(path, names)
    with rasterio.open(path, "r+") as file:  # one in the making does not keep it
        file.colorinterp = uses
    for bands in (None, ["blue", "red"]):
        found = described(ingest(tmp_path / "a", tmp_path / f"{bands}", bands=bands).catalog.parent)
        at = {band: names.index(band) + 1 for band in ("B02", "B04")}
        assert {k: a["natmap:band"] for k, a in found.items()} == at
    with pytest.raises(RecipeError, match="a band twice"):
        ingest(tmp_path / "a", bands=["blue", "B02"])


def test_nodata_is_no_digital_number(tmp_path: Path) -> None:
    """Floats may be whole numbers beside a nodata that is none."""
    path = tmp_path / "a" / "x_2023-05-01.tif"
    write(path, ["blue", "red"], form={"dtype": "float32", "nodata": -9999})
    with rasterio.open(path, "r+") as file:
        values = file.read()
        values[:, :3] = -9999
        file.write(values)
    assert "B02" in described(ingest(tmp_path / "a").catalog.parent)
    with rasterio.open(path, "r+") as file:
        values[:, 5] = -1
        file.write(values)
    with pytest.raises(RecipeError, match="not whole digital numbers"):
        ingest(tmp_path / "a")
