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
            help="with --out: SITES (points or polygons) and a map RECIPE; else files of answers",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="the page, HTML")] = None,
    images: Annotated[
        Path | None, typer.Option(help="with --out: recipe of 1 m images, shown beside")
    ] = None,
    heights: Annotated[
        str | None, typer.Option(help="with --out: feature of buildings' heights")
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(help="with --out: pervious=cover.park+cover.grass; repeatable"),
    ] = None,
    disputes: Annotated[
        list[Path] | None,
        typer.Option(help="with --out: file of answers; the page has their disputes; repeatable"),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="with --out: without the rule's proposals")
    ] = False,
    ceo: Annotated[
        Path | None, typer.Option(help="with --out: CSV of plots for Collect Earth Online")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="of answers: training areas, .kml, .gpkg or .geojson")
    ] = None,
    page: Annotated[
        list[Path] | None, typer.Option(help="of answers: the page itself; repeatable")
    ] = None,
    arbiter: Annotated[
        str | None, typer.Option(help="of answers: the interpreter whose answers stand")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="of answers: PNG of labels by city and class")
    ] = None,
    as_json: Json = False,
) -> None:
    """Label sites: a page with all that is known of each, then from answers to training areas."""
    asked = {
        "--images": images, "--heights": heights, "--use": use, "--disputes": disputes,
        "--blind": blind or None, "--ceo": ceo,
    }  # fmt: skip
    of_answers = {"--to": to, "--page": page, "--arbiter": arbiter, "--figure": figure}
    wrong = [name for name, value in (of_answers if out else asked).items() if value]
    if wrong:
        raise RecipeError(
            f"{', '.join(wrong)} {'goes with answers' if out else 'goes with a page'}",
            remedy="leave out --out" if out else "add --out PAGE.html",
        )
    if out is None:
        _settle(files, to, page or [], arbiter, figure, as_json)
        return
    if len(files) != 2:
        raise RecipeError(
            "a page is of one file of sites and one recipe",
            got=f"{len(files)} files",
            expected="natmap label SITES RECIPE --out PAGE.html",
        )
    _page(files, out, as_json, images=images, heights=heights, use=_roles(use or []),
          answers=disputes or [], blind=blind, plots=ceo)  # fmt: skip


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
    files: list[Path], to: Path | None, pages: list[Path], arbiter: str | None,
    figure: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from engine.cli.render import say
    from engine.labels.settling import settle_labels

    if figure is not None and figure.suffix.lower() != ".png":
        raise RecipeError("the figure is a PNG", got=figure.name)
    found = settle_labels(files, to, pages=pages, arbiter=arbiter)
    how = found.agreement
    if figure is not None:
        from engine.files import together
        from engine.publishing.charts import draw_distribution

        with together(figure.parent) as part:
            draw_distribution(found.counts, part / figure.name)
    if found.empty:
        say(f"note: {found.empty} features have no class")
    for site, said in list(found.disputed.items())[:_SHOWN]:
        say(f"note: in dispute: {site.id}: {said}")
    if len(found.disputed) > _SHOWN:
        say(f"note: {len(found.disputed) - _SHOWN} more are in dispute")
    if to is not None and len({label.lcz for label in found.labels}) < 2:
        say("note: the labels are of one class; a file of training areas needs two")
    if as_json:
        sys.stdout.write(json.dumps(_told(found), indent=1, ensure_ascii=False) + "\n")
        return
    names = ", ".join(f"{name} {number}" for name, number in found.interpreters.items())
    say(f"answers: {names}")
    for (one, other), (sites, share, kappa) in how.pairs.items():
        say(f"{one} and {other}: {sites} sites, {share:.0%} alike, Cohen's kappa {kappa:.3f}")
    if how.sites:
        say(f"{how.sites} sites of several interpreters, {how.whole} alike, Fleiss' kappa "
            f"{how.fleiss:.3f}")  # fmt: skip
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


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _roles(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        role, sep, bands = text.partition("=")
        if not sep or not bands or role.strip() in found:
            raise RecipeError(
                "--use does not say what is what", got=text,
                expected="each role once: pervious=cover.park+cover.grass",
            )  # fmt: skip
        found[role.strip()] = [band.strip() for band in bands.split("+")]
    return found


VERBS = (label,)
