"""`composite` and `score` on arrays of a notebook: what they refuse, merge and hold in memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import xarray as xr

from engine.cube.composite import reduce_days
from engine.cube.given import Place
from engine.errors import CardError, GridError, RecipeError
from engine.notebook.kernels import composite, score

PLACE = Place("EPSG:32633", 10.0, 500_000.0, 5_200_000.0)


def cube(days: int = 5, height: int = 60, width: int = 70, **more: Any) -> xr.Dataset:
    """Scenes of clear sky, a cloud here and there."""
    rng = np.random.default_rng(0)
    bands = rng.integers(1, 60_000, (days, 2, height, width)).astype(np.uint16)
    scl = np.where(rng.random((days, height, width)) < 0.01, 8, 4).astype(np.uint8)
    time = np.datetime64("2023-05-01", "ns") + np.arange(days) * np.timedelta64(5, "D")
    coords = {"time": time, "band": ["blue", "B08"], **PLACE.coords(height, width), **more}
    return xr.Dataset(
        {"bands": (("time", "band", "y", "x"), bands), "scl": (("time", "y", "x"), scl)}, coords
    )


def test_chunks_do_not_matter_even_slivers() -> None:
    given = cube()
    wanted = composite(given).load()
    assert 0 < (wanted.observations < 5).mean() < 1
    for chunks in ({"x": 69}, {"time": 1, "band": 1, "y": 7, "x": 33}, {"y": 59, "x": 70}):
        xr.testing.assert_identical(composite(given.chunk(chunks)).load(), wanted)


def test_without_cloud_it_is_the_reduction_of_all_days() -> None:
    given = cube()
    given["scl"][:] = 4
    everywhere = np.ones(given["scl"].shape, bool)
    for method in ("median", "mean", "medoid"):
        found = composite(given, method=method)
        wanted = reduce_days(method, given["bands"].values, everywhere)
        np.testing.assert_array_equal(found["bands"].values, wanted)


def test_every_number_survives_decoding() -> None:
    given = cube(1, 256, 256)
    given["scl"][:] = 4
    numbers = np.arange(65_536).reshape(256, 256) % 65_535
    given["bands"][:] = numbers
    given["bands"].attrs = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.uint16(0)}
    for dtype in (np.float32, np.float64):
        decoded = xr.decode_cf(given)
        decoded = decoded.assign(bands=decoded["bands"].astype(dtype))
        assert np.isnan(decoded["bands"].values[0, 0, 0, 0])
        np.testing.assert_array_equal(composite(decoded)["bands"].values[0], numbers)


def test_scenes_of_a_day_are_merged_by_id_where_they_have_data() -> None:
    given = cube(3)
    given["scl"][:] = 4
    day = np.array(["2023-05-01", "2023-05-01", "2023-05-06"], "datetime64[ns]")
    given = given.assign_coords(solar_day=("time", day), id=("time", ["b", "a", "c"]))
    given["bands"][1, 1, :, :10] = 0  # of the first by id: a band without data
    given["scl"][1, :, 10:20] = 0  # and no class
    found = composite(given, method="mean", cloud_dilation=0).load()
    assert (found.observations == 2).all()
    bands = given["bands"].values.astype(int)
    first = bands[1].copy()
    first[..., :20] = bands[0][..., :20]
    np.testing.assert_array_equal(found.bands.values, np.rint((first + bands[2]) / 2))


def test_what_is_no_cube_is_refused() -> None:
    given = cube()
    with pytest.raises(RecipeError, match="not a cube"):
        composite(given["bands"])  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="lacks scl"):
        composite(given.drop_vars("scl"))
    with pytest.raises(RecipeError, match="no CRS"):
        composite(given.drop_vars("spatial_ref"))
    with pytest.raises(RecipeError, match="other dims"):
        composite(given.transpose("band", ...))
    with pytest.raises(RecipeError, match="another type"):
        composite(given.assign(bands=given["bands"].astype("int32")))
    with pytest.raises(RecipeError, match="no scene"):
        composite(given.isel(time=[]))
    with pytest.raises(RecipeError, match="several scenes of one day"):
        composite(given.isel(time=[0, 0]))
    with pytest.raises(RecipeError, match="composite: Input should be"):
        composite(given, method="best")
    with pytest.raises(RecipeError, match="cloud_dilation"):
        composite(given, cloud_dilation=-1)
    with pytest.raises(GridError, match="regular"):
        composite(given.isel(x=[0, 1, 3]))
    with pytest.raises(GridError, match="north up"):
        composite(given.isel(y=slice(None, None, -1)))
    made = composite(given)
    with pytest.raises(CardError, match="needs bands"):
        score(made, "lcz-made-up")
    with pytest.raises(CardError, match="no such model"):
        score(made, "nothing")
    with pytest.raises(CardError, match="classifiers of patches"):
        score(made, "ugs-made-up")


@pytest.mark.slow
def test_memory_is_bounded_by_blocks_not_by_the_cube() -> None:
    """0.9 GB of scenes, of which a block is 6 MB; numpy, Dask and all that is imported included."""
    code = """
import resource, dask, dask.array as da, numpy as np, xarray as xr
from engine.cube.given import Place
from engine.notebook.kernels import composite
n, days = 4800, 8
def make(block_info=None):
    at = block_info[None]
    low = 1 + at["chunk-location"][-1] % 7
    return np.full(at["chunk-shape"], low, at["dtype"])
def lazy(shape, chunks, dtype):
    return da.map_blocks(make, chunks=da.core.normalize_chunks(chunks, shape), dtype=dtype)
bands = lazy((days, 2, n, n), (1, 2, 400, 400), np.uint16)
scl = lazy((days, n, n), (1, 400, 400), np.uint8)
time = np.datetime64("2023-05-01", "ns") + np.arange(days) * np.timedelta64(5, "D")
coords = {"time": time, "band": ["B02", "B08"],
          **Place("EPSG:32633", 10.0, 500000.0, 5200000.0).coords(n, n)}
cube = xr.Dataset({"bands": (("time", "band", "y", "x"), bands),
                   "scl": (("time", "y", "x"), scl)}, coords)
with dask.config.set(scheduler="threads", num_workers=2):
    found = composite(cube)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = int(found["bands"].data.astype("uint64").sum().compute())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, total)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    megabytes, total = map(float, ran.stdout.split())
    assert total > 0
    assert megabytes < 500
