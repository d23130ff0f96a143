"""The verb `bench`: how fast a recipe runs here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.throughput.bench import Benchmark

__all__ = ["VERBS"]


def bench(
    recipe: Annotated[
        Path | None, typer.Argument(help="by default a synthetic country", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for bench.json and bench.png")] = None,
    work: Annotated[Path, typer.Option(help="folder for the country and for stores")] = Path(
        "natmap-bench"
    ),
    what: Annotated[
        str, typer.Option(help="parts, run, scaling, growth, update: some of these, or all")
    ] = "parts,run",
    side: Annotated[float, typer.Option(help="of the synthetic country, km")] = 4.8,
    dates: Annotated[int, typer.Option(help="of it")] = 4,
    tiles: Annotated[int | None, typer.Option(help="most tiles that are run")] = None,
    rounds: Annotated[int, typer.Option(help="of all measurements, in turn")] = 3,
    workers: Annotated[str, typer.Option(help="numbers of worker processes")] = "1,2",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto, in place of the recipe's")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="an earlier bench.json")] = None,
) -> None:
    """Measure how fast a recipe runs here, beside what it could not be faster than."""
    from engine.cli.render import say
    from engine.errors import MetricError
    from engine.throughput.bench import WHAT
    from engine.throughput.bench import bench as measure

    if not all(word.strip().isdecimal() for word in workers.split(",")):
        raise MetricError("--workers are numbers, with commas between", got=workers, expected="1,2")
    found = measure(
        recipe,
        out,
        work=work,
        what=WHAT if what == "all" else tuple(what.split(",")),  # type: ignore[arg-type]
        side=side,
        dates=dates,
        tiles=tiles,
        rounds=rounds,
        workers=[int(word) for word in workers.split(",")],
        device=device,
        compare=compare,
        tell=say,
    )
    _draw(found)
    if found.worse:
        sys.exit(1)


def _draw(found: Benchmark) -> None:
    from rich.table import Table

    from engine.cli.render import out

    def table(*heads: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for k, head in enumerate(heads):
            made.add_column(head, justify="right" if k else "left")
        return made

    figures = table("figure", "middle", "95 % interval")
    least = 0.01 * max((e.middle for n, e in found.figures.items() if n in _WHOLE), default=0.0)
    for name, each in found.figures.items():
        if ": step " in name and each.middle < least:
            continue  # bench.json has them all
        figures.add_row(name, f"{each.middle:.4g}", _interval(each.low, each.high))
    out.print(figures)
    if found.ratios:
        out.print()
        ratios = table("beside its floor", "times", "95 % interval")
        for name, each in found.ratios.items():
            ratios.add_row(name, f"{each.middle:.3g}", _interval(each.low, each.high))
        out.print(ratios)
    if found.changes:
        out.print()
        changes = table("against the earlier one", "times", "95 % interval", "")
        for change in found.changes:
            times = change.times
            interval = _interval(times.low, times.high)
            changes.add_row(change.name, f"{times.middle:.3g}", interval, change.verdict)
        out.print(changes)


def _interval(low: float, high: float) -> str:
    return "" if low != low else f"{low:.3g} to {high:.3g}"


_WHOLE = ("parts: cpu", "parts: wall")

VERBS = (bench,)
