"""Small tables in HTML: how results show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]


def html_table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *notes: str
) -> str:
    """A table with a caption above and notes below; all text is escaped.

    Numbers are aligned to the right.
    """

    def cell(value: object) -> str:
        side = "left" if isinstance(value, str) else "right"
        return f'<td style="text-align: {side}">{escape(str(value))}</td>'

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f"<div><p><b>{escape(caption)}</b></p>{table}{below}</div>"
