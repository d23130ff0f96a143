"""A page of a scheduler's pod: since when it idles. The operator removes those that were left."""

from __future__ import annotations

from typing import Any

from distributed.http.scheduler.api import CheckIdleHandler

__all__ = ["routes"]

# Dask loads it by this name
routes: list[tuple[str, Any, dict[str, Any]]] = [("/api/v1/check_idle", CheckIdleHandler, {})]
