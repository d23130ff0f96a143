"""The product folder of an LCZ run: built beside, then put in place whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from engine.errors import PublishError
from engine.legend import LCZ, REASON_COLOURS, Reason
from engine.publishing.cog import Layer, write_cog
from engine.publishing.preview import draw_preview
from engine.publishing.report import Tally, build_report, redact
from engine.publishing.stac import write_stac

__all__ = ["LAYERS", "Facts", "write_lcz_product"]

_CLASSES = {0: "FFFFFF", **{c.code: c.colour for c in LCZ}}

LAYERS = (
    Layer("map", "", "Local climate zones, filtered and masked", "uint8", 0, "mode", _CLASSES),
    Layer("classes", "-classes", "Local climate zones, unfiltered", "uint8", 0, "mode", _CLASSES),
    Layer("confidence", "-confidence", "Confidence, percent", "uint8", 255, "average"),
    Layer("observations", "-observations", "Clear days", "uint16", None, "nearest"),
    Layer("dissent", "-dissent", "Days that depart from the others, percent", "uint8", 255),
    Layer(
        "reason",
        "-reason",
        "Why a cell has no data",
        "uint8",
        None,
        "mode",
        {int(r): colour for r, colour in REASON_COLOURS.items()},
    ),
)
"""Rasters of the product folder, in the order of its assets."""

Read = Callable[[str, slice], npt.NDArray[Any]]

_PICTURE = 2000  # cells; a larger map is thinned for the preview
_STRIP = 1024  # rows read at once


@dataclass(frozen=True)
class Facts:
    """What the metadata says of a run.

    Attributes
    ----------
    name : of the run.
    period : first and last day of imagery.
    sources : (id, address) of the items used.
    software : name to version.
    model : fields of the MLM extension, ``mlm:name`` and on.
    version : of the release.
    licence : of the imagery.
    recipe : as resolved.
    seconds : of work, by stage.
    notes : lines for the reader of the report.
    weights : the model's file as a STAC asset of role ``mlm:model``.
    """

    name: str
    period: tuple[date, date]
    sources: Sequence[tuple[str, str]]
    software: Mapping[str, str]
    model: Mapping[str, Any]
    version: str
    licence: str
    recipe: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: Sequence[str]
    weights: Mapping[str, Any] | None = None


def write_lcz_product(folder: Path, box: GeoBox, read: Read, facts: Facts) -> Path:
    """Write COGs, STAC, preview and report.

    Parameters
    ----------
    folder : of the product; one that is there is replaced once the new one is whole.
    box : GeoBox of the rasters.
    read : gives rows of a layer by its key, (rows, x).
    facts : Facts

    Returns
    -------
    The folder.

    Raises
    ------
    PublishError
        Where the folder holds something else or cannot be written; what was there stays.
    """
    folder = folder.resolve()
    try:
        _require_ours(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(part, box, read, facts)
            part.chmod(0o755)  # mkdtemp's are for their owner alone
            _swap(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise PublishError(
            "the product cannot be written",
            got=error,
            remedy="make room or name another folder in `publish`; the store is untouched",
        ) from error
    return folder


def _require_ours(folder: Path) -> None:
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / "report.json").exists()):
        return
    if folder.exists():
        raise PublishError(
            "the product folder holds something else",
            got=folder,
            expected="a product of natmap, an empty folder, or none",
            remedy="name another folder in `publish`",
        )


def _fill(folder: Path, box: GeoBox, read: Read, facts: Facts) -> None:
    tags = {"TIFFTAG_SOFTWARE": "natmap", "licence": facts.licence}
    for layer in LAYERS:
        path = folder / f"{facts.name}{layer.suffix}.tif"
        write_cog(path, layer, box, partial(read, layer.key), tags)
    classes, reasons, dissent, picture = Tally(), Tally(), Tally(), []
    days: Counter[int] = Counter()
    step = max(-(-max(box.shape) // _PICTURE), 1)
    for top in range(0, box.shape[0], _STRIP):
        rows = slice(top, min(top + _STRIP, box.shape[0]))
        block = read("map", rows)
        classes.add(block)
        why = read("reason", rows)
        reasons.add(why)
        wanted = (why != Reason.OUTSIDE_AREA) & (why != Reason.OUTSIDE_MASK)
        dissent.add(read("dissent", rows)[wanted])
        seen, cells = np.unique(read("observations", rows)[wanted], return_counts=True)
        days.update(dict(zip(seen.tolist(), cells.tolist(), strict=True)))
        picture.append(block[-top % step :: step, ::step])
    report = build_report(
        classes,
        reasons,
        days,
        dissent,
        float(box.resolution.x),
        name=facts.name,
        period=facts.period,
        recipe=facts.recipe,
        software=facts.software,
        seconds=facts.seconds,
        model=facts.model,
        items=[identity for identity, _ in facts.sources],
        licences=[facts.licence],
        notes=facts.notes,
        release=facts.version,
    )
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    first, last = facts.period
    draw_preview(
        folder / "preview.png",
        np.concatenate(picture),
        float(box.resolution.x) * step,
        [(c.code, c.label, c.title, c.colour) for c in LCZ],
        title=facts.name,
        subtitle=f"Local climate zones at {box.resolution.x:g} m, {first} to {last}, "
        f"{len(facts.sources)} scene{'s' if len(facts.sources) != 1 else ''}",
        licence=f"{facts.licence}. Made with natmap.",
    )
    write_stac(
        folder,
        facts.name,
        box,
        LAYERS,
        period=facts.period,
        sources=[(identity, redact(href)) for identity, href in facts.sources],
        software=facts.software,
        model=facts.model,
        weights=facts.weights,
        version=facts.version,
        licence=facts.licence,
    )


def _swap(part: Path, folder: Path) -> None:
    old = part.with_name(part.name + "-old")
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
