"""What a plan says a run will cost, against what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from services.faulty import PROGRAMS, Files, far_catalogue
from services.required import need
from support import shared
from support.worlds import PLAIN, synthesize
from typer.testing import CliRunner

import engine
from engine.accounting import STEPS, Spent, Step
from engine.cli.app import app
from engine.errors import StoreError
from engine.pipeline.status import read_status
from engine.runs import events
from engine.synthetic.country import AUTUMN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("country")
    synthesize(replace(PLAIN, overpasses=AUTUMN[:2]), folder, tile=160)
    path = folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text()) | {"price_per_worker_hour": 0.5}
    path.write_text(yaml.safe_dump(recipe))
    return folder


NOTHING: dict[Step, Spent] = dict.fromkeys(STEPS, Spent())


class Meter:
    """Sums what tiles cost."""

    def __init__(self) -> None:
        self.read = self.stored = 0.0
        self.seconds: Counter[str] = Counter()  # by stage
        self.tiles: Counter[str] = Counter()
        self.spent: list[dict[Step, Spent]] = []  # of each tile

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            self.seconds[event.stage] += event.seconds
            self.tiles[event.stage] += 1
            self.read += event.bytes_read
            self.stored += event.bytes_written
            self.spent.append({**NOTHING, **event.spent})


def size(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "chunks").iterdir())


def test_a_plan_foretells_bytes_from_the_tiles_that_have_run(country: Path) -> None:
    recipe = country / "recipe.yaml"
    guess = engine.plan(recipe, until="composite")
    assert guess.assumed == ("scenes", "composite")
    assert guess.gigabytes_read > 0
    # the diagonal: the area ends in the middle of all tiles but one, so a row would tell too much
    tiles = [f"r{k:04}c{k:04}" for k in range(3)]
    first, rest = Meter(), Meter()
    shared.run(recipe, until="composite", tiles=tiles, listeners=[first])
    assert first.read > 0
    plan = engine.plan(recipe, until="composite")
    assert plan.assumed == ()
    before = size(country / "store")
    shared.run(recipe, until="composite", listeners=[rest])
    assert plan.gigabytes_read * 1e9 == pytest.approx(rest.read, rel=0.35)
    assert plan.gigabytes * 1e9 == pytest.approx(rest.stored, rel=0.35)
    assert plan.money == pytest.approx(plan.seconds / 3600 * 0.5)
    # seconds by what a tile of each stage took so far (how long the rest took is the machine's day)
    foretold = sum(first.seconds[s] / first.tiles[s] * rest.tiles[s] for s in rest.tiles)
    assert plan.seconds == pytest.approx(foretold, rel=0.35)
    # what is counted is what is there: chunks, beside the ledger's own
    assert rest.stored == pytest.approx(size(country / "store") - before, rel=0.1)


def test_status_tells_what_the_last_run_used(country: Path) -> None:
    recipe = country / "recipe.yaml"
    meter = Meter()
    (country / "once.yaml").write_text(recipe.read_text())
    made = yaml.safe_load(recipe.read_text()) | {"store": "./once"}
    (country / "once.yaml").write_text(yaml.safe_dump(made))
    summary = shared.run(country / "once.yaml", until="composite", listeners=[meter])
    store = country / "once"
    told = read_status(store, price=36.0)["usage"]
    assert told["run"] == 1
    for name, stage in told["stages"].items():
        assert stage["tiles"] == meter.tiles[name]
        assert stage["seconds"] == pytest.approx(meter.seconds[name], abs=0.02)
    assert told["stages"]["scenes"]["bytes_read"] == meter.read
    # on two days the area's tiles, each where it is defined
    scenes, composite = (told["stages"][name]["km2"] for name in ("scenes", "composite"))
    assert composite < scenes < 2 * 9 * 1.6**2
    assert told["km2"] == composite == pytest.approx(10.24, abs=1.5)
    steps = told["stages"]["scenes"]["steps"]
    assert {"read", "warp", "write"} <= set(steps)
    assert steps["read"][2] == meter.read
    assert steps["write"][2] + told["stages"]["composite"]["steps"]["write"][2] == meter.stored
    assert told["money"] == pytest.approx(told["slot_seconds"] / 100, abs=1e-4)
    assert summary.usage is not None
    assert summary.usage.tiles == sum(meter.tiles.values())
    # CPU of all steps and of no step is that of the worker
    cpu = sum(spent.cpu for used in meter.spent for spent in used.values())
    assert 0.3 < cpu / sum(meter.seconds.values()) < 2.5
    shown = CliRunner().invoke(app, ["status", str(store), "--price", "36"])
    assert shown.exit_code == 0
    assert "km2/s" in shown.stdout
    assert "money:" in shown.stdout
    assert "all workers: " in shown.stdout


def test_a_new_date_is_priced_as_one_date(country: Path) -> None:
    recipe = country / "recipe.yaml"
    synthesize(PLAIN, country, tile=160)
    plan = engine.plan(recipe, until="composite")
    assert plan.assumed == ()
    meter = Meter()
    shared.run(recipe, until="composite", listeners=[meter])
    assert plan.gigabytes_read * 1e9 == pytest.approx(meter.read, rel=0.35)


@pytest.mark.soak
def test_a_pilot_s_rates_price_another_grid(country: Path, tmp_path: Path) -> None:
    shared.run(country / "recipe.yaml", until="composite")  # the pilot, where no test before was it
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    recipe |= {"store": str(tmp_path / "store"), "grid": recipe["grid"] | {"tile": 320}}
    plan = engine.plan(recipe, base=country, until="composite", rates=country / "store")
    assert plan.assumed == ()
    meter = Meter()
    shared.run(recipe, base=country, until="composite", listeners=[meter])
    assert 0.6 < meter.read / (plan.gigabytes_read * 1e9) < 1.6
    # of these nine tiles more than half lies outside the area
    assert 0.4 < meter.stored / (plan.gigabytes * 1e9) < 1.1
    engine.plan(recipe, base=country)  # writes nothing, and knows its own
    with pytest.raises(StoreError, match="there is no store"):
        engine.plan(recipe, base=country, rates=tmp_path / "nowhere")


def test_bytes_that_are_counted_are_those_that_a_server_sends(
    country: Path, tmp_path: Path
) -> None:
    need(*PROGRAMS)
    files = Files(country / "scenes", tmp_path / "nginx")
    try:
        recipe = yaml.safe_load((country / "recipe.yaml").read_text())
        recipe["imagery"]["catalog"] = far_catalogue(country / "scenes", tmp_path, files.port)
        recipe |= {"store": str(tmp_path / "store"), "grid": recipe["grid"] | {"tile": 480}}
        engine.plan(recipe, base=country)  # the guard's samples
        before = files.log.stat().st_size
        meter = Meter()
        shared.run(recipe, base=country, until="composite", listeners=[meter])
        with files.log.open() as log:
            log.seek(before)
            sent = sum(int(line.split()[0]) for line in log)
        # headers, and ranges rounded to GDAL's 16 kB, come on top; blocks in its cache do not
        assert 0.6 < meter.read / sent < 1.2
        # what the reader itself asked of the network is what was sent, to the byte
        assert sum(used["network"].bytes for used in meter.spent) == sent
        assert all(used["network"].seconds > 0 for used in meter.spent if used["network"].bytes)
    finally:
        files.stop()
