"""The verb that labels: a page of sites, and what became of the answers."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json
from engine.errors import RecipeError

__all__ = ["VERBS"]

_SHOWN = 8  # disputes that are told one by one


def label(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="with --out: SITES (points or polygons) and a map RECIPE; otherwise files of "
            "answers: GeoJSON of pages, CSV of Collect Earth Online",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="the page, HTML")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="with --out: recipe of 1 m images to show; by default RECIPE's own"),
    ] = None,
    heights: Annotated[
        str | None, typer.Option(help="with --out: the feature that holds heights of buildings")
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(
            help="with --out: what bands are shares of, as pervious=cover.park+cover.grass; "
            "repeatable"
        ),
    ] = None,
    disputes: Annotated[
        list[Path] | None,
        typer.Option(
            help="with --out: file of answers; the page shows only sites in dispute; repeatable"
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="with --out: hide the rule's proposals")
    ] = False,
    ceo: Annotated[
        Path | None, typer.Option(help="with --out: write plots for Collect Earth Online too, CSV")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="of answers: write training areas, .kml, .gpkg or .geojson")
    ] = None,
    page: Annotated[
        list[Path] | None,
        typer.Option(help="of answers: the page they belong to, HTML; repeatable"),
    ] = None,
    arbiter: Annotated[
        str | None, typer.Option(help="of answers: interpreter who decides where others disagree")
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(help="of a CSV of Collect Earth Online: the question that asks for the zone"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="of answers: draw labels by city and class, PNG")
    ] = None,
    as_json: Json = False,
) -> None:
    """Label sites: write a page that shows what is known of each, then turn answers into areas."""
    asked = {
        "--images": images, "--heights": heights, "--use": use, "--disputes": disputes,
        "--blind": blind or None, "--ceo": ceo,
    }  # fmt: skip
    of_answers: dict[str, object] = {"--to": to, "--arbiter": arbiter, "--figure": figure}
    if not disputes:
        of_answers |= {"--page": page, "--question": question}
    wrong = [name for name, value in (of_answers if out else asked).items() if value]
    if wrong:
        raise RecipeError(
            f"{', '.join(wrong)}: only for {'answers' if out else 'a page'}",
            remedy="leave out --out" if out else "add --out PAGE.html",
        )
    if out is None:
        _settle(files, to, figure, as_json, pages=page or [], arbiter=arbiter, question=question)
        return
    if len(files) != 2:
        raise RecipeError(
            "a page needs one file of sites and one recipe",
            got=f"{len(files)} files",
            expected="natmap label SITES RECIPE --out PAGE.html",
        )
    _page(files, out, as_json, images=images, heights=heights, use=_roles(use or []),
          answers=disputes or [], pages=page or [], question=question, blind=blind,
          plots=ceo)  # fmt: skip


def _page(files: list[Path], out: Path, as_json: bool, **more: Any) -> None:
    from engine.cli.render import say
    from engine.datasets.labelling import label as write

    sites, recipe = files
    found = write(sites, recipe, out, tell=lambda text: say(f"note: {text}"), **more)
    doubtful = sum(map(bool, found.conflicts.values()))
    proposed = sum(one.lcz is not None for one in found.proposals.values())
    say(f"{len(found.proposals)} sites, {proposed} with a proposal, {doubtful} in conflict")
    if as_json:
        told = {
            name: {"lcz": one.lcz, "confidence": one.confidence, "reasons": one.reasons,
                   "conflicts": found.conflicts[name]}
            for name, one in found.proposals.items()
        }  # fmt: skip
        sys.stdout.write(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{out}\n")


def _settle(
    files: list[Path], to: Path | None, figure: Path | None, as_json: bool, **more: Any
) -> None:
    from engine.cli.render import say
    from engine.labels.settling import settle_labels

    if figure is not None and figure.suffix.lower() != ".png":
        raise RecipeError("the figure is a PNG", got=figure.name)
    found = settle_labels(files, to, **more)
    how = found.agreement
    if figure is not None:
        from engine.files import together
        from engine.publishing.charts import draw_distribution

        with together(figure.parent) as part:
            draw_distribution(found.counts, part / figure.name)
    if found.empty:
        say(f"note: {found.empty} without an answer")
    for site, said in list(found.disputed.items())[:_SHOWN]:
        say(f"note: in dispute: {site.id}: {said}")
    if len(found.disputed) > _SHOWN:
        say(f"note: {len(found.disputed) - _SHOWN} more are in dispute")
    if to is not None and len({label.lcz for label in found.labels}) < 2:
        say("note: all labels are of one class; a file of training areas needs two")
    if as_json:
        sys.stdout.write(json.dumps(_told(found), indent=1, ensure_ascii=False) + "\n")
        return
    names = ", ".join(f"{name} {number}" for name, number in found.interpreters.items())
    say(f"answers: {names}")
    for (one, other), (sites, share, kappa) in how.pairs.items():
        say(f"{one} and {other} agree on {share:.0%} of {sites} sites, Cohen's {_kappa(kappa)}")
    if how.sites:
        say(f"{how.sites} sites have several answers, {how.whole} of them all the same, Fleiss' "
            f"{_kappa(how.fleiss)}")  # fmt: skip
    say(f"{len(found.labels)} labels, {len(found.disputed)} in dispute")
    if to is not None:
        sys.stdout.write(f"{to}\n")


def _told(found: Any) -> dict[str, Any]:
    how = found.agreement
    return {
        "interpreters": found.interpreters,
        "labels": found.counts,
        "disputed": {f"{site.page}/{site.id}": said for site, said in found.disputed.items()},
        "empty": found.empty,
        "sites_of_several": how.sites,
        "alike": how.whole,
        "fleiss": _number(how.fleiss),
        "pairs": [
            {"interpreters": list(names), "sites": n, "alike": share, "cohen": _number(kappa)}
            for names, (n, share, kappa) in how.pairs.items()
        ],
    }


def _kappa(value: float) -> str:
    return "kappa is not defined: one class" if math.isnan(value) else f"kappa {value:.3f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _roles(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        role, sep, bands = text.partition("=")
        if not sep or not bands or role.strip() in found:
            raise RecipeError(
                "--use is not understood", got=text,
                expected="each role once: pervious=cover.park+cover.grass",
            )  # fmt: skip
        found[role.strip()] = [band.strip() for band in bands.split("+")]
    return found


VERBS = (label,)
