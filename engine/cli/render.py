"""What people see: progress on a terminal, plain lines elsewhere, plans and statuses as tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from engine.cli.endings import without_secrets
from engine.legend import LCZ

if TYPE_CHECKING:
    from engine.compare.cells import Evaluation
    from engine.compare.classes import ClassEvaluation
    from engine.compare.comparison import Comparison
    from engine.compare.crosstab import Beside
    from engine.compare.pixels import GreenEvaluation
    from engine.compare.releases import Difference
    from engine.compare.sample import Judged
    from engine.pipeline.verbs import Plan
    from engine.runs.events import Event, Listener
    from engine.training.loop import Epoch

__all__ = ["draw_evaluation", "draw_plan", "out", "progress", "say", "training"]

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr."""
    _err.print(without_secrets(text), style=style, markup=False)


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that draws a bar with rate, ETA and failures; plain lines where no terminal is."""
    from engine.runs import events

    failed = done = 0
    last = began = time.monotonic()
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_err,
        transient=False,
    )
    task = bar.add_task("tiles", total=None, rate="")
    stage = ""

    def say(text: str, style: str | None = None) -> None:
        """A line, in a file with its time."""
        told = text if _err.is_terminal else f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        _err.print(without_secrets(told), style=style, markup=False)

    def listen(event: Event) -> None:
        nonlocal failed, done, last, stage
        match event:
            case events.RunStarted():
                bar.update(task, total=event.open)
                if event.dashboard:
                    say(f"dashboard: {event.dashboard}")
                if not _err.is_terminal:
                    say(f"{event.open} tiles to look at")
            case events.PlainCluster():
                say(
                    f"no TLS: whoever reaches {event.address} can run code as the user who "
                    "started its workers",
                    "yellow",
                )
            case events.TileDone():
                done += 1
                stage = event.stage
                rate = f"{done / max(time.monotonic() - began, 1e-3):.1f}/s"
                bar.update(task, description=event.stage, rate=rate, completed=done + failed)
                if event.note:
                    say(f"gap in {event.stage} {event.tile}: {event.note}", "yellow")
            case events.TileRetried():
                first = event.error.splitlines()[0]
                say(f"retry {event.stage} {event.tile} (try {event.attempt}): {first}", "yellow")
            case events.TileFailed():
                failed += 1
                say(f"FAILED {event.stage} {event.tile}: {event.error}", "red")
            case events.Committed():
                total = done + failed + event.open
                bar.update(task, total=total, completed=total - event.open)
                if not _err.is_terminal and time.monotonic() - last > 10:
                    last = time.monotonic()
                    speed = done / max(last - began, 1e-3)
                    say(
                        f"{stage}: {done} tiles done, {failed} failed, {event.open} left, "
                        f"{speed:.2g} tiles/s, {_duration(event.open / max(speed, 1e-9))} to go"
                    )
            case events.WorkersLost():
                say("all workers are gone; asking for new ones", "yellow")
            case events.Silence():
                tiles = ", ".join(f"{name} {tile}" for name, tile in event.tiles)
                say(f"nothing came back for {_duration(event.seconds)}; out: {tiles}", "yellow")
            case events.TileSlow():
                say(
                    f"{event.stage} {event.tile} has been with worker {event.worker} for "
                    f"{_duration(event.seconds)}",
                    "yellow",
                )
            case events.WorkerSilent():
                tiles = ", ".join(f"{name} {tile}" for name, tile in event.tiles) or "no tile"
                say(
                    f"worker {event.worker} ({event.address}) has not been heard of for "
                    f"{_duration(event.seconds)}; it has {tiles}",
                    "yellow",
                )
            case events.Stopping():
                say(f"stopping: {event.in_flight} tiles in flight are finished and kept", "yellow")
            case _:
                pass

    if _err.is_terminal:
        with bar:
            yield listen
    else:
        yield listen


@contextmanager
def training(epochs: int) -> Iterator[tuple[Callable[[Epoch], None], Callable[..., None]]]:
    """What hears of epochs and of batches: a bar on a terminal, a line for each epoch."""
    bar = Progress(
        TextColumn("[bold]epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=_err,
    )
    task = bar.add_task("train", total=None, epoch=1, figures="")

    def epoch(entry: Epoch) -> None:
        text = (
            f"loss {entry.loss:.3f}, validation {entry.validation_loss:.3f}, "
            f"accuracy {entry.validation_accuracy:.3f}"
        )
        bar.update(task, figures=text)
        say(f"epoch {entry.number} of at most {epochs}: {text}")

    def step(number: int, batch: int, batches: int) -> None:
        done = (number - 1) * batches + batch
        bar.update(task, completed=done, total=epochs * batches, epoch=number)

    if _err.is_terminal:
        with bar:
            yield epoch, step
    else:
        yield epoch, step


_FIGURES = {
    "oa": "overall accuracy",
    "kappa": "kappa",
    "oa_u": "OAu, among built types",
    "oa_bu": "OAbu, built or natural",
    "oa_w": "OAw, weighted by similarity",
    "oa_built_rows": "recall of built types",
    "oa_natural_rows": "recall of natural types",
    "f1_macro": "mean F1",
    "f1_weighted": "weighted F1",
}


def draw_evaluation(found: Evaluation) -> None:
    """Figures with their quartiles, and a line for each class, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("figure", "left"), ("value", "right"), ("quartiles", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for key, title in _FIGURES.items():
        _, low, high = found.intervals[key]
        table.add_row(title, f"{getattr(found.accuracy, key):.3f}", f"{low:.3f} to {high:.3f}")
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LCZ")
    for name in ("reference", "map", "F1", "user's", "producer's"):
        table.add_column(name, justify="right")
    for k, zone in enumerate(LCZ):
        rows, cols = int(found.counts[k].sum()), int(found.counts[:, k].sum())
        if rows or cols:
            shares = (found.accuracy.f1, found.accuracy.users, found.accuracy.producers)
            text = ["-" if v[k] != v[k] else f"{v[k]:.2f}" for v in shares]
            table.add_row(f"{zone.label:>2}  {zone.title}", str(rows), str(cols), *text)
    out.print(table)
    say(f"{found.accuracy.cells} cells in {found.groups} groups, {found.missed} without a class")
    for days, (cells, oa) in found.by_observations.items():
        say(f"seen on {days} {'day' if days == 1 else 'days'}: accuracy {oa:.3f} of {cells} cells")
    for percent, (cells, oa) in found.by_dissent.items():
        agree = f"{percent} % and more" if percent else "none"
        say(f"of its days {agree} depart from the others: accuracy {oa:.3f} of {cells} cells")
    if found.folder is not None:
        say(f"report: {found.folder}")


def draw_green(found: GreenEvaluation) -> None:
    """Figures of a map of green space with their 95 % intervals, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("figure", "left"), ("value", "right"), ("95 %", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, value in found.figures.items():
        _, low, high = found.intervals[name]
        table.add_row(
            name.upper() if len(name) < 4 else name, f"{value:.3f}", f"{low:.3f} to {high:.3f}"
        )
    out.print(table)
    said = [
        f"{found.areas[name]:.3f} km2 ({low:.3f} to {high:.3f}) {where}"
        for name, where in (("map", "on the map"), ("reference", "in the reference"))
        for _, low, high in (found.area_intervals[name],)
    ]
    out.print(f"green space: {', '.join(said)}")
    say(f"{found.counts.sum():,} pixels in {found.groups} squares; {found.unknown:,} unknown")


def draw_classes(found: ClassEvaluation) -> None:
    """Figures of a map of several classes with their 95 % intervals, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("figure", "left"), ("value", "right"), ("95 %", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for key, title in (("oa", "overall accuracy"), ("f1", "mean F1"), ("iou", "mean IoU")):
        _, low, high = found.intervals[key]
        table.add_row(title, f"{found.figures[key]:.3f}", f"{low:.3f} to {high:.3f}")
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for name in ("km2 in reference", "km2 on map", "precision", "recall", "F1", "IoU"):
        table.add_column(name, justify="right")
    for k, known in enumerate(found.legend):
        areas = (f"{found.areas[where][k]:.3f}" for where in ("reference", "map"))
        values = (found.classes[name][k] for name in ("precision", "recall", "f1", "iou"))
        shown = ("-" if v != v else f"{v:.3f}" for v in values)
        table.add_row(f"{known.code:>3}  {known.title}", *areas, *shown)
    out.print(table)
    say(f"{found.counts.sum():,} pixels in {found.groups} squares; {found.unknown:,} unknown")


def draw_judged(found: Judged) -> None:
    """Estimates of a sample with their 95 % intervals, on stdout."""
    e = found.estimates
    out.print(f"overall accuracy {e.oa:.3f} ± {e.oa_ci:.3f} from {found.counts.sum()} cells")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LCZ")
    for name in ("user's", "producer's", "km2 mapped", "km2 estimated"):
        table.add_column(name, justify="right")

    def interval(value: float, half: float, digits: int) -> str:
        return "-" if value != value else f"{value:.{digits}f} ± {half:.{digits}f}"

    for k, code in enumerate(found.classes):
        zone = LCZ[code - 1]
        table.add_row(
            f"{zone.label:>2}  {zone.title}",
            interval(e.users[k], e.users_ci[k], 2),
            interval(e.producers[k], e.producers_ci[k], 2),
            f"{found.mapped[k]:.2f}",
            interval(e.areas[k], e.areas_ci[k], 2),
        )
    out.print(table)


def draw_difference(found: Difference) -> None:
    """The largest changes between two maps, on stdout."""
    titles = found.titles
    out.print(found.headline, markup=False)
    if found.largest:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("was")
        table.add_column("is")
        table.add_column("cells", justify="right")
        table.add_column("km2", justify="right")
        for old, new, cells in found.largest[:15]:
            table.add_row(titles[old], titles[new], str(cells), f"{cells * found.square_km:.2f}")
        out.print(table)
    if found.folder is not None:
        say(f"raster and tables: {found.folder}")


def draw_zones(found: Beside) -> None:
    """How green each local climate zone is, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LCZ")
    table.add_column("km2", justify="right")
    table.add_column("green %", justify="right")
    for zone in found.zones:
        known = LCZ[zone.code - 1]
        name = f"{known.label:>2}  {known.title}"
        table.add_row(name, f"{zone.square_km:.2f}", f"{zone.percent:.1f}")
    out.print(table)
    if found.folder is not None:
        say(f"picture and table: {found.folder}")


def draw_comparison(found: Comparison) -> None:
    """Figures of all systems, and their differences to one, on stdout."""
    from engine.compare.comparison_files import COLUMNS, say_difference

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("system")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    pairs = list(zip(found.systems, found.ranked, strict=True))
    for system, ranked in pairs:
        values = [ranked.figures[name][0] for name in COLUMNS]
        table.add_row(escape(system.name), *("-" if v != v else f"{v:.3f}" for v in values))
    out.print(table)
    for system, ranked in pairs:
        if ranked.less is None:
            continue
        out.print(f"\n{system.name} less {found.against}, 95 %:", markup=False)
        for name, title in COLUMNS.items():
            out.print(f"  {title:<12} {say_difference(ranked.less.figures[name])}", markup=False)
        mine, theirs = ranked.less.right
        out.print(
            f"  right alone: {mine} and {theirs} examples, McNemar's p {ranked.less.p:.2g}",
            markup=False,
        )
    say(f"{found.examples} examples that all classify; intervals by drawing {found.drawn}")
    if found.folder is not None:
        say(f"tables and page: {found.folder}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(gigabytes: float) -> str:
    for unit, size in (("TB", 1e3), ("GB", 1.0), ("MB", 1e-3)):
        if gigabytes >= size:
            return f"{gigabytes / size:.3g} {unit}"
    return f"{gigabytes * 1e6:.0f} kB"


def draw_plan(plan: Plan) -> None:
    """A plan as a table, on stdout."""
    out.print(
        f"{plan.name}: {plan.tiles} tiles, {plan.items} scenes of {plan.days} days", markup=False
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in [
        ("stage", "left"),
        ("stale", "right"),
        ("because", "left"),
        ("waits for it", "right"),
        ("done", "right"),
    ]:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for stage in plan.stages:
        why = ", ".join(f"{n} {reason}" for reason, n in stage.stale.items())
        stale = str(sum(stage.stale.values()))
        table.add_row(stage.name, stale, why, str(stage.waiting), str(stage.fresh))
    out.print(table)
    money = "not priced" if plan.money is None else f"{plan.money:.2f}"
    hours = plan.seconds / 3600
    time_text = f"{hours:.1f} worker hours" if hours >= 1 else f"{plan.seconds:.0f} worker seconds"
    reading, writing = _size(plan.gigabytes_read), _size(plan.gigabytes)
    out.print(f"{reading} to read, {writing} to write, {time_text}, money: {money}")
    if plan.hours:
        out.print(
            f"{_duration(plan.hours * 3600)} with {plan.workers} workers of "
            f"{plan.worker_gigabytes:.1f} GB, up to {plan.files:,} files"
        )
    if plan.assumed:
        say(f"rough guesses for {', '.join(plan.assumed)}: no run of them to go by")
    for identity, reason in plan.left_out[:10]:
        say(f"left out: {identity}: {reason}", "yellow")
    for note in plan.notes:
        say(f"note: {note}")
