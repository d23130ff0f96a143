"""Tasks in the order in which they end, however they end."""

from __future__ import annotations

from typing import Any

from distributed import Future, as_completed

__all__ = ["Arrivals"]


class Arrivals(as_completed):
    """Futures in the order in which they end.

    A worker may die when a task of its has ended and its result was not yet fetched. The scheduler
    runs the task again; where that fails, Dask's own class never tells of the future.
    """

    async def _track_future(self, future: Future[Any]) -> None:
        try:
            await super()._track_future(future)  # type: ignore[no-untyped-call]
        except Exception as error:
            with self.lock:
                if self.futures.pop(future, 0):
                    self.queue.put_nowait((future, error))
                    with self.thread_condition:
                        self.thread_condition.notify()
