"""Embeddings in Zarr: read exactly, whatever grid asks; what they say of themselves is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from support.embeddings import (
    attributes,
    nearest,
    per_pixel,
    place,
    put,
    square_root,
    store,
    window,
    zone,
)

from engine.cube.published.opening import open_published
from engine.errors import ReadError, RecipeError

UTM = "EPSG:32633"
CORNER = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)
SOUTH_UP = (10.0, 0.0, 500_000.0, 0.0, 10.0, 5_799_800.0)


def made_up(channels: int = 3, side: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(side)
    codes = rng.integers(-127, 128, (channels, side, side)).astype(np.int8)
    return codes, rng.uniform(0.01, 0.1, (side, side)).astype(np.float32)


def generic(folder: Path, **more: Any) -> tuple[Path, np.ndarray, np.ndarray]:
    codes, scales = made_up()
    scales[3, 4], scales[5, 6] = np.nan, np.inf
    attrs = {
        **attributes(3),
        **place(UTM, CORNER, (20, 20)),
        "geoemb:quantization": per_pixel(),
        **more,
    }
    return store(folder / "e.zarr", codes, scales, attrs), codes, scales


def test_pixels_of_the_stores_own_grid_are_read_as_they_are(tmp_path: Path) -> None:
    path, codes, scales = generic(tmp_path)
    found = open_published(path)
    assert found.channels == ("E000", "E001", "E002")
    assert found.years == ()
    vectors, state = found.read(window(UTM, 499_970, 5_800_020, (12, 30)), 2023)
    assert vectors.dtype == np.float32
    wanted = np.full((3, 12, 30), np.nan, np.float32)
    wanted[:, 2:, 3:23] = codes[:, :10].astype(np.float32) * scales[:10]
    wanted[~np.isfinite(wanted)] = np.nan
    np.testing.assert_array_equal(vectors, wanted)
    np.testing.assert_array_equal(state, np.where(np.isnan(wanted).any(axis=0), 2, 0))


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same arrays, said to go south and to go north."""
    codes, scales = made_up()
    found = {}
    for flip, transform in ((False, CORNER), (True, SOUTH_UP)):
        attrs = {**attributes(3), **place(UTM, transform, (20, 20))}
        attrs["geoemb:quantization"] = per_pixel()
        found[flip] = store(tmp_path_factory.mktemp("any") / "e.zarr", codes, scales, attrs)
    return found


@settings(max_examples=15, deadline=None)
@given(
    crs=st.sampled_from([UTM, "EPSG:32632", "EPSG:3035", "EPSG:4326"]),
    shift=st.tuples(st.integers(-150, 150), st.integers(-150, 150)),
    side=st.sampled_from([7.0, 10.0, 33.0]),
    flip=st.booleans(),
)
def test_the_nearest_pixel_is_that_which_holds_the_centre(
    both_ways: dict[bool, Path],
    crs: str,
    shift: tuple[int, int],
    side: float,
    flip: bool,
) -> None:
    codes, scales = made_up()
    transform = SOUTH_UP if flip else CORNER
    middle = (500_100 + shift[0], 5_799_900 + shift[1])
    x, y = Transformer.from_crs(UTM, crs, always_xy=True).transform(*middle)
    if crs == "EPSG:4326":
        side /= 100_000
    box = window(crs, x - 4.3 * side, y + 3.7 * side, (8, 9), side)
    vectors, state = open_published(both_ways[flip]).read(box, 2023)
    decoded = codes.astype(np.float32) * scales
    for i, line in enumerate(nearest(box, UTM, transform, (20, 20))):
        for j, at in enumerate(line):
            assert state[i, j] == (2 if at is None else 0)
            if at is not None:
                np.testing.assert_array_equal(vectors[:, i, j], decoded[:, at[0], at[1]])


def test_a_window_in_parts_is_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = generic(tmp_path)
    x, y = Transformer.from_crs(UTM, "EPSG:3035", always_xy=True).transform(500_100, 5_799_900)
    box = window("EPSG:3035", round(x) - 200, round(y) + 200, (40, 40))
    for method in ("nearest", "bilinear"):
        whole = open_published(path).read(box, 2023, method)
        assert 100 < (whole[1] == 0).sum() < 1600
        strips = [
            open_published(path).read(box[k : k + 10, :], 2023, method) for k in (0, 10, 20, 30)
        ]
        with monkeypatch.context() as patch:
            patch.setattr("engine.cube.published.sheet._AT_ONCE", 3 * 4 * 90)
            little = open_published(path).read(box, 2023, method)
        for vectors, state in (
            (
                np.concatenate([s[0] for s in strips], axis=1),
                np.concatenate([s[1] for s in strips]),
            ),
            little,
        ):
            np.testing.assert_array_equal(vectors, whole[0])
            np.testing.assert_array_equal(state, whole[1])


def test_bilinear_mixes_decoded_vectors_and_no_invalid_one(tmp_path: Path) -> None:
    path, codes, scales = generic(tmp_path)
    decoded = codes.astype(np.float64) * scales
    good = np.isfinite(scales)
    box = window(UTM, 499_993, 5_800_004, (19, 23), 9)
    vectors, state = open_published(path).read(box, 2023, "bilinear")
    _, expected_state = open_published(path).read(box, 2023)
    np.testing.assert_array_equal(state, expected_state)
    for i in range(19):
        for j in range(23):
            if state[i, j] != 0:
                assert np.isnan(vectors[:, i, j]).all()
                continue
            x, y = box.transform * (j + 0.5, i + 0.5)
            col, row = (x - 500_000) / 10 - 0.5, (5_800_000 - y) / 10 - 0.5
            total, mean = 0.0, np.zeros(3)
            for r in (int(np.floor(row)), int(np.floor(row)) + 1):
                for c in (int(np.floor(col)), int(np.floor(col)) + 1):
                    if 0 <= r < 20 and 0 <= c < 20 and good[r, c]:
                        weight = (1 - abs(row - r)) * (1 - abs(col - c))
                        total, mean = total + weight, mean + weight * decoded[:, r, c]
            np.testing.assert_allclose(vectors[:, i, j], mean / total, rtol=2e-6, atol=2e-6)


def test_chips_floats_and_axes_in_another_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 5, 2, 3)).astype(np.float16)
    values[2, 3, 1, 0] = np.nan
    attrs = attributes(2, **{"geoemb:type": "chip", "geoemb:data_type": "float16"})
    attrs |= place(UTM, (320.0, 0.0, 500_000.0, 0.0, -320.0, 5_800_000.0), (6, 5))
    attrs["geoemb:chip_layout"] = {"layout_type": "regular_grid", "chip_size": [32, 32]}
    path = store(tmp_path / "c.zarr", values, None, attrs, ("northing", "easting", "band", "time"))
    group = zarr.open_group(path, mode="a")
    days = np.array([17_532, 18_993, 19_358], "int64")  # 2018-01-01, 2022-01-01, 2023-01-01
    put(group, "time", days, ("time",), attributes={"units": "days since 1970-01-01"})
    found = open_published(path)
    assert found.years == (2018, 2022, 2023)
    vectors, state = found.read(window(UTM, 500_000, 5_800_000, (6, 5), 320), 2018)
    np.testing.assert_array_equal(
        vectors[:, state == 0], values[..., 0].transpose(2, 0, 1)[:, state == 0]
    )
    assert np.argwhere(state == 2).tolist() == [[2, 3]]


def test_what_natmap_publishes_is_read_by_its_own_names(tmp_path: Path) -> None:
    path, _, _ = generic(tmp_path)
    group = zarr.open_group(path, mode="a")
    put(group, "feature", np.arange(3), ("feature",), attributes={"names": ["a", "b", "c"]})
    assert open_published(path).channels == ("a", "b", "c")


def tessera(folder: Path, dims: str = "utm") -> Path:
    """Two zones about 12 degrees east; each has its own values, holes and water."""
    root = zarr.open_group(folder / "t.zarr", mode="w", zarr_format=3)
    quantization = per_pixel("+inf")
    root.attrs.update(
        attributes(
            128,
            **{
                "geoemb:model": "https://geotessera.org/model/1.0",
                "geoemb:spatial_layout": "utm_zones",
                "geoemb:quantization": quantization,
            },
        )
    )
    for number, step in ((32, 0.05), (33, 0.07)):
        crs = f"EPSG:326{number}"
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(12.0, 52.0)
        west, north = round(x / 10) * 10 - 300, round(y / 10) * 10 + 300
        codes = np.tile(np.arange(-64, 64, dtype=np.int8)[:, None, None], (2, 1, 60, 60))
        scales = np.full((2, 60, 60), step, np.float32)
        scales[1] *= 2
        scales[0, 30] = np.inf  # a seam
        scales[0, 40:45, 40:45] = np.nan  # water
        scales[0, 50, 50] = 2.8e32
        zone(root, f"utm{number}", crs, (10, 0, west, 0, -10, north), codes, scales, (2021, 2022))
    return folder / "t.zarr"


def test_zones_of_tessera_side_by_side(tmp_path: Path) -> None:
    found = open_published(tessera(tmp_path))
    assert found.channels == tuple(f"T{k:03d}" for k in range(128))
    assert found.years == (2021, 2022)
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform(12.0, 52.0)
    box = window("EPSG:3035", round(x) - 200, round(y) + 200, (40, 40))
    vectors, state = found.read(box, 2021)
    root = zarr.open_group(tmp_path / "t.zarr", mode="r")
    places, scales = {}, {}
    for number in (32, 33):
        group = root[f"utm{number}"]
        code, transform = group.attrs["proj:code"], group.attrs["spatial:transform"]
        places[number] = nearest(box, code, transform, (60, 60))
        scales[number] = group["scales"][0]
    degrees = Transformer.from_crs("EPSG:3035", "EPSG:4326", always_xy=True)
    filled = 0
    for i in range(40):
        for j in range(40):
            lon, _ = degrees.transform(*(box.transform * (j + 0.5, i + 0.5)))
            mine, other = (33, 32) if lon >= 12 else (32, 33)
            said = []
            for number in (mine, other):
                at = places[number][i][j]
                scale = np.inf if at is None else scales[number][at]
                said.append((1 if np.isnan(scale) else 0 if scale <= 1 else 2, scale))
            kind, scale = said[0] if said[0][0] != 2 else said[1]
            filled += said[0][0] == 2 and kind != 2
            assert state[i, j] == kind
            if kind == 0:
                np.testing.assert_array_equal(
                    vectors[:, i, j], np.arange(-64, 64, dtype="f4") * scale
                )
    assert filled > 10
    assert set(np.unique(state)) == {0, 1, 2} or {0, 1} == set(np.unique(state))
    np.testing.assert_allclose(
        np.unique(np.abs(found.read(box, 2022)[0][0])), [6.4, 8.96], rtol=1e-6
    )


def test_a_year_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    path = tessera(tmp_path)
    box = window("EPSG:32632", 705_000, 5_765_000, (4, 4))
    with pytest.raises(RecipeError, match="2021, 2022"):
        open_published(path).read(box, 2019)
    for name in ("utm32", "utm33"):
        zarr.open_group(path, mode="a")[name].attrs["years_complete"] = [2021]
    assert open_published(path).years == (2021,)


def test_halves_of_zones_meet_at_the_equator(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "h.zarr", mode="w", zarr_format=3)
    root.attrs.update(attributes(4, **{"geoemb:quantization": per_pixel("NaN")}))
    for name, crs, north, code in (
        ("31N", "EPSG:32631", 80, 1),
        ("31S", "EPSG:32731", 10_000_020, 2),
    ):
        codes = np.full((1, 4, 8, 6), code, np.int8)
        scales = np.ones((1, 8, 6), np.float32)
        scales[0, 7, 5] = np.nan
        zone(root, name, crs, (10, 0, 500_000, 0, -10, north), codes, scales, (2024,))
    vectors, state = open_published(tmp_path / "h.zarr").read(
        window("EPSG:32631", 500_000, 80, (14, 6)), 2024
    )
    wanted = np.repeat([1.0, 2.0], [8, 6])[:, None] * np.ones((14, 6))
    wanted[13, 5] = np.nan  # never computed: there NaN says nothing of water
    # north's own hole lies in two rows that the south has, too
    wanted[7, 5] = 2.0
    np.testing.assert_array_equal(vectors[0], wanted)
    np.testing.assert_array_equal(state, np.where(np.isnan(wanted), 2, 0))


def mosaic(folder: Path, **more: Any) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(64, 12, 16))
    codes = square_root(vectors / np.linalg.norm(vectors, axis=0))
    codes[:, 2, 3] = -128
    step = 1e-4
    attrs = place("EPSG:4326", (step, 0, 179.9992, 0, -step, 52.0), (12, 16)) | more
    path = store(folder / "m.zarr", codes[None], None, attrs, ("time", "band", "y", "x"))
    put(zarr.open_group(path, mode="a"), "time", np.array([2023], "int16"), ("time",))
    return path, codes


def test_alphaearths_mosaic(tmp_path: Path) -> None:
    path, codes = mosaic(tmp_path)
    found = open_published(path, "alphaearth-mosaic")
    assert found.channels[:2] + found.channels[-1:] == ("A00", "A01", "A63")
    step = 1e-4
    vectors, state = found.read(window("EPSG:4326", 179.9992, 52.0, (12, 8), step), 2023)
    exact = np.sign(codes) * (codes.astype(np.float64) / 127.5) ** 2
    valid = state == 0
    np.testing.assert_allclose(vectors[:, valid], exact[:, :, :8][:, valid], rtol=3e-7)
    assert np.argwhere(~valid).tolist() == [[2, 3]]
    assert np.abs(np.linalg.norm(vectors[:, valid], axis=0) - 1).max() < 0.03
    method = {"method": "signed_square", "original_dtype": "float32"}
    more = attributes(64) | {"geoemb:quantization": method}
    (tmp_path / "b").mkdir()
    told = open_published(mosaic(tmp_path / "b", **more)[0])
    assert told.channels == found.channels


# -- what is wrong is said ----------------------------------------------------------------------


def edit(path: Path, name: str, change: Any) -> None:
    """Change a group's or an array's metadata on disk."""
    file = path / name / "zarr.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))


BOX = window(UTM, 500_000, 5_800_000, (2, 2))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "dimension": ({"geoemb:dimensions": 5}, "dimensions"),
    "type": ({"geoemb:data_type": "float32"}, "data type"),
    "shape": ({"spatial:shape": [20, 21]}, "shape"),
    "crs": ({"proj:code": "EPSG:999999"}, "CRS"),
    "no crs": ({"proj:code": None}, "no CRS"),
    "rotated": ({"spatial:transform": [10, 1, 0, 0, -10, 0]}, "rotated"),
    "endless": ({"spatial:transform": [10, 0, "nan", 0, -10, 0]}, "rotated"),
    "no transform": ({"spatial:transform": None}, "no transform"),
    "short": ({"spatial:transform": [10, 0, 5]}, "no transform"),
    "nodes": ({"spatial:registration": "node"}, "centres of pixels"),
    "irregular": ({"geoemb:chip_layout": {"layout_type": "irregular"}}, "no grid"),
    "absolute": ({"geoemb:quantization": per_pixel(name="/etc/passwd")}, "not in its group"),
    "above": ({"geoemb:quantization": per_pixel(name="../scales")}, "not in its group"),
    "number": ({"geoemb:quantization": per_pixel(name=3)}, "not in its group"),  # type: ignore[arg-type]
    "elsewhere": ({"geoemb:quantization": per_pixel(name="other")}, "no array other"),
    "no rule": ({"geoemb:quantization": {"method": "product_quantization"}}, "codes mean"),
    "infinite": (
        {"geoemb:quantization": {"scale": {"type": "scalar", "scale": float("inf")}}},
        "not a finite number",
    ),
    "scale of none": ({"geoemb:quantization": per_pixel("none")}, "not a number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_attributes_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    more, words = WRONG[name]
    path, _, _ = generic(tmp_path, **more)
    with pytest.raises(ReadError, match=words) as told:
        open_published(path)
    assert told.value.got is not None or name in ("no crs", "no transform", "elsewhere")


def test_scales_of_another_place_are_refused(tmp_path: Path) -> None:
    path, _, _ = generic(tmp_path)
    group = zarr.open_group(path, mode="a")
    del group["scales"]
    put(group, "scales", np.ones((20, 21), np.float32), ("y", "x"))
    with pytest.raises(ReadError, match="not those of"):
        open_published(path)


def test_memory_is_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path, _, _ = generic(tmp_path)

    def grow(said: dict[str, Any]) -> None:
        said["chunk_grid"]["configuration"]["chunk_shape"] = [3, 100_000, 100_000]

    edit(path, "embeddings", grow)
    with pytest.raises(ReadError, match="chunks of embeddings"):
        open_published(path)
    (tmp_path / "b").mkdir()
    path, _, _ = generic(tmp_path / "b")
    with pytest.raises(ReadError, match="too large to be read at once"):
        open_published(path).read(window(UTM, 500_000, 5_800_000, (20_000, 20_000)), 2023)
    with (path / "zarr.json").open("ab") as file:
        file.truncate(20 << 20)
    with pytest.raises(ReadError, match="too large"):
        open_published(path)


def test_codecs_that_run_programs_and_objects_are_refused(tmp_path: Path) -> None:
    path, _, _ = generic(tmp_path)
    edit(path, "embeddings", lambda said: said["codecs"].append({"name": "numcodecs.pickle"}))
    with pytest.raises(ReadError):
        open_published(path)
    (tmp_path / "b").mkdir()
    path, _, _ = generic(tmp_path / "b")
    edit(path, "embeddings", lambda said: said.update(data_type="variable_length_bytes"))
    with pytest.raises(ReadError):
        open_published(path)
    (tmp_path / "c").mkdir()
    path, _, _ = generic(tmp_path / "c")
    edit(
        path,
        "embeddings",
        lambda said: said["codecs"].append(
            {"name": "numcodecs.zlib", "configuration": {"level": 1}}
        ),
    )
    with pytest.raises(ReadError):
        open_published(path)


def test_damaged_chunks_and_other_versions_are_said(tmp_path: Path) -> None:
    path, _, _ = generic(tmp_path)
    for chunk in (path / "embeddings" / "c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"nothing")
    with pytest.raises(ReadError, match="cannot be read"):
        open_published(path).read(BOX, 2023)
    zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    with pytest.raises(ReadError, match="version 3"):
        open_published(tmp_path / "old.zarr")
    zarr.open_group(tmp_path / "plain.zarr", mode="w", zarr_format=3)
    with pytest.raises(ReadError, match="convention"):
        open_published(tmp_path / "plain.zarr")


def test_a_zone_in_the_crs_of_another_is_refused(tmp_path: Path) -> None:
    path = tessera(tmp_path)
    zarr.open_group(path, mode="a")["utm32"].attrs["proj:code"] = "EPSG:32633"
    with pytest.raises(ReadError, match="another place") as told:
        open_published(path)
    assert told.value.expected == "EPSG:32632"


def test_times_that_are_no_years_are_refused(tmp_path: Path) -> None:
    path, _ = mosaic(tmp_path)
    group = zarr.open_group(path, mode="a")
    group["time"][:] = 0
    with pytest.raises(ReadError, match="no year"):
        open_published(path, "alphaearth-mosaic")
    group["time"].attrs["units"] = "days since yesterday"
    with pytest.raises(ReadError, match="no year"):
        open_published(path, "alphaearth-mosaic")
    del group["time"]
    with pytest.raises(ReadError, match="which years"):
        open_published(path, "alphaearth-mosaic")


def test_addresses_and_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not read from there"):
        open_published("s3://bucket/store.zarr")
    with pytest.raises(RecipeError, match="no published embeddings"):
        open_published(tmp_path / "nowhere")
