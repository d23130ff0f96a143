"""The files of a comparison: JSON, CSV, Markdown, and a page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.compare.report import plain, write_json, write_table
from engine.files import together
from engine.legend import LCZ
from engine.publishing.page_kit import class_name, page

if TYPE_CHECKING:
    from engine.compare.comparison import Comparison
    from engine.compare.paired import Difference, Ranked

__all__ = ["COLUMNS", "describe", "say_difference", "write_comparison"]

COLUMNS = {
    "oa": "OA",
    "oa_built_rows": "OA built",
    "oa_natural_rows": "OA natural",
    "oa_w": "OA weighted",
    "kappa": "kappa",
    "f1_macro": "mean F1",
}
"""Figures of the table, and their titles."""

_WIDE, _TALL, _MARGIN = 420, 22, 8  # pixels of a chart of intervals


def say_difference(values: tuple[float, float, float]) -> str:
    """A difference and its interval, in words."""
    value, low, high = values
    if value != value:
        return "-"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, two tables as CSV, ``comparison.md`` and ``comparison.html``."""
    with together(folder, "comparison.json") as part:
        write_json(part / "comparison.json", describe(found))
        figures = list(found.ranked[0].figures)
        header = (
            "system",
            "kind",
            *(f"{n}{end}" for n in figures for end in ("", "_low", "_high")),
        )
        more = [f"{n}_less{end}" for n in figures for end in ("", "_low", "_high")]
        write_table(
            part / "systems.csv",
            (*header, *more, "only_this_right", "only_other_right", "mcnemar_p"),
            (_row(system.name, system.kind, ranked) for system, ranked in _each(found)),
        )
        write_table(
            part / "classes.csv",
            ("lcz", "title", "examples", *(f"f1 {system.name}" for system in found.systems)),
            (
                (
                    zone.label,
                    zone.title,
                    found.ranked[0].counts[k].sum(),
                    *(ranked.f1[0, k] for ranked in found.ranked),
                )
                for k, zone in enumerate(LCZ)
            ),
        )
        (part / "comparison.md").write_text(_markdown(found), encoding="utf-8")
        (part / "comparison.html").write_text(_page(found), encoding="utf-8")


def _each(found: Comparison) -> Iterator[tuple[Any, Ranked]]:
    return zip(found.systems, found.ranked, strict=True)


def _row(name: str, kind: str, ranked: Ranked) -> list[Any]:
    own = [value for values in ranked.figures.values() for value in values]
    if ranked.less is None:
        return [name, kind, *own, *[None] * (len(own) + 3)]
    less = [value for values in ranked.less.figures.values() for value in values]
    return [name, kind, *own, *less, *ranked.less.right, ranked.less.p]


def describe(found: Comparison) -> dict[str, Any]:
    """All that was found, for JSON."""
    systems = []
    for system, ranked in _each(found):
        less = ranked.less
        systems.append(
            {
                "name": system.name,
                "kind": system.kind,
                "cards": [card.key for card in system.cards],
                "figures": ranked.figures,
                "f1": _by_class(ranked.f1),
                "confusion": ranked.counts,
                "less": None if less is None else _told(less),
            }
        )
    return {
        "reference": found.reference,
        "examples": found.examples,
        "against": found.against,
        "intervals": f"95 %, {found.drawn}",
        "without_a_class": found.left,
        "notes": found.notes,
        "systems": systems,
    }


def _told(less: Difference) -> dict[str, Any]:
    return {
        "figures": less.figures,
        "f1": _by_class(less.f1),
        "only_this_right": less.right[0],
        "only_other_right": less.right[1],
        # small ones would be rounded to none
        "mcnemar_p": f"{less.p:.3g}",
    }


def _by_class(values: Any) -> dict[str, Any]:
    return {zone.label: plain(values[:, k]) for k, zone in enumerate(LCZ)}


def _classes(found: Comparison) -> list[int]:
    """Positions of classes that the reference or a system has."""
    there = sum(ranked.counts.sum(axis=0) + ranked.counts.sum(axis=1) for ranked in found.ranked)
    return np.flatnonzero(there).tolist()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _figure(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _markdown(found: Comparison) -> str:
    rows = [
        [system.name, *(_figure(ranked.figures[name][0]) for name in COLUMNS)]
        for system, ranked in _each(found)
    ]
    text = _table(["system", *COLUMNS.values()], rows)
    less = [
        [
            system.name,
            *(say_difference(ranked.less.figures[name]) for name in COLUMNS),
            f"{ranked.less.p:.2g}",
        ]
        for system, ranked in _each(found)
        if ranked.less is not None
    ]
    if less:
        text += f"\nLess {found.against}, with intervals of 95 %:\n\n"
        text += _table(["system", *COLUMNS.values(), "McNemar's p"], less)
    text += "\nF1 of each class:\n\n"
    text += _table(
        ["LCZ", *(system.name for system in found.systems)],
        [
            [f"{LCZ[k].label} {LCZ[k].title}", *(_figure(r.f1[0, k]) for r in found.ranked)]
            for k in _classes(found)
        ],
    )
    notes = [*_words(found), *found.notes]
    return text + "\n" + "".join(f"- {note}\n" for note in notes)


def _words(found: Comparison) -> list[str]:
    words = [f"{found.examples} examples of {found.reference} that all systems classify"]
    words.append(f"intervals of 95 % by drawing {found.drawn}, the same for all systems")
    if len(found.systems) > 1:
        words.append("McNemar's test takes each example for a witness of its own")
    return words


def _page(found: Comparison) -> str:
    """The page as HTML."""
    title = f"{len(found.systems)} systems on {found.reference}"
    head = "<tr><th>system<th>what it is" + "".join(f"<th>{name}" for name in COLUMNS.values())
    known = {name: [v for r in found.ranked if (v := r.figures[name][0]) == v] for name in COLUMNS}
    best = {name: max(values, default=None) for name, values in known.items()}
    rows = []
    for system, ranked in _each(found):
        cells = []
        for name in COLUMNS:
            value = ranked.figures[name][0]
            text = _figure(value)
            cells.append(f"<td><b>{text}</b>" if value == best[name] else f"<td>{text}")
        rows.append(
            f"<tr><td>{html.escape(system.name)}<td>{html.escape(system.kind)}{''.join(cells)}"
        )
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "".join(f"<p>{html.escape(line)}.</p>" for line in _words(found)),
        f"<table>{head}{''.join(rows)}</table>",
    ]
    others = [(s.name, r.less) for s, r in _each(found) if r.less is not None]
    if others:
        body.append(f"<h2>Less {html.escape(found.against)}</h2>")
        for name, text in COLUMNS.items():
            body.append(f"<h3>{text}</h3>")
            body.append(_chart([(who, less.figures[name]) for who, less in others]))
    head = "<tr><th>class<th>examples" + "".join(
        f"<th>{html.escape(system.name)}" for system in found.systems
    )
    lines = "".join(
        f"<tr><td>{class_name(k + 1)}<td>{found.ranked[0].counts[k].sum():.0f}"
        + "".join(f"<td>{_figure(ranked.f1[0, k])}" for ranked in found.ranked)
        for k in _classes(found)
    )
    body.append(f"<h2>F1 of each class</h2><table>{head}{lines}</table>")
    if found.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
        body.append(f"<h2>Notes</h2><ul>{items}</ul>")
    return page(title, body)


def _chart(rows: Sequence[tuple[str, tuple[float, float, float]]]) -> str:
    """Differences as dots on their intervals about a line at zero, SVG in a table."""
    ends = [abs(v) for _, values in rows for v in values if np.isfinite(v)]
    reach = max([*ends, 1e-3])
    half = _WIDE / 2

    def at(value: float) -> float:
        return half + value / reach * (half - _MARGIN)

    told = []
    for who, (value, low, high) in rows:
        marks = f"<path d='M{half} 0V{_TALL}' stroke='#999'/>"
        if np.isfinite([value, low, high]).all():
            middle = _TALL / 2
            marks += (
                f"<path d='M{at(low):.1f} {middle}H{at(high):.1f}' stroke='#246' stroke-width=2 />"
                f"<circle cx={at(value):.1f} cy={middle} r=4 fill='#246'/>"
            )
        told.append(
            f"<tr><td>{html.escape(who)}<td><svg width={_WIDE} height={_TALL}>{marks}</svg>"
            f"<td>{say_difference((value, low, high))}"
        )
    return f"<table>{''.join(told)}</table>"
