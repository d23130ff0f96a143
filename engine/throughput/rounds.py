"""One round of each benchmark: what is run, and the figures that it gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zarr

from engine.errors import RunError
from engine.grid.grid import Tile
from engine.pipeline.prepare import Prepared, prepare
from engine.pipeline.verbs import load
from engine.recipes.run import Recipe
from engine.runs.schedule import Status
from engine.runs.usage import Usage
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.make import synthesize
from engine.throughput.floors import (
    Arrays,
    Blocks,
    arrays_of,
    clock,
    copy_arrays,
    probe_network,
    write_arrays,
)
from engine.throughput.inline import run_inline

__all__ = ["Bench"]

_IMAGE_STEPS = ("read", "network", "warp", "mask", "composite")


@dataclass
class Bench:
    """A recipe that is run again and again, into stores of its own in a work folder.

    Parameters
    ----------
    recipe : Recipe
    base : folder of its relative paths.
    work : folder for stores, which are removed after each run.
    tiles : most tiles that are run, the first ones along the curve; None: all.

    Attributes
    ----------
    memory : of the last run with workers: seconds since its start, and megabytes of the largest
        worker so far.
    """

    recipe: Recipe
    base: Path
    work: Path
    tiles: int | None = None
    memory: list[tuple[float, int]] = field(default_factory=list)

    def fresh(self, name: str = "store") -> Recipe:
        """The recipe with a store of its own, which is not there yet."""
        place = (self.work / name).absolute()
        shutil.rmtree(place, ignore_errors=True)
        for beside in self.work.glob(f"{name}.*"):
            beside.unlink()
        return self.recipe.model_copy(update={"store": str(place), "publish": None})

    def chosen(self, prepared: Prepared, most: int | None = None) -> list[Tile]:
        """The first tiles of the last stage along the curve, at most so many."""
        schedule = prepared.schedule(None)
        last = [stage.name for stage in prepared.stages if stage.scope == "tile"][-1]
        found = schedule.tiles(last, Status.WAITING, Status.READY)
        return found[: most or self.tiles or len(found)]

    # -- parts --------------------------------------------------------------------------------

    def parts(self) -> dict[str, float]:
        """All stages in this process, and their floors.

        Returns
        -------
        Seconds: ``cpu`` and ``wall`` of all; ``STAGE cpu``; ``STEP cpu`` and ``STEP wall`` of
        steps; ``images cpu``, from files to the composite; ``floor decode cpu``, ``floor forward
        cpu``, ``floor write wall``, ``floor copy wall``; ``km2``.
        """
        recipe = self.fresh()
        prepared = prepare(recipe, self.base)
        tiles = self.chosen(prepared)
        blocks = Blocks()
        found = run_inline(prepared, tiles=tiles, seen=blocks.note)
        usage = found.usage
        figures = {"cpu": found.cpu, "wall": found.seconds, "km2": usage.square_km}
        for name, stage in usage.stages.items():
            figures[f"{name} cpu"] = stage.cpu
            for step, spent in stage.steps.items():
                for what, value in (("cpu", spent.cpu), ("wall", spent.seconds)):
                    key = f"step {step} {what}"
                    figures[key] = figures.get(key, 0.0) + value
        images = [figures.get(f"step {step} cpu", 0.0) for step in _IMAGE_STEPS]
        figures["images cpu"] = sum(images)
        figures |= self._floors(prepared, usage, blocks)
        return {name: value for name, value in figures.items() if value > 0}

    def _floors(self, prepared: Prepared, usage: Usage, blocks: Blocks) -> dict[str, float]:
        figures: dict[str, float] = {}
        if blocks.windows:
            took = clock(blocks.decode)
            figures["floor decode cpu"], figures["floor decode wall"] = took.cpu, took.seconds
            figures["bytes needed"] = float(blocks.bytes)
        arrays = self._arrays(prepared, sorted(blocks.days))
        folder = self.work / "floor"
        shutil.rmtree(folder, ignore_errors=True)
        took = clock(lambda: write_arrays(arrays, folder))
        figures["floor write wall"], figures["floor write cpu"] = took.seconds, took.cpu
        figures["floor copy wall"] = clock(lambda: copy_arrays(arrays)).seconds
        shutil.rmtree(folder, ignore_errors=True)
        card = prepared.resolved.card
        moved = sum(
            stage.steps["forward"].bytes
            for stage in usage.stages.values()
            if "forward" in stage.steps
        )
        if card is not None and moved:
            model: Any = getattr(prepared.recipe, "model", None)
            probe, size = probe_network(card, model.device, model.precision)
            figures["floor forward cpu"] = probe.cpu * moved / size
            figures["floor forward wall"] = probe.seconds * moved / size
        return figures

    def _arrays(self, prepared: Prepared, days: list[int]) -> Arrays:
        root = zarr.open_group(Store.open(prepared.place).reader().store, mode="r")
        return arrays_of(root, prepared.specs, days)

    # -- runs with workers --------------------------------------------------------------------

    def run(self, workers: int, tiles: int | None = None) -> dict[str, float]:
        """A run as people start it, with so many workers.

        Returns
        -------
        ``wall`` of the command, ``start`` until the first tile came back less that tile's own
        seconds, ``execution`` from then on, ``cpu`` of all processes, ``km2``, ``peak megabytes``.
        """
        recipe = self.fresh()
        chosen = ",".join(str(tile) for tile in self.chosen(prepare(recipe, self.base), tiles))
        return self._started(recipe, workers, chosen)

    def _started(self, recipe: Recipe, workers: int, tiles: str) -> dict[str, float]:
        path = self.work / "run.json"
        path.write_text(recipe.model_dump_json(exclude_none=True), encoding="utf-8")
        command = [sys.executable, "-m", "engine.throughput.once", str(path)]
        command += [str(self.base), str(workers), tiles]
        began, clock_ = time.perf_counter(), time.time()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
        if ended.returncode:
            lines = ended.stderr.strip().splitlines()
            raise RunError("the run failed", got=lines[-1] if lines else f"exit {ended.returncode}")
        told = json.loads(ended.stdout.splitlines()[-1])
        self.memory = [(round(at - clock_, 2), most) for at, most in told["memory"]]
        start = told["first"] - clock_
        figures = {
            "wall": wall,
            "start": start,
            "execution": wall - start,
            "cpu": told["cpu"],
            "km2": told["usage"]["km2"],
            "peak megabytes": float(told["usage"]["peak_megabytes"]),
        }
        return {name: value for name, value in figures.items() if value > 0}

    def update(self, country: Country, workers: int) -> dict[str, float]:
        """A run, then a further date in the same store.

        Returns
        -------
        ``wall`` of the update, that of the ``first`` run, and their ``share``.
        """
        place = self.work / "update"
        shutil.rmtree(place, ignore_errors=True)
        dates = country.overpasses
        path = synthesize(country, place, model="lcz-made-up", tile=self.recipe.grid.tile)
        recipe = load(path, None)[0].model_copy(update={"publish": None})
        first = self._at(place, recipe, workers)
        more = replace(country, overpasses=AUTUMN[: len(dates) + 1])
        path = synthesize(more, place, model="lcz-made-up", tile=self.recipe.grid.tile)
        recipe = load(path, None)[0].model_copy(update={"publish": None})
        again = self._at(place, recipe, workers)
        shutil.rmtree(place)
        walls = again["wall"], first["wall"]
        return {"wall": walls[0], "first wall": walls[1], "share": walls[0] / walls[1]}

    def _at(self, place: Path, recipe: Recipe, workers: int) -> dict[str, float]:
        base, self.base = self.base, place
        try:
            return self._started(recipe, workers, "")
        finally:
            self.base = base

    def copies(self, number: int) -> float:
        """Wall seconds of so many processes at once, each running all tiles by itself."""
        recipe = self.fresh("copy")
        prepared = prepare(recipe, self.base)
        tiles = ",".join(str(tile) for tile in self.chosen(prepared))
        path = self.work / "copy.json"
        path.write_text(recipe.model_dump_json(exclude_none=True), encoding="utf-8")
        stores = [self.work / f"copy-{k}" for k in range(number)]
        running = []
        for place in stores:
            shutil.rmtree(place, ignore_errors=True)
            command = [sys.executable, "-m", "engine.throughput.inline", str(path)]
            command += [str(place), "", tiles, str(self.base)]
            running.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        try:
            for each in running:
                _line(each)
            for each in running:
                assert each.stdin is not None
                each.stdin.write("go\n")
                each.stdin.flush()
            return max(float(json.loads(_line(each))["seconds"]) for each in running)
        finally:
            for each in running:
                each.kill()
                each.communicate()
            for place in stores:
                shutil.rmtree(place, ignore_errors=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RunError("a copy of the run failed", got=f"exit code {process.wait()}")
    return line
