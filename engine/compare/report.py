"""The files of an evaluation: values as JSON, rows as CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.files import together

__all__ = ["evaluation", "plain", "write_accuracy", "write_json", "write_table"]


def evaluation(out: str | Path) -> AbstractContextManager[Path]:
    """A folder for the files of an evaluation, which lie in `out` when all are there."""
    return together(Path(out), "accuracy.json", before=("classes.csv", "confusion.png"))


def plain(value: Any) -> Any:
    """A value as JSON has it: floats of 4 digits behind the point, None where there is no figure.

    Parameters
    ----------
    value : number, str, None, array, or mappings and sequences of them.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report, in schema 1."""
    text = json.dumps({"schema": 1} | plain(report), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def write_accuracy(out: Path, product: Path, reference: Path, report: Mapping[str, Any]) -> None:
    """Write ``accuracy.json`` of a map that was compared with a reference.

    Parameters
    ----------
    out : folder.
    product, reference : files; their names are told.
    report : what was found.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"made": made, "map": product.name, "reference": reference.name}
    write_json(out / "accuracy.json", {**head, **report})


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV; floats have 4 digits, and what has no figure is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        for row in rows:
            table.writerow(["" if (value := plain(v)) is None else value for v in row])
