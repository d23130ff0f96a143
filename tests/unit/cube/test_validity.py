"""What says that a pixel has no data: every combination, against the table of docs/assets.md."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from engine.cube.read import read_asset, read_day, sample_item
from engine.errors import ReadError
from engine.items import Asset, Item

CRS, SIDE, WEST, NORTH = "EPSG:32633", 8, 500_000, 5_200_000
AT = Affine(10, 0, WEST, 0, -10, NORTH)
BOX = GeoBox((SIDE, SIDE), AT, CRS)
GROUND = {
    "type": "Polygon",
    "coordinates": [[[14.9, 46.9], [15.1, 46.9], [15.1, 47.0], [14.9, 47.0], [14.9, 46.9]]],
}


def item(assets: dict[str, Asset], **more: Any) -> Item:
    return Item(
        id="x",
        collection="c",
        source="own",
        datetime=datetime(2023, 5, 1, 10, tzinfo=UTC),
        bbox=(14.9, 46.9, 15.1, 47.0),
        geometry=GROUND,
        centroid_lon=15.0,
        stamp="s",
        assets=assets,
        **more,
    )


def write(path: Path, values: np.ndarray, **more: Any) -> Path:
    values = values[None] if values.ndim == 2 else values
    form = {"driver": "GTiff", "crs": CRS, "transform": AT, "dtype": values.dtype}
    count, height, width = values.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, **{**form, **more}
    ) as file:
        file.write(values)
    return path


def read(one: Item, name: str = "B02") -> tuple[np.ndarray, np.ndarray]:
    return read_asset(one, name, BOX, (0.0, 0.0))


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(["uint16", "int16", "float32"]),
    of_item=st.sampled_from([None, 0.0, 500.0, -9999.0, 65535.0, math.nan]),
    of_file=st.sampled_from([None, 0, 500, -9999, 65535]),
    of_card=st.sampled_from([None, 0.0]),
    hidden=st.sampled_from(["nothing", "mask", "beside", "alpha", "alpha and mask"]),
    offset=st.sampled_from([0.0, -0.1]),
)
def test_any_combination_of_what_declares_no_data(
    kind: str,
    of_item: float | None,
    of_file: float | None,
    of_card: float | None,
    hidden: str,
    offset: float,
) -> None:
    limits = (-3e38, 3e38) if kind == "float32" else _limits(kind)
    if of_file is not None and not limits[0] <= of_file <= limits[1]:
        of_file = None
    values = np.full((SIDE, SIDE), 2000, kind)
    marks = [n for n in (0, 500, -9999, 65535) if limits[0] <= n <= limits[1]]
    for row, number in enumerate(marks):
        values[row] = number
    if kind == "float32":
        values[5], values[6, :3], values[6, 3:] = np.nan, np.inf, -np.inf
    opaque, masked = np.ones((2, SIDE, SIDE), bool)
    opaque[:, 6:] = "alpha" not in hidden
    masked[:, :2] = hidden in ("nothing", "alpha")
    expected = _expected(values, of_item, of_file, of_card, offset) & opaque & masked
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.tif"
        bands = values[None]
        if "alpha" in hidden:
            bands = np.stack([values, np.where(opaque, 255, 0).astype(kind)])
        write(path, bands, nodata=of_file)
        inside = hidden != "beside"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as f:
            if "alpha" in hidden:
                f.colorinterp = ColorInterp.gray, ColorInterp.alpha
            if not masked.all():
                f.write_mask(np.where(masked, 255, 0).astype(np.uint8))
        asset = Asset(str(path), nodata=of_item, card_nodata=of_card, offset=offset)
        found, valid = read(item({"B02": asset}))
        np.testing.assert_array_equal(valid, expected)
        np.testing.assert_array_equal(found[expected], values[expected])
        sampled = sample_item(item({"B02": asset}), ["B02"], spacing=10)["B02"]
        wrapped = (kind == "uint16") & (values > 60_000)
        np.testing.assert_array_equal(np.ma.getmaskarray(sampled)[~wrapped], ~expected[~wrapped])


def _limits(kind: str) -> tuple[int, int]:
    return np.iinfo(kind).min, np.iinfo(kind).max


def _expected(
    values: np.ndarray,
    of_item: float | None,
    of_file: float | None,
    of_card: float | None,
    offset: float,
) -> np.ndarray:
    """The table, written out pixel by pixel."""
    first = of_item if of_item is not None else of_file if of_file is not None else of_card
    out = np.ones(values.shape, bool)
    for at, value in np.ndenumerate(values):
        empty = not math.isfinite(value) or value == first
        if of_file is not None and of_file != first:
            empty |= value == of_file and not -0.1 < of_file * 1e-4 + offset < 6.0
        empty |= values.dtype == np.uint16 and value > 60_000
        out[at] = not empty
    return out


def test_each_band_of_a_file_has_its_own_number(tmp_path: Path) -> None:
    """As GDAL keeps it beside a file: `.aux.xml` has a value for each band."""
    values = np.full((2, SIDE, SIDE), 2000, np.int16)
    values[0, 0], values[1, 1] = -1, -2
    path = write(tmp_path / "two.tif", values)
    (tmp_path / "two.tif.aux.xml").write_text(
        "<PAMDataset>"
        + "".join(
            f'<PAMRasterBand band="{k}"><NoDataValue>{-k}</NoDataValue></PAMRasterBand>'
            for k in (1, 2)
        )
        + "</PAMDataset>"
    )
    assets = {b: Asset(str(path), nodata=None, index=k) for k, b in ((1, "B02"), (2, "B03"))}
    for row, band in enumerate(assets):
        _, valid = read(item(assets), band)
        assert [*np.flatnonzero(~valid.all(axis=1))] == [row]


def test_a_mask_never_bleeds_into_what_lies_beside_it(tmp_path: Path) -> None:
    """Off the file's lattice: hidden pixels have no weight."""
    values = np.full((SIDE, SIDE), 2000, np.uint16)
    values[:, 4:] = 9000
    path = write(tmp_path / "m.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.where(values < 9000, 255, 0).astype(np.uint8))
    box = GeoBox((SIDE, SIDE), AT * Affine.translation(0.3, 0.4), CRS)
    found, valid = read_asset(item({"B02": Asset(str(path), nodata=None)}), "B02", box, (0.0, 0.0))
    assert valid[:, :3].all()
    assert not valid[:, 4:].any()
    assert set(found[valid].tolist()) == {2000}


def test_infinity_never_bleeds_into_what_lies_beside_it(tmp_path: Path) -> None:
    values = np.full((SIDE, SIDE), 2000, np.float32)
    values[:, 4:] = np.inf
    path = write(tmp_path / "i.tif", values)
    box = GeoBox((SIDE, SIDE), AT * Affine.translation(0.3, 0.4), CRS)
    found, valid = read_asset(item({"B02": Asset(str(path), nodata=None)}), "B02", box, (0.0, 0.0))
    assert valid[:, :3].all()
    assert not valid[:, 4:].any()
    assert set(found[valid].tolist()) == {2000}


def test_numbers_that_came_round_are_no_data(tmp_path: Path) -> None:
    values = np.full((SIDE, SIDE), 2000, np.uint16)
    values[0, :2] = 64_536  # -1,000 in 16 bits
    path = write(tmp_path / "w.tif", values)
    asset = Asset(str(path), nodata=0.0)
    day = read_day([item({"B02": asset})], ["B02"], BOX, (0.0, 0.0))
    assert (day.bands[0] == 0).sum() == 2
    # another product's scale makes such numbers reflectances
    landsat = item({"B02": replace(asset, scale=2.75e-5, offset=-0.2)})
    day = read_day([landsat], ["B02"], BOX, (0.0, 0.0))
    assert day.bands[0, 0, 0] == round((64_536 * 2.75e-5 - 0.2) * 1e4 + 1000)


def test_a_scale_that_only_the_file_states_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", np.full((SIDE, SIDE), 14_909, np.uint16))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2.75e-5,), (-0.2,)
    with pytest.raises(ReadError, match=r"only the file says(.|\n)*2.75e-05"):
        read(item({"B02": Asset(str(path), stated=False)}))
    assert read(item({"B02": Asset(str(path), scale=2.75e-5, offset=-0.2)}))[1].all()


def test_a_file_that_does_not_reach_a_place_of_its_footprint_is_a_failure(tmp_path: Path) -> None:
    far = Affine(10, 0, WEST + 4000, 0, -10, NORTH)
    path = write(tmp_path / "far.tif", np.full((SIDE, SIDE), 2000, np.uint16), transform=far)
    day = read_day([item({"B02": Asset(str(path))})], ["B02"], BOX, (0.0, 0.0))
    assert "do not reach a place that its footprint holds" in day.failures[0].error
    assert (day.scl == 254).all()


def test_contradictions_are_told_and_the_file_is_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tif", np.full((SIDE, SIDE), 2000, np.uint16))
    told: list[str] = []
    wrong = Asset(str(path), crs="EPSG:32634", transform=tuple(AT)[:6], shape=(SIDE, SIDE))
    sample_item(item({"B02": wrong}), ["B02"], tell=told.append)
    assert told == ["the file of x is believed, the item says other CRS"]
    assert read(item({"B02": wrong}))[1].all()
    told.clear()
    wrong = replace(wrong, crs=CRS, shape=(SIDE, 2 * SIDE))
    sample_item(item({"B02": wrong}), ["B02"], tell=told.append)
    assert told == ["the file of x is believed, the item says other extent"]
    right = replace(wrong, shape=(SIDE, SIDE))
    sample_item(item({"B02": right}), ["B02"], tell=told.append)
    assert len(told) == 1


def test_a_virtual_file_under_another_name_is_not_opened(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif", np.full((SIDE, SIDE), 2000, np.uint16))
    text = f"""<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{CRS}</SRS>
    <GeoTransform>{WEST}, 10, 0, {NORTH}, 0, -10</GeoTransform>
    <VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
    <SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
    </VRTRasterBand></VRTDataset>"""
    (tmp_path / "harmless.tif").write_text(text)
    with pytest.raises(ReadError, match="B02 of x cannot be read"):
        read(item({"B02": Asset(str(tmp_path / "harmless.tif"))}))
    (tmp_path / "own.vrt").write_text(text)
    assert read(item({"B02": Asset(str(tmp_path / "own.vrt"))}))[1].all()


def test_a_mask_of_one_band_hides_that_band(tmp_path: Path) -> None:
    """Beside a file, a mask may have a band for each of its bands."""
    path = write(tmp_path / "two.tif", np.full((2, SIDE, SIDE), 2000, np.uint16))
    shows = np.full((2, SIDE, SIDE), 255, np.uint8)
    shows[0, :2], shows[1, :, :3] = 0, 0
    beside = write(tmp_path / "two.tif.msk", shows, crs=None, transform=Affine.identity())
    with rasterio.open(beside, "r+") as file:
        file.update_tags(INTERNAL_MASK_FLAGS_1="0", INTERNAL_MASK_FLAGS_2="0")
    for k in (1, 2):
        one = item({"B02": Asset(str(path), nodata=None, index=k)})
        np.testing.assert_array_equal(read(one)[1], shows[k - 1] > 0)


@pytest.mark.parametrize("number", [math.inf, -math.inf, 0.5, 1e300])
def test_a_number_that_the_type_has_not_hides_nothing(tmp_path: Path, number: float) -> None:
    path = write(tmp_path / "a.tif", np.full((SIDE, SIDE), 2000, np.uint16))
    between = GeoBox((SIDE, SIDE), AT * Affine.translation(0.3, 0.4), CRS)  # resampled
    for box in (BOX, between):
        one = item({"B02": Asset(str(path), nodata=number)})
        assert read_asset(one, "B02", box, (0.0, 0.0))[1][:-1, :-1].all()


def test_what_is_not_rectified_or_not_real_is_a_failure(tmp_path: Path) -> None:
    """Also where the item claims a grid for it."""
    path = write(
        tmp_path / "raw.tif", np.full((SIDE, SIDE), 2000, np.uint16),
        crs=None, transform=Affine.identity(),
    )  # fmt: skip
    corners = ((0, 0, 0), (0, SIDE, 80), (SIDE, 0, 30))
    with rasterio.open(path, "r+") as file:
        places = [GroundControlPoint(r, c, WEST + x, NORTH - 10 * r) for r, c, x in corners]
        file.gcps = places, rasterio.CRS.from_string(CRS)
    claimed = Asset(str(path), crs=CRS, transform=tuple(AT)[:6], shape=(SIDE, SIDE))
    with pytest.raises(ReadError, match=r"not rectified(.|\n)*ground control points"):
        read(item({"B02": claimed}))
    path = write(tmp_path / "c.tif", np.full((SIDE, SIDE), 2000, np.complex64))
    with pytest.raises(ReadError, match="complex"):
        read(item({"B02": Asset(str(path))}))
    path = write(tmp_path / "p.tif", np.full((SIDE, SIDE), 20, np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {20: (10, 200, 30, 255)})
    with pytest.raises(ReadError, match="palette"):
        read(item({"B02": Asset(str(path))}))
    assert read(item({"SCL": Asset(str(path))}), "SCL")[1].all()


def test_a_scale_of_32_bits_is_the_same_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", np.full((SIDE, SIDE), 2000, np.uint16))
    with rasterio.open(path, "r+") as file:
        file.scales = (float(np.float32(1e-4)),)
    assert read(item({"B02": Asset(str(path), stated=False)}))[1].all()


def test_pixels_in_feet_are_averaged_as_those_in_metres(tmp_path: Path) -> None:
    """Half a foot a pixel, on a grid of 10 m: none is passed over."""
    values = np.random.default_rng(0).integers(1000, 3000, (400, 400)).astype(np.uint16)
    box = GeoBox((5, 5), Affine(10, 0, 400_005, 0, -10, 199_995), "EPSG:32119")
    found = []
    for crs, unit in (("EPSG:32119", 1.0), ("EPSG:2264", 1200 / 3937)):
        step, corner = 0.5 * 1200 / 3937 / unit, (400_000 / unit, 200_000 / unit)
        at = Affine(step, 0, corner[0], 0, -step, corner[1])
        path = write(tmp_path / f"{crs[5:]}.tif", values, crs=crs, transform=at)
        one = replace(item({"B02": Asset(str(path), nodata=None)}), bbox=(-82, 35, -81, 36))
        found.append(read_asset(one, "B02", box, (400_005.0, 199_995.0))[0].astype(int))
        assert sample_item(one, ["B02"], spacing=10)["B02"].shape == (6, 6)
    assert found[0].std() < 15  # of 577 for one pixel
    np.testing.assert_allclose(*found, atol=1)
