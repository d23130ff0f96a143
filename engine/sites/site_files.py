"""The files of a sample for training, and the same read again when it is topped up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.compare.report import plain
from engine.errors import AreaError, LabelError
from engine.files import together
from engine.sites.allocation import Frame
from engine.sites.drawing import SITE, Sites
from engine.sites.landscape import Landscape
from engine.sites.probabilities import Round

if TYPE_CHECKING:
    from engine.sites.placing import Placed

__all__ = ["Earlier", "frame_stamp", "read_earlier", "require_new", "write_sites"]

_SITES, _DEGREES, _STRATA = "sites.gpkg", "sites.geojson", "strata.csv"
_PICTURE, _REPORT = "sites.png", "report.json"

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Earlier:
    """A sample that lies in a folder.

    Attributes
    ----------
    name : of the folder.
    stamp : of the frame that it was drawn from.
    sites : SITE array; their units are not told.
    number : int64, the round in which each was drawn.
    rounds, seeds : of each draw.
    """

    name: str
    stamp: str
    sites: Sites
    number: Ints
    rounds: tuple[Round, ...]
    seeds: tuple[int, ...]


def require_new(folder: Path) -> None:
    """Refuse a folder that holds a sample.

    Raises
    ------
    LabelError
    """
    for name in (_SITES, "sample.geojson"):
        if (folder / name).exists():
            raise LabelError(
                "the folder holds a sample already",
                got=folder / name,
                remedy="somebody may work with it: name another folder, or remove it; `--earlier` "
                "tops it up",
            )


def frame_stamp(found: Landscape, frame: Frame) -> str:
    """Another one where units, classes or regions are others."""
    told = hashlib.sha256(repr((found.unit, found.source.shape)).encode())
    told.update(repr(tuple(found.source.transform)).encode())
    for region in found.regions:
        told.update(region.name.encode() + b"\0" + shapely.to_wkb(region.geometry))
    for name in ("row", "col", "region", "code", "pixels", "edges"):
        told.update(getattr(frame.units, name).astype("<i8").tobytes())
    told.update(frame.left_out.astype("<i8").tobytes())
    return told.hexdigest()


def read_earlier(folder: Path) -> Earlier:
    """A sample that `write_sites` wrote.

    Raises
    ------
    LabelError
        Where it cannot be read, or sites are gone.
    """
    try:
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        frame = geopandas.read_file(folder / _SITES)
        rounds = tuple(
            Round(np.array(each["sites"], np.int64), each["mode"], float(each["spacing"]))
            for each in report["rounds"]
        )
        seeds = tuple(int(each["seed"]) for each in report["rounds"])
        sites = np.zeros(len(frame), SITE)
        sites["row"], sites["col"] = frame["map_row"], frame["map_col"]
        found = Earlier(
            folder.name,
            str(report["frame"]),
            sites,
            frame["round"].to_numpy(np.int64),
            rounds,
            seeds,
        )
        known = int(report["sites"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(
            "the earlier sample cannot be read",
            got=f"{folder}: {type(error).__name__}: {error}",
            expected=f"{_SITES} and {_REPORT}, as `natmap sample --for training` writes them",
        ) from error
    if len(sites) != known or len(np.unique(sites[["row", "col"]])) != known:
        raise LabelError(
            "sites of the earlier sample are gone, or there twice",
            got=f"{folder}: {len(sites)}",
            expected=f"{known} different ones",
            remedy="top up the sample as it was drawn: what was left out counts in the chances",
        )
    return found


def write_sites(placed: Placed, folder: Path) -> None:
    """Write a sample's files.

    Raises
    ------
    AreaError
        Where sites have no place in degrees.
    """
    frame = _table(placed)
    degrees = frame.to_crs("EPSG:4326")
    if len(degrees) and not np.isfinite(degrees.total_bounds).all():
        raise AreaError("sites have no place in degrees", got=placed.found.source.crs.name)
    with together(folder, mark=_REPORT) as part:
        frame.to_file(part / _SITES, layer="sites", driver="GPKG")
        degrees.to_file(part / _DEGREES, driver="GeoJSON")
        _strata(placed).to_csv(part / _STRATA, index=False)
        draw_sites(placed, part / _PICTURE)
        text = json.dumps({"schema": 1} | plain(_report(placed)), indent=1)
        (part / _REPORT).write_text(text + "\n", encoding="utf-8")


def _table(placed: Placed) -> geopandas.GeoDataFrame:
    found, units, sites = placed.found, placed.ground.frame.units, placed.sites
    at, unit = found.source.transform, sites["unit"]
    expected = placed.chances.expected[unit]
    nothing = np.full(len(sites), np.nan)
    names = np.array([region.name for region in found.regions], object)
    probability = expected / units.pixels[unit]
    return geopandas.GeoDataFrame(
        {
            "id": np.arange(1, len(sites) + 1),
            "region": names[units.region[unit]],
            "code": units.code[unit],
            "class": found.titles(units.code[unit].tolist()),
            "unit": [f"r{r}c{c}" for r, c in zip(units.row[unit], units.col[unit], strict=True)],
            "ulsi": units.lsi[unit],
            "unit_probability": placed.chances.included[unit],
            "probability": probability,
            "known": "estimated" if placed.chances.repeats else "exact",
            "weight": 1 / probability if placed.selects else nothing,
            "weight_m2": units.area[unit] / expected if placed.selects else nothing,
            "mode": [placed.rounds[k - 1].mode for k in placed.number.tolist()],
            "seed": [placed.seeds[k - 1] for k in placed.number.tolist()],
            "round": placed.number,
            "map_row": sites["row"],
            "map_col": sites["col"],
        },
        geometry=shapely.points(
            at.a * (sites["col"] + 0.5) + at.c, at.e * (sites["row"] + 0.5) + at.f
        ),
        crs=found.source.crs,
    )


def _strata(placed: Placed) -> pandas.DataFrame:
    frame = placed.ground.frame
    classes, stratum = frame.classes, frame.stratum
    n = len(classes.code)
    names = np.array([region.name for region in placed.found.regions], object)
    drawn = np.bincount(stratum[placed.sites["unit"]], minlength=n)
    return pandas.DataFrame(
        {
            "region": names[classes.region],
            "code": classes.code,
            "class": placed.found.titles(classes.code.tolist()),
            "area_m2": classes.area,
            "share": classes.share,
            "lsi": classes.lsi,
            "pixels": classes.pixels,
            "pixels_left_out": frame.left_out,
            "units": np.bincount(stratum, minlength=n),
            "equations": placed.strata.equations,
            "most": placed.strata.most,
            "allocated": placed.strata.sites,
            "sites": drawn,
        }
    )


def _report(placed: Placed) -> dict[str, Any]:
    found, repeats = placed.found, placed.chances.repeats
    return {
        "map": found.source.name,
        "crs": found.source.crs.to_string(),
        "frame": frame_stamp(found, placed.ground.frame),
        "unit_pixels": found.unit,
        "regions": len(found.by_region.region),
        "sites": len(placed.sites),
        "probabilities": f"estimated by {repeats} draws" if repeats else "exact",
        "rounds": [
            {
                "n": int(each.sites.sum()),
                "mode": each.mode,
                "spacing": each.spacing,
                "seed": seed,
                "sites": each.sites,
            }
            for each, seed in zip(placed.rounds, placed.seeds, strict=True)
        ],
        "classes": placed.by_class(),
        "notes": placed.notes,
    }


def draw_sites(placed: Placed, path: Path) -> None:
    """Draw sites by class on the outlines of regions, as PNG."""
    found, units = placed.found, placed.ground.frame.units
    at, sites = found.source.transform, placed.sites
    x, y = at.a * (sites["col"] + 0.5) + at.c, at.e * (sites["row"] + 0.5) + at.f
    shapes = [found.regions[k].geometry for k in found.by_region.region.tolist()]
    west, south, east, north = shapely.total_bounds(shapes)
    high = float(np.clip((north - south) / max(east - west, 1e-12), 0.3, 2.0))
    figure = Figure(figsize=(11, 9 * high + 1), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    geopandas.GeoSeries(shapes).boundary.plot(ax=axes, color="0.75", linewidth=0.6)
    codes = units.code[sites["unit"]]
    for k, code in enumerate(np.unique(codes).tolist()):
        here = codes == code
        [title] = found.titles([code])
        axes.scatter(
            x[here],
            y[here],
            s=9,
            color=_COLOURS[k % len(_COLOURS)],
            marker="os^Dv"[k // len(_COLOURS) % 5],
            label=f"{title} ({int(here.sum())})",
            linewidths=0,
        )
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    axes.set_title(f"{len(sites)} sites of {found.source.name}", size=11)
    figure.savefig(path)


# twelve colours that are told apart beside each other (ColorBrewer's "Paired", Brewer 2003)
_COLOURS = (
    "#1f78b4",
    "#33a02c",
    "#e31a1c",
    "#ff7f00",
    "#6a3d9a",
    "#b15928",
    "#a6cee3",
    "#b2df8a",
    "#fb9a99",
    "#fdbf6f",
    "#cab2d6",
    "#e0d800",
)
