"""What a run uses: seconds, CPU, bytes and ground by stage and step, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.accounting import STEPS, Spent, Step
from engine.runs.task import TileResult

__all__ = ["KEPT", "StageUsage", "Usage"]

KEPT = 8
"""Runs whose usage a store keeps, the last ones: each commit writes it again."""

Steps = dict[Step, Spent]


@dataclass
class StageUsage:
    """Sums over the tiles of a stage that were made.

    Attributes
    ----------
    tiles : that came back; a tile of several days is one.
    square_km : their ground; of days apart as often.
    seconds : of tasks, on workers.
    cpu : CPU seconds, of all threads.
    read, written : bytes of images that were read, and of chunks as they are stored.
    megabytes : the most memory of a worker when it had made one of them.
    steps : what each step took, of all threads together.
    """

    tiles: int = 0
    square_km: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    read: int = 0
    written: int = 0
    megabytes: int = 0
    steps: Steps = field(default_factory=dict)

    def add(self, result: TileResult) -> None:
        """Count a tile."""
        self.tiles += 1
        self.square_km += result.square_km
        self.seconds += result.seconds
        self.cpu += result.cpu
        self.read += result.bytes_read
        self.written += result.bytes_written
        self.megabytes = max(self.megabytes, result.megabytes)
        _add(self.steps, result.spent)

    @property
    def rate(self) -> float:
        """Square kilometres a second and task slot, 0 of a stage without ground."""
        return self.square_km / self.seconds if self.seconds else 0.0


@dataclass
class Usage:
    """Of a run, with all times that it was resumed.

    Attributes
    ----------
    seconds : from its start to its end, or to the last commit.
    slot_seconds : task slots of the workers that were there, times the seconds that they were.
    stages : in the order of the flow.
    driver : what the driver's own steps took.
    """

    seconds: float = 0.0
    slot_seconds: float = 0.0
    stages: dict[str, StageUsage] = field(default_factory=dict)
    driver: Steps = field(default_factory=dict)

    def add(self, result: TileResult) -> None:
        """Count a tile."""
        self.stages.setdefault(result.stage, StageUsage()).add(result)

    def spend(self, steps: Mapping[Step, Spent]) -> None:
        """Count steps of the driver."""
        _add(self.driver, steps)

    def pass_time(self, seconds: float, slots: int) -> None:
        """Time passes, with so many task slots there."""
        self.seconds += seconds
        self.slot_seconds += seconds * slots

    @property
    def tiles(self) -> int:
        """That came back, of all stages."""
        return sum(stage.tiles for stage in self.stages.values())

    @property
    def square_km(self) -> float:
        """Ground of the last stage, in the order of the flow, that has any."""
        grounds = [stage.square_km for stage in self.stages.values() if stage.square_km]
        return grounds[-1] if grounds else 0.0

    @property
    def rate(self) -> float:
        """Square kilometres of the run's last stage a second, waiting included."""
        return self.square_km / self.seconds if self.seconds else 0.0

    @property
    def cores(self) -> float:
        """Cores that the workers kept busy, on average."""
        cpu = sum(stage.cpu for stage in self.stages.values())
        return cpu / self.seconds if self.seconds else 0.0

    @property
    def megabytes(self) -> int:
        """The most memory that a worker had."""
        return max((stage.megabytes for stage in self.stages.values()), default=0)

    @property
    def idle(self) -> float:
        """Seconds of task slots in which no task was there."""
        return max(self.slot_seconds - sum(s.seconds for s in self.stages.values()), 0.0)

    def shares(self) -> dict[str, float]:
        """Of all seconds of the workers the share of each step, and ``idle``; the largest first.

        Seconds of a task that its threads spent side by side are shared among their steps.
        """
        found: dict[str, float] = {"idle": self.idle}
        for stage in self.stages.values():
            whole = sum(spent.seconds for spent in stage.steps.values())
            for step, spent in stage.steps.items():
                found[step] = found.get(step, 0.0) + stage.seconds * spent.seconds / (whole or 1)
        total = sum(found.values()) or 1.0
        return {
            name: seconds / total
            for name, seconds in sorted(found.items(), key=lambda each: -each[1])
            if seconds
        }

    @property
    def limiting(self) -> str | None:
        """The step that takes the most of the workers' seconds, or ``idle``; None before any."""
        return next(iter(self.shares()), None) if self.tiles else None

    def money(self, price: float) -> float:
        """What the task slots cost at a price per hour, idle ones included."""
        return self.slot_seconds / 3600 * price

    def describe(self, price: float | None = None) -> dict[str, Any]:
        """What `to_json` tells, with the figures that follow from it, for people and reports."""
        return {
            **self.to_json(),
            "km2": round(self.square_km, 4),
            "km2_per_second": round(self.rate, 6),
            "cores_busy": round(self.cores, 3),
            "peak_megabytes": self.megabytes,
            "limiting": self.limiting,
            "shares": {name: round(share, 4) for name, share in self.shares().items()},
            **({} if price is None else {"money": round(self.money(price), 4)}),
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `of_json` reads them."""
        return {
            "seconds": round(self.seconds, 2),
            "slot_seconds": round(self.slot_seconds, 2),
            "driver": _told(self.driver),
            "stages": {
                name: {
                    "tiles": stage.tiles,
                    "km2": round(stage.square_km, 4),
                    "seconds": round(stage.seconds, 2),
                    "cpu": round(stage.cpu, 2),
                    "bytes_read": stage.read,
                    "bytes_written": stage.written,
                    "megabytes": stage.megabytes,
                    "steps": _told(stage.steps),
                }
                for name, stage in self.stages.items()
                if stage.tiles
            },
        }

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Usage:
        """What `to_json` wrote."""
        stages = {
            name: StageUsage(
                int(each["tiles"]),
                float(each["km2"]),
                float(each["seconds"]),
                float(each["cpu"]),
                int(each["bytes_read"]),
                int(each["bytes_written"]),
                int(each["megabytes"]),
                _steps(each["steps"]),
            )
            for name, each in told["stages"].items()
        }
        return cls(
            float(told["seconds"]), float(told["slot_seconds"]), stages, _steps(told["driver"])
        )


def _add(steps: Steps, more: Mapping[Step, Spent]) -> None:
    for step, spent in more.items():
        steps[step] = steps.get(step, Spent()) + spent


def _told(steps: Steps) -> dict[str, list[float]]:
    return {
        step: [round(spent.seconds, 2), round(spent.cpu, 2), spent.bytes]
        for step, spent in steps.items()
    }


def _steps(told: Mapping[str, Any]) -> Steps:
    return {
        step: Spent(float(told[step][0]), float(told[step][1]), int(told[step][2]))
        for step in STEPS
        if step in told
    }
