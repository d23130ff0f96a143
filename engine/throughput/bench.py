"""`natmap bench`: rounds of measurements, what they say, and whether that has changed."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from engine.errors import MetricError, RecipeError
from engine.files import together
from engine.pipeline.prepare import prepare
from engine.pipeline.provenance import software_here
from engine.pipeline.verbs import load
from engine.recipes.sections import Device
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize
from engine.throughput.figures import Estimate, Rounds, compare_rounds, estimate, ratio, read_rounds
from engine.throughput.rounds import Bench

__all__ = ["WHAT", "Benchmark", "Change", "bench"]

What = Literal["parts", "run", "scaling", "growth", "update"]
WHAT: tuple[What, ...] = ("parts", "run", "scaling", "growth", "update")

_MARK = "natmap-bench.txt"
_SEED = 2024  # of the synthetic country
_TILE = 160  # px of its tiles, where none is asked for
_FEW = 4  # tiles of a user's own recipe, where no number is asked for
_BESIDE = {
    "parts: images cpu": "parts: floor decode cpu",
    "parts: step forward cpu": "parts: floor forward cpu",
    "parts: step write wall": "parts: floor write wall",
    "parts: floor write wall": "parts: floor copy wall",
}
"""Figures beside their floors, of the same round."""


@dataclass(frozen=True)
class Change:
    """A figure beside that of an earlier benchmark.

    Attributes
    ----------
    name : of the figure; one that has a floor is compared as its ratio to that.
    times : the earlier figure, with its 95 % interval.
    sure : whether that is more than noise.
    """

    name: str
    times: Estimate
    sure: bool

    @property
    def verdict(self) -> str:
        """In a word or two; of rates more is better, of seconds and memory less."""
        if not self.sure:
            return "no change that is more than noise"
        better = (self.times.middle > 1) == self.name.endswith("km2/s")
        return "better" if better else "worse"


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes
    ----------
    rounds : figures of each round, ``SCENARIO: NAME``.
    figures : each figure's middle and interval.
    ratios : figures over their floors, by name.
    changes : against an earlier benchmark, where one was given.
    memory : of the last run: seconds, and megabytes of the largest worker so far.
    facts : machine, software, recipe, date.
    """

    rounds: Rounds
    figures: dict[str, Estimate]
    ratios: dict[str, Estimate]
    changes: tuple[Change, ...]
    memory: tuple[tuple[float, int], ...]
    facts: dict[str, Any]

    @property
    def worse(self) -> tuple[Change, ...]:
        """Changes for the worse that are more than noise."""
        return tuple(change for change in self.changes if change.verdict == "worse")


def bench(
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    *,
    work: str | Path = "natmap-bench",
    what: Sequence[What] = ("parts", "run"),
    side: float = 4.8,
    dates: int = 4,
    tiles: int | None = None,
    rounds: int = 3,
    workers: Sequence[int] = (1, 2),
    device: str | None = None,
    compare: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Measure how fast a recipe runs here.

    All that is asked for is measured once in each round, in turn: what slows the machine down for
    a while slows a figure and its floor alike, and their ratio holds.

    Parameters
    ----------
    recipe : map recipe of any product; by default a synthetic country is made in the work folder.
    out : folder for ``bench.json`` and ``bench.png``; by default nowhere.
    work : folder for the synthetic country, which stays, and for stores, which do not; new, empty,
        or a benchmark's of before.
    what : of `WHAT`: ``parts`` (all stages in one process, beside their floors), ``run`` (as people
        start it, with the first number of workers), ``scaling`` (with each number of workers, and
        as many independent copies), ``growth`` (a quarter of the tiles and all of them), ``update``
        (a further date; of the synthetic country alone).
    side : of the synthetic country, km.
    dates : of it, 1 to 4.
    tiles : most tiles that are run; by default all of the synthetic country, or 4.
    rounds : int, 1 or more; with one there are no intervals.
    workers : numbers of worker processes.
    device : in place of the recipe's ``model.device``.
    compare : an earlier ``bench.json`` of the same recipe and scenarios.
    tell : gets a line of text for each measurement.

    Raises
    ------
    NatmapError
        Before anything is measured, where recipe, scenarios or the earlier file do not serve; or
        where a tile fails.
    """
    _require_sense(recipe, what, dates, rounds, workers, tiles, side)
    if device is not None and device not in get_args(Device):
        raise RecipeError("no such device", got=device, expected=", ".join(get_args(Device)))
    before = None if compare is None else _read(Path(compare))
    folder = _own(Path(work))
    country = None
    if recipe is None:
        size = max(round(side / 1.6), 1) * 1600
        country = Country(World(_SEED), size, size, AUTUMN[:dates])
        recipe = _country(country, folder, tell)
    told, base = load(recipe, None)
    if device is not None:
        model: Any = getattr(told, "model", None)
        if model is None:
            raise RecipeError("the recipe has no model that a device would run", got=device)
        told = told.model_copy(update={"model": model.model_copy(update={"device": device})})
    most = tiles if country is not None or tiles is not None else _FEW
    one = Bench(told, base or Path(), folder, most)
    facts = _facts(told.model_dump(mode="json", exclude_none=True), what, workers, most, dates)
    if before is not None:
        _require_alike(facts, before)
    if "parts" in what:
        tell("warming up: what is compiled and loaded once counts in no round")
        one.parts()
    found: Rounds = []
    for number in range(1, rounds + 1):
        tell(f"round {number} of {rounds}")
        found.append(_round(one, what, workers, country, tell))
    result = _result(found, one, facts, before)
    if out is not None:
        with together(Path(out), mark="bench.json") as part:
            _write(result, part)
    return result


def _own(folder: Path) -> Path:
    """A folder in which stores may be removed: a new or empty one, or a benchmark's of before.

    Raises
    ------
    MetricError
        Where something else lies in it.
    """
    mark = folder / _MARK
    if folder.exists() and not mark.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise MetricError(
            "the work folder is not a benchmark's: what lies in it could be lost",
            got=str(folder),
            expected="a folder that is new or empty, or that natmap bench made",
            remedy="choose another one with --work",
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("natmap bench removes stores from this folder\n", encoding="utf-8")
    return folder


def _round(
    one: Bench,
    what: Sequence[What],
    workers: Sequence[int],
    country: Country | None,
    tell: Callable[[str], None],
) -> dict[str, float]:
    figures: dict[str, float] = {}

    def put(scenario: str, more: dict[str, float]) -> None:
        figures.update({f"{scenario}: {name}": value for name, value in more.items()})

    if "parts" in what:
        tell("  all stages in one process, and their floors")
        put("parts", _rated(one.parts()))
    if "run" in what:
        tell(f"  a run, workers: {workers[0]}")
        put("run", _rated(one.run(workers[0])))
    if "scaling" in what:
        for number in workers:
            tell(f"  scaling, workers and copies: {number}")
            put(f"scaling {number}", _rated(one.run(number)))
            figures[f"scaling {number}: copies wall"] = one.copies(number)
        first, last = workers[0], workers[-1]
        gain = figures[f"scaling {first}: execution"] / figures[f"scaling {last}: execution"]
        figures["scaling: gain"] = gain
        alone, together_ = (figures[f"scaling {n}: copies wall"] for n in (first, last))
        figures["scaling: gain of copies"] = last / first * alone / together_
    if "growth" in what:
        whole = len(one.chosen(prepare(one.fresh(), one.base)))
        for number in (max(whole // 4, 1), whole):
            tell(f"  growth, tiles: {number}")
            put(f"growth {number}", _rated(one.run(workers[0], number)))
    if "update" in what:
        assert country is not None, "checked before"
        tell("  update: a run, and a further date")
        put("update", one.update(country, workers[0]))
    return figures


def _rated(figures: dict[str, float]) -> dict[str, float]:
    wall = figures.get("execution", figures["wall"])
    return figures | ({"km2/s": figures["km2"] / wall} if "km2" in figures else {})


def _result(
    found: Rounds, one: Bench, facts: dict[str, Any], before: dict[str, Any] | None
) -> Benchmark:
    names = list(dict.fromkeys(name for each in found for name in each))
    figures = {n: estimate([each[n] for each in found if n in each]) for n in names}
    ratios = {
        f"{name} / {floor.partition(': ')[2]}": ratio(found, name, floor)
        for name, floor in _BESIDE.items()
        if any(name in each and floor in each for each in found)
    }
    if "scaling: gain" in figures:
        ratios["scaling: gain / gain of copies"] = ratio(
            found, "scaling: gain", "scaling: gain of copies"
        )
    changes = () if before is None else _changes(found, read_rounds(before))
    return Benchmark(found, figures, ratios, changes, tuple(one.memory), facts)


def _changes(new: Rounds, old: Rounds) -> tuple[Change, ...]:
    """Each figure that both have; of those with a floor its ratio to that."""
    changes = []
    names = [name for name in new[0] if name in old[0] and "floor" not in name]
    for name in names:
        if name.endswith((": km2", ": bytes needed")):
            continue
        floor = _BESIDE.get(name)
        times, sure = compare_rounds(_beside(new, name, floor), _beside(old, name, floor))
        told = name if floor is None else f"{name} / {floor.partition(': ')[2]}"
        changes.append(Change(told, times, sure))
    return tuple(changes)


def _beside(rounds: Rounds, name: str, floor: str | None) -> list[float]:
    """A figure of each round that has it, over its floor where it has one."""
    having = [each for each in rounds if name in each]
    return [each[name] / (each.get(floor, 1.0) if floor else 1.0) for each in having]


def _country(country: Country, folder: Path, tell: Callable[[str], None]) -> Path:
    """The synthetic country, made once; another size or other dates are made anew."""
    place = folder / "country"
    mark = place / "bench.json"
    told = json.dumps([country.world.seed, country.width, len(country.overpasses)])
    if not mark.is_file() or mark.read_text(encoding="utf-8") != told:
        shutil.rmtree(place, ignore_errors=True)
        synthesize(country, place, model="lcz-made-up", tile=_TILE, name="bench", tell=tell)
        mark.write_text(told, encoding="utf-8")
    return place / "recipe.yaml"


def _facts(
    recipe: dict[str, Any],
    what: Sequence[What],
    workers: Sequence[int],
    tiles: int | None,
    dates: int,
) -> dict[str, Any]:
    kept = {k: v for k, v in recipe.items() if k not in ("store", "publish", "publication", "name")}
    return {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "software": software_here(),
        "recipe": kept,
        "what": list(what),
        "workers": list(workers),
        "tiles": tiles,
        "dates": dates,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _require_sense(
    recipe: str | Path | None,
    what: Sequence[str],
    dates: int,
    rounds: int,
    workers: Sequence[int],
    tiles: int | None,
    side: float,
) -> None:
    if strange := [name for name in what if name not in WHAT] or not what:
        raise MetricError(
            "no such benchmark", got=strange if what else "none", expected=", ".join(WHAT)
        )
    if "update" in what and recipe is not None:
        raise MetricError(
            "an update is measured on the synthetic country alone",
            got=str(recipe),
            remedy="leave the recipe out, or update out of --what",
        )
    if "scaling" in what and len(set(workers)) < 2:
        raise MetricError(
            "scaling needs two numbers of workers", got=list(workers), remedy="--workers 1,2"
        )
    if not 1 <= dates <= len(AUTUMN) or ("update" in what and dates == len(AUTUMN)):
        most = len(AUTUMN) - ("update" in what)
        raise MetricError("the number of dates is out of range", got=dates, expected=f"1 to {most}")
    if rounds < 1 or not workers or min(workers) < 1 or (tiles is not None and tiles < 1):
        raise MetricError(
            "rounds, workers and tiles must be 1 or more",
            got=f"rounds {rounds}, workers {list(workers)}, tiles {tiles}",
        )
    if not 3.2 <= side <= 100:
        raise MetricError(
            "the side of the country is out of range", got=side, expected="3.2 to 100 km"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MetricError("the earlier benchmark cannot be read", got=f"{path}: {error}") from error
    if not isinstance(told, dict) or told.get("schema") != 1:
        raise MetricError(
            "the earlier file is not a benchmark",
            got=str(path),
            expected="bench.json of natmap bench",
        )
    read_rounds(told)
    return told


def _require_alike(facts: dict[str, Any], before: dict[str, Any]) -> None:
    """Refuse to compare benchmarks of different work."""
    for name in ("recipe", "tiles", "dates"):
        if facts[name] != before.get(name):
            raise MetricError(
                f"the earlier benchmark has another {name}: its figures say nothing of these",
                got=before.get(name) if name != "recipe" else _first(before.get(name), facts[name]),
                expected=facts[name] if name != "recipe" else None,
                remedy="measure both with the same command",
            )


def _first(old: Any, new: dict[str, Any]) -> str:
    """The first key in which two recipes differ."""
    old = old if isinstance(old, dict) else {}
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return f"{keys[0]}: {old.get(keys[0])}, now {new.get(keys[0])}"


def _write(found: Benchmark, folder: Path) -> None:
    from engine.compare.report import write_json
    from engine.throughput.picture import draw

    told = {
        **found.facts,
        "rounds": found.rounds,
        "figures": {name: each._asdict() for name, each in found.figures.items()},
        "ratios": {name: each._asdict() for name, each in found.ratios.items()},
        "changes": [
            {"name": c.name, **c.times._asdict(), "sure": c.sure, "verdict": c.verdict}
            for c in found.changes
        ],
        "memory": found.memory,
    }
    write_json(folder / "bench.json", told)
    draw(found, folder / "bench.png")
