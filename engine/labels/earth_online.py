"""Collect Earth Online: plots for it, and the answers of its interpreters.

A plot is a site. The file with answers is what its button for sample data downloads: a row for each
sample and interpreter, with ``plotid``, ``sampleid``, ``lon``, ``lat``, ``email``, ``flagged``,
columns of the plots' file with the prefix ``pl_``, and one column for each question of the survey
(`dump-project-raw-data` in projects.clj of github.com/openforis/collect-earth-online).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import shapely

from engine.errors import LabelError, RecipeError
from engine.files import together
from engine.labels.answers import NEAR, Answer, Key, PageSites
from engine.legend import LCZ, parse_class

__all__ = ["read_samples", "write_plots"]

_SITE = "site"  # column of the plots' file; it comes back as pl_site
_NEEDED = ("lon", "lat", "email", "flagged", f"pl_{_SITE}")
_OWN = {
    *_NEEDED, "plotid", "plot_id", "sampleid", "sample_id", "sample_internal_id", "analyses",
    "collection_time", "analysis_duration", "used_geodash", "used_kml", "imagery_title",
    "imagery_attributions", "imagery_attributes", "sample_geom", "confidence",
    "confidence_comment", "guest interpreters",
}  # fmt: skip
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


def write_plots(names: Sequence[str], places: Sequence[tuple[float, float]], path: Path) -> None:
    """Write plots that Collect Earth Online takes: CSV with LON, LAT, PLOTID, and SITE.

    Parameters
    ----------
    names : of the sites; PLOTID is their number from 1, since that has to be a number there.
    places : longitude and latitude of each.
    path : of the file.
    """
    with (
        together(path.parent) as part,
        (part / path.name).open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(("LON", "LAT", "PLOTID", _SITE.upper()))
        for number, (name, (lon, lat)) in enumerate(zip(names, places, strict=True), 1):
            table.writerow((f"{lon:.7f}", f"{lat:.7f}", number, name))


def read_samples(
    text: str, name: str, pages: Sequence[PageSites], question: str | None = None
) -> tuple[list[Answer], int]:
    """Answers of a file of sample data, each interpreter's by themselves.

    A flagged answer is not sure. Samples of one plot are one answer: they must agree, since a local
    climate zone is of all of a site.

    Parameters
    ----------
    text, name : of the file.
    pages : that the plots were made of, with the ground of their sites.
    question : of the survey, that asks for the zone; by default its only one.

    Returns
    -------
    (answers, rows without an answer)

    Raises
    ------
    LabelError
        Where columns are missing, the question is not clear, an answer is no zone, a row does not
        say who answered, samples of a plot contradict each other, or a sample lies elsewhere than
        its site.
    """
    rows = _rows(text, name)
    asked = _question(list(rows[0]) if rows else [], question, name)
    found: dict[tuple[Key, str], Answer] = {}
    empty = 0
    for number, row in enumerate(rows, 2):
        if not row[asked].strip():
            empty += 1
            continue
        answer = _answer(row, row[asked], pages, f"row {number} of {name}")
        before = found.setdefault((answer.site, answer.interpreter), answer)
        if before != answer:
            raise LabelError(
                f"samples of site {answer.site.id} contradict each other",
                got=f"LCZ {_told(before)} and {_told(answer)} by {answer.interpreter}",
                expected="one zone for a plot: it is of all of the site",
                remedy="keep one of the rows, or survey one sample at the centre of each plot",
            )
    return list(found.values()), empty


def _told(answer: Answer) -> str:
    return f"{LCZ[answer.lcz - 1].label}{'' if answer.sure else ', flagged'}"


def _rows(text: str, name: str) -> list[dict[str, str]]:
    """Rows by column; those of Collect Earth Online's own by their names in small letters."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error as error:
        raise LabelError("the file of answers cannot be read", got=f"{name}: {error}") from error
    head = [_column(column) for column in lines[0]] if lines else []
    missing = [column for column in _NEEDED if column not in head]
    if "sampleid" not in head and "sample_id" not in head:
        missing.append("sampleid")
    if missing:
        raise LabelError(
            f"{name} lacks columns of Collect Earth Online's sample data",
            got=", ".join(head)[:300] or "an empty file",
            expected=", ".join(missing),
            remedy="make the project of the file that `natmap label --ceo` writes, and download "
            "its sample data, not its plot data",
        )
    if often := sorted({column for column in head if head.count(column) > 1}):
        raise LabelError(f"{name} has two columns of one name", got=", ".join(often))
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            raise LabelError(
                f"row {number} of {name} is cut, or not quoted as it should be",
                got=f"{len(line)} columns", expected=f"{len(head)}",
            )  # fmt: skip
    return [dict(zip(head, line, strict=True)) for line in lines[1:]]


def _column(text: str) -> str:
    small = text.strip().lower()
    return small if small in _OWN or small.startswith(("pl_", "smpl_")) else text.strip()


def _question(columns: Sequence[str], question: str | None, name: str) -> str:
    """The column of the question that asks for the zone."""
    known = [c for c in columns if c not in _OWN and not c.startswith(("pl_", "smpl_"))]
    wanted = known if question is None else [
        c for c in known if c.lower() == question.strip().lower()
    ]  # fmt: skip
    if not columns:
        raise LabelError(f"{name} has no answer", got="no row")
    if len(wanted) != 1:
        raise LabelError(
            f"{name} has no such question" if question else f"{name} has not one question",
            got=question or f"{len(known)}: {', '.join(known)}",
            expected=", ".join(known) or "a question about the local climate zone",
            remedy="name the one that asks for the zone: --question TEXT" if known else None,
        )
    return wanted[0]


def _answer(row: Mapping[str, str], said: str, pages: Sequence[PageSites], where: str) -> Answer:
    site, who = row[f"pl_{_SITE}"], row["email"].strip()
    if not who:
        raise LabelError(f"{where} does not say who answered", expected="an email")
    if row.get("guest interpreters", "").strip():
        raise LabelError(
            f"{where} is of guests, who cannot be told apart", got=row["guest interpreters"][:100],
            remedy="let each interpreter have an account",
        )  # fmt: skip
    if row["flagged"].strip().lower() not in _FLAGS:
        raise LabelError(f"{where} does not say whether it is flagged", got=row["flagged"][:100],
                         expected="true or false")  # fmt: skip
    known = [page for page in pages if site in page.ids]
    if not known:
        raise LabelError(f"{where} is not about a site of the page", got=site[:100])
    try:
        point = shapely.Point(float(row["lon"]), float(row["lat"]))
    except ValueError as error:
        raise LabelError(f"{where} lies at no place", got=f"{row['lon']}, {row['lat']}",
                         expected="lon and lat in degrees") from error  # fmt: skip
    # two cities may call their sites alike
    here = [page for page in known if page.ground[site].buffer(NEAR).contains(point)]
    if len(here) != 1:
        raise LabelError(
            f"{where} lies elsewhere than site {site}" if not here else
            f"{where} may be of several pages",
            got=f"{point.x:g}, {point.y:g}",
            remedy="give the page that the plots were made with: --page PAGE.html",
        )  # fmt: skip
    try:
        lcz = _class(said)
    except RecipeError as error:
        raise LabelError(
            f"{where}, site {site}, has an unknown class", got=repr(said[:100]),
            expected="1 to 17, A to G, or the name of a zone, as Compact mid-rise",
        ) from error  # fmt: skip
    page = here[0]
    sure = not _FLAGS[row["flagged"].strip().lower()]
    return Answer(Key(page.page, site), page.city, who, lcz, sure, page.ground[site])


def _class(text: str) -> int:
    """The zone of a survey's answer: a code, its name, or both.

    Raises
    ------
    RecipeError
    """
    words = _plain(text)
    return _NAMES[words] if words in _NAMES else parse_class(text)


def _plain(text: str) -> str:
    """In small letters, without marks."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


_NAMES = {
    _plain(f"{before}{zone.title}"): zone.code
    for zone in LCZ
    for before in ("", f"{zone.label} ", f"LCZ {zone.label} ", f"{zone.code} ")
}
