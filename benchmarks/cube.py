"""The scenes and composite stages against the notebook idiom, in one run on the same COGs.

    python benchmarks/cube.py --log benchmarks/cube.json            (about 12 minutes)

Idiom: ``stackstac.stack().where(mask).median("time")`` written to Zarr, with as many threads as
natmap has cores. Both read ten bands of the same made-up COGs in another UTM zone, bilinear, mask
the 35 % under cloud by SCL and write a composite of the same grid. natmap runs twice: making what
the idiom makes, the composite (`keep_scenes: false`), and storing all scenes as well, which the
idiom never does. A further run is the idiom as it comes, with nearest neighbours: another product,
less work. The composites are compared. Ratios hold; seconds are this machine's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from scipy.ndimage import zoom

ROOT = Path(__file__).resolve().parent.parent
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
WEST, NORTH = 600_000.0, 5_100_000.0  # in EPSG:32633
TILE = 1536  # pixels; so that stackstac's own chunks of 1024 are whole in two tiles
RATIOS = {"scenes": "times_faster_storing_scenes", "nearest": "times_faster_than_nearest"}
MASKED = 0.35  # of pixels under cloud


def make(folder: Path, days: int, size: int) -> None:
    """COGs of `days` scenes, 10 and 20 m, wider than the grid."""
    rng = np.random.default_rng(0)
    side = (size + 800) // 2 * 2
    move = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    lon, lat = move.transform([WEST, WEST + side * 10], [NORTH - side * 10, NORTH])
    links = []
    for day in range(days):
        assets = {}
        for name in (*BANDS, "SCL"):
            step = 20 if name in ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL") else 10
            n = side * 10 // step
            smooth = zoom(rng.random((n // 40 + 1, n // 40 + 1)), 40, order=1)[:n, :n]
            values = (400 + 3000 * smooth + rng.integers(0, 200, (n, n))).astype(np.uint16)
            if name == "SCL":
                values = np.where(smooth < np.quantile(smooth, MASKED), 9, 4).astype(np.uint8)
            path = folder / f"d{day}_{name}.tif"
            with rasterio.open(
                path,
                "w",
                driver="COG",
                height=n,
                width=n,
                count=1,
                dtype=values.dtype,
                crs="EPSG:32633",
                transform=Affine(step, 0, WEST, 0, -step, NORTH),
                nodata=0,
                compress="deflate",
                overview_resampling="nearest",  # classes must not be mixed
            ) as file:
                file.write(values, 1)
            assets[name] = {
                "href": str(path),
                "proj:transform": [step, 0, WEST, 0, -step, NORTH],
                "proj:shape": [n, n],
                "raster:bands": [{"nodata": 0}],
            }
            if name != "SCL":
                assets[name]["raster:bands"] = [{"nodata": 0, "scale": 1e-4, "offset": 0.0}]
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"d{day:02}",
            "bbox": [lon[0], lat[0], lon[1], lat[1]],
            "geometry": json.loads(shapely.to_geojson(shapely.box(lon[0], lat[0], lon[1], lat[1]))),
            "properties": {"datetime": f"2023-05-{day + 1:02}T10:00:00Z", "proj:epsg": 32633},
            "links": [],
            "assets": assets,
        }
        (folder / f"d{day:02}.json").write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./d{day:02}.json"})
    catalog = {"type": "Catalog", "id": "bench", "links": links}
    (folder / "catalog.json").write_text(json.dumps(catalog))


def recipe(folder: Path, size: int, keep: bool = True) -> dict[str, object]:
    move = Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True)
    x, y = move.transform(WEST + (size + 800) * 5, NORTH - (size + 800) * 5)
    half = size * 5
    west, north = round((x - half) / 10) * 10.0, round((y + half) / 10) * 10.0
    # whole tiles and no others, also not for the discs about clouds, of up to 90 m
    ring = shapely.box(west + 99, north - 2 * half + 99, west + 2 * half - 99, north - 99)
    back = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    degrees = shapely.transform(
        shapely.segmentize(ring, 500), lambda xy: np.column_stack(back.transform(*xy.T))
    )
    (folder / "area.geojson").write_text(shapely.to_geojson(degrees))
    return {
        "name": "bench",
        "product": "lcz",
        "area": {"file": str(folder / "area.geojson")},
        "grid": {
            "crs": "EPSG:32632",
            "resolution": 10,
            "tile": min(TILE, size),
            "chunk": min(TILE, 512) if TILE % 512 == 0 else 384,
            "origin": [west, north],
        },
        "imagery": {
            "catalog": str(folder / "catalog.json"),
            "period": "2023-05-01/2023-05-31",
            "bands": list(BANDS),
        },
        "cube": {"cloud_dilation": 0, "keep_scenes": keep},
        "store": str(folder / "store"),
    }


def engine_run(folder: Path, size: int, keep: bool) -> None:
    """Scenes and composite of all tiles, in one worker of two cores."""
    sys.path.insert(0, str(ROOT))
    from engine.pipeline.verbs import run

    summary = run(recipe(folder, size, keep), workers=1)
    assert not summary.failed
    print(json.dumps({"seconds": summary.seconds}))


def idiom_run(folder: Path, size: int, resampling: str) -> None:
    """What a notebook does, with two threads: stackstac's own defaults, but for `resampling`."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT))
    import dask
    import stackstac
    from rasterio.enums import Resampling

    items = [json.loads(p.read_text()) for p in sorted(folder.glob("d*.json"))]
    for item in items:
        for asset in item["assets"].values():
            asset["proj:epsg"] = 32633
    wanted = recipe(folder, size)
    west, north = wanted["grid"]["origin"]  # type: ignore[index]
    bounds = (west, north - size * 10, west + size * 10, north)
    common = {
        "epsg": 32632,
        "resolution": 10,
        "bounds": bounds,
    }
    began = time.perf_counter()
    stack = stackstac.stack(items, assets=list(BANDS), resampling=Resampling[resampling], **common)
    scl = stackstac.stack(items, assets=["SCL"], **common).isel(band=0, drop=True)
    composite = stack.where(~scl.isin([0, 1, 3, 8, 9, 10])).median("time")
    with dask.config.set(scheduler="threads", num_workers=2):
        data = composite.drop_vars([c for c in composite.coords if c not in composite.dims])
        data.attrs.clear()
        data.to_dataset(name="bands").to_zarr(folder / "idiom.zarr", mode="w")
    print(json.dumps({"seconds": time.perf_counter() - began}))


def compare(folder: Path) -> dict[str, float]:
    """How far the two composites are apart, in digital numbers of 1e-4 reflectance."""
    sys.path.insert(0, str(ROOT))
    import xarray as xr

    from engine import open_store

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = open_store(folder / "store")["composite"]["bands"]
        idiom = xr.open_zarr(folder / "idiom.zarr").bands
        # the store has room around the area; stackstac names pixels by their upper left corner
        west, north = float(idiom.x[0]), float(idiom.y[0])
        inside = {
            "x": slice(west, west + 10 * idiom.sizes["x"]),
            "y": slice(north, north - 10 * idiom.sizes["y"]),
        }
        edge = np.s_[:, 10:-10, 10:-10]  # which the area leaves out
        ours, theirs = (x[edge].values * 1e4 for x in (stored.sel(inside), idiom))
    both = np.isfinite(ours) & np.isfinite(theirs)
    off = np.abs(ours - theirs)[both]
    return {
        "valid_in_both": round(float(both.mean()), 4),
        "valid_in_one": round(float((np.isfinite(ours) ^ np.isfinite(theirs)).mean()), 4),
        "median": round(float(np.median(off)), 2),
        "mean": round(float(off.mean()), 2),
    }


def watch(command: list[str]) -> dict[str, float]:
    """Seconds that a run says it took, and the peak memory of its process tree in MB.

    Resident memory of all processes of the run, summed: pages that they share count twice.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
            peak = max(peak, sum(p.memory_info().rss for p in family) / 1e6)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.returncode == 0, lines
    seconds = float(json.loads(lines[-1])["seconds"])
    return {"seconds": round(seconds, 2), "peak_megabytes": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--size", type=int, default=3072, help="pixels each way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path)
    parser.add_argument(
        "--only", choices=["composite", "scenes", "idiom", "nearest"], help=argparse.SUPPRESS
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only in ("composite", "scenes"):
        return engine_run(asked.folder, asked.size, keep=asked.only == "scenes")
    if asked.only:
        resampling = "bilinear" if asked.only == "idiom" else "nearest"
        return idiom_run(asked.folder, asked.size, resampling)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, asked.days, asked.size)
        for number in range(asked.rounds):
            found: dict[str, object] = {}
            for kind in ("composite", "scenes", "nearest", "idiom"):
                if kind in ("composite", "scenes"):
                    shutil.rmtree(folder / "store", ignore_errors=True)
                command = [sys.executable, "-W", "ignore", __file__, "--only", kind]
                found[kind] = watch([*command, "--folder", name, "--size", str(asked.size)])
            ours, idiom = found["composite"], found["idiom"]
            found["times_faster"] = round(idiom["seconds"] / ours["seconds"], 2)
            found["memory_ratio"] = round(ours["peak_megabytes"] / idiom["peak_megabytes"], 2)
            for kind in ("scenes", "nearest"):
                other = found[kind]["seconds"]
                ratio = idiom["seconds"] / other if kind == "scenes" else other / ours["seconds"]
                found[RATIOS[kind]] = round(ratio, 2)
            ratio = found["scenes"]["peak_megabytes"] / idiom["peak_megabytes"]
            found["memory_ratio_storing_scenes"] = round(ratio, 2)
            rounds.append(found)
            print(number, found, flush=True)
        apart = compare(folder)
    keys = ("times_faster", "memory_ratio", *RATIOS.values(), "memory_ratio_storing_scenes")
    medians = {key: float(np.median([r[key] for r in rounds])) for key in keys}
    result = {
        "days": asked.days,
        "pixels": asked.size,
        "rounds": rounds,
        "medians": medians,
        "composites_apart": apart,
    }
    print(json.dumps({"medians": medians, "composites_apart": apart}))
    if asked.log:
        asked.log.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
