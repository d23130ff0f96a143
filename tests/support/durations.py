"""How long tests take: totals by folder after each run, and the table that is committed.

    python -m support.durations        (in tests/; writes durations.md from the last run)

The suite runs in two calls, of which each adds what it ran to one file.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from support.cache import PLACE

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "durations.md"
LAST = PLACE / "durations.json"
_SLOWEST = 50


def by_file() -> dict[str, float]:
    """Seconds of each test file, from the committed table."""
    if not TABLE.exists():
        return {}
    found = re.findall(r"^\| `(tests/\S+\.py)` \| \d+ \| ([\d.]+) \|$", TABLE.read_text(), re.M)
    return {path: float(seconds) for path, seconds in found}


def report(reporter: Any) -> None:
    """Print seconds by folder, and keep each test's."""
    seconds: Counter[str] = Counter()
    for reports in reporter.stats.values():
        for each in reports:
            if getattr(each, "duration", None) is not None and hasattr(each, "nodeid"):
                seconds[re.sub(r"@[^@\]]+$", "", each.nodeid)] += each.duration
    if len(seconds) < 2 or reporter.config.option.markexpr == "soak":
        return
    folders: Counter[str] = Counter()
    for name, spent in seconds.items():
        folders[str(Path(name.partition("::")[0]).parent)] += spent
    reporter.section("seconds by folder")
    for folder, spent in folders.most_common():
        reporter.line(f"{spent:8.1f} s  {folder}")
    reporter.line(f"{sum(folders.values()):8.1f} s  in all, of all processes")
    LAST.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(LAST.read_text()) if LAST.exists() else {}
    rounded = {name: round(spent, 2) for name, spent in seconds.items()}
    LAST.write_text(json.dumps(before | rounded, indent=0, sort_keys=True))


def write_table() -> None:
    """Write the committed table from what the last run took."""
    tests: dict[str, float] = json.loads(LAST.read_text())
    files: dict[str, list[float]] = defaultdict(list)
    folders: dict[str, list[float]] = defaultdict(list)
    for name, spent in tests.items():
        path = name.partition("::")[0]
        if (TESTS.parent / path).exists():
            files[path].append(spent)
            folders[str(Path(path).parent)].append(spent)
    slowest = sorted(tests.items(), key=lambda pair: -pair[1])[:_SLOWEST]
    lines = [
        "# How long the tests take",
        "",
        "Seconds of the last whole run (`make test`, then `make durations`), two processes beside",
        "each other on two cores. The suite takes files in this order, the longest first.",
        "",
        *_table("folder", folders),
        f"## The {_SLOWEST} slowest tests",
        "",
        "| test | seconds |",
        "|---|---|",
        *(f"| `{name.removeprefix('tests/')}` | {spent:.1f} |" for name, spent in slowest),
        "",
        *_table("file", files),
    ]
    TABLE.write_text("\n".join(lines).rstrip() + "\n")


def _table(title: str, rows: dict[str, list[float]]) -> list[str]:
    order = sorted(rows.items(), key=lambda pair: -sum(pair[1]))
    lines = [f"## By {title}", "", f"| {title} | tests | seconds |", "|---|---|---|"]
    lines += [f"| `{name}` | {len(spent)} | {sum(spent):.1f} |" for name, spent in order]
    total = sum(sum(spent) for spent in rows.values())
    return [*lines, f"| all | {sum(map(len, rows.values()))} | {total:.1f} |", ""]


if __name__ == "__main__":
    write_table()
