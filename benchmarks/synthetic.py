"""What a made-up country costs to make, per square kilometre.

    python benchmarks/synthetic.py              (about a minute)

Ground at 1 m (one thread), truth at 100 m (one thread), and scenes of 1 and of 4 dates as they are
written (all cores), without the files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.synthetic.country import AUTUMN
from engine.synthetic.districts import World
from engine.synthetic.scene import see
from engine.synthetic.surface import paint
from engine.synthetic.truth import survey

WORLD, LEFT, TOP = World(1), 4_464_000, 2_934_000
BLOCKS, SIDE = 4, 256  # blocks of 256 px of 10 m, as `write_scenes` makes them


def main() -> None:
    paint(WORLD, LEFT, TOP, 64, 64)
    survey(WORLD, LEFT, TOP, 2, 2)
    see(WORLD, 33, 300_000, 5_480_000, 16, 16, AUTUMN)  # compiled by now
    found = {}
    began = time.perf_counter()
    paint(WORLD, LEFT, TOP, 3000, 3000)
    found["ground_seconds_per_km2"] = (time.perf_counter() - began) / 9
    began = time.perf_counter()
    survey(WORLD, LEFT, TOP, 40, 40)
    found["truth_seconds_per_km2"] = (time.perf_counter() - began) / 16
    cores = os.cpu_count() or 1
    for dates in (1, 4):

        def make(number: int, dates: int = dates) -> None:
            see(WORLD, 33, 300_000 + number * SIDE * 10, 5_480_000, SIDE, SIDE, AUTUMN[:dates])

        began = time.perf_counter()
        with ThreadPoolExecutor(max_workers=cores) as pool:
            list(pool.map(make, range(BLOCKS)))
        square = BLOCKS * (SIDE / 100) ** 2
        found[f"scenes_of_{dates}_seconds_per_km2"] = (time.perf_counter() - began) / square
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
