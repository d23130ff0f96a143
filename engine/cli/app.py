"""The command. Every verb imports what it needs when it runs: help must be instant."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli import alike, bench, labelling, landscape, learning, sampling
from engine.cli.endings import Verbs, again, carry_out
from engine.cli.options import Json, RecipePath, Set, read_overrides, read_source

__all__ = ["app", "main"]

app = typer.Typer(
    name="natmap",
    help="From a STAC catalogue and a model to a national map, tile by tile on Dask.",
    cls=Verbs,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Until = Annotated[str | None, typer.Option(help="last stage to run: scenes, composite, scores …")]
Tiles = Annotated[str | None, typer.Option(help="tiles to finish, as in r0003c0012,r0003c0013")]


def _version(wanted: bool) -> None:
    if wanted:
        import engine

        sys.stdout.write(f"natmap {engine.__version__}\n")
        raise typer.Exit


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter("it is no number of kilometres")
    return value


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", help="of natmap", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def init(
    product: Annotated[
        str,
        typer.Argument(
            help="lcz, ugs, cover, embedding, train, train-ugs, train-cover, train-multilabel, "
            "train-head, adapt, propagate"
        ),
    ],
) -> None:
    """Print a commented recipe to start from."""
    from engine.pipeline.templates import init as write

    sys.stdout.write(write(product))


@app.command()
def plan(
    recipe: RecipePath,
    as_json: Json = False,
    until: Until = None,
    tiles: Tiles = None,
    rates: Annotated[
        str | None, typer.Option(help="a store whose runs tell what a tile costs")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="that share the work")] = None,
    overrides: Set = None,
) -> None:
    """Say what would run and why, scenes, bytes, time and money; writes nothing."""
    from engine.cli.render import draw_plan
    from engine.pipeline.verbs import plan as find_plan

    found = find_plan(
        _recipe(recipe, overrides),
        base=recipe.parent,
        until=until,
        tiles=_names(tiles),
        rates=rates,
        workers=workers,
    )
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    else:
        draw_plan(found)


@app.command()
def run(
    recipe: RecipePath,
    workers: Annotated[int | None, typer.Option(help="worker processes")] = None,
    cluster: Annotated[
        str, typer.Option(help="local, slurm, tcp://host:port, or a settings file")
    ] = "local",
    until: Until = None,
    tiles: Tiles = None,
    metrics: Annotated[
        str | None, typer.Option(help="serve figures for Prometheus at this port, or HOST:PORT")
    ] = None,
    overrides: Set = None,
) -> None:
    """Run all that is missing or stale. Ctrl-C finishes the tiles in flight, twice breaks off."""
    _prepare_for_work()
    wanted = _recipe(recipe, overrides)
    _carry_out(wanted, recipe, workers, cluster, metrics, until=until, tiles=_names(tiles))


@app.command()
def embed(
    recipe: RecipePath,
    workers: Annotated[int | None, typer.Option(help="worker processes")] = None,
    cluster: Annotated[
        str, typer.Option(help="local, slurm, tcp://host:port, or a settings file")
    ] = "local",
    overrides: Set = None,
) -> None:
    """Make a vector of features for each cell and publish them. A recipe of product lcz will do."""
    _prepare_for_work()
    from engine.pipeline.publish import publish as write
    from engine.products.embedding import embedding_of

    wanted = embedding_of(_recipe(recipe, overrides))
    _carry_out(wanted, recipe, workers, cluster)
    sys.stdout.write(f"{write(wanted, base=recipe.parent)}\n")


def _prepare_for_work() -> None:
    from engine.runs.memory import bound_heap

    bound_heap()  # before the threads of all that is imported now


def _carry_out(
    wanted: Any,
    path: Path,
    workers: int | None,
    cluster: str,
    metrics: str | None = None,
    **more: Any,
) -> None:
    """Run a recipe before the eyes of a person, and end as its summary says."""
    from engine.cli.render import progress, say
    from engine.cli.usage import say_usage
    from engine.pipeline.verbs import run as start

    with ExitStack() as open_:
        listeners = [open_.enter_context(progress())]
        if metrics is not None:
            from engine.runs.metrics import serve_metrics

            listeners.append(open_.enter_context(serve_metrics(metrics)))
        summary = start(
            wanted,
            base=path.parent,
            cluster=cluster,
            workers=workers,
            listeners=listeners,
            **more,
        )
    say(f"{summary.done} tiles done in {summary.seconds:.0f} s, {len(summary.failed)} failed")
    if summary.usage is not None:
        say_usage(summary.usage, wanted.price_per_worker_hour)
    if summary.stopped:
        say(f"stopped; all of it is kept. To resume: {again()}")
        raise typer.Exit(130)
    if summary.failed:
        for stage, tile, text in summary.failed:
            say(f"  {stage} {tile}: {text.splitlines()[0]}", "red")
        say(f"{summary.blocked} more tiles wait for these; `{again()}` tries again")
        raise typer.Exit(1)


@app.command()
def status(
    store: Annotated[str, typer.Argument(help="folder or s3://…", show_default=False)],
    price: Annotated[
        float | None, typer.Option(min=0, help="of a task slot and hour, to price the last run")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count tiles done, failed and blocked, with reasons, and tell what the last run used."""
    from engine.cli.render import out, say
    from engine.cli.usage import draw_usage
    from engine.pipeline.status import read_status
    from engine.runs.usage import Usage

    found = read_status(store, price)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    for name, counts in found["stages"].items():
        text = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing yet"
        out.print(f"{name}: {text}", markup=False)
    if used := found["usage"]:
        draw_usage(used["run"], Usage.of_json(used), price)
    for name, note in found["notes"].items():
        say(f"  {name}: {note.splitlines()[0]}", "yellow")


@app.command()
def publish(
    recipe: RecipePath,
    tag: Annotated[str | None, typer.Option(help="name this state as a release")] = None,
    as_made: Annotated[
        bool, typer.Option(help="also a map that the recipe would make otherwise, and say so")
    ] = False,
    overrides: Set = None,
) -> None:
    """Write COG, STAC, preview and report into the product folder."""
    from engine.pipeline.publish import publish as write

    folder = write(_recipe(recipe, overrides), base=recipe.parent, tag=tag, as_made=as_made)
    sys.stdout.write(f"{folder}\n")


@app.command()
def diff(
    store: Annotated[str, typer.Argument(help="folder or s3://…", show_default=False)],
    old: Annotated[str, typer.Argument(help="release", show_default=False)],
    new: Annotated[str | None, typer.Argument(help="release; without it, the newest state")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for raster and tables")] = None,
    as_json: Json = False,
) -> None:
    """Compare the maps of two releases: a change map, and what became what."""
    from engine.cli.figures import draw_difference
    from engine.compare.releases import diff as compare

    found = compare(store, old, new, out=out)
    if as_json:
        moved = [{"old": a, "new": b, "cells": n} for a, b, n in found.largest]
        values = {"old": found.old, "new": found.new, "changed": found.changed, "changes": moved}
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
    else:
        draw_difference(found)


@app.command()
def prune(
    store: Annotated[str, typer.Argument(help="folder or s3://…", show_default=False)],
    keep_days: Annotated[float, typer.Option(help="of history that stay")] = 7.0,
) -> None:
    """Forget older commits of a store and free their space; releases stay."""
    from engine.cli.render import say
    from engine.pipeline.prune import prune as forget

    found = forget(store, keep_days=keep_days)
    kept = f"; releases kept: {', '.join(found.releases)}" if found.releases else ""
    say(f"{found.snapshots} commits forgotten, {found.gigabytes:.3f} GB freed{kept}")


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="folder or s3://…", show_default=False)],
    heal: Annotated[bool, typer.Option("--heal", help="make bad tiles stale")] = False,
    tag: Annotated[str | None, typer.Option(help="a release; without it, the newest state")] = None,
    as_json: Json = False,
) -> None:
    """Read all that is stored, and compare it with the digests that were kept when it was made."""
    from engine.cli.render import say
    from engine.store.verify import verify as look

    found = look(
        store,
        tag=tag,
        heal=heal,
        tell=lambda bad: say(f"{bad.stage} {bad.tile} {bad.day or ''}: {bad.text}", "red"),
    )
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    say(f"{found.checked} tiles read, {len(found.bad)} bad")
    if found.unverified:
        say(f"written by an older natmap, without digests: {', '.join(found.unverified)}")
    if found.healed:
        say("these are stale now: the next `natmap run` makes them anew")
    elif found.bad:
        raise typer.Exit(1)


@app.command()
def migrate(
    old: Annotated[str, typer.Argument(help="folder or s3://… of the store", show_default=False)],
    new: Annotated[str, typer.Argument(help="folder or s3://… of the copy", show_default=False)],
) -> None:
    """Copy a store of an older form into one that runs can continue."""
    from engine.cli.render import say
    from engine.pipeline.migrate import migrate as copy

    copy(old, new, tell=say)


_MORE = (*landscape.VERBS, *sampling.VERBS, *labelling.VERBS, *alike.VERBS, *bench.VERBS)
for verb in (*learning.VERBS, *_MORE):
    app.command()(verb)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="folder to write to", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="of the world")] = 1,
    width: Annotated[float, typer.Option(help="km, a multiple of 1.6", callback=_finite)] = 16.0,
    height: Annotated[float, typer.Option(help="km, a multiple of 1.6", callback=_finite)] = 9.6,
    model: Annotated[str, typer.Option(help="model card of the recipe")] = "lcz-made-up",
    orthophotos: Annotated[bool, typer.Option(help="also 1 m images and green space")] = False,
) -> None:
    """Make a country up: scenes with clouds, their items, the truth, and a recipe to map it."""
    from engine.cli.render import say
    from engine.synthetic.country import Country
    from engine.synthetic.districts import World
    from engine.synthetic.make import synthesize as write

    country = Country(World(seed), round(width * 1000), round(height * 1000))
    found = write(country, folder, model=model, orthophotos=orthophotos, tell=say)
    say(f"to map it: natmap run {found}")
    sys.stdout.write(f"{found}\n")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="folder to work in")] = Path("natmap-demo"),
    workers: Annotated[int | None, typer.Option(help="worker processes")] = None,
) -> None:
    """The whole of it on a made-up country, in minutes: map, judge, add a date, map again."""
    from engine.cli.demo import show

    raise typer.Exit(show(folder, workers))


@app.command()
def ingest(
    folder: Annotated[Path, typer.Argument(help="folder of images", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="folder of the catalogue")] = None,
    bands: Annotated[str | None, typer.Option(help="B02,B03,… in the files' order")] = None,
    date: Annotated[str | None, typer.Option(help="2024-10-24, or *_{year}_*")] = None,
    scale: Annotated[float | None, typer.Option(help="reflectance = DN x scale + offset")] = None,
    offset: Annotated[float | None, typer.Option()] = None,
    nodata: Annotated[float | None, typer.Option(help="digital number without data")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="leave out files that will not do")] = False,
    title: Annotated[str | None, typer.Option(help="of the catalogue")] = None,
    licence: Annotated[str | None, typer.Option(help="of the images: CC-BY-4.0, or words")] = None,
    attribution: Annotated[str | None, typer.Option(help="who is to be named")] = None,
    citation: Annotated[str | None, typer.Option(help="how the images are cited")] = None,
) -> None:
    """Describe a folder of your own images as a STAC catalogue."""
    from engine.catalog.ingest import ingest as describe
    from engine.cli.render import say

    names = bands.split(",") if bands else None
    found = describe(
        folder,
        out,
        bands=names,
        when=date,
        scale=scale,
        offset=offset,
        nodata=nodata,
        skip=skip,
        title=title,
        licence=licence,
        attribution=attribution,
        citation=citation,
    )
    for reason in found.skipped:
        say(f"left out: {reason}")
    for note in found.notes:
        say(f"note: {note}")
    say(f"{found.files} files described")
    sys.stdout.write(f"{found.catalog}\n")


@app.command()
def doctor(
    target: Annotated[
        str | None, typer.Argument(help="a recipe, or a store", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at this machine, and at a store or all that a recipe needs; LOOK says what is wrong."""
    from engine.cli.render import out
    from engine.pipeline.doctor import examine

    found = []
    for finding in examine(target):
        found.append(finding)
        if not as_json:
            mark = "ok  " if finding.ok else "LOOK"
            out.print(f"{mark} {finding.name}: {finding.text}", markup=False)
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(f) for f in found], indent=1) + "\n")
    if not all(finding.ok for finding in found):
        raise typer.Exit(1)


def _recipe(path: Path, overrides: list[str] | None) -> Any:
    from engine.products.registry import load_recipe

    return load_recipe(read_source(path), read_overrides(overrides))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def main() -> None:
    """Run the command; errors of natmap end with what, got, expected and remedy, and exit 2."""
    carry_out(app)
