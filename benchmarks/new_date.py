"""What a new date costs that covers a tenth of a country: bytes of imagery, time, tiles.

    python benchmarks/new_date.py --work FOLDER --log benchmarks/new-date.json   (about 20 minutes)

A made-up country of 400 tiles is mapped from four dates over HTTP; then a date comes that a
satellite saw over the east of it only, in one block. The country and its catalogue are kept in the
folder; the runs are made anew. Bytes are those that the file server sent. CI measures a
row of 20 tiles of noise, the soak this country (tests/integration/test_new_date_share.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from services.faulty import Files, far_catalogue  # noqa: E402

import engine  # noqa: E402
from engine.models.card import find_card, load_card  # noqa: E402
from engine.models.mlm import write_card  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.synthetic.country import AUTUMN, Country, write_scenes  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.make import synthesize  # noqa: E402
from engine.synthetic.scene import Overpass  # noqa: E402

SHARE = 0.1
LATER = datetime(2021, 10, 16, 10, 10, tzinfo=UTC)


def late(country: Country) -> Overpass:
    """A date that shows the east of a country only."""
    left, bottom, right, _ = country.bounds
    edge = (right - SHARE * (right - left), float(bottom), 0.0)
    return Overpass(LATER, "05.00", 0.1, 0.012, edge)


def copy_model(work: Path, tile: int) -> None:
    """The shipped network, its blocks small enough for small tiles."""
    card = load_card(find_card("lcz-made-up", work))
    shutil.copytree(card.folder, work / "model", dirs_exist_ok=True)
    write_card(card.model_copy(update={"inference_block": tile // 10}), work / "model")


def make(work: Path, country: Country, tile: int) -> None:
    """The country, its dates and the late one, and a recipe."""
    if not (work / "made").exists():
        copy_model(work, tile)
        synthesize(country, work, model="./model", tile=tile, name="country")
        dates = (*country.overpasses, late(country))
        write_scenes(replace(country, overpasses=dates), work / "scenes")
        (work / "made").touch()


def catalogue(work: Path, port: int, last: str) -> str:
    """Items up to a day, their assets at the file server."""
    folder = work / "far"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return far_catalogue(work / "scenes", folder, port, last)


def run(work: Path, files: Files, last: str, cluster: Any) -> dict[str, Any]:
    """One run: seconds, bytes that were sent, tiles by stage."""
    recipe = yaml.safe_load((work / "recipe.yaml").read_text())
    recipe["imagery"] |= {
        "catalog": catalogue(work, files.port, last),
        "period": f"2021-09-01/{last}",
    }
    before = files.log.stat().st_size if files.log.exists() else 0
    tiles: Counter[str] = Counter()

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            tiles[event.stage] += 1

    plan = engine.plan(recipe, base=work)
    began = time.perf_counter()
    workers = {"workers": 1} if cluster is None else {"cluster": cluster}
    summary = engine.run(recipe, base=work, listeners=[listen], **workers)
    seconds = time.perf_counter() - began
    assert not summary.failed, summary.failed
    with files.log.open() as log:
        log.seek(before)
        sent = sum(int(line.split()[0]) for line in log)
    return {
        "seconds": round(seconds, 1),
        "imagery_bytes": sent,
        "tiles": dict(tiles),
        "of": plan.tiles,
    }


def measure(work: Path, country: Country, cluster: Any = None) -> dict[str, Any]:
    """Map the scenes and recipe of a folder without the late date and with it.

    Parameters
    ----------
    work : folder
    country : Country
        Of which its scenes are.
    cluster : open workers, optional
        By default one is started for each run.
    """
    shutil.rmtree(work / "store", ignore_errors=True)
    shutil.rmtree(work / "nginx", ignore_errors=True)
    files = Files(work / "scenes", work / "nginx")
    try:
        full = run(work, files, f"{country.overpasses[-1].when:%Y-%m-%d}", cluster)
        print(json.dumps(full), flush=True)
        update = run(work, files, f"{LATER:%Y-%m-%d}", cluster)
        print(json.dumps(update), flush=True)
    finally:
        files.stop()
    result = {
        "full": full,
        "new_date": update,
        "bytes_share": round(update["imagery_bytes"] / full["imagery_bytes"], 4),
        "time_share": round(update["seconds"] / full["seconds"], 4),
        "tiles_share": {
            stage: round(n / full["tiles"][stage], 4) for stage, n in update["tiles"].items()
        },
    }
    print("figures:", json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--side", type=int, default=32_000, help="metres")
    parser.add_argument("--tile", type=int, default=160, help="pixels of 10 m")
    parser.add_argument("--dates", type=int, default=len(AUTUMN), help="before the late one")
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    country = Country(World(31), asked.side, asked.side, AUTUMN[: asked.dates])
    make(work, country, asked.tile)
    result = measure(work, country)
    if asked.log:
        asked.log.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
