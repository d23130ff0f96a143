"""Where to label in China, by a published design, and which design estimates best there.

    python benchmarks/sites.py --data FOLDER --work FOLDER --log FILE.json     (about 2 minutes)

FOLDER holds ``land-cover/mcd12c1-2019-igbp.tif`` (MODIS MCD12C1, 0.05 degrees) and Natural Earth's
countries in ``boundaries``. Classes become those of GlobeLand30, regions are squares of 5 degrees.
The counts by class stand beside Table 1 of the paper (1,602 sites); totals of areas by Horvitz and
Thompson are drawn 20,000 times; and designs are tried under three patterns of errors.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.sites.advising import advise  # noqa: E402
from engine.sites.placing import place_sites  # noqa: E402
from engine.sites.selection import choose, plan_units  # noqa: E402

N = 1602
PAPER = {80: 161, 90: 199, 10: 216, 20: 227, 30: 234, 100: 126, 40: 185, 60: 154, 50: 100}
NAMES = {
    10: "cultivated", 20: "forest", 30: "grass", 40: "shrub", 50: "wetland", 60: "water",
    80: "artificial", 90: "bare", 100: "snow and ice",
}  # fmt: skip
IGBP = {
    0: 60, 1: 20, 2: 20, 3: 20, 4: 20, 5: 20, 6: 40, 7: 40, 8: 30, 9: 30, 10: 30, 11: 50, 12: 10,
    13: 80, 14: 10, 15: 100, 16: 90,
}  # fmt: skip


def make_land(data: Path, work: Path) -> tuple[Path, Path]:
    """The map in nine classes, and China's outline."""
    work.mkdir(parents=True, exist_ok=True)
    land, outline = work / "land.tif", work / "china.geojson"
    with rasterio.open(data / "land-cover" / "mcd12c1-2019-igbp.tif") as file:
        codes, profile = file.read(1), file.profile
    nine = np.full(codes.shape, 255, np.uint8)
    for code, ours in IGBP.items():
        nine[codes == code] = ours
    profile.update(dtype="uint8", nodata=255, compress="deflate")
    with rasterio.open(land, "w", **profile) as file:
        file.write(nine, 1)
    countries = geopandas.read_file(data / "boundaries" / "ne_110m_admin_0_countries.json")
    countries[countries["ADM0_A3"] == "CHN"][["ADM0_A3", "geometry"]].to_file(outline)
    return land, outline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=500)
    told = parser.parse_args()
    land, outline = make_land(told.data, told.work)
    where = {"regions": outline, "grid": 5.0, "unit": 0.5}
    settings = {
        "equations as written": {"least": 0, "least_of_class": 0, "per_unit": 100},
        "2 a stratum": {},
        "2 a stratum, 100 a class": {"least_of_class": 100, "per_unit": 100},
        "regions made comparable": {"even": True},
    }
    found: dict[str, object] = {"n": N, "regions": "squares of 5 degrees", "unit": "0.5 degrees"}
    counts = {}
    for name, more in settings.items():
        began = time.perf_counter()
        placed = place_sites(land, n=N, **where, **more)
        counts[name] = {row["code"]: row["sites"] for row in placed.by_class()}
        seconds = round(time.perf_counter() - began, 1)
        print(name, f"{seconds} s", counts[name], flush=True)
        if name == "2 a stratum":
            kept = placed
        found[f"strata without a site, {name}"] = int((placed.strata.sites == 0).sum())
    found["sites by class"] = {
        NAMES[code]: {"paper": PAPER[code], **{name: counts[name][code] for name in counts}}
        for code in PAPER
    }
    place_sites(land, told.work / "sites", n=N, **where) if not (
        told.work / "sites" / "report.json"
    ).exists() else None
    east = kept.sites["col"] >= (105 + 180) / 0.05
    share = kept.found.by_unit
    area_east = share.area[(share.col + 0.5) * 0.5 - 180 >= 105].sum()
    found["density of sites, east of 105 degrees over west"] = round(
        float((east.sum() / area_east) / ((~east).sum() / (share.area.sum() - area_east))), 2
    )

    frame = kept.ground.frame
    plan = plan_units(frame, kept.strata.sites)
    rng = np.random.default_rng(0)
    code, area = frame.units.code, frame.units.area
    weight = area / plan.expected
    classes = np.unique(code)
    at = np.searchsorted(classes, code)
    seen, totals = np.zeros(len(code)), np.zeros((told.draws, len(classes)))
    for k in range(told.draws):
        drawn = choose(plan, rng)
        seen += drawn
        totals[k] = np.bincount(at, drawn * weight, len(classes))
    right = np.bincount(at, area)
    error = totals.std(axis=0) / np.sqrt(told.draws)
    free = plan.chance > 0
    wanted = told.draws * plan.expected[free]
    away = (seen[free] - wanted) ** 2 / (wanted * (1 - plan.chance[free]))
    found["draws"] = {
        "draws": told.draws,
        "units that are certain": int((plan.whole > 0).sum()),
        "units by chance": int(free.sum()),
        "mean squared z of their counts": round(float(away.mean()), 3),
        "share of units beyond 3 sigma": round(float((away > 9).mean()), 4),
        "certain units' counts are exact": bool(
            (seen[~free] == told.draws * plan.whole[~free]).all()
        ),
        "z of Horvitz-Thompson totals of area": {
            NAMES[int(c)]: round(float(z), 2)
            for c, z in zip(
                classes, (totals.mean(axis=0) - right) / np.maximum(error, 1e-9), strict=True
            )
        },
    }
    print(json.dumps(found["draws"], indent=1), flush=True)

    began = time.perf_counter()
    spaced = place_sites(land, n=N, spacing=20_000, repeats=50, **where)
    ratio = spaced.chances.expected[free] / plan.expected[free]
    found["20 km apart"] = {
        "seconds": round(time.perf_counter() - began, 1),
        "sites": len(spaced.sites),
        "expected sites, estimated": round(float(spaced.chances.expected.sum()), 1),
        "least and largest ratio to the plan": [
            round(float(ratio.min()), 2),
            round(float(ratio.max()), 2),
        ],
    }
    print(found["20 km apart"], flush=True)

    began = time.perf_counter()
    advice = advise(land, told.work / "advice", n=N, repeats=told.repeats, **where)
    found["advice"] = {
        "seconds": round(time.perf_counter() - began, 1),
        "table": [
            {
                "errors": row.pattern,
                "design": row.title,
                "areas, points": round(100 * row.areas, 2),
                "accuracy, bias": round(100 * row.oa_bias, 2),
                "accuracy, s.e.": round(100 * row.oa_error, 2),
                "places": round(row.places),
                "score": round(advice.scores[row.key], 3),
                "relative bias of classes, %": [
                    round(float(b), 1)
                    for b in 100
                    * row.bias
                    / next(t for t in advice.truths if t.pattern == row.pattern).shares
                ],
                "relative s.e. of classes, %": [
                    round(float(b), 1)
                    for b in 100
                    * row.error
                    / next(t for t in advice.truths if t.pattern == row.pattern).shares
                ],
            }
            for row in advice.rows
        ],
        "classes": [NAMES[int(title)] for title in advice.titles],
        "best": advice.best,
        "not told apart": advice.alike,
    }
    print(json.dumps(found, indent=1))
    if told.log:
        told.log.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
