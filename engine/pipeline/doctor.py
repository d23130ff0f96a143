"""What is right and wrong with this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rasterio
from rasterio.drivers import raster_driver_extensions

from engine.catalog.cards import find_boundaries, load_boundary_card
from engine.errors import NatmapError
from engine.infer.predict import choose_device

__all__ = ["Finding", "examine"]

_PACKAGES = ("dask", "distributed", "icechunk", "numpy", "rasterio", "torch", "xarray", "zarr")


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `text` says what to do where it is not ok."""

    name: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """Look at versions, drivers, cores, memory, disk, GPU and boundaries."""
    findings = [_python(), *(_package(name) for name in _PACKAGES), _drivers(), _memory(), _disk()]
    device = choose_device("auto")
    findings.append(Finding("device", True, "a GPU" if device == "cuda" else "CPU only"))
    findings.append(_boundaries())
    return findings


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, sys.version.split()[0] + ("" if ok else "; needs 3.11 or newer"))


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "missing; install natmap with its constraints file")


def _drivers() -> Finding:
    extensions = raster_driver_extensions()
    missing = [e for e in ("tif", "jp2") if e not in extensions]
    text = f"GDAL {rasterio.__gdal_version__}"
    if missing:
        return Finding("gdal", False, f"{text} cannot write {', '.join(missing)}")
    return Finding("gdal", True, f"{text} with GeoTIFF and JPEG 2000")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ok = total >= 4
    advice = "" if ok else "; a default tile needs 4 GB: choose a smaller grid.tile"
    return Finding("memory", ok, f"{total:.0f} GB for {cores} cores{advice}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    scratch = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    ok = free > 5 and scratch > 1
    return Finding("disk", ok, f"{free:.0f} GB free here, {scratch:.0f} GB for scratch")


def _boundaries() -> Finding:
    try:
        path = find_boundaries(load_boundary_card("ne-urban-areas"))
    except NatmapError as error:
        # Only needed for masks and countries: worth saying, no fault.
        return Finding("boundaries", True, f"none ({error.remedy})")
    return Finding("boundaries", True, str(path.parent))
