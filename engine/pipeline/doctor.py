"""What is right and wrong: with this machine, a store, and what a recipe would read."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rasterio
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.drivers import raster_driver_extensions
from rasterio.warp import transform

from engine.addresses import public_address
from engine.catalog.boundaries import read_mask, resolve_area
from engine.catalog.cards import find_boundaries, load_boundary_card
from engine.catalog.search import find_source, open_hosts, search
from engine.catalog.signing import make_signer
from engine.cube.access import Access
from engine.cube.read import sample_item
from engine.environment import require_numbers
from engine.errors import NatmapError, StoreError
from engine.items import BANDS, band_name
from engine.models.card import find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.pipeline.verbs import plan
from engine.products.cities import Cities
from engine.products.published import PublishedSource
from engine.products.registry import find_product, load_recipe
from engine.products.scenes import SceneCards
from engine.recipes.embeddings import Embeddings
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Images, WindowModel
from engine.store.guarantees import MANY_CHUNKS, count_chunks, race_for
from engine.store.location import Bucket, location_of
from engine.store.repository import Store

__all__ = ["Finding", "examine"]

_PACKAGES = ("dask", "distributed", "icechunk", "numpy", "rasterio", "torch", "xarray", "zarr")
_FILES = 1024  # a driver holds a few for each worker


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `text` says what to do where it is not ok."""

    name: str
    ok: bool
    text: str


def examine(target: str | None = None) -> Iterator[Finding]:
    """Look at this machine, and at a store or at all that a recipe needs.

    Parameters
    ----------
    target : a recipe file, or a store's folder or address.

    Yields
    ------
    Finding, as they come: some ask a network.
    """
    yield from _machine()
    if target is None:
        return
    if target.endswith((".yaml", ".yml")):
        yield from _recipe(Path(target))
    else:
        yield _checked("store", lambda: _own_store(target))


def _checked(name: str, look: Callable[[], Finding | str]) -> Finding:
    """What a look found; an error of natmap's is a finding, too."""
    try:
        found = look()
    except NatmapError as error:
        return Finding(name, False, "; ".join(line.strip() for line in str(error).splitlines()))
    return found if isinstance(found, Finding) else Finding(name, True, found)


# -- the machine ------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    yield _python()
    for name in _PACKAGES:
        yield _package(name)
    yield _drivers()
    yield _projections()
    yield _memory()
    yield _threads()
    yield _files()
    yield _disk()
    yield _device()
    yield _boundaries()
    yield _checked("environment", _environment)


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
    if os.environ.get("GDAL_HTTP_UNSAFESSL", "NO").upper() in ("YES", "ON", "TRUE", "1"):
        return Finding("gdal", False, f"{text} trusts any server; unset GDAL_HTTP_UNSAFESSL")
    return Finding("gdal", True, f"{text} with GeoTIFF and JPEG 2000")


def _projections() -> Finding:
    """GDAL's and pyproj's databases: each brings its own, and an environment can mix them up."""
    place = 127.0, 37.5
    advice = "unset PROJ_DATA, PROJ_LIB and GDAL_DATA: they point to another installation's files"
    try:
        ours = Transformer.from_crs("EPSG:4326", "EPSG:5179", always_xy=True).transform(*place)
        xs, ys = transform(CRS.from_epsg(4326), CRS.from_epsg(5179), *[[value] for value in place])
    except Exception as error:  # whatever a foreign database makes of it
        return Finding("projections", False, f"{str(error)[:120]}; {advice}")
    apart = max(abs(ours[0] - xs[0]), abs(ours[1] - ys[0]))
    if apart > 1e-3:
        return Finding("projections", False, f"GDAL and pyproj differ by {apart:.3g} m; {advice}")
    if os.environ.get("PROJ_NETWORK", "OFF").upper() in ("YES", "ON", "TRUE", "1"):
        text = "PROJ fetches grids from the network, so hosts may differ; unset PROJ_NETWORK"
        return Finding("projections", False, text)
    return Finding("projections", True, "GDAL and pyproj agree")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    ok = total >= 4
    advice = "" if ok else "; a default tile needs 4 GB: choose a smaller grid.tile"
    return Finding("memory", ok, f"{total:.0f} GB for {_cores()} cores{advice}")


def _threads() -> Finding:
    """Workers that natmap starts are told their threads; one that others start inherits these."""
    cores = _cores()
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    many = [
        f"{name}={value}"
        for name in names
        if (value := os.environ.get(name, "")).isdigit() and int(value) > cores
    ]
    if many:
        return Finding("threads", False, f"{', '.join(many)} on {cores} cores; unset or lower it")
    return Finding("threads", True, f"no library is told to use more than the {cores} cores")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = soft == resource.RLIM_INFINITY or soft >= _FILES
    advice = "" if ok else f"; a driver of many workers needs more: ulimit -n {min(hard, 65536)}"
    return Finding("open files", ok, f"{soft} at once{advice}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    scratch = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    ok = free > 5 and scratch > 1
    return Finding("disk", ok, f"{free:.0f} GB free here, {scratch:.0f} GB for scratch")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        ok = free > 4e9
        advice = "" if ok else "; something else holds its memory"
        text = f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free{advice}"
        return Finding("device", ok, text)
    if shutil.which("nvidia-smi"):
        text = "CPU only, though a card's driver is here: torch was built without CUDA, or the "
        return Finding("device", False, text + "driver is too old for it")
    return Finding("device", True, "CPU only")


def _boundaries() -> Finding:
    try:
        path = find_boundaries(load_boundary_card("ne-urban-areas"))
    except NatmapError as error:
        # Only needed for masks and countries: worth saying, no fault.
        return Finding("boundaries", True, f"none ({error.remedy})")
    return Finding("boundaries", True, str(path.parent))


def _environment() -> str:
    require_numbers()
    return "natmap's variables hold what can be used"


# -- a recipe, a store ------------------------------------------------------------------------


def _recipe(path: Path) -> Iterator[Finding]:
    try:
        recipe = load_recipe(path)
    except NatmapError as error:
        yield Finding("recipe", False, "; ".join(map(str.strip, str(error).splitlines())))
        return
    yield Finding("recipe", True, recipe.name)
    yield _checked("store", lambda: _store(recipe.store, path.parent))
    yield _checked("model", lambda: _model(recipe, path.parent))
    if recipe.mask is not None or recipe.area.country is not None:
        yield _checked("boundaries", lambda: _polygons(recipe, path.parent))
    yield _checked("catalogue", lambda: _catalogue(recipe, path.parent))
    yield _checked("plan", lambda: _plan(recipe, path.parent))


def _own_store(address: str) -> Finding | str:
    """A store that is named itself: it is there, or the name is wrong.

    A bucket is proved whether it holds a store yet or not.
    """
    place = location_of(address, None)
    if isinstance(place, Bucket) or Store.exists(place):
        return _store(address, None)
    raise StoreError(
        "there is no store",
        got=place,
        expected="a store, or a recipe that ends in .yaml or .yml",
        remedy="look at the spelling; a recipe's store is made by its first run",
    )


def _store(address: str, base: Path | None) -> Finding | str:
    place = location_of(address, base)
    if isinstance(place, Bucket):
        race_for(place)
        there = "a store" if Store.exists(place) else "nothing yet"
        return f"{place} holds {there}; of 8 writers at once one won, ten times"
    above = next(folder for folder in place.path.absolute().parents if folder.exists())
    nearest = place.path if place.path.exists() else above
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise StoreError(
            "the store's folder cannot be written",
            got=place,
            remedy="look at its owner and its rights, or name another folder in `store`",
        )
    if not Store.exists(place):
        place.require_free()
        return f"{place} holds nothing yet"
    Store.open(place)
    count = count_chunks(place.path)
    if count > MANY_CHUNKS:
        text = f"{place} holds {count:,} files: listing, copying and pruning it will take long; "
        return Finding("store", False, text + "a bucket, or a larger grid.chunk, bears that better")
    return f"{place} holds {count:,} files"


def _model(recipe: Recipe, base: Path) -> str:
    choice = getattr(recipe, "model", None)
    if choice is None:
        return "none asked for"
    card = load_card(find_card(choice.card, base))
    examine_weights(card)
    if isinstance(choice, WindowModel) and choice.cities is not None:
        area, _ = resolve_area(recipe.area, recipe.grid.crs, base)
        count = len(Cities(choice, card, area, base).cards)
        return f"{card.name}, and those of {count} cities: weights are those of the cards"
    if isinstance(choice, WindowModel) and choice.scenes is not None:
        count = len(SceneCards(choice, card, base).cards) - 1
        return f"{card.name}, and {count} of scenes: weights are those of the cards"
    return f"{card.name}: weights are those of the card"


def _polygons(recipe: Recipe, base: Path) -> str:
    area, _ = resolve_area(recipe.area, recipe.grid.crs, base)
    if recipe.mask is None:
        return "the area's are here"
    found, _ = read_mask(recipe.mask.boundaries, area, base)
    return f"{len(found)} polygons of the mask meet the area"


def _plan(recipe: Recipe, base: Path) -> str:
    """All that is checked before a run's work begins: what is refused then is said now."""
    found = plan(recipe, base=base)
    stale = sum(sum(stage.stale.values()) + stage.waiting for stage in found.stages)
    return f"{found.tiles} tiles, {stale} steps of them to run"


def _catalogue(recipe: Recipe, base: Path) -> str:
    """A search, and a look into one image: address, token and network in one."""
    wanted = getattr(recipe, find_product(recipe.product).main(recipe))
    if isinstance(wanted, Embeddings):
        source = PublishedSource(wanted, base)
        return f"{wanted.source} has {len(source.channels)} channels of {wanted.year}"
    imagery = wanted.wanted if isinstance(wanted, Images) else wanted
    card, where = find_source(imagery, base)
    area, _ = resolve_area(recipe.area, recipe.grid.crs, base)
    names = [band_name(band) for band in imagery.bands or ()]
    cube = getattr(recipe, "cube", Cube())
    found = search(card, where, area, imagery, names, base, cube.labels)
    item = found.items[-1]
    name = next(name for name in (*names, *BANDS) if name in item.assets)
    access = Access(make_signer(card), hosts=open_hosts(where, imagery))
    sample_item(item, [name], access=access)
    return (
        f"{public_address(where)} has {len(found.items)} scenes; {name} of {item.id} could be read"
    )
