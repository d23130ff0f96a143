"""The right to drive a store on object storage: a lease that dies with its holder.

An object beside the store names the driver that holds it. The holder writes it anew every quarter
of its life; one that was not written for a life belongs to a dead driver and may be taken over.
Each write is conditional on the version that was seen, so two never win. How old the object is
says the object store's own clock, never this machine's.

A lease alone cannot stop a holder that slept and woke: so each holder commits its epoch to the
store, and every later commit of a driver is refused where another epoch stands there
(`Store.writer`).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from engine.environment import number
from engine.errors import LockedError, StoreError
from engine.store.location import Bucket, version_of

__all__ = ["Lease", "hold"]


@dataclass(frozen=True)
class Lease:
    """A lease that is held.

    Attributes
    ----------
    epoch : int
        Counts the holders of a store; later ones are larger.
    """

    epoch: int


@contextmanager
def hold(bucket: Bucket, life: float | None = None) -> Iterator[Lease]:
    """Take the lease, keep it alive, and let it go at the end.

    Parameters
    ----------
    bucket : where the store lies.
    life : seconds after its last sign of life that a driver counts as dead; by default those of
        NATMAP_LEASE_SECONDS.

    Raises
    ------
    LockedError
        Where another driver is alive.
    StoreError
        Where the object store does not answer, or cannot write under a condition.
    """
    holder = _Holder(bucket, life or number("NATMAP_LEASE_SECONDS"))
    holder.take()
    beating = threading.Thread(target=holder.beat, name="natmap-lease", daemon=True)
    beating.start()
    try:
        yield Lease(holder.epoch)
    finally:
        holder.over.set()
        beating.join()
        holder.release()


class _Holder:
    def __init__(self, bucket: Bucket, life: float) -> None:
        self.bucket, self.life = bucket, life
        self.key = bucket.key("lease")
        self.name = f"{socket.gethostname()}, process {os.getpid()}"
        self.token = uuid.uuid4().hex
        self.epoch = 0
        self.version: Any = None
        self.over = threading.Event()

    def take(self) -> None:
        with self.bucket.errors("read"):
            found = self._look()
        if found is not None:
            held, seen = found
            self.epoch = int(held["epoch"])
            if not held["free"]:
                age = self._age(seen["last_modified"])
                life = float(held["life"])
                if age < life:
                    raise LockedError(
                        "another natmap run is at work on this store",
                        got=f"{self.bucket}: {held['holder']}, last sign of life {age:.0f} s ago",
                        remedy=f"wait for it, or stop it with Ctrl-C; if it is dead, the store is "
                        f"free {max(life - age, 0):.0f} s from now",
                    )
            self.version = version_of(seen)
        self.epoch += 1
        try:
            with self.bucket.errors("written"):
                self._write("create" if self.version is None else self.version, free=False)
        except StoreError as error:
            if isinstance(error.__cause__, AlreadyExistsError | PreconditionError):
                raise LockedError(
                    "another natmap run has just taken this store",
                    got=self.bucket,
                    remedy="wait for it",
                ) from error
            raise

    def beat(self) -> None:
        while not self.over.wait(self.life / 4):
            try:
                self._write(self.version, free=False)
            except PreconditionError:
                if not self._ours():
                    return  # taken over: the store's epoch stops this driver at its next commit
            except BaseError:
                continue  # the network may come back within the lease's life

    def _ours(self) -> bool:
        """Whether the object is this holder's after all: a write may succeed and its answer not."""
        try:
            found = self._look()
        except BaseError:
            return True  # nobody knows; the next beat will
        if found is None or found[0]["token"] != self.token:
            return False
        self.version = version_of(found[1])
        return True

    def release(self) -> None:
        try:
            self._write(self.version, free=True)
        except (BaseError, OSError):
            return  # taken over, or the network is gone: it runs out by itself

    def _look(self) -> tuple[dict[str, Any], Any] | None:
        try:
            found = obstore.get(self.bucket.objects, self.key)
            return json.loads(bytes(found.bytes())), found.meta
        except (FileNotFoundError, NotFoundError):
            return None

    def _write(self, mode: Any, *, free: bool) -> None:
        text = {
            "epoch": self.epoch,
            "holder": self.name,
            "token": self.token,  # makes each holder's object another one
            "life": self.life,
            "free": free,
            "beat": time.time(),
        }
        found = obstore.put(self.bucket.objects, self.key, json.dumps(text).encode(), mode=mode)
        self.version = version_of(found)

    def _age(self, written: Any) -> float:
        """Seconds since an object was written, by the object store's clock."""
        probe = f"{self.key}.{self.token}"
        with self.bucket.errors("written"):
            obstore.put(self.bucket.objects, probe, b"now")
            now = obstore.head(self.bucket.objects, probe)["last_modified"]
            obstore.delete(self.bucket.objects, probe)
        return float((now - written).total_seconds())
