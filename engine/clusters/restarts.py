"""When a worker whose job has died is asked for again, and when that is no use."""

from __future__ import annotations

from pathlib import Path

from engine.errors import RunError

__all__ = ["Returns", "require_hope"]

_FIRST, _LONGEST = 5.0, 300.0  # seconds; doubled from death to death
_ENOUGH = 5  # deaths in a row
_TAIL = 12  # lines of a log that an error shows


class Returns:
    """The deaths of each worker since it was last connected.

    The first death is answered at once: a lost node, a cancelled job. Those that follow without a
    connection in between are answered ever later, so that a queue is not flooded with what dies
    at once.
    """

    def __init__(self) -> None:
        self._deaths: dict[str, int] = {}
        self._last: dict[str, tuple[object, float]] = {}  # the dead job, and when to ask again
        self._proven: set[str] = set()

    def connected(self, name: str) -> None:
        """A worker is there: its deaths are forgotten, and its group's settings are sound."""
        self._proven.add(group_of(name))
        self._deaths.pop(name, None)
        self._last.pop(name, None)

    def due(self, name: str, job: object, now: float) -> bool:
        """Whether a dead job's worker is to be asked for again now.

        Parameters
        ----------
        name : of the worker.
        job : the dead one; another object is another death.
        now : seconds, of any clock that does not go back.
        """
        dead, when = self._last.get(name, (None, 0.0))
        if dead is not job:
            deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
            pause = 0.0 if deaths == 1 else min(_FIRST * 2.0 ** min(deaths - 2, 20), _LONGEST)
            when = now + pause
            self._last[name] = (job, when)
        return now >= when

    def deaths(self, name: str) -> int:
        """How often a worker died in a row, if none of its group has ever connected; else 0.

        Where one has, a bad node may be at work, and the group's other workers go on.
        """
        return 0 if group_of(name) in self._proven else self._deaths.get(name, 0)


def group_of(name: str) -> str:
    """The group of a worker, from its name: ``readers-3`` is of ``readers``."""
    return name.rpartition("-")[0]


def require_hope(returns: Returns, name: str, logs: Path) -> None:
    """Refuse to go on where a group's jobs only ever die.

    Parameters
    ----------
    returns : Returns
    name : of the worker that died last.
    logs : folder of the jobs' logs.

    Raises
    ------
    RunError
        With the end of the group's newest log.
    """
    deaths, group = returns.deaths(name), group_of(name)
    if deaths < _ENOUGH:
        return
    raise RunError(
        f"the jobs of group {group} die before a worker connects",
        got=f"{deaths} of {name} in a row; {_newest(logs, group)}",
        expected="a worker that finds the driver's scheduler",
        remedy=f"look at the logs in {logs}, and at the group's settings and `interface`",
    )


def _newest(logs: Path, group: str) -> str:
    files = [
        path
        for path in logs.glob(f"natmap-{group}-*")
        # the job's number follows: `readers` must not show what `readers-far` said
        if path.stem.rpartition("-")[0] == f"natmap-{group}" and path.stat().st_size
    ]
    if not files:
        return "they left no log"
    newest = max(files, key=lambda path: path.stat().st_mtime)
    lines = newest.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{newest.name} ends with\n    " + "\n    ".join(lines[-_TAIL:])
