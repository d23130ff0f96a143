"""Verbs that look for what is alike: scenes, find."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json, read_codes

__all__ = ["VERBS"]

Bands = Annotated[
    str | None, typer.Option(help="of images: numbers of red, green and blue, as in 1,2,3")
]


def scenes(
    place: Annotated[
        Path, typer.Argument(help="chip set, patch set or folder of images", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder of table, manifest and contact sheet")],
    like: Annotated[
        Path | None,
        typer.Option(help="scenes.json of an earlier call: patches get its scenes, none are found"),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="labels, texture or both; by default both where there are")
    ] = None,
    side: Annotated[
        int | None, typer.Option(help="of a patch cut from images, in pixels; by default 512")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="folder of rasters of codes, named as the images")
    ] = None,
    bands: Bands = None,
    unknown: Annotated[str, typer.Option(help="codes of labels that say nothing: 0,254")] = "",
    method: Annotated[
        str | None, typer.Option(help="mean-shift or kmeans; by default mean-shift")
    ] = None,
    count: Annotated[int | None, typer.Option(help="scenes, of kmeans")] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="of mean shift; by default the finest that is stable")
    ] = None,
    most: Annotated[
        int | None, typer.Option(help="patches that scenes are found in; by default 10,000")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="draws that stability is measured by; by default 5")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all drawing")] = 0,
) -> None:
    """Group patches into scenes by labels and texture: a contact sheet, weights and a split."""
    from engine.cli.render import say
    from engine.similarity.scene_files import FILES

    how = {
        "by": by,
        "side": side,
        "method": method,
        "count": count,
        "bandwidth": bandwidth,
        "most": most,
        "repeats": repeats,
    }
    how = {name: value for name, value in how.items() if value is not None}
    given = {"labels": labels, "bands": _bands(bands), "seed": seed}
    given["unknown"] = read_codes("--unknown", unknown)
    if like is not None:
        _assign(place, like, out, how, given)
        return
    from engine.similarity.scenes import scenes as find_scenes

    _, found = find_scenes(place, out, **how, **given, tell=say)  # type: ignore[arg-type]  # checked there
    chosen = found.chosen
    say(
        f"{len(found.modes)} scenes, {(found.scene < 0).mean():.0%} of the patches in none; halves "
        f"agree by {chosen.halves:.2f}, seeds by {chosen.seeds:.2f}"
    )
    sys.stdout.write(f"{out / FILES[-1]}\n")


def _assign(place: Path, like: Path, out: Path, how: dict[str, Any], given: dict[str, Any]) -> None:
    """Give patches the scenes of an earlier call."""
    from engine.cli.render import say
    from engine.errors import LabelError
    from engine.similarity.assigning import assign_scenes
    from engine.similarity.scene_files import FILES

    if how:
        raise LabelError(
            "scenes that are given are not found again",
            got=", ".join(f"--{name}" for name in how),
            expected="--like alone: how patches are described and grouped is in its file",
            remedy="leave these options out, or --like",
        )
    _, found = assign_scenes(place, like, out, **given, tell=say)
    used = int((found.sizes > 0).sum())
    say(
        f"{used} of {len(found.modes)} scenes occur, {(found.scene < 0).mean():.0%} of the patches "
        f"in none; {found.outlying.mean():.0%} are farther than any earlier patch"
    )
    sys.stdout.write(f"{out / FILES[-1]}\n")


def find(
    like: Annotated[
        str,
        typer.Argument(
            help="image, number of a patch, or longitude,latitude of a place", show_default=False
        ),
    ],
    place: Annotated[
        str,
        typer.Argument(help="chip set, patch set, folder of images, or store", show_default=False),
    ],
    out: Annotated[Path | None, typer.Option(help="folder of table and pictures")] = None,
    most: Annotated[int, typer.Option(min=1, help="how many")] = 40,
    side: Annotated[
        int | None,
        typer.Option(help="of a patch cut from images, in pixels; by default the image's"),
    ] = None,
    bands: Bands = None,
    model: Annotated[
        Path | None, typer.Option(help="card whose features patches are compared by")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search for the patches, or the cells of an embedding, that are most like one."""
    from engine.cli.render import say
    from engine.similarity.find import find as search

    found = search(
        like, place, out, most=most, side=side, bands=_bands(bands), model=model, tell=say
    )
    if as_json:
        plain = [
            {k: None if v != v else v for k, v in dataclasses.asdict(hit).items()} for hit in found
        ]
        sys.stdout.write(json.dumps(plain, indent=1) + "\n")
        return
    for rank, hit in enumerate(found, 1):
        where = "" if hit.x != hit.x else f"  {hit.x:.10g} {hit.y:.10g}"
        sys.stdout.write(f"{rank:4d}  {hit.distance:.4f}  {hit.number}  {hit.frame}{where}\n")


def _bands(text: str | None) -> list[int] | None:
    return None if text is None else read_codes("--bands", text)


VERBS = (scenes, find)
