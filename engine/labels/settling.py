"""From answers of interpreters to labels: what was said, how far they agree, what stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.labels.agreement import Agreement
from engine.labels.answer_files import require_form, write_labels
from engine.labels.answer_reading import read_answers
from engine.labels.answers import Key, Label, labels_of

__all__ = ["SettledLabels", "settle_labels"]


@dataclass(frozen=True)
class SettledLabels:
    """What interpreters said.

    Attributes
    ----------
    labels : that stand.
    disputed : sites without a label, with what was said.
    agreement : of interpreters.
    empty : features of the files without a class.
    interpreters : answers by name.
    """

    labels: tuple[Label, ...]
    disputed: dict[Key, str]
    agreement: Agreement
    empty: int
    interpreters: dict[str, int]

    @property
    def counts(self) -> dict[str, dict[int, int]]:
        """Labels by city and class."""
        found: dict[str, dict[int, int]] = {}
        for label in self.labels:
            mine = found.setdefault(label.city, {})
            mine[label.lcz] = mine.get(label.lcz, 0) + 1
        return found


def settle_labels(
    answers: Sequence[str | Path],
    to: str | Path | None = None,
    *,
    pages: Sequence[str | Path] = (),
    arbiter: str | None = None,
    question: str | None = None,
) -> SettledLabels:
    """Read answers of a labelling page, say how far interpreters agree, and write the labels.

    Parameters
    ----------
    answers : GeoJSON files that pages saved, of one or several interpreters and cities, or CSV
        files with the sample data of Collect Earth Online.
    to : file of training areas to write: .kml, .gpkg, .geojson; by default nowhere.
    pages : the pages, where other software has touched the files: sites and outlines are theirs.
    arbiter : interpreter whose answers stand against all others. Without, a site has the class
        that most of those gave who were sure; a tie is a dispute, and gets no label.
    question : of a survey of Collect Earth Online, that asks for the zone; by default its only one.

    Raises
    ------
    LabelError
        Before anything is written: see `engine.labels.answer_reading.read_answers`.
    """
    if to is not None:
        require_form(Path(to))
    found = read_answers(answers, pages, question)
    labels, disputed = labels_of(found, arbiter)
    if to is not None:
        write_labels(labels, Path(to))
    names: dict[str, int] = {}
    for answer in found.answers:
        names[answer.interpreter] = names.get(answer.interpreter, 0) + 1
    return SettledLabels(tuple(labels), disputed, found.agreement(), found.empty, names)
