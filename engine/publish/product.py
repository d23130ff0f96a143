"""The product folder of an LCZ run: built beside, then put in place whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from engine.errors import PublishError
from engine.legend import LCZ, REASON_COLOURS, REASON_TEXTS
from engine.publish.cog import Layer, write_cog
from engine.publish.preview import draw_preview
from engine.publish.stac import write_stac

__all__ = ["LAYERS", "Facts", "write_lcz_product"]

_CLASSES = {0: "FFFFFF", **{c.code: c.colour for c in LCZ}}

LAYERS = (
    Layer("map", "", "Local climate zones, filtered and masked", "uint8", 0, "mode", _CLASSES),
    Layer("classes", "-classes", "Local climate zones, unfiltered", "uint8", 0, "mode", _CLASSES),
    Layer("confidence", "-confidence", "Confidence, percent", "uint8", 255, "average"),
    Layer("observations", "-observations", "Clear days", "uint16", None, "nearest"),
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

_PICTURE = 2000  # cells; a larger map is thinned for the preview


@dataclass(frozen=True)
class Facts:
    """What the metadata says of a run; all of it safe to publish."""

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


def write_lcz_product(
    folder: Path, box: GeoBox, read: Callable[[str, slice], npt.NDArray[Any]], facts: Facts
) -> Path:
    """Write COGs, STAC, preview and report.

    Parameters
    ----------
    folder : of the product; what is there is replaced in one step.
    box : GeoBox of the rasters.
    read : gives rows of a layer by its key, (rows, x).
    facts : Facts

    Raises
    ------
    PublishError
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise PublishError("the product folder cannot be made", got=error) from error
    if folder.exists() and any(folder.iterdir()) and not (folder / "report.json").exists():
        shutil.rmtree(part)
        raise PublishError(
            "the product folder holds something else",
            got=folder,
            remedy="name another folder in `publish`",
        )
    try:
        tags = {"TIFFTAG_SOFTWARE": "natmap", "licence": facts.licence}
        for layer in LAYERS:
            path = part / f"{facts.name}{layer.suffix}.tif"
            write_cog(path, layer, box, lambda rows, key=layer.key: read(key, rows), tags)  # type: ignore[misc]
        _write_report(part / "report.json", box, read, facts)
        _write_preview(part / "preview.png", box, read, facts)
        write_stac(
            part,
            facts.name,
            box,
            LAYERS,
            period=facts.period,
            sources=facts.sources,
            software=facts.software,
            model=facts.model,
            version=facts.version,
            licence=facts.licence,
        )
        part.chmod(0o755)
        _swap(part, folder)
    except OSError as error:
        raise PublishError("the product cannot be written", got=error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _swap(part: Path, folder: Path) -> None:
    old = part.with_name(part.name + "-old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_report(
    path: Path, box: GeoBox, read: Callable[[str, slice], npt.NDArray[Any]], facts: Facts
) -> None:
    classes, reasons = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for top in range(0, box.shape[0], 1024):
        rows = slice(top, min(top + 1024, box.shape[0]))
        classes += np.bincount(read("map", rows).ravel(), minlength=256)
        reasons += np.bincount(read("reason", rows).ravel(), minlength=256)
    km2 = float(box.resolution.x) ** 2 / 1e6
    wanted = int(reasons.sum() - reasons[1])
    report = {
        "schema": "natmap-report/1",
        "name": facts.name,
        "period": [str(day) for day in facts.period],
        "area_km2": {c.name: round(float(classes[c.code]) * km2, 4) for c in LCZ},
        "coverage": round(float(reasons[0]) / wanted, 6) if wanted else 0.0,
        "cells_by_reason": {r.name.lower(): int(reasons[r]) for r in REASON_TEXTS},
        "recipe": dict(facts.recipe),
        "versions": dict(facts.software),
        "seconds_by_stage": {k: round(v, 2) for k, v in facts.seconds.items()},
        "model": dict(facts.model),
        "items": [identity for identity, _ in facts.sources],
        "licences": [facts.licence],
        "notes": list(facts.notes),
        "release": facts.version,
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _write_preview(
    path: Path, box: GeoBox, read: Callable[[str, slice], npt.NDArray[Any]], facts: Facts
) -> None:
    height, width = box.shape
    step = max(-(-max(height, width) // _PICTURE), 1)
    thin = np.concatenate(
        [
            read("map", slice(top, min(top + 1024 * step, height)))[::step, ::step]
            for top in range(0, height, 1024 * step)
        ]
    )
    first, last = facts.period
    draw_preview(
        path,
        thin,
        float(box.resolution.x) * step,
        [(c.code, c.label, c.title, c.colour) for c in LCZ],
        title=facts.name,
        subtitle=f"Local climate zones at {box.resolution.x:g} m, {first} to {last}, "
        f"{len(facts.sources)} scene{'s' if len(facts.sources) != 1 else ''}",
        licence=f"{facts.licence}. Made with natmap.",
    )
