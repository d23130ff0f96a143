"""The driver's meter: what its run uses, kept in the ledger with every commit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from engine.accounting import Account
from engine.runs.task import TileResult
from engine.runs.usage import KEPT, StageUsage, Usage
from engine.store.ledger import Ledger

__all__ = ["Meter", "read_usage"]


class Meter:
    """Counts what comes back, and the time that passes.

    Parameters
    ----------
    ledger : that keeps it; what an earlier part of the same run used is added to.
    number : of the run in the store's table.
    stages : names, in the order of the flow.
    account : of the driver, open while it searches and commits; None where nobody keeps one.

    Attributes
    ----------
    usage : so far.
    """

    def __init__(
        self, ledger: Ledger, number: int, stages: list[str], account: Account | None = None
    ) -> None:
        self._ledger, self._number, self._account = ledger, number, account
        self.usage = before = read_usage(ledger).get(number, Usage())
        before.stages = {name: before.stages.get(name, StageUsage()) for name in stages}
        self._driver = dict(before.driver)
        self._looked = time.monotonic()

    def came(self, result: TileResult) -> None:
        """A tile came back."""
        self.usage.add(result)

    def look(self, slots: Mapping[str, int]) -> None:
        """So many task slots are there now."""
        now = time.monotonic()
        self.usage.pass_time(now - self._looked, slots["cpu"] + slots["gpu"])
        self._looked = now

    def keep(self) -> None:
        """Put it into the ledger, to be committed."""
        if self._account is not None:
            self.usage.driver = dict(self._driver)
            self.usage.spend(self._account.steps(0.0))
        kept = self._ledger.usage
        kept[str(self._number)] = self.usage.to_json()
        for number in sorted(filter(str.isdecimal, kept), key=int)[:-KEPT]:
            del kept[number]


def read_usage(ledger: Ledger) -> dict[int, Usage]:
    """What runs used, by their numbers in the store's table: of the last ones that made tiles.

    What cannot be read, of another natmap say, is unknown: it decides no map, and stops no run.
    """
    found = {}
    for number in sorted(filter(str.isdecimal, ledger.usage), key=int):
        with suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
            found[int(number)] = Usage.of_json(ledger.usage[number])
    return found
