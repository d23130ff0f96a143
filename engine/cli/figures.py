"""Figures of maps and models on the terminal: what evaluate, compare, diff and beside print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from engine.cli.render import out, say
from engine.legend import LCZ

if TYPE_CHECKING:
    from engine.compare.cells import Evaluation
    from engine.compare.classes import ClassEvaluation
    from engine.compare.comparison import Comparison
    from engine.compare.crosstab import Beside
    from engine.compare.labels import LabelEvaluation
    from engine.compare.lines import LineEvaluation
    from engine.compare.pixels import GreenEvaluation
    from engine.compare.releases import Difference
    from engine.compare.sample import Judged

__all__ = [
    "draw_classes",
    "draw_comparison",
    "draw_difference",
    "draw_evaluation",
    "draw_green",
    "draw_judged",
    "draw_labels",
    "draw_lines",
    "draw_zones",
]

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


def draw_lines(found: LineEvaluation) -> None:
    """Figures of a network of lines with their 95 % intervals, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("figure", "left"), ("value", "right"), ("95 %", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("completeness", "correctness", "quality", "f1"):
        _, low, high = found.intervals[name]
        value = found.figures[name]
        shown = ("-", "") if value != value else (f"{value:.3f}", f"{low:.3f} to {high:.3f}")
        table.add_row("F1" if name == "f1" else name, *shown)
    out.print(table)
    km = found.lengths
    out.print(
        f"{km['found']:.2f} of {km['reference']:.2f} km of the reference found; "
        f"{km['right']:.2f} of {km['map']:.2f} km on the map right"
    )
    say(
        f"within {found.buffer:g} m, in {found.groups} squares of 1 km; {found.wide:.3f} km2 are "
        f"wider than {found.widest:g} m and are not counted"
    )


_OF_LABELS = {
    "f1_micro": "F1, labels pooled",
    "f1_macro": "mean F1",
    "average_precision": "mean average precision",
    "exact": "patches with all labels right",
    "wrong": "labels that are wrong",
}


def draw_labels(found: LabelEvaluation) -> None:
    """Figures of a multi-label model, and a line for each label, on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, title in _OF_LABELS.items():
        table.add_row(title, _three(found.figures[key]))
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("label")
    for name in ("patches", "with it", "threshold", "precision", "recall", "F1", "AP"):
        table.add_column(name, justify="right")
    for k, c in enumerate(found.legend):
        each = {name: float(values[k]) for name, values in found.labels.items()}
        table.add_row(
            escape(c.title),
            f"{each['n']:.0f}",
            f"{each['positives']:.0f}",
            _three(found.thresholds[k]),
            *(_three(each[name]) for name in ("precision", "recall", "f1", "average_precision")),
        )
    out.print(table)


def _three(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


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
