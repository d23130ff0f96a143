"""What people see: progress on a terminal, plain lines elsewhere, plans and statuses as tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
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

if TYPE_CHECKING:
    from engine.pipeline.verbs import Plan
    from engine.runs.events import Event, Listener
    from engine.training.loop import Epoch

__all__ = ["draw_plan", "out", "progress", "say", "size", "training"]

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
    stage = where = ""

    def say(text: str, style: str | None = None) -> None:
        """A line, in a file with its time."""
        told = text if _err.is_terminal else f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        _err.print(without_secrets(told), style=style, markup=False)

    def listen(event: Event) -> None:
        nonlocal failed, done, last, stage, where
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
                rate = f"{done / max(time.monotonic() - began, 1e-3):.1f}/s{where}"
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
                where = f", {event.rate:.3g} km2/s" if event.rate else ""
                where += f", most time: {event.limiting}" if event.limiting else ""
                total = done + failed + event.open
                bar.update(task, total=total, completed=total - event.open)
                if not _err.is_terminal and time.monotonic() - last > 10:
                    last = time.monotonic()
                    speed = done / max(last - began, 1e-3)
                    left = f", {_duration(event.open / speed)} to go" if done else ""
                    say(
                        f"{stage or 'tiles'}: {done} tiles done, {failed} failed, "
                        f"{event.open} left, {speed:.2g} tiles/s{where}{left}"
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
            case events.WorkerRetired():
                say(
                    f"worker {event.worker} ({event.address}) is sent away and its tile tried "
                    f"elsewhere: {event.error}",
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


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(gigabytes: float) -> str:
    """Bytes in the unit that suits them."""
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
    reading, writing = size(plan.gigabytes_read), size(plan.gigabytes)
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
