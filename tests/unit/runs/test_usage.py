"""What a run used: sums, what limits it, money, what is kept; and the same for Prometheus."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.accounting import Spent, Step
from engine.errors import RunError
from engine.grid.grid import Tile
from engine.runs import events
from engine.runs.meter import Meter, read_usage
from engine.runs.metrics import serve_metrics
from engine.runs.task import TileResult
from engine.runs.usage import KEPT, Usage
from engine.store.ledger import Ledger


def result(stage: str, seconds: float, spent: dict[Step, Spent], **more: Any) -> TileResult:
    told = {"bytes_read": 100, "bytes_written": 10, "cpu": seconds / 2, "square_km": 4.0} | more
    return TileResult(
        stage, Tile(0, 0), None, {}, (), None, seconds, spent=spent, megabytes=300, **told
    )


READ: dict[Step, Spent] = {"read": Spent(6.0, 1.0, 100), "warp": Spent(2.0, 2.0)}
SCORE: dict[Step, Spent] = {"load": Spent(0.5, 0.1, 50), "forward": Spent(1.5, 1.5)}


def used() -> Usage:
    usage = Usage()
    for _ in range(3):
        usage.add(result("composite", 4.0, READ))
    usage.add(result("scores", 2.0, SCORE, square_km=3.0))
    usage.pass_time(8.0, 2)
    return usage


def test_sums_and_shares() -> None:
    usage = used()
    assert usage.tiles == 4
    assert usage.square_km == 3.0  # of the last stage
    assert usage.rate == 3.0 / 8.0
    assert usage.cores == 7.0 / 8.0
    assert usage.idle == 16.0 - 14.0
    shares = usage.shares()
    # threads side by side: 12 s of tasks were 18 s of reading and 6 s of warping
    assert shares["read"] == pytest.approx(12 * 0.75 / 16)
    assert shares["warp"] == pytest.approx(12 * 0.25 / 16)
    assert shares["forward"] == pytest.approx(1.5 / 16)
    assert shares["idle"] == pytest.approx(2 / 16)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert usage.limiting == "read"
    assert usage.money(0.9) == pytest.approx(16 / 3600 * 0.9)
    assert usage.describe(0.9)["money"] == pytest.approx(0.004)
    assert "money" not in usage.describe()
    assert Usage().limiting is None
    assert Usage().describe()["km2_per_second"] == 0.0


def test_what_is_kept_is_read_again() -> None:
    usage = used()
    again = Usage.of_json(usage.to_json())
    assert again == usage


def test_a_run_that_is_resumed_adds_to_itself_and_old_ones_are_forgotten() -> None:
    ledger = Ledger((1, 1), {})
    for number in [*range(1, KEPT + 4), KEPT + 3]:
        meter = Meter(ledger, number, ["composite", "scores"])
        meter.came(result("composite", 4.0, READ))
        meter.keep()
    kept = read_usage(ledger)
    assert list(kept) == list(range(4, KEPT + 4))
    assert kept[4].tiles == 1
    assert kept[KEPT + 3].tiles == 2
    assert kept[KEPT + 3].stages["composite"].steps["read"] == Spent(12.0, 2.0, 200)


@pytest.mark.parametrize(
    "told", [5, {}, {"stages": 5}, {**Usage().to_json(), "seconds": "x"},
             {**used().to_json(), "driver": {"commit": [1]}}]
)  # fmt: skip
def test_what_cannot_be_read_is_unknown_and_stops_no_run(told: Any) -> None:
    ledger = Ledger((1, 1), {})
    ledger.usage = {"1": told, "2": used().to_json(), "x": told}
    assert read_usage(ledger) == {2: used()}
    meter = Meter(ledger, 1, ["composite", "scores"])
    meter.came(result("composite", 4.0, READ))
    meter.keep()
    assert read_usage(ledger)[1].tiles == 1


def test_prometheus_reads_what_happened() -> None:
    done = events.TileDone("scores", Tile(0, 1), 2.0, 0, 9, None, SCORE, 1.6, 256, 3.0, "node:17")
    with serve_metrics("0") as metrics:
        for event in (
            events.RunStarted("x", 5),
            done,
            done,
            events.TileFailed("map", Tile(0, 0), "no"),
            events.Committed(2, 3, 0.5, 1.25, "forward"),
        ):
            metrics(event)
        address = f"http://127.0.0.1:{metrics.port}/metrics"
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
        with (
            pytest.raises(RunError, match="cannot be served there"),
            serve_metrics(str(metrics.port)),
        ):
            pass
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["natmap_tiles_total", "scores", "done"] == 2
    assert values["natmap_tiles_total", "map", "failed"] == 1
    assert values["natmap_square_km_total", "scores"] == 6
    assert values["natmap_step_seconds_total", "scores", "forward"] == 3
    assert values["natmap_step_bytes_total", "scores", "load"] == 100
    assert values["natmap_cpu_seconds_total", "scores", "node:17"] == 3.2
    assert values["natmap_worker_peak_bytes", "node:17"] == 256 * 2**20
    assert values["natmap_open_tiles",] == 3
    assert values["natmap_square_km_per_second",] == 1.25
    with (
        pytest.raises(OSError, match="refused"),
        socket.create_connection(("127.0.0.1", metrics.port), 1),
    ):
        pass


@pytest.mark.parametrize("address", ["", "no", "80000", "here:", "-1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(RunError, match="no such address for metrics"), serve_metrics(address):
        pass
