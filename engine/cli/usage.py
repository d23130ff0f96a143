"""What a run used, as people read it."""

from __future__ import annotations

from rich.table import Table

from engine.cli.render import out, say, size
from engine.runs.usage import Usage

__all__ = ["draw_usage", "say_usage"]

_NAMED = 2  # steps of a stage


def say_usage(usage: Usage, price: float | None) -> None:
    """A line or two at the end of a run, on stderr."""
    say(_rate(usage, price))
    say(f"where the workers' time went: {_shares(usage.shares(), 5)}")


def draw_usage(number: int, usage: Usage, price: float | None) -> None:
    """A run's use by stage, on stdout."""
    out.print(f"run {number}: {_rate(usage, price)}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("stage", "tiles", "km2", "km2/s a slot", "CPU s", "read", "written")
    for name in heads:
        table.add_column(name, justify="left" if name == "stage" else "right")
    table.add_column("most time")
    for name, stage in usage.stages.items():
        whole = sum(spent.seconds for spent in stage.steps.values()) or 1.0
        steps = sorted(stage.steps.items(), key=lambda each: -each[1].seconds)
        table.add_row(
            name,
            str(stage.tiles),
            f"{stage.square_km:,.4g}",
            f"{stage.rate:.3g}",
            f"{stage.cpu:.1f}",
            size(stage.read / 1e9) if stage.read else "",
            size(stage.written / 1e9),
            _shares({step: spent.seconds / whole for step, spent in steps}, _NAMED),
        )
    out.print(table)
    out.print(f"all workers: {_shares(usage.shares(), 6)}", markup=False)
    if usage.driver:
        told = ", ".join(f"{step} {spent.seconds:.1f} s" for step, spent in usage.driver.items())
        out.print(f"driver: {told}", markup=False)


def _rate(usage: Usage, price: float | None) -> str:
    slots = usage.slot_seconds / usage.seconds if usage.seconds else 0.0
    money = "" if price is None else f", money: {usage.money(price):.2f}"
    return (
        f"{usage.square_km:,.4g} km2 in {usage.seconds:,.0f} s, {usage.rate:.3g} km2/s; "
        f"{usage.cores:.1f} cores busy, {slots:.1f} task slots, "
        f"{size(usage.megabytes / 1e3)} of memory a worker at most{money}"
    )


def _shares(shares: dict[str, float], most: int) -> str:
    named = [(step, share) for step, share in shares.items() if share >= 0.005][:most]
    return ", ".join(f"{step} {share:.0%}" for step, share in named) or "nothing"
