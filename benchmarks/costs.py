"""What a country costs, from what a pilot run cost: the tables of deploy/costs.md.

    natmap run pilot.yaml --workers 1
    NATMAP_BOUNDARIES=FOLDER python benchmarks/costs.py STORE --km2 1024 --days 4

The pilot's tiles should be those of the country's recipe: 16 km, all bands, the model that will be
used. Costs go by area, since tiles at a pilot's border are not full; countries are taken by their
outlines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.catalog.boundaries import resolve_area
from engine.pipeline.rates import read_rates
from engine.recipes.sections import AreaChoice

COUNTRIES = (("Korea", "KOR", "EPSG:5179"), ("China", "CHN", "ESRI:102025"))
DAYS = (10, 50)  # of a tile: a season, and a year of what is not mostly cloud


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--km2", type=float, required=True, help="the pilot's area")
    parser.add_argument("--days", type=int, required=True, help="that the pilot has")
    asked = parser.parse_args()
    rates = read_rates(asked.store)
    tiles = asked.km2 * 1e6 / rates.tile_size**2  # full ones
    print("| stage | worker seconds | MB read | MB stored |\n|---|---|---|---|")
    one: dict[str, tuple[float, float, float]] = {}
    for stage, sums in rates.sums.items():
        n = tiles * (asked.days if stage == "scenes" else 1)
        one[stage] = sums["seconds"] / n, sums["bytes_read"] / n, sums["bytes_stored"] / n
        seconds, read, stored = one[stage]
        per = "a tile and day" if stage == "scenes" else "a tile"
        print(f"| {stage}, {per} | {seconds:.1f} | {read / 1e6:.0f} | {stored / 1e6:.1f} |")
    print("\n| country | km2 | days a place | worker hours | TB read | TB stored |")
    print("|---|---|---|---|---|---|")
    for name, code, crs in COUNTRIES:
        area, _ = resolve_area(AreaChoice(country=code), crs)
        km2 = area.geometry.area / 1e6
        for days in DAYS:
            # a composite of more days takes as much longer; what it stores stays
            times = {"scenes": (days, days, days), "composite": (days / asked.days, 1, 1)}
            total = [
                sum(values[k] * times.get(stage, (1, 1, 1))[k] for stage, values in one.items())
                for k in range(3)
            ]
            hours, read, stored = (km2 * 1e6 / rates.tile_size**2 * value for value in total)
            print(
                f"| {name} | {km2:,.0f} | {days} | {hours / 3600:,.0f} | {read / 1e12:,.1f} | "
                f"{stored / 1e12:,.1f} |"
            )


if __name__ == "__main__":
    main()
