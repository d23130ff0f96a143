"""What a run did, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.runs.usage import Usage
from engine.tables import html_table

__all__ = ["Summary"]

_SHOWN = 20  # failures that a notebook shows


@dataclass(frozen=True, repr=False)
class Summary:
    """What a run did; failures are (stage, tile, text); no `usage` where nothing had to run."""

    done: int
    failed: tuple[tuple[str, str, str], ...]
    blocked: int
    stopped: bool
    seconds: float
    usage: Usage | None = None

    def __repr__(self) -> str:
        return f"<Summary {self._head}>"

    def _repr_html_(self) -> str:
        rows = [(s, tile, text.partition("\n")[0]) for s, tile, text in self.failed[:_SHOWN]]
        more = len(self.failed) - len(rows)
        notes = [f"and {more} more"] if more else []
        return html_table(self._head, ("stage", "tile", "what failed"), rows, *notes)

    @property
    def _head(self) -> str:
        said = f"{self.done} tiles done in {self.seconds:.0f} s, {len(self.failed)} failed"
        waiting = f", {self.blocked} wait for these" if self.blocked else ""
        return said + waiting + (", stopped: run again to resume" if self.stopped else "")
