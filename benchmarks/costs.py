"""What a country costs, from what a pilot run cost: the tables of deploy/costs.md.

    natmap run pilot.yaml --workers 2
    NATMAP_BOUNDARIES=FOLDER python benchmarks/costs.py STORE

The pilot's tiles should be those of the country's recipe: 16 km, all bands, the model that will be
used. Tiles of the countries are counted on their outlines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.catalog.boundaries import resolve_area
from engine.grid.area import Support
from engine.grid.grid import Grid
from engine.pipeline.rates import read_rates
from engine.recipe import AreaChoice

COUNTRIES = (("Korea", "KOR", "EPSG:5179"), ("China", "CHN", "ESRI:102025"))
DAYS = (10, 50)  # of a tile: a season, and a year of what is not mostly cloud


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    asked = parser.parse_args()
    rates = read_rates(asked.store)
    print("| stage | tiles seen | worker seconds | MB read | MB stored |\n|---|---|---|---|---|")
    one: dict[str, tuple[float, float, float]] = {}
    for stage, sums in rates.sums.items():
        n = sums["records"]
        one[stage] = sums["seconds"] / n, sums["bytes_read"] / n, sums["bytes_stored"] / n
        seconds, read, stored = one[stage]
        per = "a tile and day" if stage == "scenes" else "a tile"
        print(
            f"| {stage}, {per} | {n:.0f} | {seconds:.1f} | {read / 1e6:.0f} | {stored / 1e6:.0f} |"
        )
    print("\n| country | tiles | days a tile | worker hours | TB read | TB stored |")
    print("|---|---|---|---|---|---|")
    for name, code, crs in COUNTRIES:
        area, _ = resolve_area(AreaChoice(country=code), crs)
        grid = Grid.fit(area.bounds(2000.0), crs=crs, tile_size=rates.tile_size)
        tiles = int(Support(area, grid, 100.0).meets(1000.0).sum())
        for days in DAYS:
            total = [
                sum(values[k] * (days if stage == "scenes" else 1) for stage, values in one.items())
                for k in range(3)
            ]
            hours, read, stored = (tiles * value for value in total)
            print(
                f"| {name} | {tiles:,} | {days} | {hours / 3600:,.0f} | {read / 1e12:,.1f} | "
                f"{stored / 1e12:,.1f} |"
            )


if __name__ == "__main__":
    main()
