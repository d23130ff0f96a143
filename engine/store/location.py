"""Where a store lies: a folder of this machine, or a prefix of a bucket."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import icechunk
import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from engine.errors import StoreError, first_line
from engine.files import scratch, together

if TYPE_CHECKING:
    from obstore.store import RetryConfig

__all__ = ["Bucket", "Folder", "Location", "location_of", "one_in_the_other", "version_of"]

_REMEDY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), AWS_REGION, and "
    "AWS_ENDPOINT_URL for a store that is not Amazon's"
)
_REFUSALS = (  # in the words of the services; not every call has an exception of its own for them
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AccessDenied",
    "ExpiredToken",
    "403 Forbidden",
)
_RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}


@dataclass(frozen=True)
class Folder:
    """A folder; what belongs to the store but is no array lies beside it."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def storage(self) -> icechunk.Storage:
        """For the repository."""
        return icechunk.local_filesystem_storage(str(self.path))

    def has_repository(self) -> bool:
        """Whether there is one.

        Raises
        ------
        StoreError
            Where the folder cannot be looked at.
        """
        with self._errors():
            return (self.path / "refs").is_dir() or (self.path / "repo").exists()

    def require_free(self) -> None:
        """Make sure that a new store would not be made among other things.

        Raises
        ------
        StoreError
        """
        with self._errors():
            found = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if found:
            raise StoreError(
                "the store's folder is not empty and holds no store",
                got=self.path,
                remedy="name another folder in `store`",
            )

    def beside(self, name: str) -> Path | None:
        """A file beside the store, None where there is none."""
        path = self._sibling(name)
        with self._errors():
            return path if path.is_file() else None

    @contextmanager
    def replace(self, name: str) -> Iterator[Path]:
        """Write a file beside the store: at the end it is there whole."""
        path = self._sibling(name)
        with together(path.parent) as part:
            yield part / path.name

    def _sibling(self, name: str) -> Path:
        with self._errors():
            path = self.path.resolve()  # by whatever name, the store has these files once
        return path.with_name(f"{path.name}.{name}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # the last two: loops of links, NUL
            reason = getattr(error, "strerror", None) or first_line(error)
            raise StoreError(
                "the store's folder cannot be looked at", got=f"{self.path}: {reason}"
            ) from error


@dataclass(frozen=True)
class Bucket:
    """A prefix of an S3 bucket. Credentials and endpoint come from the environment only.

    Attributes
    ----------
    bucket, prefix : str
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def storage(self) -> icechunk.Storage:
        """For the repository; it holds no secret, so that a task does not carry any."""
        endpoint = _endpoint()
        return icechunk.s3_storage(
            bucket=self.bucket,
            prefix=self.prefix,
            region=_region(),
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=endpoint is not None,
            from_env=True,
            network_stream_timeout_seconds=60,
        )

    @cached_property
    def objects(self) -> S3Store:
        """The bucket's objects."""
        endpoint = _endpoint()
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        return S3Store(
            self.bucket,
            region=_region(),
            virtual_hosted_style_request=endpoint is None,
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "timeout": "30s",
                "connect_timeout": "10s",
            },
            retry_config=_RETRY,
            **options,
        )

    def has_repository(self) -> bool:
        """Whether there is one.

        Raises
        ------
        StoreError
            Where the bucket cannot be read.
        """
        with self.errors("read"):
            found = obstore.list(self.objects, prefix=f"{self.prefix}/", chunk_size=1)
            return next(iter(found), None) is not None

    def beside(self, name: str) -> Path | None:
        """A copy of an object beside the store, None where there is none."""
        with self.errors("read"):
            try:
                data = obstore.get(self.objects, self.key(name)).bytes()
            except (FileNotFoundError, NotFoundError):
                return None
        path = _scratch(str(self)) / name
        path.write_bytes(data)
        return path

    @contextmanager
    def replace(self, name: str) -> Iterator[Path]:
        """Write an object beside the store."""
        path = _scratch(str(self)) / f"new-{name}"
        yield path
        with self.errors("written"):
            obstore.put(self.objects, self.key(name), path)

    def key(self, name: str) -> str:
        """Name of an object beside the store."""
        return f"{self.prefix}.{name}"

    @contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """Turn what object storage says into errors of natmap's."""
        try:
            yield
        except (BaseError, OSError, icechunk.IcechunkError) as error:
            text = str(error)
            if isinstance(error, UnauthenticatedError | PermissionDeniedError) or any(
                word in text for word in _REFUSALS
            ):
                raise StoreError(
                    "the object store refuses the credentials",
                    got=f"{self}: {next((w for w in _REFUSALS if w in text), first_line(error))}",
                    remedy=_REMEDY,
                ) from error
            raise StoreError(
                f"the object store cannot be {verb}",
                got=f"{self}: {first_line(error)}",
                remedy=f"look at the bucket's name and the network; {_REMEDY}",
            ) from error


@lru_cache
def _scratch(address: str) -> Path:
    """A folder for copies of a bucket's objects, as long as this process lives."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch())


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def one_in_the_other(one: Location, other: Location) -> bool:
    """Whether one of two places is, or lies in, the other."""
    paths = [
        place.path.resolve()
        if isinstance(place, Folder)
        else Path("s3:", place.bucket, place.prefix)
        for place in (one, other)
    ]
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])


def version_of(seen: Any) -> dict[str, str]:
    """What names a version of an object; buckets without versions give their tag only."""
    found = {key: seen[key] for key in ("e_tag", "version") if seen.get(key) is not None}
    # Ceph's gateway compares the bare tag; Amazon and others take it bare or quoted
    return found | {"e_tag": found["e_tag"].strip('"')}


Location = Folder | Bucket


def location_of(address: str | Path | Location, base: Path | None = None) -> Location:
    """Where an address points.

    Parameters
    ----------
    address : a folder, or ``s3://bucket/prefix``.
    base : folder that relative ones are taken from.

    Raises
    ------
    StoreError
        Where it has another scheme, or names no prefix.
    """
    if isinstance(address, Folder | Bucket):
        return address
    text = str(address)
    if "://" not in text:
        return Folder((base or Path()) / text)
    found = urlsplit(text)
    prefix = found.path.strip("/")
    odd = {"", ".", ".."} & {*prefix.split("/")}  # no bucket takes these for folders
    if found.scheme != "s3" or not found.hostname or odd or found.query or "@" in text:
        raise StoreError(
            "this is not a place for a store",
            got=text.split("?")[0].rpartition("@")[2],
            expected="a folder, or s3://bucket/prefix without credentials",
            remedy=_REMEDY,
        )
    return Bucket(found.netloc, prefix)
