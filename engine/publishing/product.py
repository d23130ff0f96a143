"""The product folder of a run: built beside, then put in place whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from engine.errors import PublishError
from engine.legend import Reason
from engine.models.card import ModelCard
from engine.publishing.cities import (
    CityModel,
    models_of,
    outlines_asset,
    place_models,
    words_of,
    write_outlines,
)
from engine.publishing.cog import write_cog
from engine.publishing.documents import write_json
from engine.publishing.forms import Form
from engine.publishing.kept import Rasters, Stamp
from engine.publishing.model import place_model, why_not
from engine.publishing.preview import draw_preview
from engine.publishing.replace import replacing
from engine.publishing.report import build_report
from engine.publishing.rights import Rights
from engine.publishing.scenes import ScenesMade, write_scene_file
from engine.publishing.sheets import coarser, cut_sheets, write_mosaic
from engine.publishing.sources import Source, write_sources
from engine.publishing.stac import write_stac
from engine.publishing.styles import write_styles
from engine.publishing.tally import Read, count
from engine.publishing.vectors import Provenance, write_vectors

__all__ = ["Facts", "write_product"]

_PICTURE = 2000  # cells; a larger map is thinned for the preview
_SHARES = 10_000  # pixels; a larger map is shown by its shares, where it has such
_STRIP = 1024  # rows read at once


@dataclass(frozen=True)
class Facts:
    """What the metadata says of a run.

    Attributes
    ----------
    name : of the run.
    period : first and last day of imagery.
    sources : the items used.
    software : name to version.
    model : fields of the MLM extension, ``mlm:name`` and on.
    version : of the release.
    rights : terms of use, and who is to be named.
    recipe : as resolved.
    seconds : of work, by stage.
    throughput : what the last run that made tiles used (`engine.runs.usage.Usage.describe`).
    notes : lines for the reader of the report.
    card : of the model, whose weights go with the product or are linked, where they may.
    item : what one of the sources is called.
    runs : what made it: of each run its number, its tiles, and what it was told.
    footprint : file that tells where the model was trained, kept as it is.
    periods : of a cube with several composites: what each is called, its first and last day.
    cities : that models of their own mapped, where `card` is that of the rest.
    scenes : the same of a map that was made by scene.
    """

    name: str
    period: tuple[date, date]
    sources: Sequence[Source]
    software: Mapping[str, str]
    model: Mapping[str, Any]
    version: str
    rights: Rights
    recipe: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: Sequence[str]
    card: ModelCard | None = None
    item: str = "scene"
    runs: Sequence[Mapping[str, Any]] = ()
    footprint: Path | None = None
    periods: Sequence[tuple[str, date, date]] = ()
    cities: Sequence[CityModel] = ()
    throughput: Mapping[str, Any] | None = None
    scenes: ScenesMade | None = None

    @property
    def told_periods(self) -> dict[str, list[dict[str, str]]]:
        """The periods as report and items have them; nothing where there are none."""
        told = [{"name": n, "start": str(a), "end": str(b)} for n, a, b in self.periods]
        return {"natmap:periods": told} if told else {}

    @property
    def models(self) -> dict[str, ModelCard]:
        """Cards of all models that are at hand, each once, by their keys."""
        return {card.key: card for card in reversed((self.card, *self.others)) if card is not None}

    @property
    def others(self) -> tuple[ModelCard | None, ...]:
        """Cards of models of cities and scenes, None where one is not at hand."""
        scenes = () if self.scenes is None else self.scenes.models[1:]
        return (*(each.card for each in self.cities), *(each.card for each in scenes))

    def told_models(self, square_km: float) -> list[dict[str, Any]]:
        """Models of the report, as `models_of` has them; or those of scenes."""
        if self.scenes is not None:
            return self.scenes.told
        key = None if self.card is None else self.card.key
        return models_of(self.cities, (str(self.model.get("mlm:name")), key), square_km)


def write_product(
    folder: Path,
    form: Form,
    box: GeoBox,
    read: Read,
    facts: Facts,
    *,
    stamp: Stamp | None = None,
) -> Path:
    """Write COGs, STAC, preview and report.

    A product of over 10^10 pixels is written in sheets of 100 km, with a VRT for each layer.

    Parameters
    ----------
    folder : of the product; one that is there is replaced once the new one is whole.
    form : what the product consists of.
    box : GeoBox of the layer ``map``; a whole number of pixels of the coarsest layer.
    read : gives a part of a layer.
    facts : Facts
    stamp : what decides a part of a layer. With it a raster of the folder that is replaced is taken
        over where nothing that made it changed.

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
        with replacing(folder) as part:
            _fill(part, form, box, read, facts, Rasters(folder, stamp))
    except OSError as error:
        raise PublishError(
            "the product cannot be written",
            got=error,
            remedy="make room or name another folder in `publish`; the store is untouched",
        ) from error
    return folder


def _fill(
    folder: Path, form: Form, box: GeoBox, read: Read, facts: Facts, rasters: Rasters
) -> None:
    tags = facts.rights.tags
    sheets = cut_sheets(facts.name, box, form.coarsest)
    for layer in form.layers:
        for sheet in sheets:
            rows, cols = sheet.within(layer)
            part = coarser(box, layer.factor)[rows, cols]
            path = folder / f"{sheet.name}{layer.suffix}.tif"
            strip = partial(_strip_of, read, layer.key, rows, cols)
            write = partial(write_cog, path, layer, part, strip, tags)
            rasters.write(path, layer, part, (rows, cols), tags, write)
            write_styles(folder, path.name, layer)
        if len(sheets) > 1:
            write_styles(folder, write_mosaic(folder, facts.name, layer, box, sheets), layer)
    weights = None if facts.card is None else place_model(folder, facts.card)
    others, folders = place_models(folder, facts.others, facts.card)
    if write_outlines(folder, facts.cities, folders):
        others |= outlines_asset()
    others |= write_scene_file(folder, facts.scenes, folders)
    derived = write_sources(folder, facts.sources)
    embedded = None
    if form.vectors is not None:
        provenance = Provenance(facts.card, facts.sources, facts.software)
        embedded = write_vectors(folder, facts.name, form, box, read, provenance)
    counts = count(form, box, read)
    report = build_report(
        counts,
        form,
        float(box.resolution.x),
        name=facts.name,
        period=facts.period,
        recipe=facts.recipe,
        software=facts.software,
        seconds=facts.seconds,
        throughput=facts.throughput,
        model=facts.model,
        items=[source.id for source in facts.sources],
        rights=facts.rights,
        notes=[*facts.notes, *_notes(facts)],
        release=facts.version,
        runs=facts.runs,
        files=rasters.found,
    )
    report |= facts.told_periods
    told = dict(facts.told_periods)
    mapped = int(counts["reason"][Reason.DATA]) * float(box.resolution.x) ** 2 / 1e6
    if models := facts.told_models(mapped):
        report["models"] = told["natmap:models"] = models
    if facts.footprint is not None:
        shutil.copyfile(facts.footprint, folder / facts.footprint.name)
    _draw(folder / "preview.png", form, box, read, facts)
    write_stac(
        folder,
        facts.name,
        box,
        form,
        sheets,
        period=facts.period,
        derived=derived,
        software=facts.software,
        model=facts.model,
        weights=weights,
        version=facts.version,
        rights=facts.rights,
        checksums={name: str(known["sha256"]) for name, known in rasters.found.items()},
        embedded=embedded,
        told=told,
        others=others,
    )
    written = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix() for path in written} | {"report.json"}
    report["contents"] = sorted(names)  # what may be replaced
    write_json(folder / "report.json", report)


def _notes(facts: Facts) -> list[str]:
    """Where its models end, and what the product cannot have in it."""
    rest = str(facts.model.get("mlm:name"))
    absent = [
        f"the weights of {card.name} (SHA-256 {card.sha256}) are not in the product: {why}"
        for card in reversed(facts.models.values())
        if card.address is None and (why := why_not(card)) is not None
    ]
    by_scene = [] if facts.scenes is None else [facts.scenes.words]
    return [*words_of(facts.cities, rest), *by_scene, *absent]


def _strip_of(read: Read, key: str, rows: slice, cols: slice, part: slice) -> npt.NDArray[Any]:
    """Rows of a sheet, counted from its own first."""
    return read(key, slice(rows.start + part.start, rows.start + part.stop), cols)


def _draw(path: Path, form: Form, box: GeoBox, read: Read, facts: Facts) -> None:
    """The preview: the map itself, or of a large one with an overview that."""
    key, legend, nodata = "map", form.legend, form.nodata
    shares = form.overview is not None and max(box.shape) > _SHARES
    if shares and form.overview is not None:
        key, legend, nodata = form.overview, form.shades, 0
    layer = form.layer(key)
    whole = coarser(box, layer.factor)
    height, width = whole.shape
    step = max(-(-max(height, width) // _PICTURE), 1)
    strips = (slice(top, min(top + _STRIP, height)) for top in range(0, height, _STRIP))
    every = slice(0, width)
    picture = np.concatenate([read(key, s, every)[-s.start % step :: step, ::step] for s in strips])
    if shares:
        picture = np.where(picture > 100, 0, np.minimum(picture // 20 + 1, 5)).astype(np.uint8)
    if form.scale is not None:
        picture = form.scale.shade(picture, form.nodata)
        legend, nodata = form.scale.classes, 0
    first, last = facts.period
    words = f"{form.title} at {box.resolution.x:g} m"
    if shares:
        words = f"{form.title}: share of cells of {whole.resolution.x:g} m"
    draw_preview(
        path,
        picture,
        float(whole.resolution.x) * step,
        [(c.code, c.label, c.title, c.colour) for c in legend],
        title=facts.rights.title.removeprefix(f"{form.title}: "),  # the next line says it
        subtitle=f"{words}, {first} to {last}, "
        f"{len(facts.sources)} {facts.item}{'s' if len(facts.sources) != 1 else ''}",
        licence=facts.rights.statement,
        nodata=int(nodata),
    )
