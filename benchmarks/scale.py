"""What the engine itself costs: plan a huge toy country, run a large one.

    python benchmarks/scale.py plan --side 317                    (100,489 tiles, 3 stages)
    python benchmarks/scale.py run --side 142 --log FILE.json     (20,164 tiles, 3 stages)
    python benchmarks/scale.py run --side 317 --until scenes --sleep 0.005 --log FILE.json
                                                                  (100,489 tiles, 1 stage)

`run` writes real chunks, ledger blocks and commits with kernels that do next to nothing, and
reports per tenth of the run: tiles/s, wall time of a tile less its kernel's sleep, CPU of a tile at
driver and scheduler and at the workers, seconds of commits, the driver's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.toys import Toy, square  # noqa: E402

from engine.clusters.local import open_local  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import execute  # noqa: E402
from engine.runs.memory import bound_heap, peak_megabytes  # noqa: E402
from engine.runs.schedule import Status  # noqa: E402


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


def others_cpu() -> float:
    """Seconds of CPU of the processes that this one has started."""
    return sum(
        sum(process.cpu_times()[:2]) for process in psutil.Process().children(recursive=True)
    )


def plan(side: int) -> dict[str, float]:
    before = megabytes()
    toy = Toy(square(side, 80), tile=80, days=(3000,))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _, schedule = toy.open(Path(folder) / "store")
        seconds = time.perf_counter() - began
        return {
            "tiles": schedule.count("map", Status.WAITING, Status.READY),
            "tiles_of_all_stages": schedule.open,
            "seconds": round(seconds, 1),
            "megabytes_peak": round(peak_megabytes()),
            "megabytes_before": round(before),
        }


def run(side: int, workers: int, until: str | None, sleep: float) -> dict[str, object]:
    bound_heap()
    toy = Toy(square(side, 80), tile=80, days=(3000,), delay=sleep)
    tenths: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store, schedule = toy.open(Path(folder) / "store", until)
        total = schedule.open
        state = {"done": 0, "wall": 0.0, "cpu": 0.0, "others": 0.0, "commit": 0.0}
        step = total // 10

        def listen(event: events.Event) -> None:
            if isinstance(event, events.Committed):
                state["commit"] += event.seconds
            if not isinstance(event, events.TileDone):
                return
            state["done"] += 1
            if state["done"] % step == 0:
                wall, cpu, others = time.perf_counter(), time.process_time(), others_cpu()
                took = (wall - state["wall"]) / step
                tenths.append(
                    {
                        "tiles": state["done"],
                        "tiles_per_second": round(1 / took, 1),
                        "wall_ms_per_tile_less_sleep": round(1e3 * (took - sleep / workers), 2),
                        "driver_cpu_ms_per_tile": round(1e3 * (cpu - state["cpu"]) / step, 2),
                        "workers_cpu_ms_per_tile": round(
                            1e3 * (others - state["others"]) / step, 2
                        ),
                        "commit_ms_per_tile": round(1e3 * state["commit"] / step, 2),
                        "driver_megabytes": round(megabytes()),
                    }
                )
                print(tenths[-1], flush=True)
                state.update(wall=wall, cpu=cpu, others=others, commit=0.0)

        with store.lock(), open_local(workers) as cluster:
            began = time.perf_counter()
            state.update(wall=began, cpu=time.process_time(), others=others_cpu())
            summary = execute(schedule, store, cluster, listeners=[listen])
            seconds = time.perf_counter() - began
    return {
        "tiles": side * side,
        "tiles_of_all_stages": total,
        "done": summary.done,
        "failed": len(summary.failed),
        "seconds": round(seconds),
        "note": "driver and scheduler are one process here; its CPU and memory are given together",
        "tenths": tenths,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["plan", "run"])
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--until", help="the last stage to run; by default all three")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds in each kernel")
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    if asked.what == "plan":
        found: dict[str, object] = dict(plan(asked.side))
    else:
        found = run(asked.side, asked.workers, asked.until, asked.sleep)
    print("figures:", json.dumps({k: v for k, v in found.items() if k != "tenths"}))
    if asked.log:
        asked.log.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
