"""`natmap sample --for training`: sites where labels are worth most, with their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.sites.allocation import Frame, Strata, allocate_sites, frame_of
from engine.sites.drawing import Drawing, Ground, Sites, hits_of
from engine.sites.landscape import Landscape, landscape
from engine.sites.probabilities import Chances, Round, estimated, exact
from engine.sites.regions import RegionMap
from engine.sites.selection import MODES, Mode, choose, plan_units
from engine.sites.site_files import Earlier, frame_stamp, read_earlier, require_new, write_sites

__all__ = ["Placed", "place_sites"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placed:
    """A sample for training.

    Attributes
    ----------
    ground : what it was drawn from.
    found : the map's indices.
    strata : sites by class of a region.
    sites : SITE array; those of earlier rounds first.
    number : int64, the round in which each was drawn, from 1.
    chances : of the frame's units; `expected` over pixels is a pixel's probability of being a site.
    rounds, seeds : of each draw.
    selects : whether units were drawn, so that sites stand for others.
    notes : what was decided or is in doubt, one line each.
    """

    ground: Ground
    found: Landscape
    strata: Strata
    sites: Sites
    number: Ints
    chances: Chances
    rounds: tuple[Round, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def selects(self) -> bool:
        return all(each.mode == "pps" for each in self.rounds)

    def by_class(self) -> list[dict[str, Any]]:
        """A row for each class: its area, what the equations ask, and its sites."""
        frame, rows = self.ground.frame, []
        classes, stratum = frame.classes, frame.stratum
        drawn = np.bincount(stratum[self.sites["unit"]], minlength=len(classes.code))
        for code in np.unique(classes.code).tolist():
            here = classes.code == code
            [title] = self.found.titles([code])
            rows.append(
                {
                    "code": code,
                    "class": title,
                    "km2": float(classes.area[here].sum() / 1e6),
                    "units": int(here[stratum].sum()),
                    "equations": int(self.strata.equations[here].sum()),
                    "allocated": int(self.strata.sites[here].sum()),
                    "sites": int(drawn[here].sum()),
                    "covered": 1 - float(frame.left_out[here].sum() / classes.pixels[here].sum()),
                }
            )
        return rows


def place_sites(
    place: str | Path,
    out: str | Path | None = None,
    *,
    n: int,
    regions: str | Path | None = None,
    field: str | None = None,
    grid: float | None = None,
    merge: float = 0.25,
    unit: float | None = None,
    unknown: Sequence[int] = (),
    layer: str = "map",
    tag: str | None = None,
    mode: Mode = "pps",
    least: int = 2,
    least_of_class: int = 2,
    per_unit: int = 1,
    least_pixels: int = 1,
    even: bool = False,
    spacing: float = 0.0,
    earlier: str | Path | None = None,
    repeats: int = 200,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Placed:
    """Draw sites to label, denser where land is more fragmented (Chen et al. 2016).

    Parameters
    ----------
    place, regions, field, grid, merge, unit, unknown, layer, tag
        As `engine.sites.landscape.landscape` takes them.
    out : folder for ``sites.gpkg`` (in the map's CRS), ``sites.geojson`` (in degrees),
        ``strata.csv``, ``sites.png`` and ``report.json``; by default nowhere.
    n : sites in all, those of an earlier sample among them.
    mode : "pps", "top" or "quantile", as `engine.sites.selection` has them.
    least, least_of_class, per_unit, even : as `engine.sites.allocation.allocate_sites` takes them.
    least_pixels : of a class in a unit; units of fewer are left out of the frame.
    spacing : metres between any two sites.
    earlier : folder of a sample of the same map, regions and units, which is topped up.
    repeats : draws by which probabilities are estimated that are not known exactly.
    seed : int, 0 or more.
    tell : gets a line now and then.

    Raises
    ------
    LabelError, AreaError, MetricError, StoreError, PublishError
        Where map or regions cannot be used, numbers make no sense or do not fit together, or the
        folder holds a sample.
    """
    _require_sense(n, mode, least_pixels, spacing, repeats, seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        require_new(folder)
    before = None if earlier is None else read_earlier(Path(earlier))
    found = landscape(
        place,
        regions=regions,
        field=field,
        grid=grid,
        merge=merge,
        unit=unit,
        unknown=unknown,
        layer=layer,
        tag=tag,
        tell=lambda done, of: tell(f"counted {done} of {of} rows of blocks"),
    )
    source = found.source
    where = RegionMap(found.regions, source.transform, source.shape)
    frame = frame_of(found.by_unit, found.by_class, least_pixels)
    ground = Ground(source, where, found.unit, frame)
    old = None if before is None else _old(before, ground, frame_stamp(found, frame))
    had = np.zeros(len(frame.classes.code), np.int64)
    if old is not None:
        had += np.bincount(frame.stratum[old["unit"]], minlength=len(had))
    strata = allocate_sites(
        found.by_region,
        frame,
        n,
        least=least,
        least_of_class=least_of_class,
        per_unit=per_unit,
        even=even,
        had=had,
    )
    rounds = (*(before.rounds if before else ()), Round(strata.sites - had, mode, spacing))
    seeds = (*(before.seeds if before else ()), seed)
    # a top-up by the same seed must not repeat the draw that it tops up
    own, others = np.random.SeedSequence([seed, len(rounds)]).spawn(2)
    rng = np.random.default_rng(own)
    drawing = Drawing(ground, [rng])
    taken = None
    if old is not None:
        drawing.keep(old, spacing)
        taken = np.bincount(old["unit"], minlength=len(frame.stratum))
    plan = plan_units(frame, rounds[-1].sites, mode, taken)
    new = drawing.draw(hits_of(0, choose(plan, rng)), spacing)
    if len(rounds) == 1 and not spacing:
        chances = exact(plan)
    else:
        chances = estimated(ground, rounds, repeats, others, tell)
    sites = new if old is None else np.concatenate([old, new])
    number = np.full(len(sites), len(rounds))
    if before is not None:
        number[: len(before.number)] = before.number
    notes = [*found.notes, *_notes(frame, strata, rounds, len(new), spacing)]
    placed = Placed(ground, found, strata, sites, number, chances, rounds, seeds, tuple(notes))
    if folder is not None:
        write_sites(placed, folder)
    return placed


def _require_sense(
    n: int, mode: str, least_pixels: int, spacing: float, repeats: int, seed: int
) -> None:
    for name, value in (("n", n), ("least_pixels", least_pixels), ("repeats", repeats)):
        if value < 1:
            raise LabelError(f"{name} must be 1 or more", got=value)
    if mode not in MODES:
        raise LabelError("no such selection", got=mode, expected=", ".join(MODES))
    if not 0 <= spacing < np.inf:
        raise LabelError("the distance between sites makes no sense", got=f"{spacing:g} m")
    if seed < 0:
        raise LabelError("a seed must be 0 or more", got=seed)


def _old(before: Earlier, ground: Ground, stamp: str) -> Sites:
    """Sites of an earlier sample, as rows of this frame.

    Raises
    ------
    LabelError
        Where it was drawn from another frame, or somebody moved its sites.
    """
    if before.stamp != stamp:
        raise LabelError(
            "the earlier sample was drawn from another frame",
            got=before.name,
            expected="the same map, regions, units and least pixels",
            remedy="draw with the settings of its report.json, or a new sample",
        )
    frame, sites = ground.frame, before.sites
    units = frame.units
    keys = {
        key: k
        for k, key in enumerate(
            zip(
                units.row.tolist(),
                units.col.tolist(),
                units.region.tolist(),
                units.code.tolist(),
                strict=True,
            )
        )
    }
    height, width = ground.source.shape
    found = sites.copy()
    for k, site in enumerate(sites):
        row, col = int(site["row"]), int(site["col"])
        unit = -1
        if 0 <= row < height and 0 <= col < width:
            here = slice(row, row + 1), slice(col, col + 1)
            region = int(ground.regions.read(*here)[0, 0])
            code = int(ground.source.read(*here)[0, 0])
            unit = keys.get((row // ground.side, col // ground.side, region, code), -1)
        if unit < 0:
            raise LabelError(
                "a site of the earlier sample does not lie in the frame",
                got=f"{before.name}: row {row}, column {col}",
                expected="sites as they were drawn",
            )
        found["unit"][k] = unit
    return found


def _notes(
    frame: Frame, strata: Strata, rounds: Sequence[Round], drawn: int, spacing: float
) -> list[str]:
    notes = []
    empty = int((strata.sites == 0).sum())
    if empty:
        notes.append(
            f"{empty} of {len(strata.sites)} classes of regions get no site: what is estimated "
            "from the sample leaves them out"
        )
    if left := int(frame.left_out.sum()):
        share = left / frame.classes.pixels.sum()
        notes.append(f"{left} pixels ({share:.2%}) lie in units with too few pixels of their class")
    wanted = int(rounds[-1].sites.sum())
    if drawn < wanted:
        notes.append(
            f"{wanted - drawn} of {wanted} sites found no pixel {spacing:g} m from all others, and "
            "are left out"
        )
    if any(each.mode != "pps" for each in rounds):
        notes.append(
            "units were not drawn at random: sites have no weights, and nothing can be estimated "
            "from them"
        )
    return notes
