"""Odd Zarr stores of embeddings: read right, or refused in words that say what is odd."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.embeddings import attributes, per_pixel, place, put, store, window, zone
from support.refusals import refused

from engine.cube.published.opening import open_published
from engine.cube.published.reader import Piece, Published
from engine.errors import ReadError, RecipeError

UTM = "EPSG:32633"
WEST, NORTH, SIDE = 500_000.0, 5_800_000.0, 20
CORNER = (10.0, 0.0, WEST, 0.0, -10.0, NORTH)
SOUTH_UP = (10.0, 0.0, WEST, 0.0, 10.0, NORTH - 10 * SIDE)
BOX = window(UTM, WEST, NORTH, (SIDE, SIDE))
EAST = WEST + 5 + 10 * np.arange(SIDE)
DOWN = NORTH - 5 - 10 * np.arange(SIDE)
RNG = np.random.default_rng(1)
CODES = RNG.integers(-127, 128, (3, SIDE, SIDE)).astype(np.int8)
SCALES = RNG.uniform(0.01, 0.1, (SIDE, SIDE)).astype(np.float32)
VECTORS = CODES.astype(np.float32) * SCALES
LINEAR = {"method": "linear", "scale": {"type": "scalar", "scale": 0.5}}


def made(
    folder: Path,
    values: np.ndarray = CODES,
    scales: np.ndarray | None = SCALES,
    dims: tuple[str, ...] = ("band", "y", "x"),
    coords: dict[str, np.ndarray] | None = None,
    **attrs: Any,
) -> Path:
    """A store; attributes of None are left out."""
    said = {**attributes(3), **place(UTM, CORNER, (SIDE, SIDE))}
    if scales is not None:
        said["geoemb:quantization"] = per_pixel()
    said = {k: v for k, v in (said | attrs).items() if v is not None}
    path = store(folder / "e.zarr", values, scales, said, dims)
    for name, along in (coords or {}).items():
        put(zarr.open_group(path, mode="a"), name, along, (name,))
    return path


def opening(path: Path) -> Callable[[], Published]:
    return lambda: open_published(path)


def read(path: Path, year: int = 2023) -> tuple[np.ndarray, np.ndarray]:
    return open_published(path).read(BOX, year)


def test_the_witness(tmp_path: Path) -> None:
    vectors, state = read(made(tmp_path))
    np.testing.assert_array_equal(vectors, VECTORS)
    assert (state == 0).all()


# -- where it lies ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["epsg:32633", "EPSG:32633", "urn:ogc:def:crs:EPSG::32633"])
def test_a_crs_however_it_is_written(tmp_path: Path, code: str) -> None:
    np.testing.assert_array_equal(read(made(tmp_path, **{"proj:code": code}))[0], VECTORS)


@pytest.mark.parametrize("dims", [("y", "x", "band"), ("x", "y", "band"), ("x", "band", "y")])
def test_axes_in_any_order(tmp_path: Path, dims: tuple[str, ...]) -> None:
    values = CODES.transpose([("band", "y", "x").index(dim) for dim in dims])
    path = made(tmp_path, values, None, dims, **{"geoemb:quantization": per_pixel()})
    order = [dim for dim in dims if dim != "band"]
    put(
        zarr.open_group(path, mode="a"),
        "scales",
        SCALES if order == ["y", "x"] else SCALES.T,
        order,
    )
    np.testing.assert_array_equal(read(path)[0], VECTORS)


@pytest.mark.parametrize("off", [0.0, 5.0, -5.0])
def test_coordinates_of_centres_and_of_corners(tmp_path: Path, off: float) -> None:
    coords = {"y": DOWN + off, "x": EAST + off}
    np.testing.assert_array_equal(read(made(tmp_path, coords=coords))[0], VECTORS)


def test_ascending_coordinates_with_a_transform_that_goes_north(tmp_path: Path) -> None:
    more = {"spatial:transform": list(SOUTH_UP)}
    path = made(tmp_path, CODES[:, ::-1], SCALES[::-1], coords={"y": DOWN[::-1]}, **more)
    np.testing.assert_array_equal(read(path)[0], VECTORS)


@pytest.mark.parametrize(
    ("axis", "along", "got", "expected"),
    [
        ("y", DOWN[::-1], "5799805 of pixel 0, 20 of 20 differ", "5799995"),
        ("x", EAST[::-1], "500195 of pixel 0, 20 of 20 differ", "500005"),
        ("y", np.where(np.arange(SIDE) < 7, DOWN, DOWN - 30), "5799895 of pixel 7, 13", "5799925"),
        ("x", np.where(np.arange(SIDE) == 3, np.nan, EAST), "nan of pixel 3, 1 of 20", "500035"),
        ("x", EAST - 400, "499605 of pixel 0, 20 of 20 differ", "500005"),
    ],
    ids=["ascending", "descending", "uneven", "unknown", "moved"],
)
def test_coordinates_that_contradict_the_transform(
    tmp_path: Path, axis: str, along: np.ndarray, got: str, expected: str
) -> None:
    refused(
        ReadError,
        opening(made(tmp_path, coords={axis: along})),
        f"coordinates {axis} of e.zarr are not those of its transform",
        got,
        expected,
        "correct spatial:transform, or the coordinates: rows may run the other way, or be "
        "unevenly spaced",
    )


def test_coordinates_of_another_length(tmp_path: Path) -> None:
    refused(
        ReadError,
        opening(made(tmp_path, coords={"x": EAST[:-1]})),
        "x of e.zarr is of another length than the vectors",
        [19],
        [20],
        None,
    )


def test_an_area_that_the_source_does_not_reach(tmp_path: Path) -> None:
    found = open_published(made(tmp_path))
    west, north = WEST + 150, NORTH - 150
    for bounds in ((west, north - 900, west + 900, north), (WEST - 900, NORTH, WEST, NORTH + 900)):
        found.require_ground(bounds, UTM, 2023)  # a corner of it, and one that touches
    refused(
        RecipeError,
        lambda: found.require_ground((6e5, 56e5, 61e4, 561e4), UTM, 2023),
        "e.zarr has no vectors of this area in 2023",
        "an area about 16.",
        "ground that the source covers",
        "name the source of this area in embeddings.source, or look at area",
    )
    with pytest.raises(RecipeError, match="no vectors of this area"):
        found.require_ground((4e6, 2e6, 41e5, 21e5), "EPSG:3035", 2023)


def test_a_piece_that_cannot_be_opened_does_not_stop_the_others() -> None:
    """Which tiles it costs is for the run to say."""

    def damaged(year: int) -> Any:
        raise ReadError("damaged")

    found = Published("tiles", ("A",), [Piece("a", frozenset({2023}), None, damaged)])
    found.require_ground((6e5, 56e5, 61e4, 561e4), UTM, 2023)


# -- years --------------------------------------------------------------------------------------


def timed(folder: Path, years: np.ndarray, **attrs: Any) -> Path:
    values = np.stack([CODES // (k + 1) for k in range(len(years))])
    scales = np.stack([SCALES] * len(years))
    path = made(folder, values, scales, ("time", "band", "y", "x"), **attrs)
    put(zarr.open_group(path, mode="a"), "time", years, ("time",))
    return path


def test_years_in_any_order(tmp_path: Path) -> None:
    path = timed(tmp_path, np.array([2023, 2019, 2021]))
    assert open_published(path).years == (2019, 2021, 2023)
    np.testing.assert_array_equal(read(path, 2019)[0], (CODES // 2) * SCALES)


@pytest.mark.parametrize("kind", [str, float])
def test_years_of_another_type(tmp_path: Path, kind: type) -> None:
    path = timed(tmp_path, np.array([2019, 2023]))
    group = zarr.open_group(path, mode="a")
    del group["time"]
    array = group.create_array("time", shape=(2,), dtype=kind, dimension_names=("time",))
    array[:] = np.array([2019, 2023]).astype(object if kind is str else kind)
    refused(
        ReadError,
        opening(path),
        "e.zarr does not say which years it has",
        "time: (2,)",
        "whole numbers of at most 1000 years",
        None,
    )


def test_a_year_twice(tmp_path: Path) -> None:
    refused(
        ReadError,
        opening(timed(tmp_path, np.array([2023, 2023]))),
        "e.zarr has a year twice",
        "2023, 2023",
        "one layer of vectors for each year",
        "write those of one date into a store of their own",
    )


@pytest.mark.parametrize("year", [2018, 2024])
def test_a_year_that_is_not_there(tmp_path: Path, year: int) -> None:
    refused(
        RecipeError,
        lambda: open_published(timed(tmp_path, np.array([2019, 2023]))).require_year(year),
        "e.zarr has no such year",
        year,
        "2019, 2023",
        "set embeddings.year to one of these",
    )


@pytest.mark.parametrize("whole", [["2023"], [2023, 2050]])
def test_whole_years_as_text(tmp_path: Path, whole: list[Any]) -> None:
    found = open_published(timed(tmp_path, np.array([2019, 2023]), years_complete=whole))
    assert found.years == (2023,)


def test_a_source_none_of_whose_years_is_whole(tmp_path: Path) -> None:
    path = timed(tmp_path, np.array([2019, 2023]), years_complete=[])
    refused(
        RecipeError,
        lambda: open_published(path).require_year(2023),
        "e.zarr has no such year",
        2023,
        "none of its years is whole",
        "name a source whose years are whole",
    )


@pytest.mark.parametrize("whole", [[[2023]], "2023", [2023.5], [True], {"2023": 1}])
def test_whole_years_that_are_no_list_of_years(tmp_path: Path, whole: Any) -> None:
    refused(
        ReadError,
        opening(timed(tmp_path, np.array([2019, 2023]), years_complete=whole)),
        "e.zarr does not say which of its years are whole",
        f"years_complete: {whole!r}",
        "a list of years, as [2022, 2023]",
        None,
    )


# -- what codes mean ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), "0.5", True, None])
def test_scales_that_are_no_numbers(tmp_path: Path, scale: Any) -> None:
    told = {"method": "linear", "scale": {"type": "scalar", "scale": scale}}
    refused(
        ReadError,
        opening(made(tmp_path, scales=None, **{"geoemb:quantization": told})),
        "e.zarr has a scale that is not a finite number",
        str([scale, 0.0]),
        "finite numbers",
        None,
    )


@pytest.mark.parametrize(("scale", "offset"), [(1e300, 0), (0, 0), (1e-60, 0), (1, 1e31)])
def test_scales_that_are_absurd(tmp_path: Path, scale: float, offset: float) -> None:
    told = {"method": "linear", "scale": {"type": "scalar", "scale": scale, "offset": offset}}
    refused(
        ReadError,
        opening(made(tmp_path, scales=None, **{"geoemb:quantization": told})),
        "e.zarr has an absurd scale",
        f"scale {scale:g}, offset {offset:g}",
        "vectors of numbers within 1e+30, and not all of them 0",
        None,
    )


def test_whole_numbers_without_a_scale(tmp_path: Path) -> None:
    told = {"method": "linear", "scale": {"type": "scalar"}}
    refused(
        ReadError,
        opening(made(tmp_path, scales=None, **{"geoemb:quantization": told})),
        "e.zarr does not say by what its codes are scaled",
        {"type": "scalar"},
        "geoemb:quantization with scale: {type: scalar, scale: NUMBER}",
        None,
    )


@pytest.mark.parametrize("floats", [False, True])
def test_the_scale_of_another_convention(tmp_path: Path, floats: bool) -> None:
    values = CODES.astype(np.float32) if floats else CODES
    more = {} if floats else {"geoemb:quantization": LINEAR}
    path = made(tmp_path, values, None, **more)
    array = zarr.open_group(path, mode="a")["embeddings"]
    array.attrs.update({"scale_factor": 0.25})
    refused(
        ReadError,
        opening(path),
        "embeddings of e.zarr has a scale of another convention",
        "scale_factor 0.25, add_offset 0.0",
        f"none, or scale {1 if floats else 0.5:g} and offset 0",
        "state it in geoemb:quantization, as scale: {type: scalar, scale: …}",
    )
    array.attrs.update({"scale_factor": 1.0 if floats else 0.5})
    np.testing.assert_array_equal(read(path)[0], values * np.float32(1 if floats else 0.5))


def test_scales_of_pixels_that_are_all_absurd_leave_no_vector(tmp_path: Path) -> None:
    for number in (np.inf, -1.0, 1e38):
        vectors, state = read(made(tmp_path, scales=np.full_like(SCALES, number)))
        assert (state == 2).all()
        assert np.isnan(vectors).all()


# -- fill values --------------------------------------------------------------------------------

HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[4:9, 3:11] = True


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "told",
    [
        {"_FillValue": -9999.0},
        {"_FillValue": -9999},
        {"_FillValue": "-9999"},
        {"_FillValue": [-9999.0]},
        {"_FillValue": base64.b64encode(struct.pack("<d", -9999.0)).decode()},  # xarray's way
        {"missing_value": -9999.0},
    ],
    ids=["number", "whole", "text", "list", "base64", "missing_value"],
)
def test_a_fill_value_of_floats(tmp_path: Path, dtype: str, told: dict[str, Any]) -> None:
    values = np.where(HOLE, -9999.0, VECTORS).astype(dtype)
    values[1, 0, 0] = -9999.0  # a vector without a component is none
    path = made(tmp_path, values, None)
    zarr.open_group(path, mode="a")["embeddings"].attrs.update(told)
    vectors, state = read(path)
    wanted = HOLE.copy()
    wanted[0, 0] = True
    np.testing.assert_array_equal(state, np.where(wanted, 2, 0))
    np.testing.assert_array_equal(vectors[:, ~wanted], VECTORS.astype(dtype)[:, ~wanted])


def test_a_fill_value_of_codes_and_of_scales(tmp_path: Path) -> None:
    path = made(tmp_path, np.where(HOLE, -128, CODES).astype(np.int8), None,
                **{"geoemb:quantization": LINEAR})  # fmt: skip
    zarr.open_group(path, mode="a")["embeddings"].attrs["_FillValue"] = -128
    np.testing.assert_array_equal(read(path)[1], np.where(HOLE, 2, 0))
    quantization = per_pixel()
    del quantization["scale"]["nodata"]
    path = made(tmp_path, CODES, np.where(HOLE, np.float32(9999), SCALES),
                **{"geoemb:quantization": quantization})  # fmt: skip
    zarr.open_group(path, mode="a")["scales"].attrs["_FillValue"] = 9999.0
    vectors, state = read(path)
    np.testing.assert_array_equal(state, np.where(HOLE, 2, 0))
    np.testing.assert_array_equal(vectors[:, ~HOLE], VECTORS[:, ~HOLE])


def test_what_zarr_fills_chunks_with_is_data_unless_it_is_declared(tmp_path: Path) -> None:
    """Of floats NaN says no data by itself."""
    path = made(tmp_path, VECTORS, None)
    group = zarr.open_group(path, mode="a")
    del group["embeddings"]
    put(group, "embeddings", np.where(HOLE, np.float32(np.nan), VECTORS), ("band", "y", "x"),
        fill_value=np.nan)  # fmt: skip
    np.testing.assert_array_equal(read(path)[1], np.where(HOLE, 2, 0))


@pytest.mark.parametrize("told", [{"a": 1}, "nothing", True, [1, 2]])
def test_fill_values_that_are_no_numbers(tmp_path: Path, told: Any) -> None:
    path = made(tmp_path, VECTORS, None)
    zarr.open_group(path, mode="a")["embeddings"].attrs["_FillValue"] = told
    refused(
        ReadError,
        opening(path),
        "embeddings of e.zarr declares a fill value that is not a number",
        repr(told),
        "a number, NaN, or base64 of a float64",
        None,
    )


# -- names of channels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "got"),
    [(["a", "b@c", "d"], "'b@c'"), (["a", "b", " "], "' '"), (["a", "b\n", "c"], r"'b\n'")],
)
def test_channels_that_no_card_can_name(tmp_path: Path, names: list[str], got: str) -> None:
    path = made(tmp_path)
    group = zarr.open_group(path, mode="a")
    put(group, "band", np.arange(3), ("band",), attributes={"names": names})
    refused(
        ReadError,
        opening(path),
        "e.zarr has channels with names that cannot be used",
        got,
        "names that can be shown, without @, of 100 signs or fewer",
        None,
    )


def test_a_zone_under_way_has_the_years_of_the_others(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "z.zarr", mode="w", zarr_format=3)
    root.attrs.update(attributes(3, **{"geoemb:quantization": per_pixel("+inf")}))
    for name, crs in (("utm32", "EPSG:32632"), ("utm33", UTM)):
        group = zone(root, name, crs, CORNER, CODES[None], SCALES[None], (2023,))
        if name == "utm32":
            group.attrs["years_complete"] = []
    found = open_published(tmp_path / "z.zarr")
    assert found.years == (2023,)
    np.testing.assert_array_equal(found.read(BOX, 2023)[0], VECTORS)
