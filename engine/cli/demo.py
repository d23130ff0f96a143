"""The demo: a country is made up, mapped, judged, mapped again with a date more, and at 1 m."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import shapely
from rich.panel import Panel
from rich.table import Table
from shapely.geometry.base import BaseGeometry

from engine.cli.figures import draw_zones
from engine.cli.render import draw_plan, out, progress, say
from engine.compare.cells import Evaluation, evaluate
from engine.compare.crosstab import beside
from engine.compare.pixels import evaluate_green
from engine.cube.footprint import SLACK
from engine.errors import RunError
from engine.grid.grid import Grid, Tile
from engine.pipeline.publish import publish
from engine.pipeline.status import read_status
from engine.pipeline.verbs import plan, run
from engine.runs.events import Event, TileDone
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize, write_green
from engine.synthetic.scene import CRS, Overpass

__all__ = ["show"]

_SEED, _WIDTH, _HEIGHT, _TILE = 2021, 16_000, 9_600, 320  # no training saw this world
_LEAST_OA, _LEAST_KAPPA = 0.75, 0.72  # of the whole map
_SIDE = 3_200  # metres of the square whose green space is mapped
_LEAST_F1 = 0.8
_MARK = "natmap-demo.txt"


@dataclass(frozen=True)
class Facts:
    """What came out of a demo, of which its expectations are judged.

    Parameters
    ----------
    oa, kappa : of the whole map, with the new date
    f1 : of green space
    new_days : tiles times days that the store has more than before the new date
    scenes, scores : names of tiles read and classified anew
    touched, near, seeing : tiles that the new swath meets, that it meets with slack, and those
        whose patches reach one that it meets
    """

    oa: float
    kappa: float
    f1: float
    new_days: int
    scenes: frozenset[str]
    scores: frozenset[str]
    touched: frozenset[str]
    near: frozenset[str]
    seeing: frozenset[str]


def show(folder: Path, workers: int | None = None) -> int:
    """Run the demo in a folder; an earlier demo's folder is made anew.

    Returns
    -------
    0, or 1 where a threshold was missed.
    """
    began = time.monotonic()
    _clear(folder)
    country = Country(World(_SEED), _WIDTH, _HEIGHT)
    dates = len(country.overpasses)
    _head(1, f"Make a country up: {_WIDTH * _HEIGHT / 1e6:.0f} km2, 2 UTM zones, {dates} dates")
    recipe = synthesize(country, folder, model="lcz-made-up", tile=_TILE, name="demo", tell=say)

    _head(2, "Plan, run, publish")
    draw_plan(plan(recipe))
    seconds, ran = _run(recipe, workers)
    first_ran = ran
    known = {event.tile for event in ran if event.stage == "scenes"}
    publish(recipe, tag="first")
    product = folder / "product"  # as the reader would type it
    first = _judge(product, folder, "first")

    _head(3, "A new date arrives, over the west of the country only")
    more = _new_date(country)
    country = replace(country, overpasses=(*AUTUMN, more))
    before = _tile_days(folder)
    synthesize(country, folder, model="lcz-made-up", tile=_TILE, name="demo", tell=say)
    draw_plan(plan(recipe))
    again, ran = _run(recipe, workers)
    boxes = _boxes(folder, known)
    touched = {tile for tile in known if boxes[tile].intersects(more.swath)}
    # footprints are taken with slack, since catalogues draw them badly
    near = {tile for tile in known if boxes[tile].distance(more.swath) <= SLACK + 100}
    seeing = {
        tile
        for tile in known
        for other in touched
        if abs(tile.row - other.row) <= 1 and abs(tile.col - other.col) <= 1
    }
    new_days = _tile_days(folder) - before
    scenes, scores = (
        {event.tile for event in ran if event.stage == stage} for stage in ("scenes", "scores")
    )
    publish(recipe, tag="second")
    second = _judge(product, folder, "second")

    town = _most_urban(country, folder)
    _head(4, f"Green space where most of it is town: {_SIDE / 1000:g} x {_SIDE / 1000:g} km at 1 m")
    green = write_green(country, folder, model="ugs-made-up", name="demo-green", bounds=town)
    draw_plan(plan(green))
    _run(green, workers)
    found = evaluate_green(publish(green), folder / "photos" / "green.tif")
    both = beside(product, folder / "green-product", out=folder / "beside")

    _head(5, "What came out")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "first", "with the new date"):
        table.add_column(name, justify="left" if not name else "right")
    rows = [
        ("overall accuracy, whole map", first.accuracy.oa, second.accuracy.oa),
        ("kappa", first.accuracy.kappa, second.accuracy.kappa),
        ("accuracy among built types", first.accuracy.oa_u, second.accuracy.oa_u),
        ("mean F1", first.accuracy.f1_macro, second.accuracy.f1_macro),
    ]
    for title, a, b in rows:
        table.add_row(title, f"{a:.3f}", f"{b:.3f}")
    table.add_row("tiles x days read", str(before), f"{len(scenes)} x 1")
    mapped = sum(event.stage == "scores" for event in first_ran)
    table.add_row("tiles classified", str(mapped), str(len(scores)))
    table.add_row("seconds of the run", f"{seconds:.0f}", f"{again:.0f}")
    out.print(table)
    out.print()
    draw_zones(both)
    out.print()
    facts = Facts(
        oa=second.accuracy.oa,
        kappa=second.accuracy.kappa,
        f1=found.figures["f1"],
        new_days=new_days,
        scenes=_names(scenes),
        scores=_names(scores),
        touched=_names(touched),
        near=_names(near),
        seeing=_names(seeing),
    )
    code = conclude(facts, folder)
    out.print()
    for title, path in (
        ("the map", product / "preview.png"),
        ("beside its green", folder / "beside" / "beside.png"),
        ("what it gets wrong", folder / "accuracy-second" / "confusion.png"),
        ("report", product / "report.json"),
    ):
        out.print(f"{title:20} {path}", markup=False)
    out.print(
        Panel(
            f"natmap status {folder / 'store'}\n"
            f"natmap evaluate {product} {folder / 'truth' / 'truth-lcz.tif'}\n"
            f"natmap run {recipe} --set filter.method=majority\n"
            "natmap init lcz > recipe.yaml",
            title="try next: look, judge, filter again, map a real place",
            expand=False,
        )
    )
    say(f"demo finished in {(time.monotonic() - began) / 60:.1f} minutes")
    return code


def judge(facts: Facts) -> dict[str, bool]:
    """What is expected of a demo, in words, and whether it holds."""
    return {
        "only the new day was read, only tiles beside it were classified again": (
            facts.new_days == len(facts.scenes)
            and facts.touched <= facts.scenes <= facts.near
            and facts.scores <= facts.seeing
        ),
        f"accuracy at least {_LEAST_OA}, kappa at least {_LEAST_KAPPA}": (
            facts.oa >= _LEAST_OA and facts.kappa >= _LEAST_KAPPA
        ),
        f"F1 of green space {facts.f1:.3f}, at least {_LEAST_F1}": facts.f1 >= _LEAST_F1,
    }


def conclude(facts: Facts, folder: Path) -> int:
    """Say what holds and what was missed, and keep it with the facts in ``demo.json``.

    Returns
    -------
    The command's exit code: 1 where anything was missed.
    """
    found = judge(facts)
    for text, holds in found.items():
        _verdict(text, holds)
    code = 0 if all(found.values()) else 1
    kept = {"facts": asdict(facts), "expectations": found, "code": code}
    (folder / "demo.json").write_text(json.dumps(kept, indent=1, default=sorted) + "\n")
    return code


def _names(tiles: set[Tile]) -> frozenset[str]:
    return frozenset(str(tile) for tile in tiles)


def _clear(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARK).is_file() and any(folder.iterdir()):
            raise RunError(
                "the folder is not empty, and no demo made it",
                got=str(folder),
                remedy="name another: natmap demo FOLDER",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).write_text("Made by `natmap demo`, which makes it again each time.\n")


def _head(number: int, text: str) -> None:
    out.print(f"\n[bold]{number}. {text}[/bold]")


def _verdict(text: str, holds: bool) -> None:
    out.print(f"{'[green]holds[/green]' if holds else '[red]MISSED[/red]'}  {text}")


def _run(recipe: Path, workers: int | None) -> tuple[float, list[TileDone]]:
    """Run; the seconds it took, and the tiles that ran."""
    ran: list[TileDone] = []

    def listen(event: Event) -> None:
        if isinstance(event, TileDone):
            ran.append(event)

    with progress() as listener:
        found = run(recipe, workers=workers, listeners=[listener, listen])
    if found.failed:
        raise RunError("tiles failed", got="; ".join(text for _, _, text in found.failed[:3]))
    return found.seconds, ran


def _judge(product: Path, folder: Path, name: str) -> Evaluation:
    """The whole map against the truth: unmasked, as no border of a town decides what is right."""
    return evaluate(
        product,
        folder / "truth" / "truth-lcz.tif",
        layer="classes",
        out=folder / f"accuracy-{name}",
    )


def _new_date(country: Country) -> Overpass:
    left, bottom, right, top = country.bounds
    edge = (left + 0.25 * (right - left), (bottom + top) / 2, 190.0)
    return Overpass(datetime(2021, 10, 16, 10, 10, tzinfo=UTC), "05.00", 0.1, 0.012, edge)


def _most_urban(country: Country, folder: Path) -> tuple[int, int, int, int]:
    """The square that holds most of towns, on the lattice of the zones' cells."""
    left, bottom, right, top = shapely.box(*country.bounds).buffer(-country.inset).bounds
    towns = geopandas.read_file(folder / "truth" / "urban.geojson").to_crs(CRS).union_all()
    step = 400
    corners = [
        (x, y)
        for x in range(round(left), round(right) - _SIDE + 1, step)
        for y in range(round(bottom), round(top) - _SIDE + 1, step)
    ]
    squares = [shapely.box(x, y, x + _SIDE, y + _SIDE) for x, y in corners]
    x, y = corners[int(shapely.area(shapely.intersection(squares, towns)).argmax())]
    return x, y, x + _SIDE, y + _SIDE


def _tile_days(folder: Path) -> int:
    return int(read_status(folder / "store")["stages"]["scenes"]["done"])


def _boxes(folder: Path, tiles: set[Tile]) -> dict[Tile, BaseGeometry]:
    """Outlines of tiles in the store's CRS."""
    identity = Store.open(folder / "store").identity
    bounds, crs = tuple(identity["bounds"]), identity["crs"]
    grid = Grid.fit(bounds, crs=crs, tile_size=identity["tile_size"])
    return {tile: shapely.box(*grid.tile_bounds(tile)) for tile in tiles}
