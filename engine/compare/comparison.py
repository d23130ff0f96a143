"""`natmap compare`: several models or maps in one table, and what they differ by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.compare.cells import RASTERS
from engine.compare.comparison_files import describe, write_comparison
from engine.compare.ground import Ground
from engine.compare.map_grounds import of_areas, of_raster, of_sample
from engine.compare.paired import Ranked, rank
from engine.compare.patch_ground import is_patches, of_patches
from engine.compare.report import plain
from engine.compare.sample_files import is_sample
from engine.compare.systems import System, find_systems
from engine.errors import MetricError

__all__ = ["Comparison", "compare_systems"]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes
    ----------
    systems : in the order in which they were named.
    ranked : their figures and differences, in that order.
    against : name of the system that the others are compared with.
    reference : name of what they are judged by.
    examples : that all systems classify; all figures are of these.
    drawn : what was drawn as a whole for the intervals, and how many of it.
    left : labelled examples to which each system gives no class, by name.
    folder : where the tables lie, None if nowhere.
    notes : what is in doubt, one line each.
    """

    systems: tuple[System, ...]
    ranked: tuple[Ranked, ...]
    against: str
    reference: str
    examples: int
    drawn: str
    left: dict[str, int]
    folder: Path | None
    notes: tuple[str, ...]

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """The single figures by system and name, NaN where nothing was counted."""
        return {
            system.name: {name: values[0] for name, values in ranked.figures.items()}
            for system, ranked in zip(self.systems, self.ranked, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what ``comparison.json`` holds."""
        told: dict[str, Any] = plain(describe(self))
        return told


def compare_systems(
    systems: Sequence[str | Path] | str | Path,
    reference: str | Path,
    *,
    against: str | None = None,
    split: str = "test",
    layer: str = "map",
    within: str | Path | None = None,
    unknown: Sequence[int] | None = None,
    field: str | None = None,
    repeats: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Compare models and maps of local climate zones on the same examples.

    All figures are of the examples that every system classifies. Intervals are of 95 %: cities,
    blocks of ground or training areas are drawn with replacement, the same ones for all systems.

    Parameters
    ----------
    systems : each a model card (folder, file, or the name of a shipped one), a product folder, or a
        raster of codes; ``A+B`` are models together, ``NAME=`` before one names it. Models are
        compared on patches only.
    reference : a patch set; or a raster of codes, training areas, or a sample that was filled in.
    against : name of the system that the others are compared with; by default the first.
    split : of a patch set: train, validation, test or all.
    layer : of product folders, "map" or "classes".
    within : raster: only cells where it is not 0. Of a raster or training areas.
    unknown : codes of a reference raster that say nothing, beside 0 and its nodata.
    field : of training areas, the one that holds the type.
    repeats, seed : of the draws.
    out : folder of tables and page; what models say of patches is kept there, so that a comparison
        that is broken off goes on. By default nowhere.
    tell : hears of each step.

    Raises
    ------
    MetricError, LabelError, CardError, WeightsError
        Where systems have other classes or are fed other patches, were trained on the patches that
        are to judge them, or share no example.
    """
    if repeats < 2:
        raise MetricError("too few draws for an interval", got=repeats, expected="2 or more")
    found = find_systems([systems] if isinstance(systems, str | Path) else systems, layer)
    names = [system.name for system in found]
    if against is not None and against not in names:
        raise MetricError(
            "there is no such system to compare with", got=against, expected=", ".join(names)
        )
    first = 0 if against is None else names.index(against)
    reference, folder = Path(reference), None if out is None else Path(out)
    ground = _ground(found, reference, split, within, unknown, field, folder, tell)
    ranked = rank(ground.pairs, first, repeats, seed)
    comparison = Comparison(
        found,
        ranked,
        names[first],
        reference.name,
        ground.pairs.examples,
        ground.drawn,
        ground.left,
        folder,
        (*ground.notes, *_doubts(ground)),
    )
    if folder is not None:
        write_comparison(comparison, folder)
    return comparison


def _ground(
    systems: Sequence[System],
    reference: Path,
    split: str,
    within: str | Path | None,
    unknown: Sequence[int] | None,
    field: str | None,
    keep: Path | None,
    tell: Callable[[str], None],
) -> Ground:
    if not reference.exists():
        raise MetricError("there is no such reference", got=reference)
    given = {"within": within, "unknown": unknown, "field": field}
    asked = {name for name, value in given.items() if value is not None}
    place = None if within is None else Path(within)
    if is_patches(reference):
        _require_fit("a patch set", asked, set())
        return of_patches(systems, reference, split, keep, tell)
    if split != "test":
        raise MetricError("only a patch set has splits", got=f"{reference.name}: split {split}")
    if is_sample(reference):
        _require_fit("a sample", asked, set())
        return of_sample(systems, reference, tell)
    if reference.suffix.lower() in RASTERS:
        _require_fit("a raster", asked, {"within", "unknown"})
        return of_raster(systems, reference, place, unknown or (), tell)
    _require_fit("training areas", asked, {"within", "field"})
    return of_areas(systems, reference, place, field, tell)


def _require_fit(kind: str, asked: set[str], allowed: set[str]) -> None:
    if wrong := sorted(asked - allowed):
        raise MetricError(
            f"a comparison on {kind} does not take this",
            got=", ".join(f"--{name}" for name in wrong),
            expected=", ".join(f"--{name}" for name in sorted(allowed)) or "none of them",
        )


def _doubts(ground: Ground) -> list[str]:
    found = [
        f"{name} gives {count} of the labelled examples no class: they are left out for all"
        for name, count in ground.left.items()
        if count
    ]
    if ground.pairs.groups < 10:
        found.append(f"the intervals rest on {ground.drawn} alone, and are too narrow")
    return found
